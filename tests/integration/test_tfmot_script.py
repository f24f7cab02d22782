"""Scripts written for TFMOT, of which only the import has changed."""

import textwrap

import keras
import numpy as np
import pytest
from keras import ops

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers.reference import tfmot
from tests.helpers.training import backend

# TFMOT's guide "Pruning in Keras example", on fewer images in smaller batches; `sparsity` is either
# tensorflow_model_optimization.sparsity.keras with tf_keras, or kprune with keras.
KERAS_EXAMPLE = """
model = keras.Sequential([
    keras.layers.InputLayer(input_shape=(28, 28)),
    keras.layers.Reshape(target_shape=(28, 28, 1)),
    keras.layers.Conv2D(filters=12, kernel_size=(3, 3), activation="relu"),
    keras.layers.BatchNormalization(),
    keras.layers.MaxPooling2D(pool_size=(2, 2)),
    keras.layers.Flatten(),
    keras.layers.Dense(10),
])
model.compile(
    optimizer="adam",
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(train_images, train_labels, epochs=4, validation_split=0.1, verbose=0)

prune_low_magnitude = sparsity.prune_low_magnitude
batch_size, epochs, validation_split = 32, 3, 0.1
num_images = train_images.shape[0] * (1 - validation_split)
end_step = np.ceil(num_images / batch_size).astype(np.int32) * epochs
pruning_params = {
    "pruning_schedule": sparsity.PolynomialDecay(
        initial_sparsity=0.50, final_sparsity=0.80, begin_step=0, end_step=end_step, frequency=4
    )
}
model_for_pruning = prune_low_magnitude(model, **pruning_params)
model_for_pruning.compile(
    optimizer="adam",
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
callbacks = [sparsity.UpdatePruningStep(), sparsity.PruningSummaries(log_dir=logdir)]
model_for_pruning.fit(
    train_images, train_labels, batch_size=batch_size, epochs=epochs,
    validation_split=validation_split, callbacks=callbacks, verbose=0,
)
_, accuracy = model_for_pruning.evaluate(test_images, test_labels, verbose=0)

model_for_pruning.save(checkpoint)
with sparsity.prune_scope():
    loaded = keras.models.load_model(checkpoint)
_, loaded_accuracy = loaded.evaluate(test_images, test_labels, verbose=0)

model_for_export = sparsity.strip_pruning(model_for_pruning)
keras.models.save_model(model_for_export, pruned_keras_file, include_optimizer=False)
"""

# The same guide's layer-wise and custom-layer variants.
LAYERS_EXAMPLE = """
class MyDenseLayer(keras.layers.Dense, sparsity.PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel]

params = {"pruning_schedule": sparsity.ConstantSparsity(0.5, begin_step=0, frequency=1)}
model = keras.Sequential([
    sparsity.prune_low_magnitude(
        keras.layers.Dense(20, activation="relu"), input_shape=(784,), **params
    ),
    keras.layers.Flatten(),
    sparsity.prune_low_magnitude(MyDenseLayer(12), **params),
    sparsity.prune_low_magnitude(keras.layers.Dense(10), block_size=(4, 1), **params),
])

def apply_pruning_to_dense(layer):
    if isinstance(layer, keras.layers.Dense):
        return sparsity.prune_low_magnitude(layer, **params)
    return layer

base = keras.Sequential([keras.layers.InputLayer(input_shape=(784,)), keras.layers.Dense(4),
                         keras.layers.BatchNormalization(), keras.layers.Dense(2)])
cloned = keras.models.clone_model(base, clone_function=apply_pruning_to_dense)

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer="adam", loss=loss)
model.fit(train_images.reshape(-1, 784)[:256], train_labels[:256], verbose=0,
          callbacks=[sparsity.UpdatePruningStep()])
model_for_export = sparsity.strip_pruning(model)
"""


@pytest.fixture(scope="module")
def images():
    """Real digits of 8x8 pixels, three times as large in MNIST's frame."""
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    x = np.kron(x.reshape(-1, 8, 8) / np.float32(16), np.ones((3, 3), "float32"))
    x = np.pad(x, ((0, 0), (2, 2), (2, 2))).astype("float32")
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order].astype("int32")
    return {
        "train_images": x[:1317],
        "train_labels": y[:1317],
        "test_images": x[1317:],
        "test_labels": y[1317:],
    }


def run(script, images, folder, library, keras):
    namespace = images | {
        "np": np,
        "keras": keras,
        "sparsity": library,
        "logdir": str(folder / "logs"),
        "checkpoint": str(folder / "checkpoint.keras"),
        "pruned_keras_file": str(folder / "pruned.h5"),
    }
    exec(textwrap.dedent(script), namespace)
    return namespace


def zeros(model):
    return {
        f"{layer.name}/{i}": (np.asarray(weight) == 0).mean()
        for layer in model.layers
        for i, weight in enumerate(layer.get_weights())
        if len(weight.shape) > 1
    }


