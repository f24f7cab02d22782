"""docs/tfmot.md: every row of its tables is true, and no name of TFMOT's is missing."""

import importlib
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune import tfmot
from kprune.training.wrappers.clustering_wrapper import ClusterWeights
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from tests.helpers import reference
from tests.helpers.tensorboard import scalars
from tests.helpers.training import backend, compiled, data, mlp
from tests.helpers.training import zeros as zero_weights

PAGE = Path(__file__).parents[2] / "docs" / "tfmot.md"
NOW = kprune.ConstantSparsity(0.5, 0, frequency=1)


def rows():
    """(module, name, here, what differs) of the tables of names."""
    found, module = [], None
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            title = re.fullmatch(r"### `tfmot\.(.*)`", line)
            module = title and title[1]
        elif module and line.startswith("| `"):
            name, here, differs = (cell.strip() for cell in line.strip("|").split(" | "))
            found.append((module, name.strip("` "), here, differs))
    return found


HERE = [row for row in rows() if row[2] != "*not here*"]
NOT_HERE = [row for row in rows() if row[2] == "*not here*"]


@pytest.mark.parametrize(("module", "name", "here", "_"), HERE, ids=lambda row: str(row)[:40])
def test_what_is_here(module, name, here, _):
    value = getattr(importlib.import_module(f"kprune.tfmot.{module}"), name)
    if here.startswith("`"):
        path = here.strip("`").split(".")[1:]
        expected = kprune
        for part in path:
            expected = getattr(expected, part)
        assert value is expected
    else:
        assert hasattr(value, here.split("`")[1])


@pytest.mark.parametrize(("module", "name", "here", "_"), NOT_HERE, ids=lambda row: str(row)[:40])
def test_what_is_not_here_says_what_to_use(module, name, here, _):
    module = f"kprune.tfmot.{module}"
    with pytest.raises(ImportError, match=rf"{name}: .*(kprune|keras|`)"):
        exec(f"from {module} import {name}")
    with pytest.raises(ImportError, match=f"kprune has no tfmot.*{name}: "):
        getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        importlib.import_module(module).nonsense  # noqa: B018


def test_every_public_name_has_a_row():
    if backend() != "tensorflow":
        pytest.skip("TFMOT runs on TensorFlow")
    theirs = reference.tfmot()
    modules = {
        "sparsity.keras": theirs.sparsity.keras,
        "clustering.keras": theirs.clustering.keras,
        "quantization.keras": theirs.quantization.keras,
        "experimental": theirs.experimental,
    }
    public = {(m, name) for m, module in modules.items() for name in dir(module) if name[0] != "_"}
    assert public == {(module, name) for module, name, _, _ in rows()}


# The differences, a test for each


def test_every_difference_has_a_test():
    numbers = re.findall(r"^\| (D\d+) \|", PAGE.read_text(), re.MULTILINE)
    tested = {name.split("_")[1].upper() for name in globals() if re.match(r"test_d\d+_", name)}
    assert set(numbers) == tested


def pruned(model, schedule=NOW, steps=1, **kwargs):
    model = compiled(tfmot.sparsity.keras.prune_low_magnitude(model, schedule, **kwargs))
    train(model, steps)
    return model


def train(model, steps):
    x, y = data(16 * steps)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    model.fit(x, y, 16, verbose=0, shuffle=False, callbacks=callbacks)


def numpy(variable):
    return ops.convert_to_numpy(ops.convert_to_tensor(variable))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(4), layers.Dense(2)

    def call(self, inputs, training=False):
        return self.second(self.first(inputs, training=training), training=training)


@pytest.mark.slow
def test_d1_subclassed_models():
    model = Subclassed()
    model(data(2)[0])
    assert pruned(model) is model
    kernel = model.first.layer.kernel
    assert tfmot.sparsity.keras.strip_pruning(model) is model
    assert model.first.kernel is kernel
    assert zero_weights(model) == {"dense/kernel": 40, "dense_1/kernel": 4}
    assert tfmot.clustering.keras.cluster_weights(model, 3) is model
    assert type(model.first) is ClusterWeights


@pytest.mark.slow
def test_d6_other_models_are_made_anew():
    model = pruned(mlp())
    assert tfmot.sparsity.keras.strip_pruning(model) is not model


