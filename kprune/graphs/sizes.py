"""The sizes of a model's inputs: given ones, and one that it accepts for dynamic dimensions."""

import dataclasses
import math
import operator
import re

import keras

from kprune._system.errors import first_line
from kprune.graphs.signature import Signature, TensorSpec, input_names, symbolic_inputs
from kprune.graphs.walk import call_arguments, graph_of, walk

# What a dynamic dimension is taken to be where the model accepts it: steps of a sequence, and
# pixels where some input is an image.
FREE_STEPS, FREE_PIXELS = 64, 224
# The sizes that are tried: one by one up to the first, doubled up to the others.
_EACH_UP_TO = 256
_WRAPPED = "Error encountered:"  # Keras' own words are before that.
_MOST_STEPS, _MOST_PIXELS = 2**20, 2**13


def with_input_shape(model, arguments, input_shape):
    """Return a model's arguments with the dimensions that `input_shape` gives.

    Args:
        model: a built `keras.Model`.
        arguments: structure of what has a `shape`, `dtype` and `name`: `KerasTensor`s or
            `TensorSpec`s.
        input_shape: tuple without the batch, for a model of one input, or dict from the names of
            inputs to such tuples; None in them, and inputs left out, stay as they are.

    Raises:
        TypeError: neither tuple nor dict.
        ValueError: an unknown input, another number of dimensions, a size that is none, or one
            that the model fixes otherwise.
    """
    if input_shape is None:
        return arguments
    specs = keras.tree.flatten(arguments)
    given = _by_name(arguments, input_shape)
    # A subclassed model remembers the sizes that it was first called on, and is not bound to them.
    bound = graph_of(model) is not None
    sized = [
        _of_shape(spec, _merged(name, tuple(spec.shape), given[name], bound))
        if name in given
        else spec
        for name, spec in zip(input_names(specs), specs)
    ]
    return keras.tree.pack_sequence_as(arguments, sized)


def concrete(model, arguments, input_shape=None, free_dim=None, usual=None, traced=True):
    """Return a model's arguments with a size for every dimension but the batch.

    Sizes that are not given are those that are usual, where the model accepts them, else the
    smallest that it was found to accept: found on symbolic shapes, without computing anything.

    Args:
        model: a built `keras.Model`.
        arguments: as in `with_input_shape`.
        input_shape: as in `with_input_shape`.
        free_dim: int, the size of all other dynamic dimensions.
        usual: int, the size to try first; by default 224 with images, else 64.
        traced: False where sizes that are given need no look at the whole model, since the caller
            will run it symbolically.

    Raises:
        TypeError, ValueError: as `with_input_shape`; sizes that the model does not accept; none
            was found that it does.
    """
    if free_dim is not None and (not isinstance(free_dim, int) or free_dim < 1):
        raise ValueError(f"`free_dim` must be a positive int. Received: free_dim={free_dim!r}")
    sized = with_input_shape(model, arguments, input_shape)
    if free_dim is not None:
        sized = _filled(sized, free_dim)
    if _is_open(sized):
        return _filled(sized, _search(model, sized, usual))
    if sizes_of(sized) != sizes_of(arguments):  # Its own it accepts.
        why = refusal(model, sized, traced)
        if why is not None:
            raise ValueError(_not_taken(model, arguments, sized, why, usual))
    return sized


def concrete_inputs(model, input_shape=None, free_dim=None):
    """Return the inputs of a model with a graph as a flat list, as `concrete` has them."""
    arguments = [symbolic_inputs(model)]  # As the model is called, by name where it has names.
    return keras.tree.flatten(concrete(model, arguments, input_shape, free_dim))


def sized_signature(model, signature, input_shape):
    """Return the `Signature` with the dimensions that `input_shape` gives.

    Raises:
        TypeError, ValueError: as `concrete` does; what is left dynamic is not looked for here.
    """
    if input_shape is None:
        return signature
    sized = with_input_shape(model, signature.arguments, input_shape)
    if not _is_open(sized):
        concrete(model, signature.arguments, input_shape)
    return Signature(sized)


def known_sizes(model, input_shape=None):
    """Return a size for every dimension of a model's inputs but the batch, as an `input_shape`.

    Args:
        model: a model with a graph.
        input_shape: those that are given; the rest is found, as in `concrete`.
    """
    return sizes_of(concrete_inputs(model, input_shape))


