"""The channel graph: which channels of which variables are coupled."""

import itertools

import keras
import numpy as np

from kprune._keras.graph import operation_class
from kprune._keras.layers import flatten_layers, own_variables
from kprune.graphs.captures import captured
from kprune.graphs.identity import own_functions
from kprune.graphs.sizes import FREE_STEPS, concrete_inputs, sizes_of
from kprune.graphs.walk import call_arguments, operations, walk
from kprune.structured.call import Call, LayerChannels
from kprune.structured.heads import axis_of_heads, multiplied_tensors
from kprune.structured.known import hindrance, opens, unknown
from kprune.structured.labels import Labels
from kprune.structured.opening import is_custom, opened, unused_variables
from kprune.structured.operations import averages
from kprune.structured.own_weights import (
    axes_by_trying,
    follow_own_weight,
    follow_own_weights,
    own_weight,
)
from kprune.structured.probe import Prober
from kprune.structured.reasons import Unsafe
from kprune.structured.rules import rule_for
from kprune.structured.same_class import freeze_unsaid
from kprune.structured.tensors import Tensor

_MOVES = tuple(map(operation_class, ("Transpose", "Moveaxis", "Swapaxes")))  # May move the batch.


class ChannelGraph:
    """What is known of a model's channels.

    Attributes:
        model: the functional or Sequential model.
        labels: the `Labels`, with what ties and freezes them.
        layers: dict from a layer's id to its `LayerChannels`.
        tensors: dict from a KerasTensor's id to its `Tensor`.
        untouched: dict from the id of a layer with weights that stay as they are, for there is
            no rule for it, to `(layer, reason)`.
        openings: dict from the id of a node that calls a custom layer to its `Opening`.
        names: dict from the id of a layer inside a custom one to its name with that of the other
            in front.
        input_shape: dict from the names of the inputs to the sizes that they are followed at.
    """

    def __init__(self, model, free_dim=None, input_shape=None):
        self.model = model
        self._sized = concrete_inputs(model, input_shape, free_dim)
        self.input_shape = sizes_of(self._sized)
        self.openings = {}
        self._whole = set()  # Ids of nodes whose channels are not followed as heads.
        self._follow()
        stuck = self.labels.frozen().keys()
        heads = [(key, self.labels.find(labels)) for key, labels in self._heads.items()]
        self._whole = {key for key, labels in heads if not stuck.isdisjoint(labels.tolist())}
        if self._whole:
            self._follow()
        for opening in self.openings.values():
            if opening.closed is not None:
                freeze_unsaid(self, opening)

    def _follow(self):
        """Walk the model, and find out everything else."""
        self.labels = Labels()
        self.layers, self.tensors, self.untouched, self.names = {}, {}, {}, {}
        self.said = {}  # What arguments of custom layers count, of layers that are alike.
        self._tried = {}  # From calls of layers to the axes of their own weights.
        self._unopened = {}  # From a layer's id to why its call cannot be looked into.
        self._owners = {}  # From a variable's id to the custom layer that has it itself.
        self._users = {}  # From a variable's id to the operations that have or take it.
        self._heads = {}  # From the id of a node that makes heads to their labels.
        self._multiplied = multiplied_tensors(self.model)
        self._prober = Prober(self.labels)
        inputs = [Tensor((None, *tensor.shape[1:]), tensor.dtype) for tensor in self._sized]
        for output in walk(self.model, inputs, self._step, self._note, self._inside):
            if output.labels is not None:
                self.labels.freeze(output.labels, "an output of the model")
        self._freeze_shared_variables()
        self._axes = {  # Nothing is tied from here on: these are the representatives.
            key: {axis: self.labels.find(labels) for axis, labels in use.axes.items()}
            for record in self.layers.values()
            for key, use in record.uses.items()
            if use.variable is not None
        }

    def name_of(self, operation):
        """The name of a layer or operation, after those of the custom layers that it is in."""
        return self.names.get(id(operation), operation.name)

    def named(self, operation):
        """The class and the name of a layer or operation."""
        return f"{type(operation).__name__} {self.name_of(operation)!r}"

    def labels_along(self, variable):
        """The representatives of a variable's labels, as a dict from its axes."""
        return self._axes.get(id(variable), {})

    def kept(self, variable, gone):
        """Return which positions of each axis of a variable stay, as a list of bool arrays."""
        axes = self.labels_along(variable)
        return [
            np.ones(n, bool) if i not in axes else ~np.isin(axes[i], gone)
            for i, n in enumerate(variable.shape)
        ]

    def kept_of_tensor(self, tensor, gone):
        """Return the axis of a tensor's channels and which of them stay; `(None, None)` if none."""
        known = self.tensors[id(tensor)]
        if known.axis is None:
            return None, None
        return known.axis, ~np.isin(self.labels.find(known.labels), gone)

    def _inside(self, node, tensors):
        """What is called in a call of a custom layer, or None for what is not looked into."""
        if not opens(node.operation) or any(tensor.batch for tensor in tensors):
            return None
        if not self._must_open(node, tensors):
            return None
        layer = node.operation
        if id(layer) in self._unopened or self._axes_of_own(node, tensors) is not None:
            return None
        try:
            if id(node) not in self.openings:
                self.openings[id(node)] = opened(node, [tensor.shape for tensor in tensors])
        except Unsafe as unsafe:
            self._unopened[id(layer)] = str(unsafe)
            return None
        graph = self.openings[id(node)].graph
        self._multiplied |= multiplied_tensors(graph)
        for operation in operations(graph):
            self.names.setdefault(id(operation), f"{self.name_of(layer)}/{operation.name}")
        for variable in unused_variables(layer, graph):  # It computes with these alone.
            self._note_use(variable, layer)
        for part in flatten_layers(layer):
            if is_custom(part):
                self._owners.update((id(variable), layer) for variable in own_variables(part))
        return graph

    def _axes_of_own(self, node, tensors):
        """What is known by trying of a layer all of whose weights are its own, or None."""
        key = id(node), tuple((tensor.shape, tensor.axis) for tensor in tensors)
        if key not in self._tried:
            self._tried[key] = axes_by_trying(node, tensors) if opens(node.operation) else None
        return self._tried[key]

    def _must_open(self, node, tensors):
        """Whether a layer cannot be followed as it is, as those without weights may be."""
        if node.operation.weights:
            return True
        try:
            with self.labels.attempt():
                outputs = self._plain_outputs(node, tensors)
                self._prober.follow(node.operation, node.arguments, tensors, outputs)
        except Exception:
            return True
        return False

    def _note(self, tensor, known):
        """Remember what is known of a tensor's channels."""
        self.tensors[id(tensor)] = self._as_before(id(tensor), known)
        return self.tensors[id(tensor)]

    def _as_before(self, key, tensor):
        """A graph that is called twice has one set of channels in each of its tensors."""
        known = self.tensors.get(key)
        if known is None:
            return tensor
        if known.axis is not None and known.axis == tensor.axis:
            if len(known.labels) == len(tensor.labels):
                self.labels.union(known.labels, tensor.labels, "shared with channels that stay")
                return tensor
            reason = "a model that is shared has another number of them in its other call"
        else:
            reason = "a model that is shared has none in its other call"
        for one in (known, tensor):
            if one.labels is not None:
                self.labels.freeze(one.labels, reason)
        return tensor.with_channels(None, None)

    def _plain_outputs(self, node, tensors):
        """The outputs of a node without channels, their shapes known but for the batch."""
        outputs, failure = node.outputs, None
        if isinstance(node.operation, _MOVES) or any(tensor.batch for tensor in tensors):
            return _with_batches(node, tensors)
        # With the batch open, if that will do; and as EinsumDense is told, or as it really is.
        for batch, specified in itertools.product(
            (None, 1),
            (type(node.operation).compute_output_spec, keras.Operation.compute_output_spec),
        ):
            if not any(None in output.shape[1:] for output in outputs):
                break
            sized = [keras.KerasTensor((batch, *t.shape[1:]), dtype=t.dtype) for t in tensors]
            args, kwargs = call_arguments(node, sized)
            try:
                outputs = _specified(specified, (node.operation, *args), kwargs)
            except Exception as error:
                failure = failure or error
        if any(None in output.shape[1:] for output in outputs):
            raise failure or Unsafe("its shapes are not known")
        return [Tensor((None, *output.shape[1:]), _dtype(output)) for output in outputs]

    def _step(self, node, tensors):
        """The outputs of a node with their channels."""
        operation = node.operation
        self._note_variables(operation, node.arguments)
        try:
            outputs = self._plain_outputs(node, tensors)
        except Exception as error:
            outputs = [Tensor(_likely_shape(t, tensors), _dtype(t)) for t in node.outputs]
            if isinstance(error, Unsafe):
                return self._stopped(operation, tensors, outputs, error)
            return self._stopped(
                operation, tensors, outputs, Unsafe.because("its shapes are not known", error)
            )
        try:
            return self._followed(node, tensors, outputs)
        except Unsafe as unsafe:
            return self._stopped(operation, tensors, outputs, unsafe)

    def _stopped(self, operation, tensors, outputs, unsafe):
        """Freeze the channels that an operation is given; return its outputs without any."""
        frozen = [tensor.labels for tensor in tensors if tensor.labels is not None]
        if isinstance(operation, keras.Layer) and operation.weights:
            self.untouched[id(operation)] = operation, str(unsafe)
            if id(operation) in self.layers:  # Its other call had none of this.
                frozen += self.layers[id(operation)].made.values()
        for labels in frozen:
            self.labels.freeze(labels, f"{self.named(operation)}: {unsafe}")
        return outputs

    def _note_variables(self, operation, arguments):
        taken = keras.tree.flatten((arguments.args, arguments.kwargs))
        parts = flatten_layers(operation) if isinstance(operation, keras.Layer) else [operation]
        functions = [f for part in parts for f in own_functions(part).values()]
        for function in [*taken, *functions]:
            taken += captured(function)
        variables = operation.variables if isinstance(operation, keras.Layer) else []
        for thing in taken:
            if isinstance(thing, keras.Layer):
                variables = variables + thing.variables
            elif isinstance(thing, keras.Variable):
                variables = [*variables, thing]
        for variable in variables:
            self._note_use(variable, self._owners.get(id(variable), operation))

    def _note_use(self, variable, user):
        users = self._users.setdefault(id(variable), [])
        if not any(one is user for one in users):
            users.append(user)

    def _freeze_shared_variables(self):
        """What several operations have in common, as an embedding and the output, stays."""
        for record in self.layers.values():
            for use in record.uses.values():
                users = self._users.get(id(use.variable), [])
                names = [repr(self.name_of(one)) for one in users if one is not record.layer]
                for labels in use.axes.values() if names else ():
                    reason = (
                        f"its variable {use.variable.name!r} is also used by {', '.join(names[:3])}"
                    )
                    self.labels.freeze(labels, f"{self.named(record.layer)}: {reason}")

    def _followed(self, node, tensors, outputs):
        """The outputs of a node with their channels, by a rule or by trying it out."""
        operation, arguments = node.operation, node.arguments
        heads = id(node.outputs[0]) in self._multiplied and id(node) not in self._whole
        if id(operation) in self.untouched:
            raise Unsafe(self.untouched[id(operation)][1])
        rule, own = rule_for(operation), self._axes_of_own(node, tensors)
        known = rule is not None or own is not None
        reason = hindrance(operation) if known else self._unknown(operation)
        if reason is not None:
            raise Unsafe(reason)
        if rule is not None and any(tensor.batch for tensor in tensors):
            raise Unsafe("its batch is not its first axis")
        if own is not None:
            call = Call(
                self._record(operation), operation, (), arguments, tensors, outputs, self.labels
            )
            return follow_own_weights(call, own)
        if rule is None:
            axis = axis_of_heads(operation, tensors[0], outputs[0]) if heads else None
            return self._with_heads(
                node, axis, self._tried_out(operation, arguments, tensors, outputs, axis)
            )
        call = Call(
            self._record(operation), operation, (), arguments, tensors, outputs, self.labels
        )
        call.makes_heads = heads and isinstance(operation, keras.layers.EinsumDense)
        try:
            followed = rule(call)
            return self._with_heads(node, -2 if call.makes_heads else None, followed)
        except Unsafe:
            raise
        except Exception as error:
            if not rule.__module__.startswith(f"{__package__}."):
                raise  # The user's own: to be mended there.
            raise Unsafe.because("its rule does not fit it", error) from error

    def _record(self, layer):
        return self.layers.setdefault(id(layer), LayerChannels(layer, self.name_of(layer)))

    def _with_heads(self, node, axis, outputs):
        """Remember the labels that are heads, if these were to be along an axis."""
        first = outputs[0]
        if axis is not None and first.axis == axis:
            self._heads[id(node)] = first.labels
            self.labels.uncount(first.labels)
        return outputs

    def _tried_out(self, operation, arguments, tensors, outputs, axis):
        """The outputs of an operation without weights, which may take a custom layer's own."""
        if len(tensors) == 1 and averages(operation, tensors[0]):
            reason = f"{self.named(operation)}: is over the channels"
            self.labels.mark_inexact(tensors[0].labels, reason)
            return outputs
        weight = own_weight(operation, arguments)
        if weight is None or id(weight) not in self._owners:
            return self._prober.follow(operation, arguments, tensors, outputs, axis)
        layer = self._owners[id(weight)]
        call = Call(self._record(layer), layer, (), arguments, tensors, outputs, self.labels)
        return follow_own_weight(call, operation, weight)

    def _unknown(self, operation):
        """Why an operation without a rule is not tried out; None if it is."""
        reason = unknown(operation)
        if id(operation) in self._unopened:
            reason = f"{reason}; {self._unopened[id(operation)]}"
        return reason


