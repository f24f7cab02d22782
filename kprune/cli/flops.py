"""`kprune flops`."""

from kprune.cli import common
from kprune.cli.common import (
    BatchSize,
    FreeDim,
    InputShape,
    Json,
    KerasFile,
    check_json,
    plain_errors,
    show,
)


def flops(
    file: KerasFile,
    batch_size: BatchSize = 1,
    free_dim: FreeDim = None,
    input_shape: InputShape = None,
    json: Json = None,
):
    """Count the floating-point operations of one run, layer by layer."""
    with plain_errors():
        import kprune.measure

        check_json(json)
        sizes = common.input_shape(input_shape)
        show(kprune.measure.flops(file, batch_size, free_dim, sizes), json)
