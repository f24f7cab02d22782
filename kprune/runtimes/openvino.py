"""OpenVINO, a runtime of `.onnx` and of `.tflite` files, on Intel's and other x86 and ARM CPUs."""

import contextlib
import tempfile
from pathlib import Path


class OpenVINO:
    """An `.onnx` or `.tflite` file in OpenVINO, on the CPU, in float32.

    Inputs and outputs have the names that the file's own runtime gives them.

    Args:
        file: its path, or its bytes.
        threads: int, how many threads it may use; by default OpenVINO's choice.

    Attributes:
        inputs: as of `litert.LiteRT`; quantized inputs are not told from others.
    """

    name = "OpenVINO"

    def __init__(self, file, threads=None):
        import openvino

        self.version = openvino.__version__.partition("-")[0]
        # One request at a time, for its latency. Without the hint of a precision it would compute
        # float32 files in bfloat16 where the processor has that, which others do not.
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        with _on_disk(file) as path:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
            names = _signature(path) if path.suffix == ".tflite" else ({}, {})
        self._request, self._feeds = compiled.create_infer_request(), {}
        self._ports = _named(compiled.inputs, names[0])
        self._outputs = _named(compiled.outputs, names[1])
        self.inputs = {name: _described(port) for name, port in self._ports.items()}

    def prepare(self, feeds):
        """Take the inputs of the runs that follow.

        Args:
            feeds: {name: array}. What the file has no input for is ignored.
        """
        import numpy as np
        import openvino

        for name, port in self._ports.items():
            # It reads where the array is, so that a run copies as little as in ONNX Runtime.
            self._feeds[name] = np.ascontiguousarray(feeds[name])
            self._request.set_tensor(port, openvino.Tensor(self._feeds[name], shared_memory=True))

    def run(self):
        """Run once; returns {name: array}."""
        self.invoke()
        return {
            name: self._request.get_tensor(port).data.copy() for name, port in self._outputs.items()
        }

    def invoke(self):
        """Run once more on the inputs of the last run; nothing is copied in or out."""
        self._request.infer(share_outputs=True)

    def __call__(self, feeds):
        """Prepare and run."""
        self.prepare(feeds)
        return self.run()


def is_tflite(blob):
    """Whether these are the bytes of a `.tflite` file."""
    return blob[4:8] == b"TFL3"


@contextlib.contextmanager
def _on_disk(file):
    """Yield the path of a file: OpenVINO reads `.tflite` from a path only, and by its suffix."""
    if not isinstance(file, bytes):
        yield Path(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model.tflite" if is_tflite(file) else "model.onnx")
        path.write_bytes(file)
        yield path


def _signature(path):
    """Return {tensor: name in the signature} of inputs and outputs, which OpenVINO leaves out."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # It only has to be read.
    interpreter = Interpreter(str(path), experimental_op_resolver_type=plain)
    for key in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(key)
        return tuple(
            {one["name"]: name for name, one in details.items()}
            for details in (runner.get_input_details(), runner.get_output_details())
        )
    return {}, {}


def _named(ports, signature):
    """Return {name: port}: the name in the signature of one of the port's tensors, or its own."""
    found = {}
    for port in ports:
        known = [signature[tensor] for tensor in port.get_names() if tensor in signature]
        found[known[0] if known else port.get_any_name()] = port
    return found


def _described(port):
    dims = [size.get_length() if size.is_static else None for size in port.get_partial_shape()]
    return dims, port.get_element_type().to_dtype(), False
