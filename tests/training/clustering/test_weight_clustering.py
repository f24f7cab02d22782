import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from keras import layers, ops

import kprune
from kprune.training import at_risk
from kprune.training.clustering.centroids import kmeans
from kprune.training.clustering.weight_clustering import cluster_once, grid, on_grid
from kprune.training.strip import find_pruning
from tests.helpers.training import backend, compiled, data, kernels, mlp

floats = st.floats(-1e3, 1e3, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6)
arrays = npst.arrays("float32", st.integers(1, 80), elements=floats)


def pruned(model=None, sparsity=0.8, seed=0):
    """A compiled model with zeros in its kernels."""
    model = compiled(model or mlp())
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            value = ops.convert_to_numpy(ops.cast(variable.value, "float32"))
            variable.assign(np.where(rng.random(value.shape) < sparsity, 0, value))
    return model


def fit(model, *callbacks, epochs=3, **kwargs):
    x, y = data(128)
    return model.fit(x, y, epochs=epochs, batch_size=16, verbose=0, callbacks=callbacks, **kwargs)


def distinct(model):
    """How many values other than zero each kernel has."""
    return {name: np.unique(v[v != 0]).size for name, v in kernels(model).items()}


def assert_zeros_stay(before, after):
    """All zeros stay, and others that join them are few."""
    for name, value in after.items():
        assert np.all(value[before[name] == 0] == 0)
        assert np.mean(value == 0) < np.mean(before[name] == 0) + 0.2


def constraints(model):
    found = [variable.constraint for variable in model.trainable_variables]
    return [one.previous if isinstance(one, at_risk.Watch) else one for one in found]


class Watch(keras.callbacks.Callback):
    """Notes the kernels, and how many values they have, at the end of each epoch."""

    def on_train_begin(self, logs=None):
        self.distinct, self.weights = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.distinct.append(distinct(self.model))
        self.weights.append(kernels(self.model))


@given(values=arrays, clusters=st.integers(1, 12))
@settings(max_examples=100)
def test_kmeans_is_at_a_fixed_point(values, clusters):
    centroids = kmeans(values, clusters)
    assert 1 <= len(centroids) <= clusters
    assert (np.diff(centroids) > 0).all()
    nearest = np.abs(values[:, None] - centroids).argmin(1)
    for i, centroid in enumerate(centroids):
        members = values[nearest == i].astype("float64")
        if len(members):  # a tie may go either way
            assert members.min() - 1e-3 <= centroid <= members.max() + 1e-3
    if np.unique(values).size <= clusters:
        np.testing.assert_array_equal(centroids, np.unique(values))


@pytest.mark.fast_for("0.4-7")
@pytest.mark.parametrize("clusters", [1, 2, 7, 16])
@pytest.mark.parametrize("gap", [0.0, 0.4])
def test_kmeans_is_scikit_learns(clusters, gap):
    cluster = pytest.importorskip("sklearn.cluster")
    rng = np.random.default_rng(clusters)
    values = rng.uniform(-1, 1, 3000)
    values += gap * np.sign(values)
    start = np.linspace(values.min(), values.max() - gap * 2, clusters)
    start = np.where(start > -gap, start + 2 * gap, start)[:, None] if gap else start[:, None]
    theirs = cluster.KMeans(clusters, init=start, n_init=1, tol=0, max_iter=1000)
    theirs.fit(values[:, None])
    ours = kmeans(values, clusters)
    inertia = (np.abs(values[:, None] - ours).min(1) ** 2).sum()
    assert inertia == pytest.approx(theirs.inertia_, rel=1e-3)
    np.testing.assert_allclose(ours, np.sort(theirs.cluster_centers_[:, 0]), atol=5e-3)


def test_no_cluster_is_lost_to_the_gap_that_pruning_leaves():
    rng = np.random.default_rng(0)
    values = rng.choice([-1, 1], 500) * rng.uniform(0.9, 1.0, 500)
    assert len(kmeans(values, 8)) == 8


