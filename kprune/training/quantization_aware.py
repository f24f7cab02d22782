"""Quantization-aware training: the forward pass computes as the 8-bit file will."""

import keras
from keras import ops, tree

from kprune._keras import backend, methods
from kprune._keras.layers import flatten_layers, sublayers
from kprune._keras.scope import ReplacedValues
from kprune.graphs.weights import Weight, check_model, einsum_axes, is_built, weights_of
from kprune.pruning import selection

_WEIGHT_LEVELS = 127  # On either side of zero: 8 bits, symmetric, so that zero is exact.
_ACTIVATION_LEVELS = 255
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
# Besides layers with kernels, what has an 8-bit kernel of its own: it rescales its inputs.
_RESCALING = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Dot,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
)


class QuantizationAware(keras.callbacks.Callback):
    """Fine-tunes a model for 8 bits during `model.fit`.

    In the forward pass, of training and of validation, kernels and activations are rounded to the
    values that an int8 file can hold; gradients go straight through the rounding. Kernels have a
    scale for each output channel and no zero point, so that zeros stay exactly zero; activations
    have one scale for each tensor, from the smallest and largest value in the batch. The model
    itself is not changed: its weights stay float, any checkpoint is plain Keras, and after `fit`
    it computes in float again.

    Add `Pruning` beside it, to hold the zeros of a pruned model or to prune at the same time; then
    `export_tflite(..., quantize="int8")` writes the file, with a scale for each activation from
    `representative_data`. Where a Keras layer and what follows it become one operator of the file
    (a convolution, BatchNormalization and ReLU), nothing is rounded in between: what is rounded
    are the inputs of layers with kernels, of sums and other merging layers, and of average pooling.

    With `layers`, only those are trained for 8 bits, as with TFMOT's `quantize_annotate_layer`. It
    changes the training, and not the file: the int8 export rounds every layer, those left out as
    it does without this callback, by the ranges that `representative_data` shows.

    Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference" (2018); with zeros held as in TFMOT's PQAT.

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.9)])
    model.fit(x, y, epochs=2, callbacks=[kprune.Pruning(0.9), kprune.QuantizationAware()])
    model = kprune.strip_pruning(model)
    kprune.export_tflite(model, "int8.tflite", quantize="int8", representative_data=x[:500])
    ```

    Args:
        activations: whether activations are rounded, too. Not for `quantize="dynamic"` and
            `"int16x8"`, whose activations are all but exact.
        layers: which layers; all by default. As in `Pruning`: a layer's name (`*` and `?` are
            wildcards), a layer class, a layer, a predicate `layer -> bool`, a list of those, or a
            dict from those to None, the layers to leave out. Layers without a kernel whose inputs
            are rounded, such as `Add`, are chosen in the same way.

    Raises:
        ValueError: in `fit`, a model without kernels, or `layers` that matches nothing.
    """

    def __init__(self, activations=True, layers=None):
        super().__init__()
        if not isinstance(activations, bool):
            raise TypeError(
                "`activations` must be True or False; layers go into `layers`. "
                f"Received: activations={activations!r}"
            )
        self.activations, self.layers = activations, layers
        self._installed = False

    def on_train_begin(self, logs=None):
        remove_fake_quantization(self.model)  # What an interrupted `fit` may have left.
        self._installed = False

    def on_epoch_begin(self, epoch, logs=None):
        if is_built(self.model):
            self._install()

    def on_train_batch_end(self, batch, logs=None):
        # TensorFlow may build a model in its first step; what is not built now never will be.
        self._install()

    def _install(self):
        if not self._installed:
            _patch_layers(self.model, self.activations, self.layers)
            self._installed = True

    def on_train_end(self, logs=None):
        remove_fake_quantization(self.model)


def fake_quantize(model, activations=True, layers=None):
    """Let a built model compute as an int8 file would, until `remove_fake_quantization`.

    For training loops of your own, and to `evaluate` a model as if it were in 8 bits.

    Example:

    ```python
    kprune.training.fake_quantize(model)
    model.evaluate(x_test, y_test)
    kprune.training.remove_fake_quantization(model)
    ```

    Args:
        model: a built `keras.Model`.
        activations: as of `QuantizationAware`.
        layers: as of `QuantizationAware`.

    Raises:
        ValueError: the model has no kernels, or is fake-quantized already, or `layers` matches
            nothing.
    """
    check_model(model)
    _patch_layers(model, activations, layers)


