"""The callback that gives the divergence its weight in the loss, and says how sparse it gets."""

import math
from typing import Any

import keras
from keras import ops

from kprune._keras import backend
from kprune.training.variational.wrapper import noisy_layers_in


class KLWarmUp(keras.callbacks.Callback):
    """Weights the KL divergence of `SparseVariationalDropout` layers in the loss of a `fit`.

    The divergence of all weights, divided by the number of training examples, is added to the
    loss. Its weight rises linearly from 0 at the first step that the layers make to `kl_weight`,
    within a share `warm_up` of the run: with all of it at once, weights would become noise before
    they have learned anything. Steps are saved with the layers, so that a run that is resumed,
    and a further `fit`, go on from there.

    The number of examples is that of the first epoch: after its first batch it is taken to be
    the batch's times the batches of an epoch, and it is exact from the end of the epoch on.

    At the end of each epoch `logs["sparsity"]` is the share of weights of which log alpha has
    reached the threshold, which are zero in inference and after `kprune.strip_pruning`, and
    `logs["kl"]` the divergence of all weights, in nats.

    Molchanov, Ashukha and Vetrov, "Variational dropout sparsifies deep neural networks" (2017);
    warm-up is from Sønderby et al., "Ladder variational autoencoders" (2016).

    Example:

    ```python
    model = kprune.training.sparse_variational_dropout(model)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=100, callbacks=[kprune.training.KLWarmUp(warm_up=0.3)])
    ```

    Args:
        kl_weight: float > 0; 1 for the variational bound, less to leave more weights.
        warm_up: float in [0, 1], the share of the run's steps.
        examples: int, how many training examples there are; by default what the first epoch has.

    Raises:
        ValueError: an argument out of its range. At the start of `fit`: no
            `SparseVariationalDropout` layer, or an epoch of unknown length. After the first batch:
            a `train_step` of your own that does not count examples.
    """

    def __init__(
        self, kl_weight: float = 1.0, warm_up: float = 0.5, examples: int | None = None
    ) -> None:
        super().__init__()
        if not isinstance(kl_weight, int | float) or not kl_weight > 0:
            raise ValueError(
                f"`kl_weight` must be a float above 0. Received: kl_weight={kl_weight!r}"
            )
        if not isinstance(warm_up, int | float) or not 0 <= warm_up <= 1:
            raise ValueError(f"`warm_up` must be a float in [0, 1]. Received: warm_up={warm_up!r}")
        if examples is not None and not (isinstance(examples, int) and examples > 0):
            raise ValueError(
                f"`examples` must be an int above 0, or None. Received: examples={examples!r}"
            )
        self.kl_weight, self.warm_up, self.examples = kl_weight, warm_up, examples
        self._begun = self._estimated = self._counted = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._begun = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Not earlier: `BackupAndRestore` restores the layers' steps in `on_train_begin`.
        if self._begun:
            return
        self._begun = True
        self._estimated = self._counted = self.examples is not None
        if not self._noisy_layers():
            raise ValueError(
                f"The model {self.model.name!r} has no SparseVariationalDropout layers: pass it "
                "through kprune.training.sparse_variational_dropout before `compile`."
            )
        if self._batches() is None:
            raise ValueError(
                "The length of this `fit` is unknown, so the warm-up has none: pass "
                "`steps_per_epoch`."
            )
        self._scale(self.examples)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        done, batches = batch + 1, self._batches()
        # On JAX, looking into the model brings the step's weights to it: not at every step.
        if self._counted or (self._estimated and done < batches):
            return
        self._scale(round(_examples_seen(self.model) * batches / done))
        self._estimated, self._counted = True, done >= batches

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        layers = self._noisy_layers()
        sizes = [math.prod(v.shape) for layer in layers for v in layer.noisy_variables]
        logs["sparsity"] = sum(layer.count_noise() for layer in layers) / sum(sizes)
        logs["kl"] = sum(float(ops.stop_gradient(layer.kl())) for layer in layers)

    def _noisy_layers(self):
        return noisy_layers_in(self.model)

    def _batches(self):
        return self.params.get("steps")

    def _scale(self, examples):
        steps = self.warm_up * self._batches() * self.params.get("epochs", 1)
        scale = None if examples is None else self.kl_weight / examples
        for layer in self._noisy_layers():
            layer.scale_kl(scale, steps)


def _examples_seen(model):
    """How many examples this epoch has had, by which Keras weights the mean of the losses."""
    counts = [one.count for one in model.metrics if one.name == "loss" and hasattr(one, "count")]
    seen = float(ops.convert_to_numpy(backend.read(counts[0]))) if counts else 0.0
    if not seen:
        raise ValueError(
            f"The `train_step` of {model.name!r} does not count examples as Keras' own does: pass "
            "their number, KLWarmUp(examples=len(x))."
        )
    return seen
