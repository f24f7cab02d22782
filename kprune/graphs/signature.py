"""What goes into a model and comes out: names, shapes and dtypes, in the model's own structure."""

import dataclasses
import re

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input tensor: a name that is an identifier, a shape (`None`: dynamic), a dtype."""

    name: str
    shape: tuple
    dtype: str


@dataclasses.dataclass(frozen=True)
class Signature:
    """The inputs of a model: one structure of `TensorSpec` for each positional argument."""

    arguments: list

    @property
    def flat(self):
        """The specs as a flat list."""
        return keras.tree.flatten(self.arguments)

    def pack(self, tensors):
        """Arrange a flat list of tensors as the positional arguments of `model(...)`."""
        return keras.tree.pack_sequence_as(self.arguments, list(tensors))

    def with_batch(self, batch_size):
        """Return the signature with that batch size (`None`: free).

        Raises:
            ValueError: the model was built for another, fixed one.
        """

        def fix(spec):
            own = spec.shape[0]
            if own is not None and batch_size is not None and own != batch_size:
                raise ValueError(
                    f"The model was built for a fixed batch size of {own} (input '{spec.name}'). "
                    f"Pass batch_size={own}. Received: batch_size={batch_size}"
                )
            return dataclasses.replace(spec, shape=(own or batch_size, *spec.shape[1:]))

        return Signature(keras.tree.map_structure(fix, self.arguments))


def describe(model, inputs=None):
    """Return the `Signature` of a built model.

    Functional and Sequential models know theirs. A subclassed model remembers the shapes it was
    first called on but not the dtypes, so those are taken from `inputs` where given, and are
    float32 otherwise.

    Raises:
        ValueError: nothing tells what the model takes.
    """
    structure = symbolic_inputs(model)
    if structure is not None:
        return described([structure])
    return _named(_from_build_shapes(model, inputs))


def described(arguments):
    """Return the `Signature` of positional arguments, given as structures of `KerasTensor`s."""
    return _named(keras.tree.map_structure(_from_keras_tensor, arguments))


def _named(arguments):
    specs = keras.tree.flatten(arguments)
    renamed = [
        dataclasses.replace(spec, name=name) for spec, name in zip(specs, input_names(specs))
    ]
    return Signature(keras.tree.pack_sequence_as(arguments, renamed))


def input_names(specs):
    """Name the inputs of a model, a flat list of what has a `name`, with identifiers."""
    # Keras numbers the tensors that nobody named through the whole session.
    names = ["input" if spec.name.startswith("keras_tensor") else spec.name for spec in specs]
    return unique_identifiers(names)


def output_names(model, outputs, taken=()):
    """Name the leaves of a model's `outputs`: dict keys, output layers, else `output`.

    `taken` are the input names: an ONNX graph has one namespace for both.
    """
    paths = [path for path, leaf in keras.tree.flatten_with_path(outputs) if leaf is not None]
    own = getattr(model, "output_names", None)
    if isinstance(model, keras.Sequential):
        own = [model.layers[-1].name]
    keyed = any(isinstance(key, str) for path in paths for key in path)
    if own and len(own) == len(paths) and not keyed:
        names = own
    elif paths == [()]:
        names = ["output"]
    else:
        names = ["_".join(map(str, path)) for path in paths]
        names = [name if name[:1].isalpha() else f"output_{name}" for name in names]
    return unique_identifiers([*taken, *names])[len(taken) :]


def unique_identifiers(names):
    """Make names that TensorFlow, TFLite and ONNX all take as they are."""
    result = []
    for name in names:
        name = re.sub(r"\W", "_", name, flags=re.ASCII) or "tensor"
        name = name if name[0].isalpha() else f"tensor_{name}"
        candidate, number = name, 0
        while candidate in result:
            number += 1
            candidate = f"{name}_{number}"
        result.append(candidate)
    return result


def symbolic_inputs(model):
    """Return the structure of a functional or Sequential model's symbolic inputs, else None."""
    try:
        if isinstance(model, keras.Sequential):
            return model.inputs[0]
        return model.input
    except (AttributeError, ValueError):
        return None


def _from_keras_tensor(tensor):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return TensorSpec(tensor.name, tuple(tensor.shape), _exported_dtype(dtype))


def _exported_dtype(dtype):
    if not any(kind in dtype for kind in ("float", "int", "bool")):
        raise ValueError(
            f"Only models with numeric inputs can be exported: move {dtype} preprocessing, such as "
            f"StringLookup or TextVectorization, in front of the model. Received: dtype={dtype!r}"
        )
    return "float32" if "float" in dtype else dtype


def _from_build_shapes(model, inputs):
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {"input": config.get("input_shape")}
    arguments = [
        _spec_structure(shape, name.removesuffix("_shape"))
        for name, shape in shapes.items()
        if shape
    ]
    if inputs is not None:
        arrays = [np.asarray(leaf) for leaf in keras.tree.flatten(inputs)]
        if len(keras.tree.flatten(arguments)) != len(arrays):
            arguments = [_spec_structure(keras.tree.map_structure(np.shape, inputs), "input")]
        arguments = keras.tree.pack_sequence_as(
            arguments,
            [
                dataclasses.replace(spec, dtype=_subclassed_dtype(array))
                for spec, array in zip(keras.tree.flatten(arguments), arrays)
            ],
        )
    if not arguments:
        raise ValueError(
            f"Nothing tells which inputs the model '{model.name}' takes: call it once on data, or "
            "pass `inputs=`."
        )
    return arguments


def _subclassed_dtype(array):
    # NumPy's default integer is int64 where people mean ids; runtimes are at home with int32.
    return "int32" if array.dtype.name == "int64" else _exported_dtype(array.dtype.name)


def _spec_structure(shapes, name):
    if isinstance(shapes, dict):
        return {key: _spec_structure(value, str(key)) for key, value in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return TensorSpec(name, (None, *shapes[1:]), "float32")
    return [_spec_structure(shape, name) for shape in shapes]
