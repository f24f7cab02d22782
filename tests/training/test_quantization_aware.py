import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import layers, ops

import kprune
from kprune._keras import backend
from kprune.graphs.weights import weights_of
from kprune.training import fake_quantization
from kprune.training.fake_quantization import FAKE_QUANTIZATION
from kprune.training.strip import find_pruning
from tests.helpers.training import compiled, data, expected_zeros, kernels, mlp, zeros
from tests.helpers.zoo import ZOO

# Their steps are no subnormal numbers, which some processors take for zero.
FLOATS = st.floats(-100, 100, width=32).filter(lambda v: abs(v) > 1e-30) | st.just(0.0)
SHAPES = st.sampled_from([(7, 5), (1, 1), (3, 2, 4)])  # JAX compiles for each anew.
MATRICES = arrays.arrays("float32", SHAPES, elements=FLOATS)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


@settings(max_examples=50)
@given(MATRICES)
def test_weights_are_rounded_symmetrically_by_channel(value):
    rounded = numpy(fake_quantization.round_weight(ops.convert_to_tensor(value), (value.ndim - 1,)))
    largest = np.abs(value).max(tuple(range(value.ndim - 1)))
    step = largest / 127
    assert np.all(np.abs(rounded - value) <= step / 2 + 1e-6 * largest)
    codes = rounded / np.where(step > 0, step, 1)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    assert np.all(rounded[value == 0] == 0)
    np.testing.assert_allclose(np.abs(rounded).max(tuple(range(value.ndim - 1))), largest, 1e-6)


@settings(max_examples=50)
@given(MATRICES)
def test_activations_are_rounded_over_their_range_and_zero(value):
    rounded = numpy(fake_quantization.round_activation(ops.convert_to_tensor(value)))
    low, high = min(value.min(), 0), max(value.max(), 0)
    step = (high - low) / 255
    # The range moves by up to half a step, so that zero is one of its values.
    assert np.all(np.abs(rounded - value) <= step * 1.001 + 1e-6 * max(high, -low))
    assert len(np.unique(np.round(rounded / (step or 1)))) <= 256
    assert np.all(rounded[value == 0] == 0)


def test_gradients_go_straight_through():
    layer = layers.Dense(3, use_bias=False)
    model = keras.Sequential([keras.Input((4,)), layer])
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model.compile(keras.optimizers.SGD(1.0), lambda y, p: ops.sum(p, axis=-1))
    before = numpy(layer.kernel)
    fake_quantization.fake_quantize(model)
    model.train_on_batch(x, np.zeros((8, 3)))
    rounded = numpy(fake_quantization.round_activation(ops.convert_to_tensor(x)))
    assert not np.allclose(rounded, x, atol=1e-4)
    expected = before - np.repeat(rounded.mean(0)[:, None], 3, axis=1)
    np.testing.assert_allclose(numpy(layer.kernel), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activations", [True, False])
def test_it_computes_with_rounded_kernels_and_inputs(activations):
    model = mlp()
    x, _ = data()
    fake_quantization.fake_quantize(model, activations)
    first, second, _, head = model.layers
    expected = ops.convert_to_tensor(x)
    for layer, after in ((first, ops.relu), (second, ops.relu), (head, lambda v: v)):
        if activations:
            expected = fake_quantization.round_activation(expected)
        kernel = fake_quantization.round_weight(layer.kernel.value, (1,))
        expected = after(ops.matmul(expected, kernel) + layer.bias)
    np.testing.assert_allclose(
        model.predict(x, batch_size=256, verbose=0), numpy(expected), rtol=1e-4, atol=1e-5
    )


def merging():
    inputs = keras.Input((20,))
    x = layers.Dense(16, name="left")(inputs)
    y = layers.Dense(16, name="right")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Add(name="sum")([x, y])))


def patched(model):
    return {layer.name for layer, name in fake_quantization._patched(model) if name == "call"}


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, {"left", "right", "sum", "head"}),
        ("le*", {"left"}),
        (["head", "right"], {"head", "right"}),
        (layers.Add, {"sum"}),
        (layers.Dense, {"left", "right", "head"}),
        (lambda layer: layer.name in ("sum", "left"), {"sum", "left"}),
        ({"head": None, "sum": None}, {"left", "right"}),
    ],
)
def test_layers_say_which_are_quantization_aware(chosen, names):
    model = merging()
    fake_quantization.fake_quantize(model, layers=chosen)
    assert patched(model) == names
    assert fake_quantization.remove_fake_quantization(model)
    assert patched(model) == set()


