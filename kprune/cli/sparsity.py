"""`kprune sparsity`."""

from kprune.cli.common import Json, KerasFile, check_json, plain_errors, show


def sparsity(file: KerasFile, json: Json = None):
    """Show what is zero in a model, layer by layer, and what can be pruned."""
    with plain_errors():
        import kprune.measure

        check_json(json)
        show(kprune.measure.sparsity(file), json)
