import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.pruning import LAMP, Importance
from tests.helpers.training import backend, compiled, data, expected_zeros, kernels, mlp, zeros

SCHEDULE = kprune.PolynomialDecay(0.2, 0.9, begin_step=2, end_step=12, frequency=3)


def loss_of(model, x, y):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return loss(y, model(x, training=True))


def gradients(model, x, y):
    """Gradients of the trainable variables, outside of any trainer."""
    variables = model.trainable_variables
    if backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_of(model, x, y)
        return tape.gradient(loss, [v.value for v in variables])
    if backend() == "torch":
        model.zero_grad()
        loss_of(model, x, y).backward()
        return [v.value.grad for v in variables]
    import jax

    def loss_at(values):
        frozen = [v.value for v in model.non_trainable_variables]
        logits, _ = model.stateless_call(values, frozen, x, training=True)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)

    return jax.grad(loss_at)([v.value for v in variables])


def train(model, optimizer, steps, x, y):
    """A training loop of one's own, in each backend's manner."""
    variables = model.trainable_variables
    for _ in range(steps):
        if backend() == "torch":
            import torch

            grads = gradients(model, x, y)
            with torch.no_grad():
                optimizer.apply(grads, variables)
        else:
            optimizer.apply(gradients(model, x, y), variables)


@pytest.mark.fast_for("model")
@pytest.mark.parametrize("given", ["names", "model"])
def test_custom_loop_follows_the_schedule(given):
    model, (x, y) = mlp(), data()
    known = {"model": model} if given == "model" else {}
    optimizer = kprune.PruningOptimizer(keras.optimizers.Adam(), SCHEDULE, **known)
    for step in range(1, 16):
        train(model, optimizer, 1, x, y)
        assert int(ops.convert_to_numpy(optimizer.iterations)) == step
        update = SCHEDULE.last_update(step)
        sparsity = 0 if update is None else SCHEDULE(update)[1]
        assert zeros(model) == expected_zeros(model, sparsity)
    assert zeros(model) == expected_zeros(model, 0.9)


@pytest.mark.slow
def test_tensorflow_function_loop():
    if backend() != "tensorflow":
        pytest.skip("tf.function")
    import tensorflow as tf

    model, (x, y) = mlp(), data()
    optimizer = kprune.PruningOptimizer(keras.optimizers.Adam(), SCHEDULE)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(model, x, y)
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(grads, model.trainable_variables)

    for _ in range(12):
        step()
    assert zeros(model) == expected_zeros(model, 0.9)


def test_jax_stateless_loop():
    if backend() != "jax":
        pytest.skip("stateless_apply")
    import jax

    model, (x, y) = mlp(), data()
    optimizer = kprune.PruningOptimizer(keras.optimizers.Adam(), SCHEDULE)
    with pytest.raises(ValueError, match="must be built"):
        optimizer.stateless_apply([], [], [])
    optimizer.build(model.trainable_variables)

    @jax.jit
    def step(trainable, state):
        def loss_at(values):
            logits, _ = model.stateless_call(values, [], x, training=True)
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)

        return optimizer.stateless_apply(state, jax.grad(loss_at)(trainable), trainable)

    trainable = [v.value for v in model.trainable_variables]
    state = [v.value for v in optimizer.variables]
    for _ in range(12):
        trainable, state = step(trainable, state)
    for variable, value in zip(model.trainable_variables, trainable):
        variable.assign(value)
    assert zeros(model) == expected_zeros(model, 0.9)


def test_pruned_are_the_smallest_and_stay_pruned():
    model, (x, y) = mlp(), data()
    before = kernels(model)
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(0.0), kprune.PolynomialDecay(0.0, 0.8, 0, 10, frequency=5)
    )
    last = None
    for _ in range(3):
        train(model, optimizer, 5, x, y)
        mask = {name: value != 0 for name, value in kernels(model).items()}
        for name, kept in mask.items():
            assert np.abs(before[name])[~kept].max() <= np.abs(before[name])[kept].min()
            assert last is None or not (kept & ~last[name]).any()
        last = mask