@given(values=arrays)
@settings(max_examples=100)
def test_a_grid_is_stable_and_near(values):
    scale, codes = grid(values)
    rounded = on_grid(values)
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, scale * codes.astype("float32"))
    assert np.abs(rounded - values).max() <= scale * 0.5001
    assert (values != 0).any() == (np.abs(codes).max() == 127)
    np.testing.assert_array_equal(codes[values == 0], 0)
    np.testing.assert_array_equal(grid(rounded)[1], codes)


@pytest.mark.fast_for("float32-{}")
@pytest.mark.parametrize(
    ("policy", "how"),
    [
        ("float32", {}),
        ("mixed_float16", {}),
        ("mixed_bfloat16", {"jit_compile": True}),
        ("float32", {"jit_compile": True, "steps_per_execution": 3}),
    ],
    ids=str,
)
def test_weights_are_shared_after_every_epoch(policy, how):
    if backend() == "torch" and how:
        pytest.skip("torch compiles nothing, one step at a time")
    keras.config.set_dtype_policy(policy)
    model, watch = pruned(mlp()), Watch()
    model.compile("adam", model.loss, **how)
    start = kernels(model)
    history = fit(model, watch, kprune.WeightClustering(8))
    for found in watch.weights:
        assert_zeros_stay(start, found)
    assert all(0 < n <= 8 for found in watch.distinct for n in found.values())
    assert history.history["loss"][-1] < history.history["loss"][0]
    for name, value in kernels(model).items():
        assert_zeros_stay(start, {name: value})
        np.testing.assert_array_equal(on_grid(value), value)
    assert constraints(model) == [None] * 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3),
        lambda: keras.optimizers.Adam(use_ema=True, ema_momentum=0.9),
        lambda: keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=5),
        lambda: keras.optimizers.AdamW(weight_decay=0.1, global_clipnorm=1.0),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop()),
    ],
    ids=["accumulation", "ema", "ema-overwrite", "adamw-clip", "loss-scale"],
)
def test_every_kind_of_optimizer(optimizer):
    model = pruned()
    model.compile(optimizer(), model.loss)
    before, watch = kernels(model), Watch()
    fit(model, watch, kprune.WeightClustering(5))
    for found in [*watch.distinct, distinct(model)]:
        assert all(n <= 5 for n in found.values())
    for name, value in kernels(model).items():
        assert_zeros_stay(before, {name: value})
        assert not np.array_equal(value, before[name])


class Plain(keras.optimizers.Optimizer):
    """Steps as long as the gradients."""

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, rate * ops.cast(gradient, variable.dtype))


@pytest.mark.parametrize(
    ("optimizer", "along"), [(Plain, 1.0 + 3.0), (keras.optimizers.SGD, (1.0 + 3.0) / 2)]
)
def test_a_centroid_moves_by_the_sum_of_its_members_gradients_and_with_sgd_by_the_mean(
    optimizer, along
):
    model = compiled(keras.Sequential([keras.Input((4,)), layers.Dense(1, use_bias=False)]))
    kernel = model.layers[0].kernel
    kernel.assign(np.array([[0.5], [0.5], [0.0], [-0.25]], "float32"))
    model.compile(optimizer(0.01), "mse")
    x = np.array([[1.0, 3.0, 2.0, -1.0]], "float32")
    y = np.array([[1.0]], "float32")
    # prediction 0.5 + 1.5 + 0.25 = 2.25; the loss' gradient is 2 * 1.25 * x
    expected = [0.5 - 0.01 * 2.5 * along] * 2 + [0.0, -0.25 + 0.01 * 2.5]
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: seen.append(ops.convert_to_numpy(kernel.value).ravel())
    )
    model.fit(x, y, epochs=1, verbose=0, callbacks=[kprune.WeightClustering(2), look])
    np.testing.assert_allclose(seen[0], expected, atol=0.46 / 254)


