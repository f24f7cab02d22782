import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.reference import tfmot
from tests.helpers.training import backend, compiled, data, mlp
from tests.helpers.wrapped import (
    NOW,
    SCHEDULE,
    Block,
    Subclassed,
    expected_zeros,
    fit,
    numpy,
    steps,
    wrapped_mlp,
    zeros,
)


@pytest.mark.fast_for("{}-float32")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("how", [{}, {"jit_compile": False}, {"steps_per_execution": 3}], ids=str)
def test_sparsity_is_exact_at_the_end_of_fit_however_it_is_compiled(policy, how):
    if how and (backend() == "torch" or policy != "float32"):
        pytest.skip("torch compiles nothing, one step at a time; the policy changes no more")
    if backend() == "jax" and "jit_compile" in how:
        pytest.skip("JAX traces every step anew: half a minute")
    keras.config.set_dtype_policy(policy)
    model = compiled(wrapped_mlp(), **how)
    fit(model, kprune.UpdatePruningStep())
    assert zeros(model) == expected_zeros(model, 0.8)
    assert steps(model) == {14}


@pytest.mark.fast_for("14-14")
@pytest.mark.parametrize(("made", "update"), [(13, 1), (14, 14)])
def test_updates_come_with_the_step_they_are_scheduled_for(made, update):
    schedule = kprune.PolynomialDecay(0.1, 0.8, begin_step=0, end_step=14, frequency=20)
    model = compiled(wrapped_mlp(schedule))
    fit(model, steps=made, epochs=1)
    expected = expected_zeros(model, schedule(update)[1])
    assert [masked for _, masked in zeros(model)] == [masked for _, masked in expected]


@pytest.mark.slow
def test_nothing_is_pruned_before_begin_step():
    model = compiled(wrapped_mlp(kprune.ConstantSparsity(0.5, 5, frequency=1)))
    fit(model, kprune.UpdatePruningStep(), steps=4)
    assert zeros(model) == expected_zeros(model, 0)
    fit(model, kprune.UpdatePruningStep(), steps=1, epochs=1)
    assert zeros(model) == expected_zeros(model, 0.5)


def test_evaluation_and_prediction_make_no_step():
    model = compiled(wrapped_mlp())
    x, y = data(32)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model(x)
    assert steps(model) == {-1}  # TFMOT's for "never trained".
    model(x, training=True)
    assert steps(model) == {1}


def test_gradients_do_not_reach_what_is_masked():
    model = compiled(wrapped_mlp(kprune.ConstantSparsity(0.6, 0, end_step=0)), "sgd")
    before = [numpy(v).copy() for w in wrappers_in(model) for v, _, _ in w.pruning_vars]
    fit(model)  # Without the callback, which would write zeros.
    after = [(numpy(v), numpy(m)) for w in wrappers_in(model) for v, m, _ in w.pruning_vars]
    for old, (new, mask) in zip(before, after):
        np.testing.assert_array_equal(new[~mask], old[~mask])
        assert (new[mask] != old[mask]).mean() > 0.5


def test_the_first_masks_and_thresholds_are_those_of_the_weights():
    model = wrapped_mlp(NOW)
    model(data(16)[0], training=True)
    for wrapper in wrappers_in(model):
        for weight, mask, threshold in wrapper.pruning_vars:
            magnitude = np.abs(numpy(weight))
            expected = numpy(kprune.pruning.compute_mask(magnitude, 0.6))
            np.testing.assert_array_equal(numpy(mask), expected)
            assert float(numpy(threshold)) == magnitude[expected].min()


@pytest.mark.slow
def test_training_prunes_without_the_callback_and_files_are_sparse(tmp_path):
    model = compiled(wrapped_mlp())
    fit(model)
    assert [count for _, count in zeros(model)] == [c for _, c in expected_zeros(model, 0.8)]
    x = data(32)[0]
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "wrapped.keras")
    model.save_weights(tmp_path / "wrapped.weights.h5")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    assert zeros(loaded) == expected_zeros(loaded, 0.8)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6)
    again = wrapped_mlp()
    again.load_weights(tmp_path / "wrapped.weights.h5")
    assert zeros(again) == expected_zeros(again, 0.8)
    assert steps(again) == {14}