def _likely_shape(output, tensors):
    """A shape for an output that nothing is known of but its rank: as that of an input."""
    alike = [tensor.shape for tensor in tensors if len(tensor.shape) == len(output.shape)]
    likely = alike[0] if alike else (None, *[FREE_STEPS] * (len(output.shape) - 1))
    return (None, *(n or m for n, m in zip(output.shape[1:], likely[1:])))


def _with_batches(node, tensors):
    """The outputs of a node without channels, each with its batch where it comes out."""
    found = []
    for batch in (5, 7):
        shapes = [[batch if n is None else n for n in tensor.shape] for tensor in tensors]
        sized = [keras.KerasTensor(n, dtype=t.dtype) for n, t in zip(shapes, tensors)]
        args, kwargs = call_arguments(node, sized)
        found.append(_specified(node.operation.compute_output_spec, args, kwargs))
    outputs = []
    for one, other in zip(*found):
        axes = [i for i, (n, m) in enumerate(zip(one.shape, other.shape)) if n != m]
        if len(axes) != 1:
            raise Unsafe("changes the batch axis")
        shape = [None if i == axes[0] else n for i, n in enumerate(one.shape)]
        outputs.append(Tensor(tuple(shape), _dtype(one), batch=axes[0]))
    return outputs


def _dtype(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def _specified(function, args, kwargs):
    return keras.tree.flatten(function(*args, **kwargs))
