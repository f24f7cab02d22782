"""The few places where the backends differ, each behind one small function."""

import contextlib

import keras
from keras import ops
from keras.src.backend import in_stateless_scope

# At most 255, so that 8 bits hold the number of True in a row.
_ROW = 128


def is_tensorflow():
    """Whether Keras runs on TensorFlow."""
    return keras.backend.backend() == "tensorflow"


def jit_on_jax(function):
    """Compile on JAX, where loops that run eagerly are traced again at every call."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def holds_values(tensor):
    """Whether a tensor has values to read, rather than being asked for the shapes that follow."""
    if isinstance(tensor, keras.KerasTensor):
        return False
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return not isinstance(tensor, jax.core.Tracer)
    if backend == "torch":
        return getattr(getattr(tensor, "device", None), "type", None) != "meta"
    return not ops.is_tensor(tensor) or hasattr(tensor, "numpy")


def cond(predicate, true_fn, false_fn):
    """`ops.cond` that runs one branch and traces none where the predicate is known."""
    if keras.backend.backend() == "jax":
        import jax

        if not isinstance(predicate, jax.core.Tracer):
            return true_fn() if predicate else false_fn()
    if isinstance(predicate, bool):
        return true_fn() if predicate else false_fn()
    return ops.cond(predicate, true_fn, false_fn)


def scalar(value):
    """An integer to compute with: a Python one on torch, where tensors cost more than that.

    Nothing is compiled there, and every comparison that decides a loop is read anyway.
    """
    if keras.backend.backend() == "torch":
        return int(value)
    return ops.cast(value, "int32")


def where(condition, a, b):
    """`ops.where` that also takes a Python bool and `scalar`s."""
    if isinstance(condition, bool):
        return a if condition else b
    return ops.where(condition, a, b)


def while_loop(condition, body, values):
    """`ops.while_loop` that also takes `scalar`s."""
    if keras.backend.backend() != "torch":
        return ops.while_loop(condition, body, values)
    while condition(*values):
        values = body(*values)
    return values


def count_true(condition):
    """How many entries of a bool tensor are True, as an int32 scalar."""
    backend = keras.backend.backend()
    if backend == "torch":
        # A cast and a sum take six times as long there.
        return condition.count_nonzero()
    if backend == "tensorflow":
        return _tf_count(condition)
    return ops.sum(ops.cast(condition, "int32"))


def assign_masked(variables, masks, mask_variables=()):
    """Zero what is masked and remember the masks, on every replica alike.

    Args:
        variables: list of keras.Variable, the weights.
        masks: list of bool tensors, True = kept.
        mask_variables: list of bool keras.Variable that take `masks`; may be empty.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        _tf_assign_masked(variables, masks, mask_variables)
    elif backend == "torch":
        with _torch().no_grad():
            for variable, mask in zip(variables, masks):
                variable.value.masked_fill_(~mask, 0.0)
        for mask_variable, mask in zip(mask_variables, masks):
            if mask is not mask_variable.value:
                mask_variable.assign(mask)
    else:
        for mask_variable, mask in zip(mask_variables, masks):
            mask_variable.assign(mask)
        for variable, mask in zip(variables, masks):
            variable.assign(apply_mask(variable, mask))


def assign_all(variables, values):
    """Assign a tensor to each variable, on every replica alike."""
    if is_tensorflow():
        _tf_update(variables, values, lambda variable, value: variable.assign(value))
    else:
        for variable, value in zip(variables, values):
            variable.assign(value)


def apply_mask(value, mask):
    """`value` where the mask is True, exact +0 elsewhere (a product would give -0)."""
    value = read(value)
    return ops.where(mask, value, ops.zeros((), dtype=value.dtype))


def mean_over_replicas(gradients):
    """Gradients averaged over the replicas of a TensorFlow distribution strategy.

    The optimizer, which sums gradients over replicas, comes to the same sum from the
    averages; and its own reduction waits for this one, as collectives must.
    """
    if not is_tensorflow():
        return gradients
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return [None if g is None else tf.convert_to_tensor(g) for g in gradients]
    present = [tf.convert_to_tensor(g) for g in gradients if g is not None]
    reduced = iter(replica.all_reduce(tf.distribute.ReduceOp.MEAN, present))
    return [None if g is None else next(reduced) for g in gradients]


def sum_over_replicas(tensors, after):
    """Tensors summed over the replicas of a TensorFlow distribution strategy.

    On one machine they are added without a collective: TensorFlow confuses two in one `tf.cond`,
    in which a LossScaleOptimizer makes its steps.

    Args:
        tensors: list of tensors.
        after: list of tensors that come first, since workers must reduce in the same order.
    """
    if not is_tensorflow():
        return tensors
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return tensors
    strategy = replica.strategy
    if len(strategy.extended.worker_devices) < replica.num_replicas_in_sync:
        with tf.control_dependencies([tf.convert_to_tensor(each) for each in after]):
            tensors = [tf.identity(tensor) for tensor in tensors]
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
    return replica.merge_call(
        lambda strategy, values: [
            tf.add_n(strategy.experimental_local_results(value)) for value in values
        ],
        args=(tensors,),
    )


def mask_gradient(gradient, mask):
    """A gradient, where the mask is True; of an embedding on TensorFlow, of the rows it is of."""
    if gradient is None:
        return None
    if is_tensorflow():
        import tensorflow as tf

        if isinstance(gradient, tf.IndexedSlices):
            rows = tf.gather(mask, gradient.indices)
            values = tf.where(rows, gradient.values, tf.zeros((), gradient.values.dtype))
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return apply_mask(gradient, mask)


