"""TensorBoard: the sparsity and threshold of every pruned weight."""

import contextlib
import importlib.util
import os
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune._keras import backend
from kprune._system.type_aliases import FilePath
from kprune.training.wrappers.pruning_wrapper import wrappers_in
from kprune.training.zeros import pruning_optimizers

# Arguments of keras.callbacks.TensorBoard for what only TensorFlow can write.
_TENSORFLOW_ONLY = ("histogram_freq", "write_graph", "write_images", "profile_batch")


class PruningSummaries(keras.callbacks.TensorBoard):
    """TensorBoard logs of the sparsity and threshold of every pruned weight.

    For models pruned with `kprune.Pruning` as for models with `PruneLowMagnitude` layers.
    At the start of each epoch and at the end of training, `<weight>/sparsity`, the share
    of masked weights, and `<weight>/threshold` are written under `log_dir`/metrics against
    the optimizer's step. A wrapped layer's threshold is the lowest score that the last
    update of its masks kept; an optimizer keeps none, and the lowest magnitude that is
    not masked now is written instead. All else is as `keras.callbacks.TensorBoard` does
    it; with the JAX and torch backends it needs the tensorboard package and no TensorFlow,
    and writes no graph unless it is asked to.

    Example:

    ```python
    callbacks = [kprune.UpdatePruningStep(), kprune.PruningSummaries("logs")]
    model.fit(x, y, epochs=10, callbacks=callbacks)
    ```

    Args:
        log_dir: str or path, the folder to write to.
        update_freq: "epoch", "batch" or a number of batches: when losses and metrics
            are written.
        **kwargs: those of `keras.callbacks.TensorBoard`.

    Raises:
        ValueError: `log_dir` is not a path.
        ImportError: tensorboard, or TensorFlow where it is needed, is not installed.
    """

    _summary_module: Any  # Keras sets it.

    def __init__(self, log_dir: FilePath, update_freq: str | int = "epoch", **kwargs: Any) -> None:
        if not isinstance(log_dir, str | os.PathLike) or not str(log_dir):
            raise ValueError(f"`log_dir` must be a path. Received: log_dir={log_dir!r}")
        if not backend.is_tensorflow():
            kwargs.setdefault("write_graph", False)
        self._with_tensorflow = backend.is_tensorflow() or any(
            kwargs.get(name) for name in _TENSORFLOW_ONLY
        )
        for package in ["tensorboard"] + ["tensorflow"] * self._with_tensorflow:
            if importlib.util.find_spec(package) is None:
                raise ImportError(
                    f"PruningSummaries needs {package}, not installed here: "
                    'pip install "kprune[all]"'
                )
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)
        self._metrics_writer = None

    @property
    def summary(self) -> Any:
        if self._summary_module is None and not self._with_tensorflow:
            self._summary_module = _Summary()
        return super().summary

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._log_pruning()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._log_pruning()
        if self._metrics_writer is not None:
            self._metrics_writer.close()
            self._metrics_writer = None
        super().on_train_end(logs)

    def _log_pruning(self):
        scalars = dict(_pruning_scalars(self.model))
        if not scalars:
            return
        if self._metrics_writer is None:
            from tensorboard.summary import Writer

            self._metrics_writer = Writer(os.path.join(self.log_dir, "metrics"))
        pruning = pruning_optimizers(self.model) or [self.model.optimizer]
        step = max(int(optimizer.iterations) for optimizer in pruning)
        for tag, value in scalars.items():
            self._metrics_writer.add_scalar(tag, value, step)
        self._metrics_writer.flush()


def _pruning_scalars(model):
    """Yield (tag, value) for every pruned weight of a model."""
    for wrapper in wrappers_in(model):
        for variable, mask, threshold in wrapper.pruning_vars:
            yield f"{variable.path}/sparsity", 1 - _numpy(mask).mean()
            yield f"{variable.path}/threshold", float(_numpy(threshold))
    for optimizer in pruning_optimizers(model):
        masks = optimizer.masks()
        for group in optimizer.groups:
            for weight in group.weights:
                mask = _numpy(masks[weight.name])
                kept = np.abs(_numpy(weight.variable))[mask]
                yield f"{weight.name}/sparsity", 1 - mask.mean()
                yield f"{weight.name}/threshold", float(kept.min()) if kept.size else 0.0


def _numpy(variable):
    value = ops.convert_to_tensor(variable)
    return ops.convert_to_numpy(value if variable.dtype == "bool" else ops.cast(value, "float32"))


class _Summary:
    """What `keras.callbacks.TensorBoard` uses of `tensorflow.summary`, for scalars."""

    def __init__(self):
        self._writers, self._recording = [], [True]

    def create_file_writer(self, path):
        return _FileWriter(path, self._writers)

    @contextlib.contextmanager
    def record_if(self, condition):
        self._recording.append(condition() if callable(condition) else condition)
        yield
        self._recording.pop()

    def scalar(self, name, data, step=None):
        if self._writers and self._recording[-1]:
            writer, default_step = self._writers[-1]
            step = default_step if step is None else step
            writer.add_scalar(name, *(ops.convert_to_numpy(value) for value in (data, step)))


class _FileWriter:
    """A writer that can be made the default one for a while, as TensorFlow's."""

    def __init__(self, path, writers):
        self._path, self._writers, self._writer = path, writers, None

    @contextlib.contextmanager
    def as_default(self, step=None):
        from tensorboard.summary import Writer

        if self._writer is None:
            self._writer = Writer(self._path)
        self._writers.append((self._writer, step))
        yield
        self._writers.pop()

    def flush(self):
        if self._writer is not None:
            self._writer.flush()

    def close(self):
        if self._writer is not None:
            self._writer.close()
