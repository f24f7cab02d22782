"""LiteRT, the runtime of `.tflite` files."""

from importlib.metadata import version


class LiteRT:
    """A `.tflite` file in LiteRT's default interpreter.

    Example:

    ```python
    file = LiteRT("model.tflite")
    file({"image": x})["classes"]
    ```

    Args:
        file: its path, or its bytes.
        threads: int, how many threads it may use; by default LiteRT's choice.
        reference: bool, whether to use its reference kernels, which are slow.

    Attributes:
        inputs, outputs: {name: (dims, dtype, quantized)} of each: ints, None where dynamic; a NumPy
            dtype; whether its integers stand for real values.
        input_scales, output_scales: {name: (scale, zero point)} of those that are quantized.
    """

    name = "LiteRT"

    def __init__(self, file, threads=None, reference=False):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        in_memory = isinstance(file, bytes)
        source = {"model_content": file} if in_memory else {"model_path": str(file)}
        kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
        self._interpreter = Interpreter(
            **source, num_threads=threads, experimental_op_resolver_type=kernels
        )
        self.version = version("ai-edge-litert")
        self._sources, self._targets = self._details()
        self.inputs, self.input_scales = _described(self._sources)
        self.outputs, self.output_scales = _described(self._targets)
        self._shapes = {name: tuple(each["shape"]) for name, each in self._sources.items()}
        self._allocated = False

    def _details(self):
        """Return the details of the inputs and of the outputs, by their names in the signature.

        They stand in the graph's order, as by which C programs call them.
        """
        interpreter = self._interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        for key in interpreter.get_signature_list():
            runner = interpreter.get_signature_runner(key)
            named = runner.get_input_details(), runner.get_output_details()
            of_the_graph = [[d["index"] for d in details] for details in (inputs, outputs)]
            found = [{d["index"] for d in details.values()} for details in named]
            if found == [set(indices) for indices in of_the_graph]:
                return tuple(map(_ordered, named, of_the_graph))
        return {d["name"]: d for d in inputs}, {d["name"]: d for d in outputs}

    def prepare(self, feeds):
        """Take the inputs of the runs that follow.

        Args:
            feeds: {name: array}. What the file has no input for is ignored.
        """
        self._feeds = {name: feeds[name] for name in self._sources}
        for name, value in self._feeds.items():
            if self._shapes[name] != value.shape:
                index = self._sources[name]["index"]
                self._interpreter.resize_tensor_input(index, value.shape, strict=True)
                self._shapes[name], self._allocated = value.shape, False
        if not self._allocated:
            self._interpreter.allocate_tensors()
            self._allocated = True

    def run(self):
        """Run once: inputs copied in, outputs copied out; returns {name: array}."""
        interpreter = self._interpreter
        for name, value in self._feeds.items():
            interpreter.set_tensor(self._sources[name]["index"], value)
        interpreter.invoke()
        return {name: interpreter.get_tensor(d["index"]) for name, d in self._targets.items()}

    def invoke(self):
        """Run once more on the inputs of the last run; nothing is copied in or out."""
        self._interpreter.invoke()

    def __call__(self, feeds):
        """Prepare and run on real values: returns {name: array}, real values too.

        Integer inputs and outputs are quantized and dequantized here, by their scales in the file.
        An array of integers is taken as quantized already.
        """
        self.prepare(self.encoded(feeds))
        return self.decoded(self.run())

    def encoded(self, feeds):
        """Return {name: array} as the file takes them: real values as its integers."""
        return {name: self._encoded(name, feeds[name]) for name in self._sources}

    def decoded(self, outputs):
        """Return {name: array} of outputs as real values."""
        return {name: self._decoded(name, value) for name, value in outputs.items()}

    def _encoded(self, name, value):
        import numpy as np

        if name not in self.input_scales or np.issubdtype(value.dtype, np.integer):
            return value
        (scale, zero), (_, dtype, _) = self.input_scales[name], self.inputs[name]
        limits = np.iinfo(dtype)
        codes = np.round(np.asarray(value, "float64") / scale) + zero
        return np.clip(codes, limits.min, limits.max).astype(dtype)

    def _decoded(self, name, value):
        if name not in self.output_scales:
            return value
        scale, zero = self.output_scales[name]
        return ((value.astype("float32") - zero) * scale).astype("float32")


def _ordered(details, indices):
    return dict(sorted(details.items(), key=lambda item: indices.index(item[1]["index"])))


def _described(tensors):
    """Return ({name: (dims, dtype, quantized)}, {name: (scale, zero point)}) of details."""
    import numpy as np

    kinds, scales = {}, {}
    for name, details in tensors.items():
        dims = [None if size < 0 else int(size) for size in details["shape_signature"]]
        parameters = details["quantization_parameters"]
        if parameters["scales"].size and np.issubdtype(details["dtype"], np.integer):
            scales[name] = float(parameters["scales"][0]), int(parameters["zero_points"][0])
        kinds[name] = dims, details["dtype"], name in scales
    return kinds, scales