@pytest.mark.slow
def test_validation_sees_what_is_saved():
    model = compiled(wrapped_mlp(), metrics=["accuracy"])
    x, y = data(64, seed=1)
    history = fit(model, kprune.UpdatePruningStep(), validation_data=(x, y)).history
    loss, accuracy = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(history["val_loss"][-1], loss, rtol=1e-5)
    np.testing.assert_allclose(history["val_accuracy"][-1], accuracy, rtol=1e-5)


@pytest.mark.slow
def test_moving_averages_of_the_weights_end_sparse():
    model = compiled(wrapped_mlp(), keras.optimizers.Adam(use_ema=True))
    fit(model, kprune.UpdatePruningStep())
    assert zeros(model) == expected_zeros(model, 0.8)


# Layers of every kind


def _sequence(features=6):
    return keras.Input((5, features))


LAYERS = {
    "Dense": (lambda: keras.Input((6,)), lambda: layers.Dense(7, activity_regularizer="l2")),
    "EinsumDense": (_sequence, lambda: layers.EinsumDense("abc,cde->abde", (5, 3, 4))),
    "Conv1D": (_sequence, lambda: layers.Conv1D(4, 3)),
    "Conv2D": (lambda: keras.Input((6, 6, 3)), lambda: layers.Conv2D(5, 3)),
    "Conv3D": (lambda: keras.Input((4, 4, 4, 2)), lambda: layers.Conv3D(3, 2)),
    "Conv1DTranspose": (_sequence, lambda: layers.Conv1DTranspose(4, 3)),
    "Conv2DTranspose": (lambda: keras.Input((4, 4, 3)), lambda: layers.Conv2DTranspose(5, 3)),
    "DepthwiseConv2D": (lambda: keras.Input((6, 6, 3)), lambda: layers.DepthwiseConv2D(3)),
    "SeparableConv2D": (lambda: keras.Input((6, 6, 3)), lambda: layers.SeparableConv2D(5, 3)),
    "LSTM": (_sequence, lambda: layers.LSTM(4, dropout=0.2, recurrent_dropout=0.2)),
    "GRU": (_sequence, lambda: layers.GRU(4, return_sequences=True)),
    "SimpleRNN": (_sequence, lambda: layers.SimpleRNN(4)),
    "Bidirectional": (_sequence, lambda: layers.Bidirectional(layers.LSTM(3))),
    "TimeDistributed": (_sequence, lambda: layers.TimeDistributed(layers.Dense(3))),
    "RNN": (_sequence, lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)])),
}


def kind_of_layer(kind):
    make_input, make = LAYERS[kind]
    inputs = make_input()
    layer = make()
    wrapper = kprune.prune_low_magnitude(layer, NOW)
    x = np.random.default_rng(0).normal(size=(8, *inputs.shape[1:])).astype("float32")
    return x, layer, keras.Model(inputs, wrapper(inputs))


