"""Models of custom layers, as people write them: cut, saved, loaded, trained, exported."""

import keras
import numpy as np
import pytest

import kprune
from tests.helpers.masking import outputs, random_inputs, randomize
from tests.helpers.topologies import TOPOLOGIES

NAMES = [
    "keras_transformer",
    "vision_transformer",
    "mlp_mixer",
    "conformer",
    "swin_windows",
    "shuffle_units",
    "two_towers",
    "attention_unet",
    "causal_decoder",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_from_the_cut_to_the_files(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = TOPOLOGIES[name]()
    randomize(model)
    small = kprune.prune_channels(model, flops=0.7, round_to=1)
    # One of three heads is a tenth of the FLOPs of `swin_windows`.
    assert abs(kprune.flops(small).total / kprune.flops(model).total - 0.7) < 0.03
    x = random_inputs(model, batch=8)
    target = np.zeros_like(outputs(small, x)[0])
    small.compile("sgd", "mse")
    history = small.fit(x, target, batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(loaded, x)[0], outputs(small, x)[0], 1e-5, 1e-5)
    if keras.backend.backend() == "tensorflow":  # Each export runs its file, and compares.
        kprune.export_tflite(small, tmp_path / "small.tflite", inputs=x)
        kprune.export_onnx(small, tmp_path / "small.onnx", inputs=x)