def test_d2_every_kernel_is_pruned():
    class Custom(layers.Dense):
        pass

    for layer, shape in [
        (layers.ConvLSTM2D(2, 3), (2, 3, 6, 6, 2)),
        (Custom(4), (2, 6)),
        (layers.DepthwiseConv2D(3), (2, 6, 6, 4)),
    ]:
        wrapper = tfmot.sparsity.keras.prune_low_magnitude(layer, NOW)
        wrapper(np.ones(shape, "float32"), training=True)
        for weight, mask, _ in wrapper.pruning_vars:
            assert (~numpy(mask)).sum() == round(0.5 * numpy(weight).size)
        assert wrapper.pruning_vars
    for layer, is_clustered in [(Custom(4), True), (layers.DepthwiseConv2D(3), False)]:
        layer.build((2, 6, 6, 4))
        clustered = tfmot.clustering.keras.cluster_weights(layer, 3)
        assert (type(clustered) is ClusterWeights) is is_clustered


@pytest.mark.slow
def test_d3_m_by_n_follows_the_schedule_and_is_saved():
    schedule = kprune.PolynomialDecay(0.0, 0.5, 0, 4, power=1, frequency=1)
    wrapper = kprune.prune_low_magnitude(layers.Conv1D(4, 3), schedule, sparsity_m_by_n=(2, 4))
    again = type(wrapper).from_config(wrapper.get_config())
    assert again.sparsity_m_by_n == (2, 4)
    shares = []
    for _ in range(4):
        wrapper(np.ones((1, 5, 8), "float32"), training=True)
        shares.append(1 - numpy(wrapper.pruning_vars[0][1]).mean())
    assert 0 < shares[0] < shares[-1] == 0.5


def test_d4_layers_with_nothing_to_prune_keep_their_names():
    model = tfmot.sparsity.keras.prune_low_magnitude(mlp())
    assert [layer.name for layer in model.layers] == [
        "prune_low_magnitude_first",
        "prune_low_magnitude_second",
        "re_lu",
        "prune_low_magnitude_head",
    ]
    clustered = tfmot.clustering.keras.cluster_weights(mlp(), 4)
    assert type(clustered.layers[2]) is layers.ReLU


def test_d5_what_is_no_layer_is_a_type_error():
    with pytest.raises(TypeError, match="Keras 3"):
        tfmot.sparsity.keras.prune_low_magnitude(object())
    with pytest.raises(TypeError, match="Keras 3"):
        tfmot.clustering.keras.cluster_weights(object(), 3)


def test_d7_wrappers_that_have_not_pruned_are_not_stripped_in_silence():
    model = tfmot.sparsity.keras.prune_low_magnitude(mlp())
    with pytest.raises(ValueError, match="nothing to strip"):
        tfmot.sparsity.keras.strip_pruning(model)


@pytest.mark.slow
def test_d8_what_kprune_has_saved_opens_without_a_scope(tmp_path):
    model = pruned(mlp())
    for name in ("model.keras", "model.h5"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(tmp_path / name)
        loaded = keras.models.load_model(tmp_path / name, compile=False)
        np.testing.assert_array_equal(loaded.predict(data(4)[0]), model.predict(data(4)[0]))
    # Files of TFMOT's: test_h5.py.


@pytest.mark.slow
def test_d9_training_prunes_without_the_callback():
    model = compiled(tfmot.sparsity.keras.prune_low_magnitude(mlp(), NOW))
    assert {int(numpy(w.pruning_step)) for w in wrappers_in(model)} == {-1}  # TFMOT's, too.
    x, y = data(16)
    model.fit(x, y, 16, verbose=0)
    for wrapper in wrappers_in(model):
        ((weight, mask, _),) = wrapper.pruning_vars
        assert (~numpy(mask)).sum() == round(0.5 * numpy(weight).size)
        assert int(numpy(wrapper.pruning_step)) == 1


@pytest.mark.slow
def test_d10_summaries_have_the_weights_names(tmp_path):
    pytest.importorskip("tensorboard")
    model = compiled(tfmot.sparsity.keras.prune_low_magnitude(mlp(), NOW))
    x, y = data(16)
    summaries = tfmot.sparsity.keras.PruningSummaries(log_dir=str(tmp_path))
    model.fit(x, y, 16, verbose=0, callbacks=[summaries])
    (weight, _, _) = wrappers_in(model)[0].pruning_vars[0]
    assert {f"{weight.path}/sparsity", f"{weight.path}/threshold"} <= set(
        scalars(tmp_path / "metrics")
    )


def test_d11_the_last_update_is_at_the_end_step():
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, 0, 10, frequency=4)
    assert [step for step in range(12) if schedule(step)[0]] == [0, 4, 8, 10]
    constant = tfmot.sparsity.keras.ConstantSparsity(0.5, 1, 6, frequency=2)
    assert [step for step in range(12) if constant(step)[0]] == [1, 3, 5, 6]