# One op at a time, as here, JAX takes seconds a layer, and the kinds differ no more for it.
KINDS = ["Dense", "EinsumDense", "SeparableConv2D", "LSTM"] if backend() == "jax" else list(LAYERS)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind(kind):
    x, layer, model = kind_of_layer(kind)
    np.testing.assert_allclose(numpy(model(x)), numpy(layer(x)), rtol=1e-5, atol=1e-6)
    model(x, training=True)
    masked = [masked for _, masked in zeros(model)]
    assert masked == [expected for expected, _ in expected_zeros(model, 0.6)]
    assert len(masked) == len([v for v in layer.trainable_variables if "kernel" in v.name]) > 0
    pruned = numpy(model(x))
    assert kprune.strip_pruning(wrappers_in(model)[0]) is layer
    assert [zero for zero, _ in zeros(model)] == masked
    np.testing.assert_allclose(numpy(layer(x)), pruned, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SeparableConv2D", "LSTM"])
def test_layers_of_several_kinds_in_fit(kind):
    x, _, model = kind_of_layer(kind)
    model.compile("adam", "mse")
    y = np.zeros((8, *model.output_shape[1:]))
    model.fit(x, y, 4, epochs=2, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    assert zeros(model) == expected_zeros(model, 0.6)
    assert steps(model) == {4}


def test_masks_reach_and_leave_wrapped_layers():
    def build(wrap):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((7,), dtype="int32")
        x = wrap(layers.Embedding(11, 4, mask_zero=True))(inputs)
        x = wrap(layers.MultiHeadAttention(2, 3))(x, x, use_causal_mask=True)
        return keras.Model(inputs, wrap(layers.LSTM(6))(x))

    x = np.random.default_rng(0).integers(0, 11, (4, 7))
    x[:, 4:] = 0
    plain, wrapped = build(lambda layer: layer), build(kprune.prune_low_magnitude)
    np.testing.assert_allclose(numpy(wrapped(x)), numpy(plain(x)), rtol=1e-5, atol=1e-6)
    trained = numpy(wrapped(x, training=True))
    assert all(
        pruned == count
        for (_, pruned), (_, count) in zip(
            zeros(wrapped), [expected for expected in expected_zeros(wrapped, 0.5)]
        )
    )
    assert not np.allclose(trained, numpy(plain(x)), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_calls_with_several_arguments():
    query, value = keras.Input((3, 8)), keras.Input((5, 8))
    attention = kprune.prune_low_magnitude(layers.GroupQueryAttention(4, 4, 2))
    attended = attention(query=query, value=value, attention_mask=None)
    gru = kprune.prune_low_magnitude(layers.GRU(8, return_state=True))
    out, state = gru(attended, initial_state=layers.GlobalAveragePooling1D()(value))
    model = keras.Model([query, value], [out, state])
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(4, *shape)).astype("float32") for shape in ((3, 8), (5, 8))]
    model.compile("sgd", "mse")
    model.fit(x, [np.zeros((4, 8))] * 2, verbose=0)
    assert len(zeros(model)) == 6
    assert [m for _, m in zeros(model)] == [m for _, m in expected_zeros(model, 0.5)]
    stripped = kprune.strip_pruning(model)
    for a, b in zip(model.predict(x, verbose=0), stripped.predict(x, verbose=0)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_shared_layer_makes_one_step():
    shared = kprune.prune_low_magnitude(layers.Dense(8, name="shared"), NOW)
    inputs = keras.Input((8,))
    once = keras.Model(inputs, shared(shared(shared(inputs))))
    once.compile("sgd", "mse")
    x = np.ones((32, 8), "float32")
    once.fit(x, x, 8, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    assert steps(once) == {4}
    assert zeros(once) == expected_zeros(once, 0.6)


@pytest.mark.slow
def test_statistics_random_numbers_and_losses_pass_through():
    block = Block()
    inputs = keras.Input((8,))
    model = keras.Model(inputs, kprune.prune_low_magnitude(block, NOW)(inputs))
    x = np.random.default_rng(0).normal(3, 1, (16, 8)).astype("float32")
    first, second = numpy(model(x, training=True)), numpy(model(x, training=True))
    assert not np.array_equal(first, second)
    assert np.abs(numpy(block.norm.moving_mean)).max() > 0.1
    assert len(model.losses) == 1
    assert float(numpy(model.losses[0])) > 0
    np.testing.assert_array_equal(numpy(model(x)), numpy(model(x)))

    model.compile("sgd", "mse")
    before = numpy(block.norm.moving_mean).copy()
    loss = model.fit(x, 0 * x, verbose=0).history["loss"][0]
    assert not np.array_equal(numpy(block.norm.moving_mean), before)
    assert steps(model) == {3}
    error = float(np.mean(np.square(model.predict(x, verbose=0))))
    assert loss > 1.01 * error or loss < 0.99 * error  # The added loss is in it.
    total = model.evaluate(x, 0 * x, verbose=0)
    own = float(numpy(ops.mean(ops.square(block.norm(masked_inside(model, block, x))))))
    error = float(np.mean(np.square(model.predict(x, verbose=0))))
    np.testing.assert_allclose(total, error + own, rtol=1e-4)


def masked_inside(model, block, x):
    (wrapper,) = wrappers_in(model)
    kernel, mask, _ = wrapper.pruning_vars[0]
    assert kernel is block.inside.kernel
    return x @ (numpy(kernel) * numpy(mask)) + numpy(block.inside.bias)


# What is wrapped


def test_whole_models_leave_layers_without_kernels_as_they_are():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Flatten(name="flat")(x) * 2.0
    frozen = layers.Dense(4, name="frozen", trainable=False)
    outputs = [layers.Dense(2, name="a")(frozen(x)), layers.Dense(1, name="b")(x)]
    model = keras.Model(inputs, outputs, name="two_heads")
    wrapped = kprune.prune_low_magnitude(model)
    assert wrapped.name == "two_heads"
    assert [w.name for w in wrappers_in(wrapped)] == [
        "prune_low_magnitude_conv",
        "prune_low_magnitude_a",
        "prune_low_magnitude_b",
    ]
    assert not wrapped.compiled
    for name in ("norm", "relu", "flat", "frozen"):
        assert wrapped.get_layer(name) is model.get_layer(name)
    image = np.ones((2, 8, 8, 3), "float32")
    for a, b in zip(model(image), wrapped(image)):
        np.testing.assert_allclose(numpy(a), numpy(b), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_nested_and_shared_models():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="d")], name="inner")
    twice = keras.Model(x := keras.Input((6,)), inner(inner(x)), name="twice")
    outer = keras.Model(x := keras.Input((6,)), layers.Dense(2)(inner(twice(x))))
    wrapped = kprune.prune_low_magnitude(outer, pruning_schedule=NOW)
    assert len(wrappers_in(wrapped)) == 2
    assert wrapped.get_layer("inner") is wrapped.get_layer("twice").get_layer("inner")
    wrapped.compile("sgd", "mse")
    wrapped.fit(np.ones((8, 6)), np.ones((8, 2)), 4, verbose=0)
    assert steps(wrapped) == {2}


@pytest.mark.slow
@pytest.mark.parametrize("built", [True, False], ids=["built", "not_built"])
def test_subclassed_models_are_wrapped_through_the_layers_they_own(built):
    x = np.random.default_rng(0).normal(size=(32, 20)).astype("float32")
    model = Subclassed()
    if built:
        before = {name: numpy(value) for name, value in model(x).items()}
    wrapped = kprune.prune_low_magnitude(model, pruning_schedule=NOW)
    assert wrapped is model
    assert model.alias is model.first
    assert len(wrappers_in(model)) == 7
    if built:
        for name, value in model(x).items():
            np.testing.assert_allclose(numpy(value), before[name], rtol=1e-5, atol=1e-6)
    model.compile("adam", {"a": "mse", "b": "mse"})
    y = {"a": np.zeros((32, 2)), "b": np.zeros((32, 3))}
    model.fit(x, y, 8, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    assert zeros(model) == expected_zeros(model, 0.6)
    assert steps(model) == {4}


@pytest.mark.slow
def test_a_model_that_fit_never_trains_is_reported():
    class Mute(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    model = compiled(kprune.prune_low_magnitude(Mute(), pruning_schedule=NOW))
    with pytest.raises(ValueError, match="must take an argument `training`"):
        fit(model, kprune.UpdatePruningStep())
    model(data(16)[0], training=True)  # A loop of one's own says so.
    assert steps(model) == {1}


@pytest.mark.slow
def test_models_that_are_built_when_they_are_trained():
    model = keras.Sequential([layers.Dense(9), layers.BatchNormalization(), layers.Dense(2)])
    model = compiled(kprune.prune_low_magnitude(model, pruning_schedule=NOW))
    fit(model, kprune.UpdatePruningStep())
    assert len(zeros(model)) == 2
    assert zeros(model) == expected_zeros(model, 0.6)


def test_lists_and_names():
    stack = [layers.Dense(4, name="one"), layers.ReLU(), layers.BatchNormalization()]
    wrapped = kprune.prune_low_magnitude(stack, pruning_schedule=NOW)
    assert [w.name for w in wrapped[:1]] == ["prune_low_magnitude_one"]
    assert wrapped[1:] == stack[1:]
    assert kprune.prune_low_magnitude(wrapped) == wrapped


def test_input_shape_goes_to_the_wrapper_as_in_tfmot():
    with pytest.warns(UserWarning, match="input_shape"):
        first = kprune.prune_low_magnitude(layers.Dense(4), NOW, input_shape=(6,))
    assert keras.Sequential([first, layers.Dense(2)]).built
    with pytest.warns(UserWarning, match="input_shape"):
        first = kprune.prune_low_magnitude(layers.Dense(4, input_shape=(6,)), NOW)
    assert keras.Sequential([first, layers.Dense(2)]).built


def test_a_policy_says_which_layers():
    class Policy(kprune.PruningPolicy):
        def allow_pruning(self, layer):
            return layer.name == "second"

        def ensure_model_supports_pruning(self, model):
            if len(model.layers) > 4:
                raise ValueError("too deep")

    model = kprune.prune_low_magnitude(mlp(), pruning_policy=Policy())
    assert [w.layer.name for w in wrappers_in(model)] == ["second"]
    deep = keras.Sequential([keras.Input((2,)), *[layers.Dense(2) for _ in range(5)]])
    with pytest.raises(ValueError, match="too deep"):
        kprune.prune_low_magnitude(deep, pruning_policy=Policy())


@keras.saving.register_keras_serializable(package="tests")
class LowRank(layers.Layer, kprune.PrunableLayer):
    def build(self, input_shape):
        self.down = self.add_weight(shape=(input_shape[-1], 4), name="down")
        self.up = self.add_weight(shape=(4, 6), name="up")
        self.scale = self.add_weight(shape=(6,), name="scale")

    def call(self, inputs):
        return ops.matmul(ops.matmul(inputs, self.down), self.up) * self.scale

    def get_prunable_weights(self):
        return [self.up, self.scale]


def test_prunable_layers_name_their_weights():
    model = keras.Sequential([keras.Input((8,)), kprune.prune_low_magnitude(LowRank(), NOW)])
    (wrapper,) = wrappers_in(model)
    assert [v.name for v, _, _ in wrapper.pruning_vars] == ["up", "scale"]
    with pytest.raises(TypeError, match="abstract"):
        kprune.PrunableLayer()


# Patterns, against TFMOT


def mask_of(layer, shape, **kwargs):
    wrapper = kprune.prune_low_magnitude(layer, **kwargs)
    wrapper(np.ones((1, *shape), "float32"), training=True)
    ((weight, mask, threshold),) = wrapper.pruning_vars
    return numpy(weight), numpy(mask), float(numpy(threshold))


@pytest.mark.parametrize(
    ("block_size", "pooling", "sparsity"),
    [((1, 1), "AVG", 0.3), ((1, 1), "MAX", 0.75), ((4, 1), "AVG", 0.75), ((2, 3), "MAX", 0.3)],
)
def test_masks_and_thresholds_are_those_of_tfmot(block_size, pooling, sparsity):
    if backend() != "tensorflow":
        pytest.skip("TFMOT runs on TensorFlow")
    tfmot()
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    schedule = kprune.ConstantSparsity(sparsity, 0)
    weight, mask, threshold = mask_of(
        layers.Dense(22),
        (13,),
        pruning_schedule=schedule,
        block_size=block_size,
        block_pooling_type=pooling,
    )
    theirs = pruning_impl.Pruning(lambda: 1, [], lambda step: (True, sparsity), block_size, pooling)
    if block_size != (1, 1):  # TFMOT's average counts the padding of a block at the edge.
        weight = weight[:12, :21]
        _, mask, threshold = mask_of(
            layers.Dense(21, kernel_initializer=lambda shape, dtype: weight),
            (12,),
            pruning_schedule=schedule,
            block_size=block_size,
            block_pooling_type=pooling,
        )
    expected_threshold, expected = theirs._maybe_update_block_mask(tf.constant(weight))
    np.testing.assert_array_equal(mask, expected.numpy().astype(bool))
    np.testing.assert_allclose(threshold, expected_threshold, rtol=1e-6)


@pytest.mark.parametrize("m_by_n", [(2, 4), (1, 4), (3, 4)])
def test_m_zeros_of_every_n_input_channels_as_in_tfmot(m_by_n):
    m, n = m_by_n
    if backend() == "jax" and m != 2:
        pytest.skip("seconds each, one op at a time")
    for layer, shape in ((layers.Dense(10), (16,)), (layers.Conv2D(6, 3), (5, 5, 8))):
        weight, mask, _ = mask_of(layer, shape, sparsity_m_by_n=m_by_n)
        groups = np.moveaxis(mask, -2, -1).reshape(-1, n)
        assert (groups.sum(-1) == n - m).all()
        if backend() == "tensorflow":
            tfmot()
            import tensorflow as tf
            from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

            theirs = pruning_impl.Pruning(lambda: 1, [], None, (1, 1), "AVG", m_by_n)
            expected = theirs._update_mask_sparsity_m_by_n(tf.constant(weight), m_by_n)
            np.testing.assert_array_equal(mask, expected.numpy().astype(bool))


@pytest.mark.slow
def test_m_by_n_follows_the_schedule_as_far_as_it_goes():
    schedule = kprune.PolynomialDecay(0.1, 0.8, 0, 14, frequency=2)
    with pytest.warns(UserWarning, match="sparsity of 0.5"):
        model = compiled(wrapped_mlp(schedule, sparsity_m_by_n=(2, 4)))
    fit(model, kprune.UpdatePruningStep(), steps=2)
    assert all(
        0 < mask < 0.4 * numpy(w).size
        for (w, _, _), (_, mask) in zip(
            [v for wrapper in wrappers_in(model) for v in wrapper.pruning_vars], zeros(model)
        )
    )
    fit(model, kprune.UpdatePruningStep(), steps=12)
    first = numpy(wrappers_in(model)[0].pruning_vars[0][1])
    assert (first.T.reshape(-1, 4).sum(-1) == 2).all()


# Saving and loading


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"pruning_schedule": SCHEDULE, "block_size": (4, 1), "block_pooling_type": "MAX"},
        {"sparsity_m_by_n": (2, 4), "name": "mine"},
    ],
)
def test_the_configuration_is_saved_whole(kwargs):
    layer = kprune.prune_low_magnitude(layers.Dense(4, activation="relu"), **kwargs)
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is kprune.PruneLowMagnitude
    assert again.get_config() == layer.get_config()
    for name, value in kwargs.items():
        if name != "pruning_schedule":
            assert getattr(again, name) == value
    assert repr(again.pruning_schedule) == repr(layer.pruning_schedule)


