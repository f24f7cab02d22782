import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.training.clustering.assignment import nearest
from kprune.training.clustering.centroids import CentroidInitialization, initial_centroids
from kprune.training.strip import find_pruning
from kprune.training.wrappers.clustering_wrapper import (
    ClusterableLayer,
    ClusterWeights,
    GradientAggregation,
    clusters_in,
)
from tests.helpers.training import compiled, data, kernels, mlp


def fit(model, epochs=2, **kwargs):
    x, y = data(128)
    return model.fit(x, y, epochs=epochs, batch_size=32, verbose=0, **kwargs)


def numpy(value):
    return ops.convert_to_numpy(value)


def distinct(model):
    return {name: np.unique(value).size for name, value in kernels(model).items()}


def with_zeros(model, share=0.8):
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(np.where(rng.random(variable.shape) < share, 0, numpy(variable)))
    return model


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_nearest(shape):
    rng = np.random.default_rng(0)
    values, centroids = rng.normal(size=(7, 3)), rng.normal(size=shape)
    centroids[0] = centroids[-1] + 1e-3
    found = numpy(
        nearest(*[ops.convert_to_tensor(a.astype("float32")) for a in (values, centroids)])
    )
    expected = np.abs(values[..., None] - centroids.T).argmin(-1)
    if len(shape) == 2:
        expected = expected * 3 + np.arange(3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("init", CentroidInitialization)
@pytest.mark.parametrize("keep_zero", [False, True])
def test_initial_centroids(init, keep_zero):
    values = np.random.default_rng(0).normal(size=4000)
    values[:2000] = 0
    found = initial_centroids(values, 9, init, keep_zero)
    assert found.shape == (9,)
    assert values.min() - 1e-6 <= found.min() < found.max() <= values.max() + 1e-6
    if keep_zero:
        assert found[0] == 0
        assert (found[1:] < 0).sum() == (found[1:] > 0).sum() == 4
    if init == CentroidInitialization.LINEAR and not keep_zero:
        np.testing.assert_allclose(found, np.linspace(values.min(), values.max(), 9), rtol=1e-6)
    if init == CentroidInitialization.DENSITY_BASED and not keep_zero:
        shares = [(values <= one + 1e-6).mean() for one in found]
        assert np.all(shares >= np.linspace(0.01, 1, 9) - 1e-3)
    if init == CentroidInitialization.KMEANS_PLUS_PLUS:
        inertia = [
            (np.abs(values[:, None] - each).min(1) ** 2).sum()
            for each in (found, initial_centroids(values, 9, "CentroidInitialization.LINEAR"))
        ]
        assert inertia[0] < inertia[1]


def test_fewer_values_than_centroids():
    for init in CentroidInitialization:
        found = initial_centroids(np.array([0.5, 0.5, -1.0]), 5, init)
        assert found.shape == (5,)
        assert np.isfinite(found).all()
        assert initial_centroids(np.zeros(4), 5, init, True).tolist() == [0] * 5


def test_a_tfmot_script():
    model = compiled(mlp())
    clustered = kprune.cluster_weights(
        model,
        number_of_clusters=4,
        cluster_centroids_init=CentroidInitialization.DENSITY_BASED,
    )
    assert [layer.name for layer in clustered.layers[:2]] == ["cluster_first", "cluster_second"]
    compiled(clustered)
    history = fit(clustered, epochs=4)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert "strip_clustering" in find_pruning(clustered)[0]
    x, _ = data(8)
    before = clustered.predict(x, verbose=0)
    stripped = kprune.strip_clustering(clustered)
    assert not clusters_in(stripped)
    assert all(1 < n <= 4 for n in distinct(stripped).values())
    np.testing.assert_allclose(stripped.predict(x, verbose=0), before, rtol=1e-5, atol=1e-6)
    assert kprune.strip_clustering(stripped) is stripped


@pytest.mark.parametrize("aggregation", GradientAggregation)
def test_centroids_move_by_the_gradients_of_their_members(aggregation):
    layer = layers.Dense(1, use_bias=False)
    layer.build((None, 4))
    layer.kernel.assign([[0.6], [0.4], [0.0], [-0.5]])
    wrapped = kprune.cluster_weights(
        layer, 3, CentroidInitialization.LINEAR, cluster_gradient_aggregation=aggregation
    )
    centroids = wrapped._kernels[0].centroids
    centroids.assign([-0.5, 0.0, 0.5])
    model = keras.Sequential([keras.Input((4,)), wrapped])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.array([[1.0, 3.0, 2.0, -1.0]], "float32")
    model.train_on_batch(x, np.array([[1.0]]))
    # prediction 0.5 + 1.5 + 0.5 = 2.5; the loss' gradient is 2 * 1.5 * x
    summed = 4.0 if aggregation == GradientAggregation.SUM else 2.0
    expected = [-0.5 + 0.01 * 3, 0.0 - 0.01 * 3 * 2, 0.5 - 0.01 * 3 * summed]
    np.testing.assert_allclose(numpy(centroids), expected, rtol=1e-5)
    # The weights behind them make their own steps, by which they change clusters.
    expected = np.array([0.6, 0.4, 0.0, -0.5]) - 0.01 * 3 * x[0]
    np.testing.assert_allclose(numpy(layer.kernel)[:, 0], expected, rtol=1e-5)


@pytest.mark.slow
def test_sparsity_is_preserved():
    model = with_zeros(compiled(mlp()))
    zero = {name: value == 0 for name, value in kernels(model).items()}
    clustered = compiled(kprune.cluster_weights(model, 5, preserve_sparsity=True))
    fit(clustered, epochs=3)
    for name, value in kernels(kprune.strip_clustering(clustered)).items():
        assert np.all(value[zero[name]] == 0)
        assert np.unique(value[value != 0]).size <= 4


@pytest.mark.slow
def test_each_channel_has_values_of_its_own():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(image)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Dense(2, name="head")(layers.Flatten()(x))
    model = compiled(keras.Model(image, x))
    clustered = compiled(kprune.cluster_weights(model, 3, cluster_per_channel=True))
    assert [one.layer.name for one in clusters_in(clustered)] == ["conv", "head"]
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    clustered.fit(images, np.arange(16) % 2, verbose=0)
    found = kernels(kprune.strip_clustering(clustered))
    channels = [np.unique(found["conv/kernel"][..., i]) for i in range(6)]
    assert all(1 < values.size <= 3 for values in channels)
    assert np.unique(np.concatenate(channels)).size > 3
    assert np.unique(found["head/kernel"]).size <= 3
    assert np.unique(found["depthwise/kernel"]).size > 20


class Own(layers.Layer, ClusterableLayer):
    def build(self, input_shape):
        self.mix = self.add_weight(shape=(input_shape[-1], 8), name="mix")
        self.other = self.add_weight(shape=(8, 8), name="other")

    def call(self, inputs):
        return inputs @ self.mix @ self.other

    def get_clusterable_weights(self):
        return [("mix", self.mix)]


def test_layers_lists_and_layers_of_your_own():
    own, other = kprune.cluster_weights([Own(name="own"), layers.ReLU()], 3, preserve_sparsity=True)
    assert isinstance(own, ClusterWeights)
    assert not isinstance(other, ClusterWeights)
    dense = kprune.cluster_weights(layers.Dense(2, name="head"), 3, name="named")
    assert dense.name == "named"
    model = compiled(keras.Sequential([own, other, dense]))  # built by fit
    fit(model)
    found = {v.name: numpy(v) for v in kprune.strip_clustering(model).trainable_variables}
    assert np.unique(found["mix"]).size <= 3 < np.unique(found["other"]).size
    assert np.unique(found["kernel"]).size <= 3


@pytest.mark.slow
def test_recurrent_attention_embedding_and_nested_layers():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(30, 8, mask_zero=True)(tokens)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    inner = keras.Sequential([keras.Input((6, 8)), layers.Flatten(), layers.Dense(2)])
    model = keras.Model(tokens, inner(x))
    model.layers[1].trainable = True
    clustered = compiled(kprune.cluster_weights(model, 3))
    x = np.random.default_rng(0).integers(0, 30, (32, 6))
    clustered.fit(x, x[:, 0] % 2, verbose=0)
    stripped = kprune.strip_clustering(clustered)
    shared = [v for v in stripped.weights if len(v.shape) > 1 and "bias" not in v.path]
    assert len(shared) == 10
    assert all(np.unique(numpy(v)).size <= 3 for v in shared)


@pytest.mark.slow
def test_saved_in_mid_training_it_goes_on_as_if_it_had_never_stopped(tmp_path):
    model = compiled(kprune.cluster_weights(with_zeros(mlp()), 4, preserve_sparsity=True))
    fit(model, shuffle=False)
    model.save(tmp_path / "m.keras")
    with kprune.cluster_scope():
        loaded = keras.models.load_model(tmp_path / "m.keras")
    (config,) = [w.get_config() for w in clusters_in(loaded) if w.layer.name == "head"]
    assert config["preserve_sparsity"]
    assert config["number_of_clusters"] == 4
    for each in (model, loaded):
        fit(each, shuffle=False)
    for a, b in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number_of_clusters": 1}, "greater than 1"),
        ({"number_of_clusters": 2, "preserve_sparsity": True}, "greater than 2"),
        ({"number_of_clusters": "4"}, "integer"),
        ({"number_of_clusters": 4, "cluster_centroids_init": "best"}, "'best'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kprune.cluster_weights(mlp(), **arguments)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="to_cluster"):
        kprune.cluster_weights("model", 4)
    with pytest.raises(ValueError, match="Expected a `keras"):
        kprune.strip_clustering("model")


def test_a_convolution_with_too_few_entries_is_left_as_it_is():
    conv = layers.Conv2D(1, 2)
    conv.build((None, 8, 8, 1))
    with pytest.warns(UserWarning, match=r"4 entries"):
        assert kprune.cluster_weights(conv, 4) is conv
