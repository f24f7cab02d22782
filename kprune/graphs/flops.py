"""FLOPs of a Keras model, counted at the products it really calls."""

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import keras

from kprune._keras.layers import is_preprocessing, made_trainable
from kprune._keras.watching import watched
from kprune._system.type_aliases import FilePath, InputShape
from kprune.graphs.inputs import possible_inputs
from kprune.graphs.load import as_model
from kprune.graphs.products import PRODUCTS
from kprune.graphs.sizes import FREE_STEPS, concrete, sizes_of
from kprune.report import tables
from kprune.report.tables import Printable


@dataclass
class LayerFlops:
    """One layer's share: `flops` over all its `calls` in one run of the model."""

    name: str
    type: str
    calls: int
    input_shape: tuple | None
    output_shape: tuple | None
    flops: int


@dataclass(repr=False)
class FlopsReport(Printable):
    """What `flops` found; prints as a table.

    Attributes:
        model: the model's name.
        batch_size: examples in the batch that was counted.
        rows: a `LayerFlops` for every layer that multiplies, in the order of the first products.
        uncounted: what could not be counted, as sentences; `total` is then too low.
        sizes: dict from the inputs with sizes that the model leaves open to their shapes, without
            the batch, in what was counted.
    """

    model: str
    batch_size: int
    rows: list[LayerFlops]
    uncounted: list[str] = field(default_factory=list)
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """FLOPs of one run on a batch of `batch_size`."""
        return sum(row.flops for row in self.rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "model": self.model,
            "batch_size": self.batch_size,
            "total": self.total,
            "rows": [asdict(row) for row in self.rows],
            "uncounted": list(self.uncounted),
            "sizes": {name: list(size) for name, size in self.sizes.items()},
        }

    def __rich__(self):
        total = self.total
        shown = tables.scaled(total, "FLOPs")
        rows = [
            (
                row.name,
                row.type,
                tables.count(row.calls),
                tables.shape(row.input_shape),
                tables.shape(row.output_shape),
                tables.count(row.flops),
                tables.percent(row.flops / total if total else 0.0),
            )
            for row in self.rows
        ]
        notes = ["1 multiply-add = 2 FLOPs; kernels and matrix products only; zeros count."]
        if self.sizes:
            notes.append(f"Counted at these sizes of dynamic dimensions: {self.sizes}")
        notes += [f"Not counted: {message}" for message in self.uncounted]
        return tables.table(
            ["layer", "class", ">calls", "input", "output", ">FLOPs", ">share"],
            rows,
            title=f"FLOPs of {self.model}, batch {self.batch_size}: {shown}",
            notes=notes,
            total=("total", "", "", "", "", tables.count(total), ""),
        )