@pytest.mark.slow
def test_training_goes_on_from_a_file_at_the_same_step_and_masks(tmp_path):
    whole = compiled(wrapped_mlp())
    initial = whole.get_weights()
    fit(whole, kprune.UpdatePruningStep(), steps=14, epochs=2)

    half = compiled(wrapped_mlp())
    half.set_weights(initial)
    x, y = data(16 * 7)
    half.fit(x, y, 16, verbose=0, shuffle=False, callbacks=[kprune.UpdatePruningStep()])
    half.save(tmp_path / "half.keras")
    with kprune.prune_scope():
        loaded = keras.models.load_model(tmp_path / "half.keras")
    assert steps(loaded) == {7}
    assert zeros(loaded) == zeros(half)
    loaded.fit(x, y, 16, verbose=0, shuffle=False, callbacks=[kprune.UpdatePruningStep()])
    assert steps(loaded) == {14}
    for a, b in zip(whole.get_weights(), loaded.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


FRESH = """
import sys, keras, numpy, kprune
model = keras.models.load_model(sys.argv[1])
step = model.layers[0].pruning_step
assert int(step) == 14, step
x = numpy.ones((16, 20), "float32")
model.fit(x, numpy.zeros(16), verbose=0, callbacks=[kprune.UpdatePruningStep()])
kprune.strip_pruning(model).save(sys.argv[2])
"""
PLAIN = """
import sys, keras, numpy
model = keras.models.load_model(sys.argv[1])
assert not any(name.startswith("kprune") for name in sys.modules)
assert [layer.name for layer in model.layers] == ["first", "second", "re_lu", "head"]
kernels = [numpy.array(v) for v in model.weights if len(v.shape) > 1]
assert [int((k == 0).sum()) for k in kernels] == [round(0.8 * k.size) for k in kernels]
"""


@pytest.mark.slow
def test_files_open_in_a_fresh_process_wrapped_with_kprune_and_stripped_without(tmp_path):
    keras.utils.clear_session(free_memory=False)
    model = compiled(wrapped_mlp())
    fit(model, kprune.UpdatePruningStep())
    model.save(tmp_path / "wrapped.keras")
    files = [str(tmp_path / name) for name in ("wrapped.keras", "plain.keras")]
    subprocess.run([sys.executable, "-c", FRESH, *files], check=True)
    subprocess.run([sys.executable, "-c", PLAIN, files[1]], check=True, cwd=tmp_path)


# Layers with nothing to prune


def every_kind():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.PReLU()(x)
    x = layers.Add()([x, layers.Activation("relu")(x)])
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(2)(x))


