"""`kprune._keras.legacy_h5` does on this Keras what it says."""

import contextlib

import keras

from kprune._keras import legacy_h5


def test_save_within(tmp_path, monkeypatch):
    monkeypatch.setattr(legacy_h5, "_scopes", [])
    entered = []

    @contextlib.contextmanager
    def scope(model):
        entered.append(model.name)
        yield
        entered.append("left")

    legacy_h5.save_within(scope)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="saved")
    model.save(tmp_path / "model.h5")
    assert entered == ["saved", "left"]
    model.save(tmp_path / "model.keras")
    assert len(entered) == 2
    assert keras.models.load_model(tmp_path / "model.h5").name == "saved"