def readable(variables):
    """A scope in which the values of variables can be read and set, while a step is traced, too.

    None where they cannot: in a replica of a distribution strategy, or when TensorFlow has just
    made them in the trace that is under way, so that they have no values yet.
    """
    if not is_tensorflow():
        return contextlib.nullcontext() if is_concrete() else None
    import tensorflow as tf

    if tf.executing_eagerly():
        return contextlib.nullcontext()
    if tf.distribute.has_strategy():
        return None
    with tf.init_scope():
        known = tf.executing_eagerly() and all(bool(v.value.is_initialized()) for v in variables)
    return tf.init_scope() if known else None


def check_strategy(model):
    """Raise `ValueError` for a distribution strategy of TensorFlow that `fit` cannot run.

    Needs `Model._distribute_strategy`, the one in whose scope the model was made: TensorFlow tells
    of the current one only.
    """
    strategy = getattr(model, "_distribute_strategy", None)
    if strategy is not None and "ParameterServer" in type(strategy).__name__:
        raise ValueError(
            "Keras 3's `fit` does not run under a ParameterServerStrategy. Use "
            "tf.distribute.MirroredStrategy or MultiWorkerMirroredStrategy; or, in a training loop "
            "of your own, kprune.PruningOptimizer and a ClusterCoordinator. "
            f"Received: a model made in the scope of {strategy!r}"
        )


def is_concrete():
    """Whether values can be read now: not while a function or a step is traced.

    Needs `in_stateless_scope` of `keras.src.backend`: the public `keras.StatelessScope` does not
    say whether there is one.
    """
    if not is_tensorflow():
        return not in_stateless_scope()
    import tensorflow as tf

    return tf.executing_eagerly()


def read(variable):
    """The value of a variable as a tensor: of a mirrored one, this replica's."""
    value = ops.convert_to_tensor(variable)
    if is_tensorflow():
        import tensorflow as tf

        return tf.convert_to_tensor(value)
    return value


def to_int(variable):
    """The value of a concrete integer variable or tensor, mirrored ones too."""
    return int(read(variable))


def variable_scope(model):
    """The scope in which variables beside the model's must be made. Needs as `check_strategy`."""
    strategy = getattr(model, "_distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def recompile(model):
    """Drop the model's compiled training step, which holds the optimizer it was traced with."""
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)


def forget_compiled(model):
    """Drop all that the model's layers were compiled to, as they compute in another way now."""
    recompile(model)
    model.test_function = model.predict_function = None


def steps_to_renew():
    """Methods of a model that must be new objects to be compiled again: JAX goes by equality."""
    return ("train_step", "test_step") if keras.backend.backend() == "jax" else ()


def _torch():
    import torch

    return torch


def _tf_count(condition):
    # Sums of rows first, in the smallest type that holds them, as memory traffic is
    # all the time this takes. TensorFlow sums no 8-bit integers on GPUs, and 32-bit
    # ones there only after it has copied them to the host.
    import tensorflow as tf

    dtype = tf.float16 if tf.config.list_logical_devices("GPU") else tf.uint8
    flat = tf.cast(tf.reshape(condition, (-1,)), dtype)
    whole = flat.shape[0] // _ROW * _ROW
    rows = tf.reduce_sum(tf.reshape(flat[:whole], (-1, _ROW)), axis=1)
    total = sum(tf.reduce_sum(tf.cast(part, tf.int64)) for part in (rows, flat[whole:]))
    return tf.cast(total, tf.int32)


def _tf_assign_masked(variables, masks, mask_variables):
    # Mirrored variables take assignments in the cross-replica context only,
    # as in Keras' own TFOptimizer.
    import tensorflow as tf

    def assign(weight, mask):
        weight.assign(tf.where(mask, weight, tf.zeros((), weight.dtype)))

    def update(strategy, masks):
        for mask_variable, mask in zip(mask_variables, masks):
            strategy.extended.update(
                mask_variable.value, lambda v, m: v.assign(m), args=(mask,), group=False
            )
        for variable, mask in zip(variables, masks):
            strategy.extended.update(variable.value, assign, args=(mask,), group=False)

    if tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context():
        merge_call = tf.__internal__.distribute.interim.maybe_merge_call
        merge_call(update, tf.distribute.get_strategy(), masks)
    elif variables:
        # Outside of any scope, mirrored variables still know their strategy.
        own = getattr(variables[0].value, "distribute_strategy", None)
        update(own or tf.distribute.get_strategy(), masks)


def _tf_update(variables, values, change):
    """Call `change(variable, value)` for every replica's own variable and value."""
    import tensorflow as tf

    variables = [variable.value for variable in variables]
    values = [tf.cast(value, variable.dtype) for value, variable in zip(values, variables)]

    def update(strategy, values):
        for variable, value in zip(variables, values):
            strategy.extended.update(variable, change, args=(value,), group=False)

    if tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context():
        merge_call = tf.__internal__.distribute.interim.maybe_merge_call
        merge_call(update, tf.distribute.get_strategy(), list(values))
    elif variables:
        # Outside of any scope, mirrored variables still know their strategy.
        own = getattr(variables[0], "distribute_strategy", None)
        update(own or tf.distribute.get_strategy(), list(values))