@pytest.mark.slow
def test_layers_say_which_and_how_many():
    model = pruned()
    fit(model, kprune.WeightClustering(2, layers={"first": 3, "second": None}))
    found = distinct(model)
    assert found["head/kernel"] <= 2
    assert 1 < found["first/kernel"] <= 3
    assert found["second/kernel"] > 50
    model = pruned()
    fit(model, kprune.WeightClustering(None, layers={"second": 4}))
    found = distinct(model)
    assert found["second/kernel"] <= 4
    assert found["first/kernel"] > 100
    model = pruned()
    before = kernels(model)
    cluster_once(model, 4, layers="first")
    np.testing.assert_array_equal(kernels(model)["second/kernel"], before["second/kernel"])
    assert distinct(model)["first/kernel"] == 4


@pytest.mark.slow
def test_a_checkpoint_in_mid_training_is_shared_and_plain_keras(tmp_path):
    model = pruned()
    start, path = kernels(model), str(tmp_path / "{epoch}.keras")
    fit(model, kprune.WeightClustering(6), keras.callbacks.ModelCheckpoint(path))
    for epoch in (1, 2, 3):
        saved = keras.models.load_model(tmp_path / f"{epoch}.keras")
        assert all(n <= 6 for n in distinct(saved).values())
        assert_zeros_stay(start, kernels(saved))
        assert constraints(saved) == [None] * 6
        fit(saved, epochs=1)  # trains each weight by itself again
        assert distinct(saved)["first/kernel"] > 6


@pytest.mark.slow
def test_a_second_fit_goes_on_from_the_first():
    model, watch = pruned(), Watch()
    fit(model, kprune.WeightClustering(6))
    first = kernels(model)
    fit(model, watch, kprune.WeightClustering(6), epochs=1)
    for name, value in watch.weights[0].items():
        pairs = {(a, b) for a, b in zip(first[name].ravel(), value.ravel())}
        assert len(pairs) == np.unique(first[name]).size  # the same clusters
    cluster_once(model, 6)
    once = kernels(model)
    cluster_once(model, 200)
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value, once[name])


@pytest.mark.slow
def test_constraints_of_the_model_are_kept_and_come_back():
    model = pruned()
    limit = keras.constraints.MaxNorm(0.5)
    model.get_layer("first").kernel.constraint = limit
    fit(model, kprune.WeightClustering(8))
    assert constraints(model) == [limit] + [None] * 5
    norms = np.linalg.norm(kernels(model)["first/kernel"], axis=0)
    assert norms.max() < 1.2  # of clusters that are means over columns


