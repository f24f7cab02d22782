"""Export is in float32, whatever precision the model was trained in."""

import contextlib

import keras

from kprune._system.workplace import LOCK


class _Float32Compute(keras.DTypePolicy):
    """Compute in float32 on variables that keep the dtype they have.

    Needs `DTypePolicy._variable_dtype`: no name of a policy says both.
    """

    def __init__(self, variable_dtype):
        super().__init__("float32")
        self._variable_dtype = variable_dtype


def low_precision_layers(model):
    """Return the layers that compute in a float dtype other than float32."""
    return [
        layer
        for layer in model._flatten_layers()
        if "float" in (layer.compute_dtype or "")
        and layer.compute_dtype != "float32"
        and layer.dtype_policy.quantization_mode is None
    ]


@contextlib.contextmanager
def float32_compute(model):
    """Let every layer of the model compute in float32 inside the block.

    Runtimes on CPUs have kernels for float32 and integers; a graph of float16 or bfloat16
    operations fails in TFLite and crawls in ONNX Runtime. The weights of a mixed-precision model
    are float32 to begin with. One thread at a time: two could give a layer each other's policy.

    Needs `Layer._dtype_policy`: where policies are in a map that layers share, setting the public
    property changes the map.
    """
    with LOCK:
        layers = low_precision_layers(model)
        policies = [layer._dtype_policy for layer in layers]
        try:
            for layer in layers:
                layer._dtype_policy = _Float32Compute(layer.variable_dtype)
            yield
        finally:
            for layer, policy in zip(layers, policies):
                layer._dtype_policy = policy
