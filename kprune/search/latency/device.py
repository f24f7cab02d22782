"""Operators that are timed on a device, for a target that this machine is not."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import keras

from kprune._system.files import destination, replacing
from kprune._system.type_aliases import FilePath, InputShape
from kprune._system.warn import warn_user
from kprune.formats.tflite.single_operator import tflite_empty
from kprune.search.latency.cuts import Cuts
from kprune.targets.target import get_target

DEVICE_SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)  # Of all groups' channels.
_EMPTY, _CHAIN, _CHAINED = "empty", "chain", 50
_WRITTEN = re.compile(r"(dense-)?[0-9a-f]{24}\.tflite")


def _dense(operators):
    """The name of a dense file, by which it is told from other models'."""
    keys = sorted(operator.key(operator.shapes) for operator in operators)
    return f"dense-{hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:24]}"


def write_operators(
    model: keras.Model,
    target: Any,
    folder: FilePath,
    free_dim: int | None = None,
    input_shape: InputShape | None = None,
) -> list[Path]:
    """Write the files whose times on a device tell the latency of a model's cuts there.

    They are the dense file, and each of its operators at eight widths, in a file of its own.

    Example:

    ```python
    kprune.search.write_operators(model, "litert-arm64", "operators")
    # There: python benchmark_device.py --together operators/*.tflite --json device.json
    small = kprune.prune_channels(
        model, latency=0.5, target="litert-arm64", measured="device.json"
    )
    ```

    Args:
        model: a built Keras model, as for `kprune.prune_channels`.
        target: a target that runs `.tflite` files, such as `"litert-arm64"`.
        folder: where; made if it is not there. What an earlier call wrote there is removed.
        free_dim: int, one size for all dynamic dimensions; `input_shape` in one number.
        input_shape: tuple without the batch, or a dict from names of inputs to such tuples, where
            the model leaves them open.

    Returns:
        The files' paths.

    Raises:
        ValueError: a target that runs other files; a model whose file has other operators with
            fewer channels.
        NotADirectoryError: `folder` is a file.
        ExportError: the model cannot be exported.
    """
    target, folder = get_target(target), Path(folder)
    if target.format != "tflite":
        raise ValueError(
            "Operators are written as .tflite files; for ONNX Runtime, prune on the machine that "
            f"the model is for. Received: target={target.name!r}"
        )
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"'{folder}' is a file: give the path of a folder.")
    cuts = Cuts(model, target.format, free_dim, input_shape)
    if not cuts.operators:
        raise ValueError(f"There are no operators to time: {cuts.notes[-1]}.")
    blobs = {
        _dense(cuts.operators): cuts.dense,
        _EMPTY: tflite_empty(),
        _CHAIN: tflite_empty(1 + _CHAINED),
    }
    for operator, shapes in cuts.grid(DEVICE_SHARES):
        name = operator.key(shapes)
        if name not in blobs:
            try:
                blobs[name] = operator.file(shapes)
            except Exception:  # Of a kind that is not known here: taken to change as others do.
                continue
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if _WRITTEN.fullmatch(path.name):
            path.unlink()
    paths = []
    for name, blob in blobs.items():
        path = destination(folder / f"{name}.tflite", ".tflite")
        with replacing(path) as temporary:
            temporary.write_bytes(blob)
        paths.append(path)
    return paths


class DeviceTimer:
    """The times that `scripts/benchmark_device.py` wrote, as `LocalTimer` gives them.

    Args:
        path: of the JSON.

    Raises:
        ValueError: it is no such file.
    """

    anywhere = False  # Only what was written was timed.

    def __init__(self, path):
        try:
            rows = json.loads(Path(path).read_text())["rows"]
            times = {Path(row["path"]).stem: _time(row["median"]) for row in rows}
            (self._name,) = [name for name in times if name.startswith("dense-")]
            self._dense, self._empty, chain = (times[n] for n in (self._name, _EMPTY, _CHAIN))
            if not self._dense or None in (self._empty, chain):
                raise ValueError(f"{self._name}, {_EMPTY} and {_CHAIN} have times")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} has not the times of kprune.search.write_operators' files, as "
                "scripts/benchmark_device.py --together writes them with --json."
            ) from error
        self._path, self._times = path, times
        self._overhead = self._empty - max(0.0, chain - self._empty) / _CHAINED

    def check(self, model, operators, requests):
        """Raise unless the times are of this model; warn where some are missing.

        Args:
            model: str, its name.
            operators: `SingleOperator`s of its dense file.
            requests: list of `(SingleOperator, shapes)`, what is to be known.
        """
        if self._name != _dense(operators):
            raise ValueError(
                f"{self._path} has not the times of {model!r}, but of a model with other "
                "operators: write them again with kprune.search.write_operators, of this model and "
                "with this release, and time them on the device."
            )
        names = [o.name for (o, _), time in zip(requests, self.operators(requests)) if time is None]
        if names:
            warn_user(
                f"{self._path} has no times of {len(names)} of {len(requests)} operators at some "
                f"width ({', '.join(sorted(set(names)))}), which could not be timed alone or are "
                "missing: they are estimated from the others."
            )

    def operators(self, requests, advance=lambda: None):
        """The seconds of `(SingleOperator, shapes)`; None for those that were not timed."""
        found = [self._times.get(operator.key(shapes)) for operator, shapes in requests]
        return [None if time is None else max(0.0, time - self._overhead) for time in found]

    def seconds(self, path):
        """The seconds of the dense file."""
        return self._dense

    def base(self):
        """The seconds of a file of next to nothing."""
        return self._empty

    def whole(self, dense, small):
        """None: whole files of new models were not timed."""
        return None


def _time(median):
    """A file's seconds; None where it did not run."""
    if median is None:
        return None
    if isinstance(median, bool) or not isinstance(median, int | float):
        raise TypeError(f"no time: {median!r}")
    if not 0 <= median < math.inf:
        raise ValueError(f"no time: {median!r}")
    return float(median)
