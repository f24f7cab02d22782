"""One call of a layer with weights, as its rule sees it, and what rules say of the layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kprune._keras.graph import symbolic_arguments
from kprune.structured.probe import Prober
from kprune.structured.reasons import Unsafe
from kprune.structured.tensors import Tensor


@dataclasses.dataclass(eq=False)
class Use:
    """A variable with channels along some of its axes.

    Attributes:
        variable: the `keras.Variable`; None for a product between activations.
        axes: dict from an axis (>= 0) to its labels, one for each position.
        makes: the axes along which the variable makes channels.
        takes: the axes along which it takes channels in and sums over them. Along all
            others it acts on each channel by itself.
        size: int, how many weights there are, or multiply-adds with `applications` of 1.
        applications: float, how often each weight is multiplied in one run on one example.
        scales: whether it scales channels, as the gamma of a batch normalization.
    """

    variable: keras.Variable | None
    axes: dict
    makes: frozenset
    takes: frozenset
    size: int
    applications: float = 0
    scales: bool = False


@dataclasses.dataclass(eq=False)
class LayerChannels:
    """What rules said of one layer, over all its calls.

    Attributes:
        layer: the `keras.Layer`.
        name: str, its name, after those of the custom layers that it is in.
        uses: dict from the id of a variable, or a name of a product, to a `Use`.
        sizes: dict from a path in the layer's configuration to `(labels, function)`; the
            entry is the function of how many of the labels stay.
        after: dict from a path in the layer's configuration and a name to `(labels,
            function)`; the function of the new layer there and of the share of labels that
            stay is called once it has its weights.
        made: dict from a name to the labels that the layer makes.
    """

    layer: keras.Layer
    name: str
    uses: dict = dataclasses.field(default_factory=dict)
    sizes: dict = dataclasses.field(default_factory=dict)
    after: dict = dataclasses.field(default_factory=dict)
    made: dict = dataclasses.field(default_factory=dict)


class Call:
    """One call of a layer, given to its rule (see `kprune.structured.register_channel_rule`).

    Attributes:
        layer: the `keras.Layer`.
        inputs: list of `Tensor`s, the tensors it is called on, in order.
        output_shape: the first output's shape, the batch first.
        output_shapes: list of all.
        labels: the `Labels` of the graph, to tie and freeze them.
        makes_heads: whether its output, without weights in between, is multiplied with another
            tensor, as queries, keys and values are.
    """

    makes_heads = False

    def __init__(
        self,
        record: Any,
        layer: Any,
        path: Any,
        arguments: Any,
        inputs: Any,
        outputs: Any,
        labels: Any,
    ) -> None:
        self.layer, self.inputs, self.labels = layer, inputs, labels
        self.output_shape = outputs[0].shape
        self.output_shapes = [output.shape for output in outputs]
        self._record, self._path = record, path
        self._arguments, self._outputs = arguments, outputs
        self._name = f"{type(record.layer).__name__} {record.name!r}"

    @property
    def rank(self) -> int:
        """How many axes the layer itself sees of its input: inside TimeDistributed, one less."""
        return len(self.inputs[0].shape) - len(self._path) // 2

    def inner(self, layer: Any, path: Any) -> "Call":
        """Return this call for a layer inside this one, whose configuration is at `path`."""
        return Call(
            self._record, layer, self._path + path,
            self._arguments, self.inputs, self._outputs, self.labels,
        )  # fmt: skip

    def argument(self, name: str, position: int) -> Any:
        """Return the `Tensor` of an argument of the call, or None."""
        return next(iter(self.arguments(name, position)), None)

    def option(self, name: str, position: int) -> Any:
        """Return what the call was given for an argument; None if it was given nothing."""
        args, kwargs = self._arguments.args, self._arguments.kwargs
        return args[position] if position < len(args) else kwargs.get(name)

    def arguments(self, name: str, position: int) -> Any:
        """Return the list of `Tensor`s in an argument of the call."""
        value = self.option(name, position)
        known = {id(t): tensor for t, tensor in zip(self._arguments.keras_tensors, self.inputs)}
        return [known[id(one)] for one in keras.tree.flatten(value) if id(one) in known]

    def channels(self, index: int = 0, axis: int = -1) -> np.ndarray | None:
        """Return the labels along an axis of an input; None where no channel can go."""
        return self.channels_of(self.inputs[index], axis)

    def channels_of(self, tensor: Any, axis: int = -1) -> np.ndarray | None:
        """Return the labels along an axis of a `Tensor`; freeze those along another one."""
        if tensor.axis is None or tensor.axis == axis:
            return tensor.labels
        self.freeze(tensor.labels, "works along another axis than that of the channels")
        return None

    def new(self, n: int, entry: str | None = None, counted: bool = True) -> np.ndarray:
        """Return the labels of `n` channels that the layer makes; the same at every call.

        Args:
            n: int.
            entry: str, the entry of the layer's configuration that says `n`, if one does.
            counted: False for things that are not channels, such as attention heads, whose
                number need not be rounded.
        """
        key = (*self._path, entry, n)
        if key not in self._record.made:
            self._record.made[key] = self.labels.new(n, counted)
        if entry is not None:
            self.size(entry, self._record.made[key])
        return self._record.made[key]

    def size(self, entry: str, labels: Any, function: Callable[..., Any] = int) -> None:
        """Say that an entry of the configuration is a function of how many channels stay."""
        path = self._path + (entry if isinstance(entry, tuple) else (entry,))
        self._record.sizes[path] = (labels, function)

    def use(
        self,
        variable: keras.Variable | None,
        makes: Any = (),
        takes: Any = (),
        along: Any = (),
        applications: int = 0,
        scales: bool = False,
    ) -> None:
        """Say which axes of a variable are channels, each with its labels or None for none.

        Args:
            variable: `keras.Variable`, or None for none.
            makes: dict from an axis to the labels of channels that the layer makes there.
            takes: dict from an axis to the labels of channels that it sums over.
            along: dict from an axis to the labels of channels that it takes one by one.
            applications: int, how often each weight is multiplied in this call.
            scales: bool, whether it scales channels, as the gamma of a batch normalization.
        """
        if variable is None:
            return
        rank, size = len(variable.shape), int(np.prod(variable.shape))
        makes, takes, along = (
            {axis % rank: labels for axis, labels in dict(part).items() if labels is not None}
            for part in (makes, takes, along)
        )
        axes = {**makes, **takes, **along}
        for axis, labels in axes.items():
            if len(labels) != variable.shape[axis]:
                raise ValueError(
                    f"The rule of {self._name} gives {len(labels)} channels to axis {axis} of "
                    f"{variable.path}, of shape {tuple(variable.shape)}."
                )
        use = Use(variable, axes, frozenset(makes), frozenset(takes), size, applications, scales)
        self._add(id(variable), use)

    def product(self, factors: Any, applications: int) -> None:
        """Count a product between activations, without weights.

        Args:
            factors: dict from a name to the labels of an index that is multiplied over.
            applications: int, how often in this call.
        """
        size = int(np.prod([len(labels) for labels in factors.values()]))
        axes = dict(enumerate(factors.values()))
        use = Use(None, axes, frozenset(), frozenset(), size, applications)
        self._add((*self._path, *factors), use)

    def _add(self, key, use):
        known = self._record.uses.setdefault(key, use)
        if known is use:
            return
        known.applications += use.applications
        for axis in known.axes.keys() | use.axes.keys():
            self._tie_axis(known, axis, use.axes.get(axis))

    def _tie_axis(self, use, axis, labels):
        """A layer called twice has one set of channels."""
        reason = f"{self._name} is shared, and its other call has channels that stay"
        known = use.axes.get(axis)
        if known is None or labels is None:
            self.labels.freeze(labels if known is None else known, reason)
            use.axes.pop(axis, None)
        else:
            self.labels.union(known, labels, reason)

    def tie(self, labels: Any, tensor: Any, reason: str) -> None:
        """Tie labels to those of another input, or freeze them where it has none."""
        other = self.channels_of(tensor)
        if other is None:
            self.freeze(labels, reason)
        else:
            self.labels.union(labels, other, f"{self._name}: {reason}")

    def freeze(self, labels: Any, reason: str) -> None:
        """Say that channels must stay, and why."""
        if labels is not None:
            self.labels.freeze(labels, f"{self._name}: {reason}")

    def freeze_inputs(self, reason: str, besides: Any = ()) -> None:
        """Freeze the channels of all inputs but some."""
        for tensor in self.inputs:
            if not any(tensor is other for other in besides):
                self.freeze(tensor.labels, reason)

    def inexact(self, labels: Any, reason: str) -> None:
        """Say that without these channels the layer computes something else, and why."""
        self.labels.mark_inexact(labels, f"{self._name}: {reason}")

    def after(self, labels: Any, function: Callable[..., Any]) -> None:
        """Have `function(new layer, share of labels that stay)` called after the surgery."""
        self._record.after[self._path, function.__name__] = (labels, function)

    def activation(
        self, labels: Any, function: Callable[..., Any] | None = None, shape: Any = None
    ) -> None:
        """Freeze the labels if the layer's activation mixes channels, as a softmax does.

        Args:
            labels: those of the channels it is applied to.
            function: the activation; the layer's own by default.
            shape: of what it is applied to, the batch first; the output's by default.
        """
        function = function or getattr(self.layer, "activation", None)
        if labels is None or function in (None, keras.activations.linear):
            return
        shape = shape or self.output_shape
        axes = [axis for axis in range(-1, -len(shape), -1) if shape[axis] == len(labels)]
        if not axes:  # Inside the layer, as in one direction of two.
            shape, axes = (None, len(labels)), [-1]
        name = getattr(function, "__name__", None) or type(function).__name__
        if getattr(function, "weights", None):
            self.freeze(labels, f"its activation {name} has weights")
            return
        if getattr(self.layer, "data_format", None) == "channels_first":
            axes = axes[::-1]
        operation = keras.layers.Activation(function)
        values = keras.KerasTensor((None, *shape[1:]))
        arguments = symbolic_arguments(values)
        tensor = Tensor(shape, "float32")
        try:
            Prober(self.labels).follow(
                operation, arguments, [tensor.with_channels(axes[0], labels)], [tensor]
            )
        except Unsafe as unsafe:
            self.freeze(labels, f"its activation {name}: {unsafe}")

    def output(self, axis: int | None = None, labels: Any = None) -> Any:
        """Return the outputs: the first one with channels along an axis, if given."""
        axis = None if labels is None else axis
        first, *others = self._outputs
        return [first.with_channels(axis, labels), *others]

    def outputs(self, axis: int | None, labels: Any) -> Any:
        """Return the outputs, each with its labels along `axis`, or None for none."""
        return [
            output.with_channels(None if one is None else axis, one)
            for output, one in zip(self._outputs, labels)
        ]
