"""The operators of an exported file, as the target's runtime computes them."""

import contextlib
import warnings
from pathlib import Path

import keras
import numpy as np

from kprune._system.files import scratch
from kprune._system.quiet import quiet
from kprune.export import NotFasterWarning, export_onnx, export_tflite
from kprune.formats.onnx.single_operator import onnx_single_operators
from kprune.formats.tflite.single_operator import tflite_single_operators
from kprune.graphs.functional import functional_form


def exported(model, path, format, input_shape=None):
    """Write a model as a float file of a fixed batch of one, as it is to be timed.

    Args:
        model: a Keras model.
        path: where; its suffix is that of the format.
        format: `"tflite"` or `"onnx"`.
        input_shape: dict from names of inputs to sizes, for those that the model leaves open.
    """
    with warnings.catch_warnings(), _uneven(model):
        warnings.simplefilter("ignore", NotFasterWarning)
        export = export_tflite if format == "tflite" else export_onnx
        sizes = input_shape if is_open(model) else None
        export(model, path, batch_size=1, sparse=False, input_shape=sizes)


@contextlib.contextmanager
def _uneven(model):
    """Have no variable whose entries are all alike, which a converter makes a scalar or drops.

    That is so before training, in biases and the statistics of norms, and not after it. The
    values are in the model's own variables until the block ends: use it nowhere else meanwhile.
    """
    before = []
    try:
        for variable in model.variables:
            value = keras.ops.convert_to_numpy(variable)
            if value.dtype.kind == "f" and value.size and value.ndim and np.ptp(value) == 0:
                before.append((variable, value))
                noise = np.random.default_rng(0).uniform(0, 0.01, value.shape)
                variable.assign((value + noise).astype(value.dtype))
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def is_open(model):
    """Whether a model leaves sizes open besides the batch."""
    return any(None in tensor.shape[1:] for tensor in functional_form(model).inputs)


def operators_of(path):
    """Return the `SingleOperator`s of a `.tflite` or `.onnx` file.

    Of an `.onnx` file, those that ONNX Runtime makes of it: activations, for one, become a part
    of the convolution before them.
    """
    path = Path(path)
    if path.suffix == ".tflite":
        return tflite_single_operators(path.read_bytes())
    with quiet():
        model = _optimized(path)
        return onnx_single_operators(model, _tensors(model))


def _optimized(path):
    """The graph that ONNX Runtime computes, but for its layouts, as a `ModelProto`."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    with scratch() as folder:
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(folder / "optimized.onnx")


def _tensors(model):
    """Run a graph once: from the name of each tensor that is computed to its shape and dtype."""
    import onnx
    import onnxruntime

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = [name for node in whole.graph.node for name in node.output if name]
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {}
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in constants:
            kind = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feeds[value.name] = np.zeros([d.dim_value or 1 for d in kind.shape.dim], dtype)
    arrays = feeds | dict(zip(names, session.run(names, feeds)))
    return {name: (np.shape(value), np.asarray(value).dtype) for name, value in arrays.items()}