@pytest.mark.slow
def test_every_layer_can_be_wrapped_and_stripped():
    model = every_kind()
    wrap = lambda layer: kprune.prune_low_magnitude(layer, pruning_schedule=NOW)  # noqa: E731
    cloned = keras.models.clone_model(model, clone_function=wrap)
    assert len(wrappers_in(cloned)) == len(cloned.layers) - 1 == 8
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(cloned.predict(x), model.predict(x))
    cloned = compiled(cloned)
    cloned.fit(x, np.zeros(16), 8, verbose=0, callbacks=[kprune.UpdatePruningStep()])
    assert steps(cloned) == {2}
    assert zeros(cloned) == expected_zeros(cloned, 0.6)
    assert len(zeros(cloned)) == 2
    # TFMOT's order: what is trained, its statistics, masks, thresholds, step.
    norm = cloned.layers[2]
    assert [v.name for v in norm.weights] == [
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "pruning_step",
    ]
    assert {id(v) for v in norm.variables} == {id(v) for v in norm.weights}
    stripped = kprune.strip_pruning(cloned)
    assert [type(layer) for layer in stripped.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(stripped.predict(x), cloned.predict(x))


def test_wrapped_layers_say_what_is_pruned_as_in_tfmot():
    dense, flatten = layers.Dense(4), layers.Flatten()
    wrapped = [kprune.prune_low_magnitude(layer, NOW) for layer in (flatten, dense)]
    model = keras.Sequential([keras.Input((2, 3)), *wrapped])
    assert [w.layer.get_prunable_weights() for w in wrapped] == [[], [dense.kernel]]
    text = str(kprune.sparsity(model))
    assert "get_prunable_weights" not in text
    model(np.ones((1, 2, 3), "float32"), training=True)
    kprune.strip_pruning(model)
    assert not hasattr(dense, "get_prunable_weights")


@pytest.mark.slow
def test_strip_writes_the_zeros_that_a_run_cut_short_has_not():
    model = compiled(wrapped_mlp(NOW))
    fit(model, steps=2, epochs=1)  # Without the callback: the weights are not masked yet.
    wrapped = [(w.layer, numpy(w.pruning_vars[0][1])) for w in wrappers_in(model)]
    assert any((numpy(layer.kernel)[~mask] != 0).any() for layer, mask in wrapped)
    kprune.strip_pruning(model)
    for layer, mask in wrapped:
        np.testing.assert_array_equal(numpy(layer.kernel) != 0, mask)


# Bad input


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: kprune.prune_low_magnitude(layers.Dense(2)), ValueError, "wrapped already"),
        (lambda: "dense", TypeError, "Keras 3"),
        (lambda: keras.Sequential([keras.Input((2,)), layers.ReLU()]), ValueError, "no layer"),
    ],
)
def test_what_cannot_be_pruned_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        kprune.prune_low_magnitude(make())


