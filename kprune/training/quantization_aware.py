"""Quantization-aware training, in `model.fit`."""

from typing import Any

from kprune.graphs.weights import is_built
from kprune.training.fake_quantization import FAKE_QUANTIZATION
from kprune.training.mechanism import InstalledForFit


class QuantizationAware(InstalledForFit):
    """Fine-tunes a model for 8 bits during `model.fit`.

    In the forward pass, of training and of validation, kernels and activations are rounded to the
    values that an int8 file can hold; gradients go straight through the rounding. Kernels have a
    scale for each output channel and no zero point, so that zeros stay exactly zero; activations
    have one scale for each tensor, from the smallest and largest value in the batch. The model
    itself is not changed: its weights stay float, any checkpoint is plain Keras, and after `fit`
    it computes in float again.

    Add `Pruning` beside it, to hold the zeros of a pruned model or to prune at the same time; then
    `export_tflite(..., quantize="int8")` writes the file, with a scale for each activation from
    `representative_data`. Where a Keras layer and what follows it become one operator of the file
    (a convolution, BatchNormalization and ReLU), nothing is rounded in between: what is rounded
    are the inputs of layers with kernels, of sums and other merging layers, and of average pooling.

    With `layers`, only those are trained for 8 bits, as with TFMOT's `quantize_annotate_layer`. It
    changes the training, and not the file: the int8 export rounds every layer, those left out as
    it does without this callback, by the ranges that `representative_data` shows.

    Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference" (2018); with zeros held as in TFMOT's PQAT.

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.9)])
    model.fit(x, y, epochs=2, callbacks=[kprune.Pruning(0.9), kprune.QuantizationAware()])
    model = kprune.strip_pruning(model)
    kprune.export_tflite(model, "int8.tflite", quantize="int8", representative_data=x[:500])
    ```

    Args:
        activations: whether activations are rounded, too. Not for `quantize="dynamic"` and
            `"int16x8"`, whose activations are all but exact.
        layers: which layers; all by default. As in `Pruning`: a layer's name (`*` and `?` are
            wildcards), a layer class, a layer, a predicate `layer -> bool`, a list of those, or a
            dict from those to None, the layers to leave out. Layers without a kernel whose inputs
            are rounded, such as `Add`, are chosen in the same way.

    Raises:
        ValueError: in `fit`, a model without kernels, or `layers` that matches nothing.
    """

    mechanism = FAKE_QUANTIZATION

    def __init__(self, activations: bool = True, layers: Any = None) -> None:
        super().__init__()
        if not isinstance(activations, bool):
            raise TypeError(
                "`activations` must be True or False; layers go into `layers`. "
                f"Received: activations={activations!r}"
            )
        self.activations, self.layers = activations, layers

    def install(self) -> None:
        self.mechanism.install(self.model, self.activations, self.layers)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if is_built(self.model):
            self._install_once()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # TensorFlow may build a model in its first step; what is not built now never will be.
        self._install_once()