def test_zeros_are_positive_zeros():
    model, (x, y) = mlp(), data()
    optimizer = kprune.PruningOptimizer(keras.optimizers.Adam(), kprune.ConstantSparsity(0.9, 0))
    train(model, optimizer, 4, x, y)
    for value in kernels(model).values():
        assert not np.signbit(value[value == 0]).any()


def test_masks_are_one_byte_a_weight():
    model = mlp()
    optimizer = kprune.PruningOptimizer(keras.optimizers.Adam(), SCHEDULE)
    optimizer.build(model.trainable_variables)
    masks = [ops.convert_to_numpy(mask.value) for mask in optimizer.masks().values()]
    assert [mask.dtype for mask in masks] == [bool] * 3
    assert [mask.shape for mask in masks] == [value.shape for value in kernels(model).values()]
    expected = 3 + len(keras.optimizers.Adam().variables) + 2 * len(model.trainable_variables)
    assert len(optimizer.variables) == expected


def test_learning_rate_is_the_wrapped_one():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    for learning_rate in (0.25, schedule):
        base = keras.optimizers.SGD(learning_rate)
        optimizer = kprune.PruningOptimizer(base, SCHEDULE)
        assert float(optimizer.learning_rate) == float(base.learning_rate)
    optimizer = kprune.PruningOptimizer(keras.optimizers.SGD(0.25, momentum=0.5), SCHEDULE)
    optimizer.learning_rate = 0.125
    assert float(optimizer.base_optimizer.learning_rate) == 0.125
    assert optimizer.momentum == 0.5
    with pytest.raises(AttributeError):
        _ = optimizer.nothing_of_the_kind


@pytest.mark.fast_for(
    "criterion0-allocation0",
    "criterion1-allocation3",
    "criterion2-allocation1",
    "criterion3-allocation4",
)
@pytest.mark.parametrize(
    "allocation",
    [kprune.Uniform(), kprune.Global(), kprune.Global(0.05), LAMP(), kprune.ErdosRenyiKernel()],
)
@pytest.mark.parametrize(
    "criterion", [kprune.Magnitude(), Importance(), kprune.Taylor(), kprune.Random(3)]
)
def test_criteria_and_allocations_hold_the_total(allocation, criterion):
    model, (x, y) = mlp(), data()
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.Adam(), SCHEDULE, allocation=allocation, criterion=criterion
    )
    train(model, optimizer, 13, x, y)
    total = sum(value.size for value in kernels(model).values())
    assert abs(sum(zeros(model).values()) - 0.9 * total) <= 2


def test_taylor_scores_use_the_gradient():
    model, (x, y) = mlp(), data()
    before = kernels(model)
    grads = [ops.convert_to_numpy(g) for g in gradients(model, x, y)]
    grads = [g for g in grads if g.ndim >= 2]
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(0.0), kprune.ConstantSparsity(0.5, 0), criterion=kprune.Taylor()
    )
    train(model, optimizer, 1, x, y)
    for (name, value), gradient in zip(kernels(model).items(), grads):
        scores = np.abs(before[name] * gradient)
        pruned = value == 0
        assert scores[pruned].max() <= scores[~pruned].min() * (1 + 1e-4) + 1e-9


def half_zero(seed=0):
    """The kernel and bias of a layer half of whose kernel is zero, and gradients for 3 steps."""
    random = np.random.default_rng(seed)
    layer = layers.Dense(4)
    layer.build((None, 6))
    kernel = random.normal(size=(6, 4)).astype("float32")
    kernel[random.permuted(np.arange(24).reshape(6, 4)) < 12] = 0
    layer.kernel.assign(kernel)
    gradients = [[random.normal(size=shape).astype("float32") for shape in ((6, 4), (4,))]] * 3
    return layer, kernel, gradients


def apply(optimizer, gradients, variables):
    """One step with these gradients, the way `fit` makes it."""
    gradients = [ops.convert_to_tensor(g) for g in gradients]
    if backend() == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(gradients, variables)
    elif backend() == "jax":
        optimizer.build(variables)
        own = optimizer.variables
        trainable, state = optimizer.stateless_apply(
            [v.value for v in own], gradients, [v.value for v in variables]
        )
        for variable, value in zip([*variables, *own], [*trainable, *state]):
            variable.assign(value)
    else:
        optimizer.apply(gradients, variables)


