"""`kprune._keras.fit` does on this Keras what it says."""

import keras
import numpy as np

from kprune._keras.fit import run_last


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
