"""The weights of a model: each variable once, whose it is, and whether it is a kernel."""

import dataclasses
import math
import re
import string

import keras
from keras import ops

from kprune._keras import backend, layers

INPUT_OUTPUT = (-2, -1)
# What Keras calls the weights that its layers multiply inputs with.
_KERNELS = {"kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel"}


_TABLES = {"embeddings", "reverse_embeddings"}
_KERNELS |= _TABLES


_NEVER = {"bias", "bias_hh", "gamma", "beta", "alpha", "scale", "offset"}
_NEVER |= {"moving_mean", "moving_variance"}


FROZEN = "not trainable"


# Names of weights that hold positions, or of their layers: pos_emb, PositionEmbedding.
_POSITION = re.compile(r"(^|[^a-z])pos(ition|itional|itions)?s?([^a-z]|emb|enc|$)")


# Layers that store their output channels (an Embedding: its tokens) before the axis that
# TFLite stores last.
_OUTPUT_FIRST = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.Embedding,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """One variable of a model, as pruning sees it.

    Attributes:
        variable: the `keras.Variable`.
        layer: the layer that owns it; None when only the variable is known.
        name: its path, such as "encoder/dense/kernel".
        reason: why it is not prunable; None when it is.
        axes: (input-channel axis, output-channel axis) of the variable.
        parents: the layers around `layer` and itself, outermost first.
    """

    variable: keras.Variable
    layer: keras.Layer | None
    name: str
    reason: str | None = None
    axes: tuple[int, int] = INPUT_OUTPUT
    parents: tuple[keras.Layer, ...] = ()

    @property
    def size(self):
        """The number of its entries."""
        return math.prod(self.variable.shape)

    @property
    def is_kernel(self):
        """Whether it is prunable, or would be if it were trainable."""
        return self.reason in (None, FROZEN)


def weights_of(model):
    """Return every variable of the model's layers, each once, as `Weight`s.

    Args:
        model: a built `keras.Layer` or `keras.Model`.
    """
    found, seen = [], set()

    def visit(layer, parents):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        for variable in layers.own_variables(layer):
            if id(variable) not in seen:
                seen.add(id(variable))
                found.append(_weight(variable, layer, parents))
        for child in layers.sublayers(layer):
            visit(child, (*parents, child))

    visit(model, () if isinstance(model, keras.Model) else (model,))
    return found


def variable_weights(variables):
    """Return `Weight`s for variables whose layers are not known; their names decide."""
    return [_weight(variable, None, ()) for variable in variables]


def check_model(model):
    """Raise unless `model` is a Keras 3 model that has its weights; see `has_weights`."""
    kind = type(model)
    ancestry = {base.__module__.partition(".")[0] for base in kind.__mro__}
    if not isinstance(model, keras.Layer):
        hint = ""
        if "tf_keras" in ancestry or ("tensorflow" in ancestry and "keras" not in ancestry):
            hint = (
                " This is a tf_keras (Keras 2) model: prune it with "
                "tensorflow_model_optimization, or build it with Keras 3 (`import keras`)."
            )
        raise TypeError(f"Expected a Keras 3 model.{hint} Received: {model!r} (of type {kind})")
    if not has_weights(model):
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no weights yet. Call it on a "
            "batch of data, or `model.build(input_shape)`, first."
        )


def has_weights(model):
    """Whether a model has its weights, as far as can be known without a call.

    Layers that `call` does not use, and those that hold no weights, need not be built; nor need
    the model, if another method than `call` runs what is inside.
    """
    if is_built(model):
        return True
    if isinstance(model, keras.Sequential) and not model.built:  # Its call would have built it.
        return all(is_built(layer) for layer in model.layers)
    return model.built or bool(weights_of(model))


def is_built(model):
    """Whether the model and all layers in it have their weights."""
    return all(layer.built for layer in layers.flatten_layers(model))


def count_zeros(found):
    """Return how many entries of the `Weight`s are zero, now."""
    values = (backend.read(weight.variable) for weight in found)
    # Of booleans, too, which TensorFlow does not compare with 0.
    zeros = (ops.logical_not(ops.cast(value, "bool")) for value in values)
    return sum(int(backend.count_true(mask)) for mask in zeros)