class Fails(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_after_a_fit_that_failed():
    model, limit = pruned(), keras.constraints.MaxNorm(2.0)
    model.get_layer("first").kernel.constraint = limit
    with pytest.raises(KeyboardInterrupt):
        fit(model, kprune.WeightClustering(4), Fails())
    assert all(n <= 4 for n in distinct(model).values())
    fit(model, kprune.WeightClustering(3))  # begins anew
    assert all(n <= 3 for n in distinct(model).values())
    assert constraints(model) == [limit] + [None] * 5
    with pytest.raises(KeyboardInterrupt):
        fit(model, kprune.WeightClustering(3), Fails())
    (attached,) = find_pruning(model)
    assert "WeightClustering" in attached
    assert kprune.strip_pruning(model) is model
    assert constraints(model) == [limit] + [None] * 5
    fit(model)
    assert distinct(model)["first/kernel"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_early_stopping_that_restores_the_best_weights(first):
    model, watch = pruned(), Watch()
    model.compile(keras.optimizers.SGD(0.5), model.loss)  # The first epochs are the best.
    stop = keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
    callbacks = [stop, kprune.WeightClustering(4)] if first else [kprune.WeightClustering(4), stop]
    fit(model, watch, *callbacks, epochs=8)
    assert all(n <= 4 for n in distinct(model).values())
    best = watch.weights[stop.best_epoch]
    for name, value in kernels(model).items():
        np.testing.assert_array_equal(value, best[name])
        np.testing.assert_array_equal(on_grid(value), value)


@pytest.mark.slow
def test_entries_change_their_clusters_in_training():
    model = pruned()
    model.compile(keras.optimizers.Adam(0.01), model.loss)
    watch = Watch()
    fit(model, watch, kprune.WeightClustering(3), epochs=4)
    first, last = (watch.weights[i]["first/kernel"] for i in (0, 3))
    pairs = {(a, b) for a, b in zip(first.ravel(), last.ravel())}
    assert len(pairs) > np.unique(first).size


@pytest.mark.slow
def test_a_later_fit_without_it_says_that_values_move_apart():
    model = pruned()
    fit(model, kprune.WeightClustering(4))
    with pytest.warns(UserWarning, match="moves weights apart") as said:
        fit(model, epochs=2)
    assert len([w for w in said if "moves weights apart" in str(w.message)]) == 1
    assert distinct(model)["first/kernel"] > 4
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "This training moves")
        fit(model, kprune.WeightClustering(4))
        assert not find_pruning(model)


@pytest.mark.slow
@pytest.mark.parametrize("only_small", [True, False])
def test_kernels_too_small_to_be_stored_as_codes_are_named(only_small):
    width = 8 if only_small else 33
    model = compiled(keras.Sequential([keras.Input((20,)), layers.Dense(width, name="first")]))
    model.add(layers.Dense(2, name="head"))
    compiled(model)
    with pytest.warns(UserWarning, match="256 entries") as said:
        fit(model, kprune.WeightClustering(3))
    (message,) = {str(w.message) for w in said if "entries" in str(w.message)}
    assert "head/kernel" in message
    assert ("No kernel has that many" in message) == ("first/kernel" in message) == only_small
    assert all(n <= 3 for n in distinct(model).values())


class Gan(keras.Model):
    """Two models, each trained by an optimizer of its own; `model.optimizer` does nothing."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential([keras.Input((8,)), layers.Dense(40, name="generates")])
        self.critic = keras.Sequential([keras.Input((40,)), layers.Dense(7, name="judges")])
        self.unused = layers.Dense(3)  # never built

    def compile(self, generates, judges):
        super().compile()
        self.by_name = {"generates": generates}
        self.judges = judges

    def call(self, noise):
        return self.critic(self.generator(noise))

    def train_step(self, noise):
        steps = (self.by_name["generates"], self.generator), (self.judges, self.critic)
        for optimizer, part in steps:
            variables = part.trainable_variables
            optimizer.apply(self.gradients(noise, variables), variables)
        return {"loss": ops.mean(self(noise) ** 2)}

    def gradients(self, noise, variables):
        if backend() == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = ops.mean((self(noise) - 1) ** 2)
            return tape.gradient(loss, variables)
        self.zero_grad()
        ops.mean((self(noise) - 1) ** 2).backward()
        return [variable.value.grad for variable in variables]


@pytest.mark.slow
@pytest.mark.skipif(backend() == "jax", reason="a train_step on JAX is stateless")
def test_optimizers_of_a_train_step_and_a_layer_that_is_never_built():
    model, watch = Gan(), Watch()
    own = keras.optimizers.Adam(0.01), keras.optimizers.Adam(0.01)
    model.compile(*own)
    noise = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    before = kernels(model)
    model.fit(noise, epochs=3, verbose=0, callbacks=[watch, kprune.WeightClustering(5)])
    for found in [*watch.distinct, distinct(model)]:
        assert all(1 < n <= 5 for n in found.values())
        assert len(found) == 2
    for name, value in kernels(model).items():
        assert np.abs(value - before[name]).max() > 0.01
    assert (model.by_name["generates"], model.judges) == own


@pytest.mark.slow
def test_every_kind_of_layer():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(30, 8)(tokens)
    x = layers.LSTM(5, return_sequences=True)(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.Conv1D(6, 3)(x)
    model = pruned(keras.Model(tokens, layers.Dense(2)(layers.Flatten()(x))))
    model.layers[1].trainable = False
    model.compile("adam", model.loss)
    x = np.random.default_rng(0).integers(0, 30, (64, 6))
    model.fit(x, x[:, 0] % 2, epochs=2, verbose=0, callbacks=[kprune.WeightClustering(7)])
    shared = [v for v in model.weights if len(v.shape) > 1 and "bias" not in v.path]
    assert len(shared) == 9
    for variable in shared:
        value = ops.convert_to_numpy(variable.value)
        assert np.unique(value[value != 0]).size <= 7
        np.testing.assert_array_equal(on_grid(value), value)


def test_shares_what_pruning_left():
    model = compiled(mlp())
    fit(model, kprune.Pruning(0.9))
    before = kernels(model)
    fit(model, kprune.WeightClustering(8))  # still under the PruningOptimizer
    assert_zeros_stay(before, kernels(model))
    assert all(n <= 8 for n in distinct(model).values())


@pytest.mark.fast_for("False")
@pytest.mark.parametrize("first", [True, False])
def test_pruning_at_the_same_time_is_refused(first):
    model = compiled(mlp())
    both = [kprune.WeightClustering(8), kprune.Pruning(0.9)]
    with pytest.raises(ValueError, match="still being pruned"):
        fit(model, *(both if first else reversed(both)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 0}, r"clusters=0"),
        ({"clusters": 256}, r"\[1, 255\]"),
        ({"clusters": 3.5}, r"clusters=3\.5"),
        ({"clusters": True}, "clusters=True"),
        ({"clusters": None}, "number of `clusters`"),
        ({"layers": {"head": 0.5}}, r"layers\['head'\]=0\.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kprune.WeightClustering(**arguments)


def test_bad_models_are_left_as_they_were():
    with pytest.raises(ValueError, match="'missing'"):
        fit(pruned(), kprune.WeightClustering(8, layers="missing"))
    if backend() == "tensorflow":  # The others build a model before its first epoch.
        with pytest.raises(ValueError, match="not built"):
            fit(compiled(mlp(built=False)), kprune.WeightClustering(8))
    flat = compiled(keras.Sequential([keras.Input((20,)), layers.LayerNormalization()]))
    with pytest.raises(ValueError, match="no kernel"):
        fit(flat, kprune.WeightClustering(8))
    model = pruned()
    kernel = model.get_layer("second").kernel
    value = ops.convert_to_numpy(kernel.value).copy()
    value[3, 4] = np.nan
    kernel.assign(value)
    before = kernels(model)
    with pytest.raises(ValueError, match=r"second.*NaN or infinite"):
        fit(model, kprune.WeightClustering(8))
    for name, after in kernels(model).items():
        np.testing.assert_array_equal(after, before[name])
    assert constraints(model) == [None] * 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "suffix"),
    # Keras 3.15 itself loses the state of a LossScaleOptimizer in an .h5 file.
    [("float32", ".keras"), ("float32", ".h5"), ("mixed_float16", ".keras")],
)
def test_saved_within_a_fit_the_file_has_the_plain_optimizer(tmp_path, policy, suffix):
    if backend() == "torch" and policy != "float32":
        pytest.skip("no mixed_float16 on CPUs")
    keras.config.set_dtype_policy(policy)
    model, path = pruned(), tmp_path / f"m{suffix}"
    save = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: model.save(path))
    fit(model, kprune.WeightClustering(5), save, epochs=1)
    with kprune.prune_scope():  # Keras 3.15 alone cannot train on what it reads from an .h5 file.
        loaded = keras.models.load_model(path)
    assert type(loaded.optimizer) is type(model.optimizer)
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations)
    assert all(n <= 5 for n in distinct(loaded).values())
    fit(loaded, epochs=1)
