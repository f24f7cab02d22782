import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.graphs.weights import weights_of
from kprune.training.strip import find_pruning
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.training import compiled, data, mlp
from tests.helpers.wrapped import Block, Subclassed, numpy, zeros

NOW = kprune.ConstantSparsity(0.6, 0, frequency=1)


def wrap(layer):
    return kprune.prune_low_magnitude(layer, NOW)


def prune(model, *shapes):
    """Make the masks of a wrapped model, by a step that trains nothing; return its inputs."""
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(8, *shape)).astype("float32") for shape in shapes]
    x = x if len(x) > 1 else x[0]
    model(x, training=True)
    return x


def assert_stripped(stripped, x, expected, names=None):
    """The same outputs from exact zeros, plain Keras only, through a file as well."""
    assert find_pruning(stripped) == []
    assert not any("kprune" in type(layer).__module__ for layer in stripped._flatten_layers())
    for output, value in zip(flat(stripped(x)), flat(expected)):
        np.testing.assert_allclose(output, value, rtol=1e-5, atol=1e-6)
    if names is not None:
        assert [layer.name for layer in stripped.layers] == names
    for weight in weights_of(stripped):
        if weight.reason is None:
            value = numpy(weight.variable)
            assert (value == 0).sum() == round(0.6 * value.size), weight.name


def flat(outputs):
    return [numpy(output) for output in keras.tree.flatten(outputs)]


def names(model):
    return [layer.name for layer in model.layers]


def test_sequential(tmp_path):
    model = mlp()
    before = names(model)
    wrapped = kprune.prune_low_magnitude(model, NOW)
    x = prune(wrapped, (20,))
    expected = flat(wrapped(x))
    stripped = kprune.strip_pruning(wrapped)
    assert type(stripped) is keras.Sequential
    assert stripped.name == model.name
    assert not stripped.compiled
    assert_stripped(stripped, x, expected, before)
    stripped.save(tmp_path / "stripped.keras")
    assert_stripped(keras.models.load_model(tmp_path / "stripped.keras"), x, expected, before)
    assert [v.path for v in stripped.variables] == [v.path for v in model.variables]
    np.testing.assert_allclose(flat(wrapped(x))[0], expected[0])


def test_functional_with_several_inputs_shared_layers_and_nested_models(tmp_path):
    shared = layers.Dense(6, name="shared")
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="inside")], name="inner")
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    a, b = shared(left), shared(right)
    merged = inner(a) + ops.relu(inner(b)) * 2.0
    outputs = {"score": layers.Dense(2, name="score")(merged), "raw": merged}
    model = keras.Model([left, right], outputs, name="twins")
    before = names(model)
    wrapped = kprune.prune_low_magnitude(model, pruning_schedule=NOW)
    x = prune(wrapped, (4,), (4,))
    expected = flat(wrapped(x))
    stripped = kprune.strip_pruning(wrapped)
    assert_stripped(stripped, x, expected, before)
    assert len(stripped.trainable_variables) == len(model.trainable_variables)
    stripped.save(tmp_path / "stripped.keras")
    assert_stripped(keras.models.load_model(tmp_path / "stripped.keras"), x, expected, before)


@pytest.mark.slow
def test_subclassed_models_get_their_layers_back_where_they_were():
    model = Subclassed()
    x = np.random.default_rng(0).normal(size=(8, 20)).astype("float32")
    model(x)
    first, deep, head = model.first, model.stack[2][0], model.heads["b"]
    order = [v.path for v in model.variables]
    kprune.prune_low_magnitude(model, pruning_schedule=NOW)
    model.compile("adam", {"a": "mse", "b": "mse"})
    y = {"a": np.zeros((8, 2)), "b": np.zeros((8, 3))}
    model.fit(x, y, verbose=0)
    expected = flat(model(x))
    stripped = kprune.strip_pruning(model)
    assert stripped is model
    assert model.first is model.alias is first
    assert model.stack[2][0] is deep
    assert model.heads["b"] is head
    assert [v.path for v in model.variables] == order
    assert_stripped(model, x, expected)
    # It is still compiled; training goes on, without the masks.
    model.evaluate(x, y, verbose=0)
    history = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert (numpy(first.kernel) == 0).mean() < 0.5


@pytest.mark.slow
def test_files_of_stripped_subclassed_models_fit_the_plain_model(tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 20)).astype("float32")
    model, plain = Subclassed(), Subclassed()
    plain(x)
    model(x)
    kprune.prune_low_magnitude(model, pruning_schedule=NOW)
    model(x, training=True)
    kprune.strip_pruning(model).save_weights(tmp_path / "plain.weights.h5")
    plain.load_weights(tmp_path / "plain.weights.h5")
    assert_stripped(plain, x, flat(model(x)))


