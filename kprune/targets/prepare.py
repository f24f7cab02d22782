"""`prepare`: what must change in a model before it is trained, for a target's sparse kernels."""

import dataclasses
from typing import Any

import keras
import numpy as np

from kprune._system.type_aliases import InputShape
from kprune.graphs import sample_data
from kprune.graphs.signature import describe
from kprune.graphs.sizes import known_sizes, sized_signature
from kprune.graphs.walk import graph_of
from kprune.report import tables
from kprune.runtimes.verification import GENERATED_SAMPLES, OutputDifference, compare_all, run_keras
from kprune.targets.from_keras import read
from kprune.targets.rewrites import (
    Rewrite,
    call_otherwise,
    called_once,
    padding_before,
    skip_padding,
)
from kprune.targets.target import Target, get_target


@dataclasses.dataclass(frozen=True, repr=False)
class PrepareReport(tables.Printable):
    """What `prepare` changed, and what difference it makes to the outputs. Prints as a table.

    Attributes:
        target: the target's name.
        changes: a `Rewrite` for each layer that was changed.
        outputs: an `OutputDifference` for each output of the model; empty without changes.
        samples: how many samples the outputs were compared on.
    """

    target: str
    changes: list[Rewrite]
    outputs: list[OutputDifference]
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    def __rich__(self):
        rows = [(change.layer, change.what) for change in self.changes]
        notes = [
            f"output '{output.name}' differs by up to {output.max_rel_diff:.2g} of its largest "
            f"value over {self.samples} samples (root mean square {output.rms_rel_diff:.2g}): "
            "train, or fine-tune, the new model"
            for output in self.outputs
        ]
        return tables.table(
            ["layer", "change"],
            rows,
            title=f"Prepared for {self.target}" if rows else f"Nothing to change for {self.target}",
            notes=notes,
        )


def prepare(
    model: keras.Model,
    target: Target | str,
    inputs: Any = None,
    input_shape: InputShape | None = None,
) -> tuple[keras.Model, PrepareReport]:
    """Change a model, before training, so that a target can accelerate it once it is pruned.

    XNNPACK's sparse path begins with a 3x3 convolution of stride 2 with padding 1 on each side,
    and has depthwise convolutions of stride 2 with the same padding on each side only. Many
    models (those of `keras.applications`) pad at one side. With padding at both sides the network
    is as good, but not the same: the windows move by a pixel. So this is for training, or
    fine-tuning, afterwards. For 3x3 depthwise convolutions `export_tflite` knows an equal form,
    but that is a larger convolution: MobileNetV2 with 85% zeros is 2.3x faster than dense in
    LiteRT.js with those, and 2.7x with all its padding changed here.

    Example:

    ```python
    model, report = kprune.prepare(model, "litert-arm64")
    print(report)
    model.compile("adam", "sparse_categorical_crossentropy")
    layers = kprune.for_target(model, "litert-arm64")
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(layers=layers)])
    ```

    Args:
        model: a built functional or Sequential Keras model. It stays as it is.
        target: as in `check`.
        inputs: samples to measure the difference on, structured like the model's inputs; by
            default generated.
        input_shape: as in `check`. The new model leaves open what the model does.

    Returns:
        (model, `PrepareReport`): an uncompiled copy with the same weights, or the model itself
        where there is nothing to change.

    Raises:
        ValueError: an unknown target; a subclassed model; a layer that cannot be copied; sizes
            that do not fit the model.
    """
    target = get_target(target)
    calls, changes = _changes(model, target, input_shape)
    if not changes:
        return model, PrepareReport(target.name, [], [], 0)
    new = call_otherwise(model, calls)
    signature = sized_signature(model, describe(model, inputs), input_shape)
    if inputs is None:
        arrays = sample_data.generate(
            model, signature, signature.flat[0].shape[0] or GENERATED_SAMPLES
        )
    else:
        arrays = sample_data.arrays_for(signature, inputs)
    before, after = (run_keras(each, signature, arrays) for each in (model, new))
    differences = compare_all(before, after.outputs)
    return new, PrepareReport(target.name, changes, differences, len(arrays[0]))


def changes_for(model, target):
    """Return the `Rewrite`s that `prepare` would make."""
    return _changes(model, get_target(target), None)[1]


def _changes(model, target, input_shape):
    """Return the calls to replace, and what to say of them."""
    if not target.clusters:
        return {}, []
    if graph_of(model) is None:
        raise ValueError(
            f"The model '{model.name}' is subclassed, so its graph of layers is not known: write "
            "ZeroPadding2D(1) and padding='valid' before its first convolution, if that has stride "
            "2 (and before depthwise convolutions of stride 2)."
        )
    sizes = known_sizes(model, input_shape)
    graph, calls, changes = read(model, input_shape=sizes), {}, []
    for op in graph.ops:
        size = _first_size(op) or _depthwise_size(op)
        border = padding_before(graph, op) if size else None
        if border is None or not called_once(graph, op):
            continue
        padding, image = border
        wanted = ((size // 2, size // 2),) * 2
        outs = tuple((n + 2 * (size // 2) - size) // 2 + 1 for n in image)
        if padding == wanted and op.padding != "same":
            continue
        if outs == tuple(op.outputs[0].shape[1:3]) and skip_padding(graph, op, calls):
            calls[op.name] = _call_symmetric
            changes.append(Rewrite(op.name, f"padding {padding} as {wanted}"))
    return calls, changes


def _first_size(op):
    """The kernel size of a convolution that may begin the sparse path, else None."""
    first = op.type == "Conv2D" and op.kernel == (3, 3) and op.strides == (2, 2)
    plain = op.kind == "conv" and op.groups == 1 and op.dilation == (1, 1)
    return 3 if first and plain and op.inputs[0].shape[-1] == 3 else None


def _depthwise_size(op):
    """The kernel size of a stride-2 depthwise convolution that may be on it, else None."""
    if op.kind != "depthwise" or op.type != "DepthwiseConv2D" or op.strides != (2, 2):
        return None
    known = op.kernel in ((3, 3), (5, 5)) and op.dilation == (1, 1) and op.multiplier == 1
    return op.kernel[0] if known else None


def _call_symmetric(layer, x):
    size = layer.kernel_size[0] // 2
    new = type(layer).from_config(layer.get_config() | {"padding": "valid"})
    y = new(keras.layers.ZeroPadding2D(size, name=f"{layer.name}_pad")(x))
    new.set_weights([np.asarray(value) for value in layer.get_weights()])
    return y
