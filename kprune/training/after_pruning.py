"""Callbacks that pick an epoch by a metric: from the schedule's end on."""

import warnings

import keras

from kprune.training.adaptive_search import running_searches
from kprune.training.mechanism import mechanisms
from kprune.training.requests import unmet

_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


def after_pruning(callback: keras.callbacks.Callback) -> keras.callbacks.Callback:
    """Let a callback that watches a metric count only epochs in which the model is sparse.

    The best epoch of a run is often an early one, in which hardly anything is pruned:
    `EarlyStopping(restore_best_weights=True)` brings its weights back,
    `ModelCheckpoint(save_best_only=True)` keeps them. Wrapped in this, a callback sees the end
    of an epoch, and of a batch, only once the weights have the sparsity that was asked of
    them. All else reaches it at once. It works for `kprune.Pruning` and for models with
    `PruneLowMagnitude` layers; in a `fit` that prunes nothing the callback acts as ever.

    Example:

    ```python
    stop = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    model.fit(x, y, epochs=50, callbacks=[kprune.Pruning(0.9), kprune.after_pruning(stop)])
    ```

    Args:
        callback: a `keras.callbacks.Callback`.

    Returns:
        A `keras.callbacks.Callback`.

    Raises:
        TypeError: not a callback.
    """
    if not isinstance(callback, keras.callbacks.Callback):
        raise TypeError(
            "`after_pruning` takes a callback, such as keras.callbacks.EarlyStopping(). "
            f"Received: {callback!r} (of type {type(callback)})"
        )
    return _AfterPruning(callback)


class _AfterPruning(keras.callbacks.Callback):
    """Stands for another callback, and keeps from it what comes too early."""

    def __init__(self, callback):
        super().__init__()
        self.callback = callback
        self._reached = False
        # Keras calls what it does not find overridden in the background, or not at all.
        plain = keras.callbacks.Callback
        if any(getattr(type(callback), hook) is not getattr(plain, hook) for hook in _BATCH_HOOKS):
            self.on_train_batch_begin = self._once_reached(callback.on_train_batch_begin)
            self.on_train_batch_end = self._once_reached(callback.on_train_batch_end)

    def _once_reached(self, hook):
        def forward(batch, logs=None):
            if self._reached:
                hook(batch, logs)

        return forward

    def set_params(self, params):
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model):
        super().set_model(model)
        self.callback.set_model(model)

    def on_train_begin(self, logs=None):
        self._reached = False
        self.callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if not self._reached:
            for mechanism in mechanisms():
                mechanism.mask_weights(self.model)
            searching = any(not one.settled for one in running_searches(self.model))
            self._reached = not searching and not unmet(self.model)
        if self._reached:
            self.callback.on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        if not self._reached:
            reached = "; ".join(str(request) for request in unmet(self.model))
            reached = reached or "kprune.Adaptive still tried other sparsities"
            warnings.warn(
                f"{type(self.callback).__name__} never acted, as it waits for the end of pruning: "
                f"{reached}. Train for more epochs, or let the schedule end earlier.",
                stacklevel=2,
            )
        self.callback.on_train_end(logs)

    def on_test_begin(self, logs=None):
        self.callback.on_test_begin(logs)

    def on_test_end(self, logs=None):
        self.callback.on_test_end(logs)