def flops(
    model: keras.Model | FilePath,
    batch_size: int = 1,
    free_dim: int | None = None,
    input_shape: InputShape | None = None,
) -> FlopsReport:
    """Count the floating-point operations of one run of a model.

    A multiply-add is 2 FLOPs (papers that give "MACs" or "mult-adds" give half of this). Counted
    is every product with a kernel or between activations, wherever it is called:

    | product                          | FLOPs                                                |
    |----------------------------------|------------------------------------------------------|
    | matrix product, Dense, einsum    | 2 x the product of all index sizes                   |
    | convolution                      | 2 x output elements x kernel elements of one filter  |
    | depthwise convolution            | 2 x output elements x kernel height x width          |
    | transposed convolution           | 2 x input elements x kernel height x width x filters |
    | attention scores and their use   | 2 x 2 x batch x heads x queries x keys x head size   |
    | recurrent layer                  | its cell's products x timesteps                      |
    | Embedding                        | 0, a look-up                                         |

    Left out, as is usual: adding biases, activations, norms, pooling, resizing, elementwise
    arithmetic. Zeros count like any other weight: this is the dense computation, the one that
    most runtimes carry out even when weights are pruned (see `export_tflite` for those that do
    not). Padding counts too, as if its zeros were multiplied.

    The model is run symbolically at inference, without computing anything, so that functional,
    nested, shared and subclassed models and custom layers are all counted call by call. A product
    that a custom layer takes with its backend's own functions (`tf.matmul`, `jnp.dot`) instead of
    `keras.ops` is not seen; the report then says so under "Not counted".

    Example:

    >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300)])
    >>> kprune.flops(model).total
    470400

    Args:
        model: a built Keras model, or the path of a `.keras` file.
        batch_size: int, examples in a batch. FLOPs grow in proportion.
        free_dim: int, one size for all dynamic dimensions (`None`) but the batch, such as the
            length of a sequence or the height and width of an image; `input_shape` in one number.
        input_shape: tuple without the batch, or a dict from names of inputs to such tuples: the
            sizes to count at. By default dynamic dimensions are 224 with images and 64 elsewhere,
            or, where the model does not accept that, the smallest size that it was found to
            accept; the report says which.

    Returns:
        A `FlopsReport`.

    Raises:
        TypeError: not a Keras 3 model; `input_shape` is neither tuple nor dict.
        ValueError: not built; sizes that do not fit the model, or none was found that does;
            nothing recorded about the shape of the model's input.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(
            f"`batch_size` must be a positive int. Received: batch_size={batch_size!r}"
        )
    model = as_model(model)
    counter, scale = _counted(model, batch_size, input_shape, free_dim)
    rows = counter.rows()
    for row in rows:
        row.flops = scale(row.flops)
    return FlopsReport(model.name, batch_size, rows, counter.uncounted(), counter.sizes)


def operation_flops(model, input_shape=None):
    """Return a dict from the id of each operation of a model to its own FLOPs on one example.

    Args:
        model: a built Keras model.
        input_shape: as in `flops`.

    Raises:
        ValueError: as `flops` does.
    """
    counter, scale = _counted(model, 1, input_shape)
    return {key: scale(count) for key, (_, count) in counter.stack[0].counts.items()}


def _counted(model, batch_size, input_shape, free_dim=None):
    """A counter that has run a model, and the function from its counts to those of the batch."""
    failures = []
    for arguments in possible_inputs(model):
        sized = concrete(model, arguments, input_shape, free_dim, traced=False)
        before, after = sizes_of(arguments), sizes_of(sized)
        tensors, traced_batch = _batched(sized, batch_size)
        counter = _Counter(model, traced_batch, free_dim or FREE_STEPS)
        counter.sizes = {name: size for name, size in after.items() if size != before[name]}
        try:
            counter.trace(tensors)
        except ValueError as error:
            failures.append(error)
            continue
        # A model of fixed batch is traced at that batch.
        return counter, lambda count, batch=traced_batch: count * batch_size // batch
    if input_shape is not None or free_dim is not None:  # It may be that, which this explains.
        concrete(model, possible_inputs(model)[0], input_shape, free_dim)
    raise failures[0]


def _batched(arguments, batch_size):
    """Return the arguments to call the model on, as KerasTensors, and their batch size.

    The batch size is the one asked for, or the model's own where that is fixed.
    """
    batches = {spec.shape[0] or batch_size for spec in keras.tree.flatten(arguments)}

    def tensor(spec):
        return keras.KerasTensor((spec.shape[0] or batch_size, *spec.shape[1:]), dtype=spec.dtype)

    arguments = keras.tree.map_structure(tensor, arguments)
    return arguments, batches.pop() if len(batches) == 1 else batch_size


class _Frame:
    """One call of a layer: what was counted in it, and apart from that, in an RNN's cell."""

    def __init__(self, operation, path):
        self.operation, self.path = operation, path
        self.counts, self.cell_counts, self.cell_calls = {}, {}, 0

    def close(self, timesteps):
        """Return what the whole call costs; `timesteps` is None for what is no RNN."""
        own = {id(self.operation): (1, 0)}
        if self.cell_calls:
            # A backend may call the cell once in its loop's body, once more before the loop to
            # learn the output's shape, or at every step; Keras may call stacked cells' parts once
            # more to make dropout masks. Whatever it does: the mean call, at each step.
            self.counts = {
                key: [n * timesteps // self.cell_calls for n in totals]
                for key, totals in self.cell_counts.items()
            }
        _add(self.counts, own)
        return self.counts


def _add(counts, other):
    for key, (calls, count) in other.items():
        mine = counts.setdefault(key, [0, 0])
        mine[0] += calls
        mine[1] += count


class _Counter(keras.Operation):
    """Runs a model symbolically and counts each product for the layer in whose call it is made."""

    def __init__(self, model, batch_size, free_dim):
        super().__init__()
        self.model, self.batch_size, self.free_dim = model, batch_size, free_dim
        self.sizes = {}
        self._reset()

    def _reset(self):
        self.stack = [_Frame(None, "")]
        self.seen = {}  # id of a layer -> (path, layer, input shape, output shape)
        self.unknown = {}
        self.inside_product = False

    def trace(self, arguments):
        products = {
            path: functools.partial(self._product, name=path.split(".")[-1], rule=rule)
            for path, rule in PRODUCTS.items()
        }
        with watched(products, self._operation, self._uncalled):
            # On the backend's own tracer, as Keras infers shapes: the model's graph of nodes, its
            # state and its losses stay untouched.
            try:
                self.compute_output_spec(*arguments)
            except Exception as error:
                specs = keras.tree.flatten(arguments)
                received = ", ".join(f"{spec.dtype}{tuple(spec.shape)}" for spec in specs)
                strings = any(spec.dtype == "string" for spec in specs)
                raise ValueError(
                    f"Model '{self.model.name}' could not be run symbolically on the input it was "
                    f"built for. Received an input of: {received}\n"
                    + ("Keras runs strings on TensorFlow only. " if strings else "")
                    + str(error)
                ) from error

    def call(self, *arguments):
        self._reset()  # torch runs a second time when the first ended in an error
        return self.model(*arguments)

    def _operation(self, original):
        def call(operation, *args, **kwargs):
            parent = self.stack[-1]
            nested = parent.operation not in (None, self.model)
            path = f"{parent.path}/{operation.name}" if nested else operation.name
            frame = _Frame(operation, path)
            self.stack.append(frame)
            try:
                outputs = original(operation, *args, **kwargs)
            finally:
                self.stack.pop()
            inputs = args or tuple(kwargs.values())
            if is_preprocessing(operation) or _has_strings(inputs):
                outputs = keras.tree.map_structure(self._sized, outputs)
            shapes = [_first_shape(inputs), _first_shape(outputs)]
            self.seen.setdefault(id(operation), (frame.path, operation, *shapes))
            is_rnn = isinstance(operation, keras.layers.RNN)
            counts = frame.close(shapes[0][1] if is_rnn else None)
            if operation is getattr(parent.operation, "cell", None):
                _add(parent.cell_counts, counts)
                parent.cell_calls += 1
            else:
                _add(parent.counts, counts)
            return outputs

        return call

    def _sized(self, output):
        """What was looked up, or made of strings, where TensorFlow loses the batch, in its size."""
        shape = getattr(output, "shape", None)
        if shape is None or None not in tuple(shape):
            return output
        sizes = [self.batch_size] + [self.free_dim] * (len(shape) - 1)
        return keras.ops.reshape(output, [n or size for n, size in zip(shape, sizes)])

    def _uncalled(self, original):
        """TimeDistributed runs the `call` of a recurrent layer without calling the layer."""
        framed = self._operation(original)

        @functools.wraps(original)
        def call(layer, *args, **kwargs):
            called = self.stack[-1].operation is layer
            return (original if called else framed)(layer, *args, **kwargs)

        return call

    def _product(self, original, name, rule):
        def call(*args, **kwargs):
            if self.inside_product:  # a backend may build one of these from another
                return original(*args, **kwargs)
            self.inside_product = True
            try:
                outputs = original(*args, **kwargs)
            finally:
                self.inside_product = False
            frame = self.stack[-1]
            try:
                count = rule(outputs, *args, **kwargs)
            except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
                self.unknown.setdefault(id(frame.operation), f"{frame.path}: {name} ({error})")
            else:
                _add(frame.counts, {id(frame.operation): (0, count)})
            return outputs

        return call

    def rows(self):
        rows = []
        for key, (calls, count) in self.stack[0].counts.items():
            path, operation, inputs, outputs = self.seen[key]
            if count:
                name = type(operation).__name__
                rows.append(LayerFlops(path, name, calls, inputs, outputs, count))
        return rows

    def uncounted(self):
        messages = list(self.unknown.values())
        counts = self.stack[0].counts
        for key, (path, operation, *_) in self.seen.items():
            own = made_trainable(operation)
            kernels = [v for v in own if len(v.shape) > 1]
            is_lookup = isinstance(operation, keras.layers.Embedding)
            if kernels and not is_lookup and not counts[key][1] and key not in self.unknown:
                kind = type(operation).__name__
                messages.append(
                    f"{path}: {kind} has a weight of shape {tuple(kernels[0].shape)}, but no "
                    "product through keras.ops was seen in its call"
                )
        return messages


def _has_strings(structure):
    leaves = keras.tree.flatten(structure)
    return any("string" in str(getattr(leaf, "dtype", "")) for leaf in leaves)


def _first_shape(structure):
    for leaf in keras.tree.flatten(structure):
        if getattr(leaf, "shape", None) is not None:
            return tuple(leaf.shape)
    return None