def test_a_layer_of_your_own_with_nothing_to_prune_is_refused_when_it_is_built():
    class Scale(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=shape[-1:], name="factor")

        def call(self, inputs):
            return inputs * self.factor

    wrapper = kprune.prune_low_magnitude(Scale())
    with pytest.raises(ValueError, match="rank below 2"):
        wrapper(np.ones((2, 3), "float32"))


def test_a_layer_that_computes_its_kernel_is_left_and_refused():
    normed = layers.SpectralNormalization(layers.Dense(4))
    model = keras.Sequential([keras.Input((3,)), normed, layers.Dense(2)])
    assert kprune.prune_low_magnitude(model).layers[0] is normed
    with pytest.raises(ValueError, match="no weight that can be wrapped"):
        kprune.prune_low_magnitude(normed)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"block_pooling_type": "MIN"}, ValueError),
        ({"block_size": (0, 1)}, ValueError),
        ({"block_size": 4}, ValueError),
        ({"sparsity_m_by_n": 2}, ValueError),
        ({"sparsity_m_by_n": (4, 2)}, ValueError),
        ({"sparsity_m_by_n": (2, 4, 8)}, ValueError),
        ({"sparsity_m_by_n": (2, 4), "block_size": (4, 1)}, ValueError),
        ({"pruning_schedule": 0.5}, TypeError),
        ({"unknown": 1}, ValueError),
    ],
)
def test_bad_arguments(kwargs, error):
    with pytest.raises(error):
        kprune.prune_low_magnitude(layers.Dense(2), **kwargs)
    if "unknown" not in kwargs:
        with pytest.raises(error):
            kprune.prune_low_magnitude(mlp(), **kwargs)