HOLD = kprune.ConstantSparsity(0.5, begin_step=100)


def test_masked_weights_do_not_count_in_the_global_norm():
    layer, before, ((kernel, bias), *_) = half_zero()
    base = keras.optimizers.SGD(0.5, global_clipnorm=0.25)
    apply(kprune.PruningOptimizer(base, HOLD), [kernel, bias], layer.trainable_variables)
    kept = before != 0
    norm = np.sqrt(np.square(kernel[kept]).sum() + np.square(bias).sum())
    assert norm < 0.9 * np.sqrt(np.square(kernel).sum() + np.square(bias).sum())
    for variable, old, gradient in zip(layer.weights, (before, 0), (kernel * kept, bias)):
        value = ops.convert_to_numpy(variable.value)
        np.testing.assert_allclose(value, old - 0.5 * 0.25 / norm * gradient, rtol=1e-5, atol=1e-7)


def test_masked_weights_have_no_moments():
    layer, before, gradients = half_zero()
    base = keras.optimizers.Adam(0.1)
    optimizer = kprune.PruningOptimizer(base, HOLD)
    for each in gradients:
        apply(optimizer, each, layer.trainable_variables)
    for moments in (base._momentums[0], base._velocities[0]):
        moments = ops.convert_to_numpy(moments.value)
        np.testing.assert_array_equal(moments != 0, before != 0)


def test_moments_of_what_is_pruned_die_away():
    layer, _, gradients = half_zero()
    layer.kernel.assign(np.random.default_rng(1).normal(size=(6, 4)))
    base = keras.optimizers.Adam(0.1, beta_1=0.75)
    optimizer = kprune.PruningOptimizer(base, kprune.ConstantSparsity(0.5, 0))
    moments = []
    for each in gradients:
        apply(optimizer, each, layer.trainable_variables)
        moments.append(ops.convert_to_numpy(base._momentums[0].value).copy())
    masked = ops.convert_to_numpy(layer.kernel.value) == 0
    assert masked.sum() == 12
    np.testing.assert_allclose(moments[1][masked], 0.75 * moments[0][masked], rtol=1e-6)
    np.testing.assert_allclose(moments[2][masked], 0.75 * moments[1][masked], rtol=1e-6)
    assert (np.abs(moments[2]) > np.abs(moments[1]))[~masked].all()


class Steepest(kprune.pruning.Criterion):
    """Keeps, and brings back, what has the largest gradients, as RigL does."""

    needs_gradient = True

    def __call__(self, weight, gradient=None):
        return ops.abs(gradient)


def test_criteria_see_the_gradients_of_masked_weights():
    layer, _, ((first, bias), *_) = half_zero()
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(0.1),
        kprune.ConstantSparsity(0.5, 0, frequency=1),
        criterion=Steepest(),
    )
    second = np.random.default_rng(2).normal(size=(6, 4)).astype("float32")
    masks = []
    for kernel in (first, second):
        apply(optimizer, [kernel, bias], layer.trainable_variables)
        (mask,) = optimizer.masks().values()
        mask = ops.convert_to_numpy(mask.value).copy()
        np.testing.assert_array_equal(mask, np.abs(kernel) > np.median(np.abs(kernel)))
        masks.append(mask)
    assert (masks[1] & ~masks[0]).any()


