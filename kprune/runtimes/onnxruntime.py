"""ONNX Runtime, the runtime of `.onnx` files."""

_DTYPES = {"float": "float32", "double": "float64"}


class OnnxRuntime:
    """An `.onnx` file in ONNX Runtime, on the CPU.

    Args:
        file: its path, or its bytes.
        threads: int, how many threads it may use, and then it prints nothing either; by default
            ONNX Runtime's choice.

    Attributes:
        inputs: as of `litert.LiteRT`.
    """

    name = "ONNX Runtime"

    def __init__(self, file, threads=None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 4
        source = file if isinstance(file, bytes) else str(file)
        self._session = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"]
        )
        self.version = onnxruntime.__version__
        self.inputs = {node.name: described(node) for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def prepare(self, feeds):
        """Take the inputs of the runs that follow.

        Args:
            feeds: {name: array}. What the file has no input for is ignored.
        """
        self._feeds = {name: feeds[name] for name in self.inputs}

    def run(self):
        """Run once; returns {name: array}."""
        return dict(zip(self._outputs, self._session.run(self._outputs, self._feeds)))

    def __call__(self, feeds):
        """Prepare and run."""
        self.prepare(feeds)
        return self.run()


def described(node):
    """Return (dims, dtype, False) of an input, as `OnnxRuntime.inputs` has them."""
    dims = [size if isinstance(size, int) and size > 0 else None for size in node.shape]
    dtype = node.type.removeprefix("tensor(").removesuffix(")")
    return dims, _DTYPES.get(dtype, dtype), False
