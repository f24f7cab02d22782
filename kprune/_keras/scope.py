"""Where Keras' own state of a call is read and used: scopes of values, and calls of a step."""

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import StatelessScope, get_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.backend.common.variables import initialize_all_variables


class ReplacedValues(StatelessScope):
    """Within it, some variables read as other values; all else goes on as without it.

    Variables are assigned to, and losses added, where they would be without the scope: in
    the variables themselves, or in the `keras.StatelessScope` around. It is the scope of a
    single thread, as any of Keras, so that replicas do not see each other's values.

    Needs Keras' `global_state`, in which the scope around is found and put back, and the value of a
    variable that no scope replaces, `Variable._value`. The public `keras.StatelessScope`, which it
    is one of, catches every assignment and loss.

    Args:
        variables: list of `keras.Variable`.
        values: list of tensors of their shapes and types.
    """

    def __init__(self, variables, values):
        super().__init__()
        self._replaced = {id(v): value for v, value in zip(variables, values)}
        self._outer = None

    def __enter__(self):
        self._outer = get_stateless_scope()
        self.collect_losses = self._outer is None or self._outer.collect_losses
        if self._outer is not None:
            self.losses = self._outer.losses
        return super().__enter__()

    def get_current_value(self, variable):
        value = self._replaced.get(id(variable))
        if value is not None:
            return value
        if self._outer is not None:
            return self._outer.get_current_value(variable)
        return variable._value

    def add_update(self, update):
        variable, value = update
        if id(variable) in self._replaced:
            self._replaced[id(variable)] = value
        if self._outer is None and _is_traced(value):
            return  # In a loop that JAX traces; it is dropped without this scope, too.
        global_state.set_global_attribute("stateless_scope", self._outer)
        try:
            if self._outer is None and variable._value is None:
                initialize_all_variables()  # It was made within this scope.
            variable.assign(value)
        finally:
            global_state.set_global_attribute("stateless_scope", self)

    @property
    def own_losses(self):
        """The losses that were added within, if no scope around holds them."""
        return self.losses if self._outer is None else []


def first_call_of_step(layer):
    """Whether this is the layer's first call in the forward pass that is under way.

    A layer that is used twice in a model is called twice in a step. A forward pass is known
    by the stateless scope, in which JAX trains, or else by the call of the outermost layer.
    While Keras only works out shapes, no call is the first.

    Needs Keras' `global_state`, where both are, and `in_symbolic_scope`: a layer is told of the
    call around it by no argument.
    """
    calls = []
    made_once_a_step(layer, lambda: calls.append(layer))
    return bool(calls)


def made_once_a_step(layer, make):
    """Return what `make()` returns at a layer's first call of a step, also at its later calls.

    See `first_call_of_step`. While Keras only works out shapes, nothing is made, and this is None.
    """
    if in_symbolic_scope():
        return None
    forward_pass = get_stateless_scope() or global_state.get_global_attribute("current_call_ctx")
    if forward_pass is None:
        return make()
    made = forward_pass.__dict__.setdefault("_kprune_made", {})
    if id(layer) not in made:
        made[id(layer)] = make()
    return made[id(layer)]


def _is_traced(value):
    if keras.backend.backend() != "jax":
        return False
    import jax

    return isinstance(value, jax.core.Tracer)