def _patch_layers(model, activations, layers):
    if is_fake_quantized(model):
        raise ValueError(f"The model {model.name!r} is fake-quantized already.")
    found = weights_of(model)
    kernels = [weight for weight in found if weight.is_kernel]
    if not kernels:
        raise ValueError(f"The model {model.name!r} has no kernels to quantize.")
    rescaling = _rescaling(model) if activations else []
    by_layer = {}
    for chosen in selection.choose([*kernels, *rescaling], layers):
        layer = _called(chosen)
        by_layer.setdefault(id(layer), (layer, []))[1].append(chosen)
    for layer, weights in by_layer.values():
        own = [weight for weight in weights if weight.variable is not None]
        methods.replace_method(layer, "call", _Rounding(layer, own, inputs=activations))
    for name in backend.steps_to_renew():
        methods.replace_method(model, name, lambda step, *args, **kwargs: step(*args, **kwargs))
    backend.forget_compiled(model)


def remove_fake_quantization(model):
    """Let a model compute in float again; return whether it did not."""
    patched = _patched(model)
    for layer, name in patched:
        methods.restore_method(layer, name)
    if patched:
        backend.forget_compiled(model)
    return bool(patched)


def is_fake_quantized(model):
    """Whether a model, or a layer in it, computes as in 8 bits."""
    return bool(_patched(model))


def round_weight(value, channels):
    """Round a kernel to 8 bits, symmetric around zero, with a scale for each channel.

    Args:
        value: float tensor.
        channels: tuple of ints, the axes that have scales of their own.

    Returns:
        A tensor of the same shape and type; gradients go straight through.
    """
    x = ops.cast(value, "float32")
    others = [axis for axis in range(len(x.shape)) if axis not in channels]
    scale = ops.max(ops.abs(x), axis=others, keepdims=True) / _WEIGHT_LEVELS
    rounded = ops.round(x / ops.where(scale > 0, scale, 1.0)) * scale
    return _straight_through(value, rounded)


def round_activation(value):
    """Round a tensor to 8 bits, over the range of its values and zero; gradients go through."""
    x = ops.cast(value, "float32")
    low, high = ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)
    scale = (high - low) / _ACTIVATION_LEVELS
    scale = ops.where(scale > 0, scale, 1.0)
    zero = ops.round(-low / scale)
    codes = ops.clip(ops.round(x / scale) + zero, 0, _ACTIVATION_LEVELS)
    return _straight_through(value, (codes - zero) * scale)


def _straight_through(value, rounded):
    return value + ops.stop_gradient(ops.cast(rounded, value.dtype) - value)


class _Rounding:
    """What the `call` of a layer becomes: it rounds the kernels, and the inputs if asked to."""

    def __init__(self, layer, weights=(), inputs=False):
        self.layer, self.inputs = layer, inputs
        self.variables = [weight.variable for weight in weights]
        self.channels = [_channels(weight) for weight in weights]

    def __call__(self, call, *args, **kwargs):
        if self.inputs:
            args, kwargs = tree.map_structure(_rounded_if_float, (args, kwargs))
        read = [backend.read(variable) for variable in self.variables]
        values = [
            round_weight(value, channels) if channels else round_activation(value)
            for value, channels in zip(read, self.channels)
        ]
        with ReplacedValues(self.variables, values) as scope:
            outputs = call(*args, **kwargs)
        for loss in scope.own_losses:
            self.layer.add_loss(loss)
        return outputs


def _rounded_if_float(value):
    if hasattr(value, "dtype") and keras.backend.is_float_dtype(value.dtype):
        return round_activation(value)
    return value


def _rescaling(model):
    """Return a `Weight` without a variable for each layer that rescales its inputs."""
    found, seen = [], set()

    def visit(layer, parents):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if isinstance(layer, _RESCALING):
            found.append(Weight(None, layer, layer.name, parents=parents))
        for child in sublayers(layer):
            visit(child, (*parents, child))

    visit(model, () if isinstance(model, keras.Model) else (model,))
    return found


def _called(weight):
    """The layer whose call uses a weight: an RNN, which may not call its cells."""
    recurrent = [layer for layer in weight.parents if isinstance(layer, keras.layers.RNN)]
    return recurrent[0] if recurrent else weight.layer


def _channels(weight):
    """The axes of a kernel along which TFLite has scales; none where it is as an activation."""
    rank = len(weight.variable.shape)
    layer = weight.layer
    if isinstance(layer, keras.layers.Embedding):
        axes = ()
    elif isinstance(layer, keras.layers.EinsumDense):
        _, axes = einsum_axes(layer.equation, rank)
    elif weight.variable.name == "depthwise_kernel" or isinstance(layer, _DEPTHWISE):
        axes = (-2, -1)
    else:
        axes = (weight.axes[1],)
    return tuple(axis % rank for axis in axes)


def _patched(model):
    return [
        (layer, name)
        for layer in flatten_layers(model)
        for name in ("call", *backend.steps_to_renew())
        if methods.is_replaced(layer, name)
    ]
