"""Zeros that stay, in any training."""

from typing import Any

from kprune.pruning.plan import Holding
from kprune.training.installing import InstallsMasks


class HoldZeros(InstallsMasks):
    """Keeps what is zero in a model zero, in any training.

    For training after pruning with another optimizer, learning rate or loss, after
    `kprune.prune_channels` or `kprune.shrink`, or of a pruned model that was loaded: a new
    `compile` knows nothing of masks, and zeros grow back. What is zero at the start of `fit`
    stays zero; a weight that is zero as a whole, as some are initialized, is free. Together
    with `kprune.Pruning` it holds what that doesn't prune.

    Example:

    ```python
    model = keras.models.load_model("pruned.keras")
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=2, callbacks=[kprune.HoldZeros()])
    ```
    """

    def plan(self, run: Any, before: Any) -> Any:
        return Holding(self.model, before)