@keras.saving.register_keras_serializable(package="tests")
class WrappedInside(layers.Layer):
    """A layer whose author wrapped one of its layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = wrap(layers.Dense(5, name="dense"))
        self.out = layers.Dense(5, name="out", trainable=False)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.out.build((*input_shape[:-1], 5))

    def call(self, inputs):
        return self.out(self.dense(inputs))


def test_wrappers_within_layers_are_found():
    inside = WrappedInside()
    timed = layers.TimeDistributed(wrap(layers.Dense(4, name="timed")))
    model = keras.Sequential([keras.Input((3, 6)), inside, timed, wrap(Block(4, name="block"))])
    x = prune(model, (3, 6))
    assert [text for text in find_pruning(model) if "wrapped" in text] == [
        f"the layer '{name}' is wrapped in PruneLowMagnitude"
        for name in ("dense", "timed", "block")
    ]
    expected = flat(model(x))
    stripped = kprune.strip_pruning(model)
    assert_stripped(stripped, x, expected, [inside.name, timed.name, "block"])
    assert type(inside.dense) is layers.Dense
    assert type(timed.layer) is layers.Dense


def test_single_layers_and_lists():
    stack = [layers.Dense(4, name="one"), layers.ReLU(), layers.Dense(3, name="two")]
    wrapped = kprune.prune_low_magnitude(stack, pruning_schedule=NOW)
    model = keras.Sequential([keras.Input((5,)), *wrapped])
    with pytest.raises(ValueError, match="nothing to strip"):
        kprune.strip_pruning(wrapped)
    x = prune(model, (5,))
    expected = flat(model(x))
    assert kprune.strip_pruning(wrapped) == stack
    assert kprune.strip_pruning(wrapped[0]) is stack[0]
    assert_stripped(keras.Sequential([keras.Input((5,)), *stack]), x, expected)


@pytest.mark.slow
def test_stripped_models_train():
    model = compiled(kprune.prune_low_magnitude(mlp(), pruning_schedule=NOW))
    x, y = data(64)
    model.fit(x, y, verbose=0)
    stripped = compiled(kprune.strip_pruning(model), keras.optimizers.Adam(0.01))
    losses = stripped.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_the_optimizer_is_unwrapped_and_the_model_stays_itself():
    model = compiled(mlp())
    x, y = data(64)
    model.fit(x, y, 8, epochs=2, verbose=0, callbacks=[kprune.Pruning(0.6)])
    assert "prunes" in find_pruning(model)[0]
    expected = flat(model(x))
    optimizer = model.optimizer.base_optimizer
    assert kprune.strip_pruning(model) is model
    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == 16
    assert_stripped(model, x, expected)
    model.fit(x, y, verbose=0)
    assert int(model.optimizer.iterations) == 18


def test_what_was_never_pruned_comes_back_as_it_is():
    model = compiled(mlp())
    optimizer = model.optimizer
    assert kprune.strip_pruning(model) is model
    assert model.optimizer is optimizer
    x, y = data(64)
    model.fit(x, y, 16, epochs=1, verbose=0, callbacks=[kprune.Pruning(0.0)])
    assert kprune.strip_pruning(model) is model
    assert find_pruning(model) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_holds_no_zeros_is_taken_off():
    model = compiled(mlp())
    x, y = data(64)
    model.fit(x, y, 16, epochs=1, verbose=0, callbacks=[kprune.HoldZeros()])
    assert kprune.strip_pruning(model) is model
    assert find_pruning(model) == []


def test_machinery_that_has_not_acted_is_refused():
    model = kprune.prune_low_magnitude(mlp())
    with pytest.raises(ValueError, match=r"nothing to strip.*begin_step"):
        kprune.strip_pruning(model)
    assert len(wrappers_in(model)) == len(zeros(model))
    model = compiled(mlp(), kprune.PruningOptimizer(keras.optimizers.Adam(), NOW))
    with pytest.raises(ValueError, match=r"nothing to strip.*begin_step"):
        kprune.strip_pruning(model)


def test_what_is_no_keras_model_is_refused():
    with pytest.raises(TypeError, match="Keras 3 model"):
        kprune.strip_pruning("model.keras")
    with pytest.raises(ValueError, match="not built"):
        kprune.strip_pruning(keras.Sequential([layers.Dense(2)]))