@pytest.mark.slow
def test_d12_the_update_at_step_0_is_made_at_the_first_step():
    model = pruned(mlp(), kprune.ConstantSparsity(0.5, 0, frequency=100), steps=1)
    assert all((~numpy(m)).any() for w in wrappers_in(model) for _, m, _ in w.pruning_vars)
    later = pruned(mlp(), kprune.ConstantSparsity(0.5, 2, frequency=100), steps=1)
    assert not any((~numpy(m)).any() for w in wrappers_in(later) for _, m, _ in w.pruning_vars)
    train(later, 1)
    assert all((~numpy(m)).any() for w in wrappers_in(later) for _, m, _ in w.pruning_vars)


def test_d13_the_policy_is_xnnpacks_own():
    if backend() != "tensorflow":
        pytest.skip("the policy computes nothing")
    policy = tfmot.sparsity.keras.PruneForLatencyOnXNNPack()
    assert isinstance(policy, tfmot.sparsity.keras.PruningPolicy)

    def model(*middle):
        stack = [keras.Input((16, 16, 3)), layers.ZeroPadding2D(1)]
        stack += [layers.Conv2D(16, 3, 2, use_bias=False), *middle]
        return keras.Sequential([*stack, layers.GlobalAveragePooling2D()])

    good = kprune.prune_low_magnitude(model(layers.Conv2D(16, 1)), NOW, pruning_policy=policy)
    assert len(wrappers_in(good)) == 1
    again = kprune.prune_low_magnitude(good, NOW, pruning_policy=policy)
    assert again is good
    with pytest.raises(ValueError, match="no 1x1 convolution"):
        kprune.prune_low_magnitude(model(layers.ReLU()), pruning_policy=policy)
    pooled = model(layers.Conv2D(16, 1, name="mine"), layers.MaxPooling2D(2))
    with pytest.raises(ValueError, match="'mine' is the last of its cluster"):
        kprune.prune_low_magnitude(pooled, pruning_policy=policy)


def test_d14_ties_are_pruned_to_the_last_one():
    wrapper = kprune.prune_low_magnitude(layers.Dense(5, kernel_initializer="ones"), NOW)
    wrapper(np.ones((1, 6), "float32"), training=True)
    assert numpy(wrapper.pruning_vars[0][1]).sum() == 15


@pytest.mark.slow
def test_d15_weights_of_a_checkpoint_are_sparse(tmp_path):
    model = compiled(tfmot.sparsity.keras.prune_low_magnitude(mlp(), NOW))
    path = tmp_path / "step.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=1)
    x, y = data(16)
    model.fit(x, y, 16, verbose=0, callbacks=[checkpoint])
    fresh = tfmot.sparsity.keras.prune_low_magnitude(mlp(), NOW)
    fresh.load_weights(path)
    for wrapper in wrappers_in(fresh):
        ((weight, _, _),) = wrapper.pruning_vars
        assert (numpy(weight) == 0).sum() == round(0.5 * numpy(weight).size)


def test_d16_plain_weights_are_not_loaded_into_a_wrapped_model(tmp_path):
    mlp().save_weights(tmp_path / "plain.weights.h5")
    model = tfmot.sparsity.keras.prune_low_magnitude(mlp(), NOW)
    with pytest.raises(ValueError):
        model.load_weights(tmp_path / "plain.weights.h5")
