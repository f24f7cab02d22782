"""The smallest file: pruning, then clustered weights or 8 bits, then gzip."""

import dataclasses
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kprune._system import files
from kprune._system.packages import require_packages
from kprune._system.type_aliases import FilePath
from kprune.export import checks
from kprune.export.pipeline import INTEGER_ONLY
from kprune.export.report import ExportReport
from kprune.export.tflite import QUANTIZE, export_tflite
from kprune.formats.tflite.codebooks import CODEBOOK
from kprune.formats.tflite.int4 import INT4
from kprune.graphs import sample_data
from kprune.graphs.inputs import signature_of
from kprune.graphs.weights import check_model, sparsity_of, weights_of
from kprune.pruning.allocation import Global
from kprune.pruning.schedules import ConstantSparsity
from kprune.report import tables
from kprune.report.tables import Printable
from kprune.training.clustering.installing import remove_clustering
from kprune.training.clustering.weight_clustering import (
    WeightClustering,
    check_clusters,
    chosen,
    cluster_once,
)
from kprune.training.pruning import Pruning
from kprune.training.quantization_aware import QuantizationAware
from kprune.training.strip import find_pruning, strip_pruning

__all__ = ["CompressReport", "compress"]

_CLUSTERS = 16
_GZIP = ".gz"


@dataclasses.dataclass(repr=False)
class CompressReport(Printable):
    """What `compress` wrote. Prints as a table.

    Attributes:
        path: the file.
        parameters: how many numbers the model's weights are, biases and statistics included.
        float32_bytes: what they take in float32: four bytes each.
        bytes: size of the `.tflite` file, not compressed.
        gzipped_bytes: the same under gzip, level 9.
        ratio: `float32_bytes / gzipped_bytes`.
        export: the `ExportReport`: differences from Keras, each weight as it is stored.
    """

    path: str
    parameters: int
    float32_bytes: int
    bytes: int
    gzipped_bytes: int
    ratio: float
    export: ExportReport

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"export": self.export.to_dict()}

    def __rich__(self):
        rows = [
            (
                weight.name,
                tables.shape(weight.shape),
                weight.dtype,
                tables.percent(weight.sparsity),
                tables.count(weight.values),
                tables.MISSING if weight.entropy is None else f"{weight.entropy:.2f}",
            )
            for weight in self.export.weights
        ]
        float32, plain, gzipped = map(
            tables.size, (self.float32_bytes, self.bytes, self.gzipped_bytes)
        )
        return tables.table(
            ["weight", "shape", "stored as", ">sparsity", ">values", ">bits, entropy"],
            rows,
            title=f"{self.path}: {gzipped} gzipped, {self.ratio:.1f}x smaller than "
            f"{tables.count(self.parameters)} parameters in float32 ({float32})",
            notes=[
                f"{plain} unpacked; LiteRT's outputs differ from Keras' by at most "
                f"{self.export.max_rel_diff:.2g} of the largest",
                *self.export.notes,
            ],
        )


def compress(
    model: keras.Model,
    path: FilePath,
    *,
    pruning: float | Any = None,
    clusters: int | None = None,
    quantize: str | None = None,
    layers: Any = None,
    fit: Callable[..., Any] | None = None,
    representative_data: Any = None,
    batch_size: int = 1,
    inputs: Any = None,
    tolerance: float | None = None,
) -> CompressReport:
    """Make the smallest file of a model: Deep Compression, in a `.tflite` that runs as it is.

    The model is pruned, then its weights are clustered (or, with `quantize`, trained for 8 bits),
    and then exported; zeros and codes take few bits under gzip. Each stage trains the model that
    was passed, which then computes what the file does. A file that was gzipped runs when it is
    unpacked, and has run beside the Keras model before it gets its name.

    Han, Mao and Dally, "Deep Compression: compressing deep neural networks with pruning, trained
    quantization and Huffman coding" (2016).

    Example:

    ```python
    def fit(model, callbacks):
        model.fit(x, y, epochs=10, callbacks=callbacks)

    report = kprune.compress(model, "model.tflite.gz", pruning=0.95, clusters=16, fit=fit)
    print(report)
    report.ratio, report.gzipped_bytes, report.export.max_rel_diff
    ```

    Args:
        model: a built `keras.Model`; compiled, if `fit` does not compile it.
        path: the file, ending in `.tflite`, or in `.tflite.gz` to be gzipped.
        pruning: how to prune it: a sparsity, a `Pruning` callback, or None where that is done, or
            not wanted. Needs `fit`.
        clusters: int in [1, 255], how many values other than zero each kernel may have; 16 by
            default. See `WeightClustering`.
        quantize: instead of `clusters`: `"int8"`, `"dynamic"`, `"int16x8"` or `"float16"`, as in
            `export_tflite`.
        layers: with `clusters`, which layers; as of `WeightClustering`.
        fit: a function `fit(model, callbacks)` that trains the model with these callbacks. It is
            called for pruning, and once more with `WeightClustering` (or, for 8 bits,
            `QuantizationAware`). None for no training: weights are clustered, or rounded, once.
        representative_data: as in `export_tflite`.
        batch_size: as in `export_tflite`.
        inputs: as in `export_tflite`.
        tolerance: as in `export_tflite`.

    Returns:
        A `CompressReport`.

    Raises:
        ValueError, TypeError: arguments that do not go together, or a `fit` that leaves out its
            callbacks; and as `export_tflite`.
        OSError, ExportError, VerificationError, ImportError: as `export_tflite`.
    """
    path, clusters = _checked(model, path, pruning, clusters, quantize, layers, fit)
    checks.require_batch_size(batch_size)
    _check_data(model, quantize, representative_data, inputs)
    if pruning is not None:
        callback = pruning if isinstance(pruning, Pruning) else Pruning(pruning)
        _train(fit, model, [callback])
    if find_pruning(model):
        model = strip_pruning(model)
    if quantize is None:
        _cluster(model, clusters, layers, fit)
    elif fit is not None and quantize != "float16":
        _train(fit, model, [*_holding(model), QuantizationAware(quantize == "int8")])
        if find_pruning(model):
            model = strip_pruning(model)
    options = {"batch_size": batch_size, "inputs": inputs, "tolerance": tolerance}
    options |= {"representative_data": representative_data, "sparse": False}
    report = _write(model, path, options | {"quantize": quantize or CODEBOOK})
    parameters = model.count_params()
    return CompressReport(
        path=str(path),
        parameters=parameters,
        float32_bytes=4 * parameters,
        bytes=report.bytes,
        gzipped_bytes=report.gzipped_bytes,
        ratio=4 * parameters / report.gzipped_bytes,
        export=report,
    )


