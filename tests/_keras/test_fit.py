"""`kprune._keras.fit` does on this Keras what it says."""

import keras
import numpy as np

from kprune._keras.fit import lower_is_better, run_last


def test_run_last():
    ran = []

    class First(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 0:
                ran.append(run_last(self.model, lambda: ran.append("last")))

    class Last(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            ran.append("callback")

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    for _ in range(2):
        history = model.fit(
            np.zeros((2, 2)), np.zeros((2, 1)), epochs=2, callbacks=[First(), Last()], verbose=0
        )
        assert ran == [True, "callback", "last"]
        assert history.epoch == [0, 1]
        ran.clear()
    assert not run_last(model, lambda: None)  # There is no `fit` under way.


def test_lower_is_better():
    inputs = keras.Input((2,))
    heads = [keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")]
    for outputs, prefix in ((heads[0], ""), (heads, "a_")):
        model = keras.Model(inputs, outputs)
        own = ["accuracy", "mae"]
        model.compile("sgd", "mse", metrics=own if outputs is heads[0] else {"a": own})
        y = np.zeros((2, 1)) if outputs is heads[0] else [np.zeros((2, 1))] * 2
        logs = model.fit(np.zeros((2, 2)), y, verbose=0, validation_split=0.5).history
        for name, lower in (("mae", True), ("accuracy", False), ("loss", True)):
            for monitor in (prefix + name, f"val_{prefix}{name}"):
                assert monitor in logs
                assert lower_is_better(model, monitor) is lower
        assert lower_is_better(model, "of_my_own") is None
