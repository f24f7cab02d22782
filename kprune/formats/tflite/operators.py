"""The operators of a TFLite file, and the tensors between them."""

from typing import NamedTuple

from kprune.formats.tflite.constants import tflite_zeros
from kprune.formats.tflite.file import DTYPES, integers, operator_name, options, view
from kprune.formats.tflite.lookup_tables import DECODE

PADDING_SAME = 0  # `schema.Padding.SAME`


class TensorUse(NamedTuple):
    """A tensor as an operator of a TFLite file sees it."""

    dtype: str | int
    sparse: bool


def tflite_operators(blob):
    """Return the name of each operator of a TFLite file, and its inputs and outputs."""
    model, result = view(blob), []
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            name = operator_name(model.OperatorCodes(operator.OpcodeIndex()))
            indices = integers(operator.InputsAsNumpy()) + integers(operator.OutputsAsNumpy())
            tensors = [graph.Tensors(index) for index in indices if index >= 0]
            uses = [
                TensorUse(DTYPES.get(t.Type(), t.Type()), t.Sparsity() is not None) for t in tensors
            ]
            result.append((name, uses))
    return result


class Operator(NamedTuple):
    """An operator of a `FirstSubgraph`.

    Attributes:
        name: as in `schema.BuiltinOperator`; that of `lookup_tables.DECODE` is its own.
        inputs, outputs: indices of tensors; operands left out are not among them.
        table: the `schema.Operator`, for `FirstSubgraph.options`.
    """

    name: str
    inputs: list
    outputs: list
    table: object


class FirstSubgraph:
    """Reads the first subgraph of a file that may be damaged, in bounded time and memory.

    Args:
        blob: the bytes of a TFLite file. Damaged ones raise one of `damaged.DAMAGE`, here or in a
            method.

    Attributes:
        inputs, outputs: sets of indices of tensors.
        tensors: how many tensors there are.
        operators: `Operator`s, in order.
    """

    def __init__(self, blob):
        self._model = view(blob)
        self._graph = self._model.Subgraphs(0)
        # A sound file's vectors do not overlap, so that all together are hardly longer than it.
        self._left = 4 * len(blob)
        self._zeros = {}
        self.inputs = set(self._vector(self._graph.InputsAsNumpy()))
        self.outputs = set(self._vector(self._graph.OutputsAsNumpy()))
        self.tensors = self._graph.TensorsLength()
        tables = [self._graph.Operators(i) for i in range(self._graph.OperatorsLength())]
        self.operators = [self._operator(table) for table in tables]

    def _operator(self, table):
        code = self._model.OperatorCodes(table.OpcodeIndex())
        name = operator_name(code)
        if name == "CUSTOM" and code.CustomCode() == DECODE:
            name = DECODE.decode()
        inputs = [i for i in self._vector(table.InputsAsNumpy()) if i >= 0]
        outputs = [i for i in self._vector(table.OutputsAsNumpy()) if i >= 0]
        return Operator(name, inputs, outputs, table)

    def _spend(self, length):
        self._left -= length
        if self._left < 0:
            raise ValueError("its vectors overlap")

    def _vector(self, vector):
        """A vector of integers, as a list."""
        result = integers(vector)
        self._spend(len(result))
        return result

    def options(self, operator, kind):
        """The options of an `Operator`, as `file.options` gives them."""
        return options(operator.table, kind)

    def shape(self, index):
        """The shape of a tensor; 1 where it is dynamic."""
        return tuple(self._vector(self._graph.Tensors(index).ShapeAsNumpy()))

    def signature(self, index):
        """The shape of a tensor with -1 where it is dynamic; () where nothing is."""
        return tuple(self._vector(self._graph.Tensors(index).ShapeSignatureAsNumpy()))

    def name(self, index):
        """The name of a tensor; `"?"` without one."""
        return (self._graph.Tensors(index).Name() or b"?").decode(errors="replace")

    def dtype(self, index):
        """What a tensor holds, as in `DTYPES`; elsewhere a number of `schema.TensorType`."""
        number = self._graph.Tensors(index).Type()
        return DTYPES.get(number, number)

    def floating(self, index):
        """Whether a tensor holds floats of 32 or 16 bits."""
        return self.dtype(index) in ("float32", "float16")

    def sparse(self, index):
        """Whether a tensor is stored sparse."""
        return self._graph.Tensors(index).Sparsity() is not None

    def stored_bytes(self, index):
        """How many bytes of a tensor are stored in the file: 0 for one that is computed."""
        return self._model.Buffers(self._graph.Tensors(index).Buffer()).DataLength()

    def zeros(self, index):
        """(number of zeros, number of entries) of a constant."""
        if index not in self._zeros:  # Many operators may read it, as in an unrolled loop.
            self._spend(self.stored_bytes(index))
            self._zeros[index] = tflite_zeros(self._model, self._graph.Tensors(index))
        return self._zeros[index]

    def integers(self, index):
        """The entries of a constant of integers, as a flat list."""
        from ai_edge_litert import schema_py_generated as schema

        tensor = self._graph.Tensors(index)
        data = self._model.Buffers(tensor.Buffer()).DataAsNumpy()
        wide = tensor.Type() == schema.TensorType.INT64
        return data.view("int64" if wide else "int32").tolist()