def _checked(model, path, pruning, clusters, quantize, layers, fit):
    """Check the arguments; return the path and the number of clusters."""
    path = Path(path)
    suffix = path.suffix if path.suffix != _GZIP else "".join(path.suffixes[-2:])
    if suffix not in (".tflite", ".tflite" + _GZIP):
        raise ValueError(
            f"The file's name must end in '.tflite' or '.tflite.gz'. Received: path='{path}'"
        )
    files.destination(path, path.suffix)
    require_packages("tflite")
    check_model(model)
    kinds = [kind for kind in QUANTIZE if kind not in (CODEBOOK, INT4)]
    if quantize not in kinds:
        raise ValueError(f"`quantize` must be one of {kinds}. Received: {quantize!r}")
    if quantize is not None and (clusters is not None or layers is not None):
        raise ValueError(
            "Give `clusters` (and `layers`), to cluster weights, or `quantize`, not both. "
            f"Received: clusters={clusters!r}, layers={layers!r}, quantize={quantize!r}"
        )
    if fit is not None and not callable(fit):
        raise TypeError(f"`fit` must be a function fit(model, callbacks). Received: fit={fit!r}")
    if pruning is not None and fit is None:
        raise ValueError(
            "`pruning` needs `fit`, a function fit(model, callbacks) that trains the model. "
            f"Received: pruning={pruning!r}, fit=None"
        )
    if quantize is not None:
        return path, None
    if clusters is None and not isinstance(layers, dict):
        clusters = _CLUSTERS
    check_clusters(clusters, layers)
    chosen(model, clusters, layers)
    return path, clusters


def _check_data(model, quantize, representative_data, inputs):
    """Check the data that the export will need, before any training."""
    if quantize in INTEGER_ONLY and representative_data is None:
        raise ValueError(
            f"quantize={quantize!r} needs `representative_data`: some hundred samples of what the "
            "model will see, to find the ranges of its activations."
        )
    signature = signature_of(model, inputs)
    if inputs is not None:
        sample_data.arrays_for(signature, inputs)
    # A generator gives its samples once.
    if representative_data is not None and not hasattr(representative_data, "__next__"):
        sample_data.calibration_arrays(signature, representative_data)


def _train(fit, model, callbacks):
    fit(model, callbacks)
    left_out = [type(callback).__name__ for callback in callbacks if callback.model is not model]
    if left_out:
        raise ValueError(
            f"`fit` has not trained the model with its callbacks ({', '.join(left_out)}): call "
            "model.fit(..., callbacks=callbacks) in it."
        )


def _cluster(model, clusters, layers, fit):
    if fit is not None:
        try:
            _train(fit, model, [WeightClustering(clusters, layers)])
        finally:
            remove_clustering(model)
    # Another callback may have put weights back that were not rounded yet.
    cluster_once(model, clusters, layers)


def _holding(model):
    """Return a `Pruning` that keeps the zeros there are, if any, while the model is trained."""
    by_layer = {}
    for weight in weights_of(model):
        if weight.reason is None:
            by_layer.setdefault(weight.layer, []).append(weight)
    settings = {
        layer: {"schedule": ConstantSparsity(share, 0), "allocation": Global()}
        for layer, share in ((one, sparsity_of(found)) for one, found in by_layer.items())
        if share
    }
    return [Pruning(layers=settings)] if settings else []


def _write(model, path, options):
    """Export to `path`; return the `ExportReport`."""
    if path.suffix != _GZIP:
        return export_tflite(model, path, **options)
    with files.replacing(path) as temporary, files.scratch() as folder:
        plain = folder / f"model{path.suffixes[-2]}"
        report = export_tflite(model, plain, **options)
        files.write(temporary, gzip.compress(plain.read_bytes(), 9, mtime=0), path)
    return dataclasses.replace(report, path=str(path))