def sparsity_of(found):
    """Return the share of zeros in the `Weight`s, now."""
    return count_zeros(found) / sum(weight.size for weight in found)


def _weight(variable, layer, parents):
    name = getattr(variable, "path", variable.name)
    return Weight(
        variable,
        layer,
        name,
        _reason(variable, layer, parents),
        _axes(variable, layer),
        tuple(parents),
    )


def _reason(variable, layer, parents):
    name = variable.name
    if names_its_weights(layer):
        if not any(variable is v for v in layer.get_prunable_weights()):
            return f"{type(layer).__name__}.get_prunable_weights() does not name it"
    elif len(variable.shape) < 2:
        return "rank below 2: a bias, scale or statistic"
    elif name in _NEVER:
        return f"{name}: never pruned"
    elif layer is not None and is_builtin(layer) and name not in _KERNELS:
        return f"{name} of {type(layer).__name__} is not a kernel"
    elif name not in _KERNELS and sum(side > 1 for side in variable.shape) < 2:
        return "a vector: fewer than two of its axes are longer than 1"
    elif _holds_positions(variable, layer, parents):
        return "positions, not a kernel"
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"{variable.dtype}, not a float type"
    if not variable.trainable:
        return FROZEN
    return None


def _holds_positions(variable, layer, parents):
    """Whether a table is one of positions, by its shape or by what it, or its layer, is called."""
    if variable.name in _KERNELS - _TABLES:
        return False  # Such as the kernel of a layer named "position_mlp".
    if not isinstance(layer, keras.layers.Embedding) and _is_row_of_tokens(variable.shape):
        return True
    names = [getattr(variable, "path", variable.name)]
    if layer is not None:
        names += [type(layer).__name__, *_attribute_names(layer, variable)]
    if len(parents) > 1:
        names += _attribute_names(parents[-2], layer)
    spelled = (re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in names)
    return any(map(_POSITION.search, spelled))


def _is_row_of_tokens(shape):
    # Of one example, and added to, or set beside, each of a batch.
    return len(shape) == 3 and shape[0] == 1


def _attribute_names(owner, value):
    return [name for name, own in layers.attributes(owner).items() if own is value]


def names_its_weights(layer):
    """Whether the layer's author says what to prune; a wrapper's method only repeats it."""
    method = getattr(layer, "get_prunable_weights", None)
    return method is not None and not getattr(method, "of_wrapper", False)


def is_builtin(layer):
    """Whether a layer is one of Keras' own."""
    return type(layer).__module__.split(".")[0] == "keras"


def _axes(variable, layer):
    if isinstance(layer, _OUTPUT_FIRST):
        return (-1, -2)
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum_axes(layer.equation, len(variable.shape))
    return INPUT_OUTPUT


def _einsum_axes(equation, rank):
    summed, others = einsum_axes(equation, rank)
    return (summed[-1], others[-1]) if summed and others else INPUT_OUTPUT


def einsum_axes(equation, rank):
    """Return two lists of an EinsumDense kernel's axes: summed over, and kept in the output."""
    inputs, output = equation.replace(" ", "").split("->")
    kernel = [letter for letter in inputs.split(",")[1] if letter in string.ascii_letters]
    if len(kernel) != rank:
        return [INPUT_OUTPUT[0]], [INPUT_OUTPUT[1]]
    summed = [i - rank for i, letter in enumerate(kernel) if letter not in output]
    others = [i - rank for i, letter in enumerate(kernel) if letter in output]
    return summed, others


def einsum_letters(equation, rank):
    """Return the letters of input, kernel and output of an EinsumDense, ellipses spelt out.

    Args:
        equation: str, such as "...a,ab->...b".
        rank: int, of the input.
    """
    inputs, target = equation.replace(" ", "").split("->")
    source, kernel = inputs.split(",")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    spelt = "".join(free[: rank - len(source.replace("...", ""))])
    return source.replace("...", spelt), kernel, target.replace("...", spelt)