@pytest.mark.slow
def test_layers_that_are_left_out_compute_in_float():
    model, (x, _) = mlp(), data()
    fake_quantization.fake_quantize(model, layers={"first": None})
    first, second, _, head = model.layers
    expected = ops.relu(ops.matmul(ops.convert_to_tensor(x), first.kernel.value) + first.bias)
    expected = ops.matmul(
        fake_quantization.round_activation(expected),
        fake_quantization.round_weight(second.kernel.value, (1,)),
    )
    expected = fake_quantization.round_activation(ops.relu(expected + second.bias))
    kernel = fake_quantization.round_weight(head.kernel.value, (1,))
    expected = numpy(ops.matmul(expected, kernel) + head.bias)
    found = model.predict(x, batch_size=256, verbose=0)
    # A compiled product may be rounded to the next code.
    assert np.isclose(found, expected, rtol=1e-4, atol=1e-5).mean() > 0.98
    assert np.abs(found - expected).max() < 0.05


def test_layers_that_match_nothing():
    model = compiled(mlp())
    with pytest.raises(ValueError, match="'missing'"):
        model.fit(*data(16), verbose=0, callbacks=[kprune.QuantizationAware(layers="missing")])
    assert not FAKE_QUANTIZATION.describe(model)
    with pytest.raises(TypeError, match="`layers`"):
        kprune.QuantizationAware(["first"])


class HalfBuilt(keras.Model):
    """A model with a layer that is never built."""

    def __init__(self):
        super().__init__()
        self.head, self.unused = layers.Dense(2, name="head"), layers.Dense(3)

    def call(self, inputs):
        return self.head(inputs)


def test_a_layer_that_is_never_built():
    model, seen = compiled(HalfBuilt()), []
    x, y = data(64)
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: seen.append(bool(FAKE_QUANTIZATION.describe(model)))
    )
    model.fit(x, y, epochs=2, verbose=0, callbacks=[kprune.QuantizationAware(), look])
    assert seen == [True, True]
    assert not FAKE_QUANTIZATION.describe(model)


# JAX takes some seconds to compile each.
KINDS = ["cnn", "masked_text", "nested", "subclassed"] if keras.backend.backend() == "jax" else ZOO


@pytest.mark.fast_for("cnn", "embedding")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_and_back(kind):
    from kprune.graphs.sample_data import generate
    from kprune.graphs.signature import describe

    model = ZOO[kind]()
    signature = describe(model)
    inputs = signature.pack([ops.convert_to_tensor(x) for x in generate(model, signature, 4)])

    def outputs():
        compute = backend.jit_on_jax(lambda *inputs: model(*inputs))
        return [numpy(each) for each in keras.tree.flatten(compute(*inputs))]

    before, weights = outputs(), [numpy(v) for v in model.variables]
    fake_quantization.fake_quantize(model)
    rounded = outputs()
    assert FAKE_QUANTIZATION.describe(model)
    for a, b in zip(before, rounded):
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.1 * np.sqrt(np.mean(a**2)) + 1e-4
    assert any(not np.array_equal(a, b) for a, b in zip(before, rounded))
    assert fake_quantization.remove_fake_quantization(model)
    assert not fake_quantization.remove_fake_quantization(model)
    for a, b in zip(before, outputs()):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(weights, [numpy(v) for v in model.variables]):
        np.testing.assert_array_equal(a, b)


@pytest.mark.fast_for("float32")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_fit_with_pruning(policy):
    keras.config.set_dtype_policy(policy)
    model = compiled(mlp(), metrics=["accuracy"])
    x, y = data()
    before = kernels(model)
    dense = model.evaluate(x, y, verbose=0)
    callbacks = [kprune.Pruning(0.75), kprune.QuantizationAware()]
    history = model.fit(
        x, y, epochs=4, verbose=0, callbacks=callbacks, validation_data=(x, y), batch_size=256
    ).history
    assert zeros(model) == expected_zeros(model, 0.75)
    assert not FAKE_QUANTIZATION.describe(model)
    assert any(not np.array_equal(before[name], value) for name, value in kernels(model).items())
    # Validation was that of 8 bits, and `evaluate` is that of floats again, compiled anew.
    now = model.evaluate(x, y, verbose=0, batch_size=256)
    assert now[0] != dense[0]
    assert now[0] != history["val_loss"][-1]
    assert now[0] == pytest.approx(history["val_loss"][-1], rel=0.05)
    fake_quantization.fake_quantize(model)
    again = model.evaluate(x, y, verbose=0, batch_size=256)
    assert again[0] == pytest.approx(history["val_loss"][-1], rel=1e-3)
    kprune.strip_pruning(model)
    assert find_pruning(model) == []
    plain = model.evaluate(x, y, verbose=0, batch_size=256)
    assert plain[0] == pytest.approx(now[0], rel=1e-3)