@pytest.mark.skipif(backend() != "tensorflow", reason="gradients of rows are TensorFlow's")
@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (lambda: keras.optimizers.SGD(0.5, momentum=0.5), [5, 2, 5, 0]),
        (keras.optimizers.Adam, [5, 2, 4, 0]),  # Keras' own squares parts of rows one by one.
    ],
    ids=["sgd", "adam"],
)
def test_gradients_of_some_rows_are_masked_as_those_of_all(make, rows):
    import tensorflow as tf

    random = np.random.default_rng(0)
    table = random.normal(size=(8, 3)).astype("float32") * (random.random((8, 3)) < 0.5)
    values = random.normal(size=(4, 3)).astype("float32")
    dense = np.zeros_like(table)
    np.add.at(dense, rows, values)
    sparse = tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([8, 3]))
    found = []
    for gradient in (sparse, tf.constant(dense)):
        layer = layers.Embedding(8, 3)
        layer.build((None,))
        layer.embeddings.assign(table)
        optimizer = kprune.PruningOptimizer(make(), HOLD)
        for _ in range(3):
            optimizer.apply([gradient], layer.trainable_variables)
        found.append([layer.embeddings.numpy(), *(v.numpy() for v in optimizer.variables)])
    for by_rows, whole in zip(*found, strict=True):
        np.testing.assert_allclose(by_rows, whole, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found[0][0] != 0, table != 0)
    assert (found[0][0] != table).any(axis=1)[rows].all()


@pytest.mark.fast_for("pattern1")
@pytest.mark.parametrize("pattern", [kprune.Block((4, 2)), kprune.NM(2, 4)])
def test_patterns_hold_in_training(pattern):
    model, (x, y) = compiled(mlp()), data()
    schedule = kprune.PolynomialDecay(0.0, 0.5, 0, 10, frequency=2)
    optimizer = kprune.PruningOptimizer(keras.optimizers.Adam(), schedule, pattern=pattern)
    train(model, optimizer, 12, x, y)
    for value in kernels(model).values():
        mask = value != 0
        again = ops.convert_to_numpy(kprune.pruning.compute_mask(np.abs(value), 0.5, pattern))
        np.testing.assert_array_equal(mask, again)


def test_moving_averages_are_sparse_too():
    model, (x, y) = mlp(), data()
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.Adam(use_ema=True, ema_momentum=0.5), kprune.ConstantSparsity(0.75, 0)
    )
    train(model, optimizer, 3, x, y)
    optimizer.finalize_variable_values(model.trainable_variables)
    assert zeros(model) == expected_zeros(model, 0.75)


def test_config_round_trip():
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.Adam(0.25),
        SCHEDULE,
        pattern=kprune.Block((4, 1)),
        criterion=kprune.Random(7),
        allocation=kprune.Global(),
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert float(again.learning_rate) == 0.25


def test_compiled_with_the_wrapper_saves_and_loads(tmp_path):
    model, (x, y) = mlp(), data()
    compiled(model, kprune.PruningOptimizer(keras.optimizers.Adam(), SCHEDULE))
    model.fit(x, y, epochs=1, batch_size=32, verbose=0)
    assert zeros(model) == expected_zeros(model, SCHEDULE(8)[1])
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert zeros(again) == zeros(model)
    for old, new in zip(model.optimizer.variables, again.optimizer.variables):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(old.value), ops.convert_to_numpy(new.value)
        )


def test_initially_zero_weights_may_grow_before_pruning():
    model = keras.Sequential([keras.Input((20,)), layers.Dense(2, kernel_initializer="zeros")])
    x, y = data()
    optimizer = kprune.PruningOptimizer(
        keras.optimizers.SGD(0.1), kprune.ConstantSparsity(0.5, begin_step=100), model=model
    )
    train(model, optimizer, 2, x, y)
    assert all(value.all() for value in kernels(model).values())


def test_bad_arguments():
    adam = keras.optimizers.Adam()
    with pytest.raises(TypeError, match="prunes already"):
        kprune.PruningOptimizer(kprune.PruningOptimizer(adam, SCHEDULE), SCHEDULE)
    with pytest.raises(TypeError, match=r"keras\.optimizers"):
        kprune.PruningOptimizer("adam", SCHEDULE)
    with pytest.raises(TypeError, match="PolynomialDecay"):
        kprune.PruningOptimizer(adam, 0.5)
    with pytest.raises(ValueError, match="schedule"):
        kprune.PruningOptimizer(adam)
    with pytest.raises(ValueError, match="needs `model`"):
        kprune.PruningOptimizer(adam, SCHEDULE, layers="head")
    optimizer = kprune.PruningOptimizer(adam, SCHEDULE, model=mlp())
    with pytest.raises(ValueError, match="not among the variables"):
        optimizer.build(mlp().trainable_variables)