def reference():
    if backend() != "tensorflow":
        pytest.skip("TFMOT runs on TensorFlow")
    return tfmot().sparsity.keras, pytest.importorskip("tf_keras")


@pytest.fixture(scope="module")
def example(images, tmp_path_factory):
    """The names that the Keras example leaves behind, and the folder of its files."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("ours")
    return run(KERAS_EXAMPLE, images, folder, kprune, keras), folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*input_shape.*")
def test_the_keras_example(example):
    ours, folder = example
    assert ours["accuracy"] == pytest.approx(ours["loaded_accuracy"])
    assert ours["accuracy"] > 0.7
    exported = keras.models.load_model(folder / "pruned.h5", compile=False)
    sparsities = zeros(exported)
    assert sparsities == zeros(ours["model_for_export"])
    conv, dense = sparsities.values()
    assert (conv, dense) == (round(0.8 * 108) / 108, round(0.8 * 20280) / 20280)
    assert (folder / "logs" / "metrics").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*input_shape.*")
@pytest.mark.filterwarnings("ignore:.*HDF5.*")
def test_the_keras_example_ends_as_with_tfmot(example, images, tmp_path):
    ours, _ = example
    expected = run(KERAS_EXAMPLE, images, tmp_path, *reference())
    assert [layer.name for layer in ours["model_for_pruning"].layers] == [
        # TFMOT wraps layers without weights as well.
        layer.name if layer.name.endswith(("conv2d", "dense")) else layer.layer.name
        for layer in expected["model_for_pruning"].layers
    ]
    assert zeros(ours["model_for_export"]) == pytest.approx(zeros(expected["model_for_export"]))
    assert ours["accuracy"] == pytest.approx(expected["accuracy"], abs=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*input_shape.*")
def test_the_layer_wise_examples(images, tmp_path):
    ours = run(LAYERS_EXAMPLE, images, tmp_path, kprune, keras)
    assert list(zeros(ours["model_for_export"]).values()) == [0.5] * 3
    assert [type(layer).__name__ for layer in ours["cloned"].layers] == [
        "PruneLowMagnitude",
        "BatchNormalization",
        "PruneLowMagnitude",
    ]
    if backend() == "tensorflow":
        expected = run(LAYERS_EXAMPLE, images, tmp_path, *reference())
        found = zeros(expected["model_for_export"])
        assert list(zeros(ours["model_for_export"]).values()) == list(found.values())


def train_step(model, optimizer, loss):
    """A step of a training loop of one's own, as each backend writes it."""

    def tensorflow(x, y):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss_value = loss(y, model(x, training=True))
        gradients = tape.gradient(loss_value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    def torch(x, y):
        model.zero_grad()
        loss(y, model(x, training=True)).backward()
        optimizer.apply([v.value.grad for v in model.trainable_variables])

    if backend() != "jax":
        return tensorflow if backend() == "tensorflow" else torch
    import jax

    def compute(trainable, others, x, y):
        logits, others = model.stateless_call(trainable, others, x, training=True)
        return loss(y, logits), others

    gradients_of = jax.jit(jax.value_and_grad(compute, has_aux=True))

    def step(x, y):
        trainable = [v.value for v in model.trainable_variables]
        others = [v.value for v in model.non_trainable_variables]
        (_, others), gradients = gradients_of(trainable, others, x, y)
        optimizer.apply(gradients)
        for variable, value in zip(model.non_trainable_variables, others):
            variable.assign(value)

    return step


@pytest.mark.slow
def test_the_custom_training_loop(images, tmp_path):
    schedule = kprune.PolynomialDecay(0.2, 0.9, begin_step=1, end_step=6, frequency=2)
    model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(30), keras.layers.Dense(10)])
    model = kprune.prune_low_magnitude(model, pruning_schedule=schedule)
    x = images["train_images"].reshape(-1, 784)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)

    model.optimizer = optimizer
    step_callback = kprune.UpdatePruningStep()
    step_callback.set_model(model)
    log_callback = kprune.PruningSummaries(log_dir=str(tmp_path))
    log_callback.set_model(model)
    step = train_step(model, optimizer, loss)
    step_callback.on_train_begin()
    for epoch in range(2):
        log_callback.on_epoch_begin(epoch=-1)
        for batch in range(3):
            step_callback.on_train_batch_begin(batch=-1)
            rows = slice(64 * (3 * epoch + batch), 64 * (3 * epoch + batch + 1))
            step(x[rows], images["train_labels"][rows])
        step_callback.on_epoch_end(batch=-1)

    for wrapper in wrappers_in(model):
        for weight, mask, _ in wrapper.pruning_vars:
            value = ops.convert_to_numpy(weight.value)
            assert (value == 0).sum() == round(0.9 * value.size)
            np.testing.assert_array_equal(value != 0, ops.convert_to_numpy(mask.value))
    assert list(zeros(kprune.strip_pruning(model)).values()) == [
        round(0.9 * 23520) / 23520,
        round(0.9 * 300) / 300,
    ]
