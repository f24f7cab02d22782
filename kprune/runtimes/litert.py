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
        inputs: {name: (dims, dtype, quantized)} of each input: ints, None where dynamic; a NumPy
            dtype; whether its integers stand for real values.
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
        self.inputs = {name: _described(each) for name, each in self._sources.items()}
        self._shapes = {name: tuple(each["shape"]) for name, each in self._sources.items()}
        self._allocated = False

    def _details(self):
        """Return the details of the inputs and of the outputs, by their names in the signature."""
        interpreter = self._interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        for key in interpreter.get_signature_list():
            runner = interpreter.get_signature_runner(key)
            named = runner.get_input_details(), runner.get_output_details()
            of_the_graph = [{d["index"] for d in details} for details in (inputs, outputs)]
            if [{d["index"] for d in details.values()} for details in named] == of_the_graph:
                return named
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
        """Prepare and run."""
        self.prepare(feeds)
        return self.run()


def _described(details):
    dims = [None if size < 0 else int(size) for size in details["shape_signature"]]
    return dims, details["dtype"], bool(details["quantization_parameters"]["scales"].size)