@pytest.mark.slow
def test_training_is_in_floats_again_after_it():
    x, y = data()
    models = []
    for callbacks in ([], [kprune.QuantizationAware()]):
        keras.utils.set_random_seed(1)
        model = compiled(mlp(), keras.optimizers.SGD(0.0))
        model.fit(x, y, verbose=0, shuffle=False, callbacks=callbacks)
        models.append(model.fit(x, y, verbose=0, shuffle=False).history["loss"])
    assert models[0] == models[1]


@pytest.mark.slow
def test_a_model_that_is_built_by_its_first_batch():
    model = compiled(mlp(built=False))
    x, y = data()
    seen = []
    looks = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(bool(FAKE_QUANTIZATION.describe(model)))
    )
    model.fit(x, y, verbose=0, callbacks=[kprune.QuantizationAware(), looks])
    assert seen == [True]
    assert not FAKE_QUANTIZATION.describe(model)


@pytest.mark.slow
def test_a_fit_that_was_cut_short_is_named_and_mended():
    model = compiled(mlp())
    x, y = data()

    def stop(epoch, logs):
        raise KeyboardInterrupt

    stops = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, verbose=0, callbacks=[kprune.QuantizationAware(), stops])
    assert "8 bits" in find_pruning(model)[0]
    assert kprune.strip_pruning(model) is model
    assert find_pruning(model) == []
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, verbose=0, callbacks=[kprune.QuantizationAware(), stops])
    model.fit(x, y, verbose=0, callbacks=[kprune.QuantizationAware()])
    assert find_pruning(model) == []


@pytest.mark.slow
def test_layers_wrapped_for_pruning():
    model = kprune.prune_low_magnitude(mlp(), kprune.ConstantSparsity(0.5, 0, frequency=1))
    x, y = data()
    compiled(model)
    model.fit(x, y, verbose=0, callbacks=[kprune.UpdatePruningStep(), kprune.QuantizationAware()])
    plain = kprune.strip_pruning(model)
    assert zeros(plain) == expected_zeros(plain, 0.5)


@pytest.mark.slow
def test_layers_inside_layers_and_used_twice():
    dense = layers.Dense(4, activation="relu")
    x = inputs = keras.Input((6,))
    x = layers.Embedding(30, 4, mask_zero=True)(x)
    x = dense(layers.TimeDistributed(dense)(x))
    x = layers.Bidirectional(layers.LSTM(3, dropout=0.3, recurrent_dropout=0.2))(x)
    x = layers.SpectralNormalization(layers.Dense(2, activity_regularizer="l1"))(x)
    model = compiled(keras.Model(inputs, x))
    ids, y = np.random.default_rng(0).integers(0, 30, (64, 6)), data(64)[1]
    history = model.fit(ids, y, epochs=2, verbose=0, callbacks=[kprune.QuantizationAware()])
    assert np.all(np.isfinite(history.history["loss"]))
    assert find_pruning(model) == []


@pytest.mark.slow
def test_checkpoints_in_mid_training_are_plain_keras(tmp_path):
    model = compiled(mlp())
    x, y = data()
    path = tmp_path / "m.keras"
    saves = keras.callbacks.ModelCheckpoint(path)
    model.fit(x, y, verbose=0, callbacks=[kprune.QuantizationAware(), saves])
    loaded = keras.models.load_model(path)
    assert find_pruning(loaded) == []
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_bad_models_are_named():
    with pytest.raises(TypeError, match="Keras 3 model"):
        fake_quantization.fake_quantize("model")
    model = keras.Sequential([keras.Input((3,)), layers.ReLU()])
    with pytest.raises(ValueError, match="no kernels"):
        fake_quantization.fake_quantize(model)
    model = mlp()
    fake_quantization.fake_quantize(model)
    with pytest.raises(ValueError, match="already"):
        fake_quantization.fake_quantize(model)


def test_scales_are_where_tflite_has_them():
    for layer, shape, expected in [
        (layers.Conv2D(4, 3), (1, 8, 8, 3), [(3,)]),
        (layers.Conv2DTranspose(5, 3), (1, 8, 8, 3), [(2,)]),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (1, 8, 8, 3), [(2, 3)]),
        (layers.SeparableConv2D(6, 3), (1, 8, 8, 3), [(2, 3), (3,)]),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 7)), (1, 8, 3), [(1, 2)]),
        (layers.Embedding(10, 4), (1, 8), [()]),
    ]:
        layer.build(shape)
        found = [fake_quantization._channels(w) for w in weights_of(layer) if w.is_kernel]
        assert found == expected
