"""`kprune flops`."""

from kprune.cli.common import BatchSize, FreeDim, Json, KerasFile, check_json, plain_errors, show


def flops(file: KerasFile, batch_size: BatchSize = 1, free_dim: FreeDim = None, json: Json = None):
    """Count the floating-point operations of one run, layer by layer."""
    with plain_errors():
        import kprune.measure

        check_json(json)
        show(kprune.measure.flops(file, batch_size, free_dim), json)
