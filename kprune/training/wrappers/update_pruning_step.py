"""The callback of models with wrapped layers: TFMOT's, on Keras 3."""

from typing import Any

import keras
from keras import ops

from kprune._keras.fit import run_last
from kprune.training.finish import finish
from kprune.training.wrappers.pruning_wrapper import wrappers_in


class UpdatePruningStep(keras.callbacks.Callback):
    """Writes the zeros of a wrapped model's masks into its weights at each epoch's end.

    Wrapped layers count steps and compute masks by themselves, and training without this
    callback prunes as well; with it, the weights that other callbacks, the validation and
    the end of `fit` see are exactly sparse, and `fit` ends with a line on what was reached,
    and a warning on what was not.

    Raises:
        ValueError: after the first step of `fit`, if no wrapped layer was called with
            `training=True`, so that nothing is pruned.

    Example:

    ```python
    model.fit(x, y, callbacks=[kprune.UpdatePruningStep()])
    ```

    In a training loop of your own:

    ```python
    step_callback = kprune.UpdatePruningStep()
    step_callback.set_model(model)
    step_callback.on_train_begin()
    for epoch in range(epochs):
        for x, y in batches:
            step_callback.on_train_batch_begin(batch=-1)
            ...
        step_callback.on_epoch_end(batch=-1)
    ```
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps_before = None
        self._waits = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._steps_before = _steps(self.model)
        self._waits = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._waits:
            self._waits = run_last(self.model, self._finish)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._steps_before is None:
            return
        steps, before = _steps(self.model), self._steps_before
        self._steps_before = None
        if steps and all(step == before.get(wrapper, -1) for wrapper, step in steps.items()):
            raise ValueError(
                f"In the first training step no PruneLowMagnitude layer of {self.model.name!r} was "
                "called with training=True, and so none would ever prune. The model's `call` must "
                "take an argument `training` and, on the JAX backend, pass it on to every wrapped "
                "layer: `self.dense(x, training=training)`."
            )

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._mask_weights()

    def on_epoch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._mask_weights()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # Once more, after moving averages took the place of the weights.
        self._mask_weights()
        if not self._waits:
            self._finish()

    def _finish(self):
        finish(self.model, (self.params or {}).get("verbose", 1))

    def _mask_weights(self):
        # On JAX `self.model` brings the weights of the last step back to the model.
        for wrapper in wrappers_in(self.model):
            wrapper.mask_weights()


def _steps(model):
    """The step of every built wrapper in a model."""
    built = [wrapper for wrapper in wrappers_in(model) if wrapper.built]
    return {w.name: int(ops.convert_to_numpy(w.pruning_step.value)) for w in built}