def in_words(arguments):
    """Say which dimensions but the batch are dynamic, as "dimension 1 of 'ids' (None, None)"."""
    found = []
    specs = keras.tree.flatten(arguments)
    for name, spec in zip(input_names(specs), specs):
        axes = [str(axis) for axis, size in enumerate(spec.shape) if axis and size is None]
        if axes:
            word = "dimension" if len(axes) == 1 else "dimensions"
            found.append(f"{word} {' and '.join(axes)} of {name!r} {tuple(spec.shape)}")
    return ", ".join(found)


def sizes_of(arguments):
    """Return a model's arguments as an `input_shape`: a dict from names to shapes."""
    specs = keras.tree.flatten(arguments)
    return {name: tuple(spec.shape[1:]) for name, spec in zip(input_names(specs), specs)}


def refusal(model, arguments, traced=True):
    """Why a model does not accept arguments of these sizes, in one line; None if it does.

    Args:
        model: a built `keras.Model`.
        arguments: structure of specs, every size known but for the batch.
        traced: whether the whole model is run symbolically, too, by the backend: layers may say
            the shape of an output for inputs that they fail on.
    """
    arguments = keras.tree.map_structure(_batched, arguments)
    try:
        if graph_of(model) is not None:
            walk(model, keras.tree.flatten(arguments), _step)
        if traced:
            outputs = _Call(model).compute_output_spec(*arguments)
            _check_positive(f"model {model.name!r}", keras.tree.flatten(outputs))
    except Exception as error:
        return _reason(error)
    return None


@dataclasses.dataclass(frozen=True)
class SizedCall:
    """A node's `operation` and `arguments`, and its `outputs` for inputs of other sizes."""

    operation: keras.Operation
    arguments: object
    outputs: list


def sized_call(node, shapes):
    """Return a node's `SizedCall` for inputs of these shapes, or the node where that fails."""
    tensors = node.arguments.keras_tensors
    sized = [keras.KerasTensor(shape, dtype=t.dtype) for shape, t in zip(shapes, tensors)]
    try:
        return SizedCall(node.operation, node.arguments, _step(node, sized))
    except _Refused:
        return node


class _Call(keras.Operation):
    """A model's call as an operation, which leaves no node in the graph of its layers."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, *arguments):
        return self.model(*arguments)


def _reason(error):
    """The line that says what was wrong, after the layer whose `call` it was said in."""
    text = str(error).rpartition(_WRAPPED)[2]
    named = re.findall(r"encountered when calling (\w+)\.call", text)
    return (f"{named[-1]}: " if named else "") + first_line(text or error)


class _Refused(ValueError):
    """An operation does not accept what it would be called on."""


def _step(node, tensors):
    """What comes out of a call on tensors of these shapes."""
    operation = node.operation
    name = f"{type(operation).__name__} {operation.name!r}"
    args, kwargs = call_arguments(node, tensors)
    try:
        outputs = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
    except Exception as error:
        raise _Refused(f"{name}: {first_line(error)}") from error
    _check_positive(name, outputs)
    return outputs


def _check_positive(name, outputs):
    for output in outputs:
        shape = tuple(getattr(output, "shape", None) or ())
        if any(size is not None and size < 1 for size in shape):
            raise _Refused(f"{name}: nothing would be left, an output of shape {shape}")


def checked(input_shape):
    """Return an `input_shape`, which may fit no model, with plain ints in it.

    Raises:
        TypeError: neither tuple nor dict.
        ValueError: a size that is none.
    """
    if input_shape is None:
        return None
    if isinstance(input_shape, dict):
        return {name: _checked(shape) for name, shape in input_shape.items()}
    if isinstance(input_shape, tuple | list):
        return _checked(input_shape)
    raise TypeError(
        "`input_shape` must be a tuple without the batch, or a dict from the names of inputs to "
        f"such tuples. Received: input_shape={input_shape!r}"
    )


def _checked(shape):
    if isinstance(shape, tuple | list):
        sizes = [None if size is None else _as_size(size) for size in shape]
        if 0 not in sizes:
            return tuple(sizes)
    raise ValueError(
        "`input_shape` must hold positive ints, or None for what stays dynamic. "
        f"Received: {shape!r}"
    )


def _by_name(arguments, input_shape):
    """`input_shape` as a dict from the inputs' names."""
    specs = keras.tree.flatten(arguments)
    names, given = input_names(specs), checked(input_shape)
    shapes = {name: tuple(spec.shape[1:]) for name, spec in zip(names, specs)}
    if isinstance(given, dict):
        # Keras' own names are as good, where they are no identifiers; and the keys of a dict.
        own = {spec.name: name for name, spec in zip(names, specs)}
        paths = [path for path, _ in keras.tree.flatten_with_path(arguments)]
        own |= {path[-1]: name for path, name in zip(paths, names) if path}
        unknown = [key for key in given if key not in shapes and key not in own]
        if unknown:
            raise ValueError(
                f"`input_shape` names inputs that the model has not: {unknown}. Its inputs, "
                f"without the batch: {shapes}. Received: input_shape={input_shape}"
            )
        return {own.get(key, key): value for key, value in given.items()}
    if len(names) != 1:
        raise ValueError(
            f"The model takes {len(names)} inputs, so `input_shape` must be a dict from their "
            f"names, without the batch: {shapes}. Received: input_shape={input_shape}"
        )
    return {names[0]: given}


