"""The channel graph: which channels of which variables are coupled."""

import keras

from kprune._keras.graph import operation_class
from kprune._keras.layers import flatten_layers
from kprune.graphs.captures import captured
from kprune.graphs.identity import own_functions
from kprune.graphs.sizes import FREE_STEPS, concrete, sizes_of
from kprune.graphs.walk import call_arguments, graph_of, walk
from kprune.structured.call import Call, LayerChannels
from kprune.structured.labels import Labels
from kprune.structured.probe import Prober
from kprune.structured.reasons import Unsafe
from kprune.structured.rules import rule_for
from kprune.structured.tensors import Tensor


class ChannelGraph:
    """What is known of a model's channels.

    Attributes:
        model: the functional or Sequential model.
        labels: the `Labels`, with what ties and freezes them.
        layers: dict from a layer's id to its `LayerChannels`.
        tensors: dict from a KerasTensor's id to its `Tensor`.
        untouched: dict from the id of a layer with weights that stay as they are, for there is
            no rule for it, to `(layer, reason)`.
        input_shape: dict from the names of the inputs to the sizes that they are followed at.
    """

    def __init__(self, model, free_dim=None, input_shape=None):
        self.model = model
        self.labels = Labels()
        self.layers = {}
        self.tensors = {}
        self.untouched = {}
        sized = concrete(model, graph_of(model).inputs, input_shape, free_dim)
        self.input_shape = sizes_of(sized)
        self._prober = Prober(self.labels)
        inputs = [Tensor((None, *tensor.shape[1:]), tensor.dtype) for tensor in sized]
        self._users = {}  # From a variable's id to the operations that have or take it.
        for output in walk(model, inputs, self._step, self._note):
            if output.labels is not None:
                self.labels.freeze(output.labels, "an output of the model")
        self._freeze_shared_variables()

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
        outputs = node.outputs
        if any(None in output.shape[1:] for output in outputs):
            sized = [keras.KerasTensor(one.shape, dtype=one.dtype) for one in tensors]
            args, kwargs = call_arguments(node, sized)
            outputs = _specified(node.operation.compute_output_spec, args, kwargs)
            if any(None in output.shape[1:] for output in outputs):  # As EinsumDense is told to.
                outputs = _specified(
                    keras.Operation.compute_output_spec, (node.operation, *args), kwargs
                )
        return [Tensor((None, *output.shape[1:]), _dtype(output)) for output in outputs]

    def _step(self, node, tensors):
        """The outputs of a node with their channels."""
        operation = node.operation
        self._note_variables(operation, node.arguments)
        try:
            outputs = self._plain_outputs(node, tensors)
        except Exception as error:
            sizes = [[n or FREE_STEPS for n in output.shape[1:]] for output in node.outputs]
            outputs = [Tensor((None, *n), _dtype(t)) for n, t in zip(sizes, node.outputs)]
            return self._stopped(
                operation, tensors, outputs, Unsafe.because("its shapes are not known", error)
            )
        try:
            return self._followed(operation, node.arguments, tensors, outputs)
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
            self.labels.freeze(labels, f"{_named(operation)}: {unsafe}")
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
            users = self._users.setdefault(id(variable), [])
            if not any(user is operation for user in users):
                users.append(operation)

    def _freeze_shared_variables(self):
        """What several operations have in common, as an embedding and the output, stays."""
        for record in self.layers.values():
            for use in record.uses.values():
                users = self._users.get(id(use.variable), [])
                names = [repr(one.name) for one in users if one is not record.layer]
                for labels in use.axes.values() if names else ():
                    reason = (
                        f"its variable {use.variable.name!r} is also used by {', '.join(names[:3])}"
                    )
                    self.labels.freeze(labels, f"{_named(record.layer)}: {reason}")

    def _followed(self, operation, arguments, tensors, outputs):
        """The outputs of an operation with their channels, by its rule or by trying it out."""
        if id(operation) in self.untouched:
            raise Unsafe(self.untouched[id(operation)][1])
        rule = rule_for(operation)
        reason = _unknown(operation) if rule is None else _hindrance(operation)
        if reason is not None:
            raise Unsafe(reason)
        if rule is None:
            return self._prober.follow(operation, arguments, tensors, outputs)
        record = self.layers.setdefault(id(operation), LayerChannels(operation))
        try:
            return rule(Call(record, operation, (), arguments, tensors, outputs, self.labels))
        except Unsafe:
            raise
        except Exception as error:
            if not rule.__module__.startswith(f"{__package__}."):
                raise  # The user's own: to be mended there.
            raise Unsafe.because("its rule does not fit it", error) from error


def _named(operation):
    return f"{type(operation).__name__} {operation.name!r}"


def _dtype(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def _specified(function, args, kwargs):
    return keras.tree.flatten(function(*args, **kwargs))


def _hindrance(layer):
    if getattr(layer, "quantization_mode", None):
        return f"it is quantized ({layer.quantization_mode})"
    if getattr(layer, "lora_enabled", False):
        return "it carries LoRA weights"
    return None


def _unknown(operation):
    """Why an operation without a rule is not tried out; None if it is."""
    kind = type(operation)
    if isinstance(operation, keras.layers.TimeDistributed):
        return _unknown(operation.layer)
    if isinstance(operation, keras.layers.Lambda):
        return "a Lambda layer may do anything"
    if isinstance(operation, keras.Function):
        return f"{kind.__name__} overrides `call`"
    if isinstance(operation, operation_class("WhileLoop")):
        return "how often it runs may depend on the channels"
    if kind.__module__.partition(".")[0] != "keras":
        return "a custom layer without a rule (see kprune.structured.register_channel_rule)"
    if isinstance(operation, keras.Layer) and operation.weights:
        return "has weights, and no rule"
    return None
