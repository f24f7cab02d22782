"""What an optimizer that wraps another one must know of it, and of itself."""

import keras


def variable_keys(optimizer, variables):
    """Return what an optimizer knows each variable by; on TensorFlow, one for all of its replicas.

    Needs `Optimizer._var_key`: within a distribution strategy the variable's own id will not do.
    """
    return list(map(optimizer._var_key, variables))


def variable_index(optimizer, variable):
    """Return the place of a variable among those that an optimizer trains.

    Needs `Optimizer._get_variable_index`; there is no public list to look it up in.
    """
    return optimizer._get_variable_index(variable)


def trained_variables(optimizer):
    """Return the variables that a built optimizer trains, as a list.

    Needs `Optimizer._trainable_variables`: the public `variables` are those of its own state.
    """
    return optimizer._trainable_variables


def train(optimizer, variables):
    """Have an optimizer that wraps another one train variables, without a state for them.

    Call it in a method that is `tracking.untracked`. Needs `_trainable_variables` and
    `_trainable_variables_indices`, since `Optimizer.build` makes moving averages and accumulators
    as well, which the wrapped optimizer has.
    """
    optimizer._trainable_variables = list(variables)
    for i, key in enumerate(variable_keys(optimizer, optimizer._trainable_variables)):
        optimizer._trainable_variables_indices[key] = i


def moving_averages(optimizer, variables):
    """Return the moving averages of variables, of an optimizer with `use_ema`; None for some.

    Needs `Optimizer._model_variables_moving_average`: among the public `variables` it cannot be
    told from the rest.
    """
    averages = optimizer._model_variables_moving_average
    return [averages[variable_index(optimizer, variable)] for variable in variables]


def slots(optimizer, variable):
    """Return the variables of a variable's shape that an optimizer has for it, such as moments.

    Needs that an optimizer holds them in attributes that are lists, one for each variable that it
    trains, as all of Keras' own do: no public method leads from a variable to them. Moving averages
    and accumulated gradients, which `Optimizer` itself has, are left out.
    """
    trained = trained_variables(optimizer)
    if not trained:
        return []
    place, shape = variable_index(optimizer, variable), tuple(variable.shape)
    besides = ("_trainable_variables", "_model_variables_moving_average", "_accumulated_gradients")
    return [
        value[place]
        for name, value in vars(optimizer).items()
        if isinstance(value, list) and name not in besides and len(value) == len(trained)
        and isinstance(value[place], keras.Variable) and tuple(value[place].shape) == shape
    ]  # fmt: skip


def mean_square(optimizer, variable):
    """Return the variable in which an optimizer has a running mean of the squared gradient of one.

    None if it has none. Needs `_velocities` of Adam, its kind, and RMSprop: no public name leads to
    a variable's.
    """
    kinds = (keras.optimizers.Adam, keras.optimizers.Nadam, keras.optimizers.RMSprop)
    if not isinstance(optimizer, kinds):
        return None
    return optimizer._velocities[variable_index(optimizer, variable)]


def steps_made(optimizer):
    """Return the counter of calls of `apply`, a variable.

    Needs `Optimizer._iterations`: the public `iterations` counts updates, and one is made of
    several steps where gradients accumulate.
    """
    return optimizer._iterations


def learning_rate_variable(optimizer):
    """Return the variable in which an optimizer without a schedule has its learning rate.

    Needs `Optimizer._learning_rate`: setting the public property assigns on one replica.
    """
    return optimizer._learning_rate


def own_variables(optimizer):
    """Return the variables of an optimizer itself, without those of one inside it.

    Needs `Optimizer._variables`: the public `variables` of a `LossScaleOptimizer` has both.
    """
    return optimizer._variables


def keep_gradients(optimizer):
    """Have an optimizer take gradients as they are, although there are several replicas.

    Needs `Optimizer._all_reduce_sum_gradients` of the TensorFlow backend, which sums them; no
    argument says not to.
    """
    optimizer._all_reduce_sum_gradients = lambda pairs: pairs


def layout(variable):
    """Return how a variable is spread over devices, as `add_variable` takes it; None if it is not.

    Needs `keras.Variable._layout`, which JAX variables alone have a use for.
    """
    return getattr(variable, "_layout", None)