def _as_size(size):
    """An int above 0; 0 for what is none."""
    try:
        return 0 if isinstance(size, bool) else max(operator.index(size), 0)
    except TypeError:
        return 0


def _merged(name, shape, given, bound):
    own = shape[1:]
    if len(given) != len(own):
        hint = " Leave the batch out." if len(given) == len(shape) else ""
        raise ValueError(
            f"`input_shape` must have {len(own)} sizes for the input {name!r}, whose shape without "
            f"the batch is {own}.{hint} Received: {given}"
        )
    for axis, (fixed, size) in enumerate(zip(own, given), 1):
        if bound and None not in (fixed, size) and fixed != size:
            raise ValueError(
                f"The model fixes dimension {axis} of its input {name!r} at {fixed}: its shape "
                f"without the batch is {own}. Received: {given}"
            )
    return shape[0], *(fixed if size is None else size for fixed, size in zip(own, given))


def _of_shape(spec, shape):
    if isinstance(spec, TensorSpec):
        return dataclasses.replace(spec, shape=tuple(shape))
    return keras.KerasTensor(shape, dtype=spec.dtype, name=spec.name)


def _filled(arguments, size):
    """The arguments with one size for all dynamic dimensions but the batch."""

    def fill(spec):
        if None not in spec.shape[1:]:
            return spec
        return _of_shape(spec, (spec.shape[0], *(n or size for n in spec.shape[1:])))

    return keras.tree.map_structure(fill, arguments)


def _batched(spec):
    return keras.KerasTensor((spec.shape[0] or 1, *spec.shape[1:]), dtype=spec.dtype)


def _is_open(arguments):
    return any(None in spec.shape[1:] for spec in keras.tree.flatten(arguments))


def _has_images(arguments):
    return any(len(spec.shape) == 4 for spec in keras.tree.flatten(arguments))


def _search(model, arguments, usual=None):
    """Return the size of the dynamic dimensions: what is usual, or the smallest accepted.

    Raises:
        ValueError: none was found.
    """
    images = _has_images(arguments)
    usual = usual or (FREE_PIXELS if images else FREE_STEPS)
    most = _MOST_PIXELS if images else _MOST_STEPS

    def accepts(size):
        return refusal(model, _filled(arguments, size)) is None

    size = _found(accepts, usual, most)
    if size is None:
        dynamic = {k: v for k, v in sizes_of(arguments).items() if None in v}
        why = refusal(model, _filled(arguments, most)) or ""
        raise ValueError(
            f"No size up to {most:,} was found that the model {model.name!r} accepts for the "
            f"dynamic dimensions of its inputs, {dynamic}. With {most:,}: {why} Pass "
            "`input_shape=`, the sizes to use without the batch."
        )
    return size


def _found(accepts, usual, most):
    """The usual size, or a smaller one, or the smallest larger one; None without any."""
    smaller = [usual >> shift for shift in range(1, usual.bit_length())]
    for size in (usual, *smaller):
        if accepts(size):
            return size
    refused = usual
    for size in (usual << shift for shift in range(1, 1 + int(math.log2(most / usual)))):
        if accepts(size):
            return _smallest_between(accepts, refused, size)
        refused = size
    return next((size for size in range(2, _EACH_UP_TO + 1) if accepts(size)), None)


def _smallest_between(accepts, refused, accepted):
    while accepted - refused > 1:
        middle = (refused + accepted) // 2
        if accepts(middle):
            accepted = middle
        else:
            refused = middle
    return accepted


def _not_taken(model, arguments, sized, why, usual):
    text = f"The model {model.name!r} does not accept inputs of the sizes {sizes_of(sized)}: {why}"
    if not _is_open(arguments):
        return text
    try:
        size = _search(model, arguments, usual)
    except ValueError:
        return text
    return f"{text} Sizes that it accepts: {sizes_of(_filled(arguments, size))}."