def test_a_model_ignores_the_arguments_of_a_layer_as_in_tfmot():
    model = kprune.prune_low_magnitude(mlp(), NOW, input_shape=(20,), unknown=1)
    assert len(wrappers_in(model)) == 3


def test_a_tf_keras_model_is_told_where_to_go():
    tf_keras = pytest.importorskip("tf_keras")
    with pytest.raises(TypeError, match="tf_keras"):
        kprune.prune_low_magnitude(tf_keras.Sequential([tf_keras.layers.Dense(2)]))


def test_a_graph_with_behaviour_of_its_own_is_not_reduced_to_its_graph():
    class Own(keras.Sequential):
        def train_step(self, *args):
            return super().train_step(*args)

    model = Own([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="train_step"):
        kprune.prune_low_magnitude(model)
    assert not wrappers_in(model)


def test_layers_hidden_from_keras_are_reported_and_nothing_changes():
    class Hidden(keras.Model):
        def __init__(self):
            super().__init__()
            self.seen = layers.Dense(2)
            self.holder = type("Holder", (), {})()
            self.holder.layer = layers.Dense(2)
            self._tracker.track(self.holder.layer)

    model = Hidden()
    with pytest.raises(ValueError, match="not in its attributes"):
        kprune.prune_low_magnitude(model)
    assert not wrappers_in(model)


# More than one device

MIRRORED = """
import numpy as np, tensorflow as tf, keras, kprune
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.helpers.training import compiled
from tests.helpers.wrapped import *
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    inputs = keras.Input((20,))
    hidden = Block(20)(layers.Dense(33)(inputs) @ np.ones((33, 20), "float32"))
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    model = compiled(kprune.prune_low_magnitude(model, pruning_schedule=SCHEDULE))
fit(model, kprune.UpdatePruningStep())
assert zeros(model) == expected_zeros(model, 0.8)
assert steps(model) == {14}
masks = [mask for wrapper in wrappers_in(model) for _, mask, _ in wrapper.pruning_vars]
for variable in [*masks, *model.trainable_variables]:
    replicas = strategy.experimental_local_results(variable.value)
    assert len(replicas) == 2
    np.testing.assert_array_equal(*[replica.numpy() for replica in replicas])
print("all equal")
"""


@pytest.mark.slow
def test_replicas_have_the_same_masks(pytestconfig):
    if backend() != "tensorflow":
        pytest.skip("tf.distribute")
    arguments = [sys.executable, "-c", MIRRORED]
    done = subprocess.run(arguments, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert "all equal" in done.stdout, done.stderr[-3000:]
