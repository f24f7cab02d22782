"""Vela, the compiler of Arm Ethos-U: it compiles a `.tflite` file, and estimates what that takes.

Vela is run in a process of its own, as broken files take it down. Where no board is known, it
assumes one for each family, named in `VelaEstimate.system_config`, and so do we: its own defaults,
of config_files/Arm/vela.ini in its package.

| | clock | SRAM | weights and constants | memory mode |
|---|---|---|---|---|
| U55 | 500 MHz | 4 GB/s | off-chip flash, 0.5 GB/s | Shared_Sram: activations in SRAM |
| U65 | 1 GHz | 16 GB/s | DRAM, 12 GB/s | Dedicated_Sram_384KB: activations in DRAM, cached |
| U85 | 1 GHz | 32 GB/s | DRAM, 12 GB/s | Dedicated_Sram_384KB: activations in DRAM, cached |
"""

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from kprune._system import files
from kprune._system.children import child, python_flags
from kprune._system.errors import ExportError
from kprune.formats.tflite.names import operator_layer
from kprune.formats.tflite.operators import FirstSubgraph
from kprune.runtimes.vela_tables import VelaEstimate, read_estimate

MODULE = "ethosu.vela"
TIME_LIMIT = 600.0  # seconds; small networks take half of one, with the start of Python
# The database tells for each operator which memory its cycles go to.
_OPTIONS = ["--enable-debug-db", "--optimise"]
PERFORMANCE, SIZE = "Performance", "Size"
_NAMED = 4  # layers in a message


class Compiled(NamedTuple):
    """What Vela made of a file: the bytes of the compiled one, and a `VelaEstimate`."""

    blob: bytes
    estimate: VelaEstimate


class _Run(NamedTuple):
    status: int | None  # None: it did not end in time
    printed: str
    folder: Path


def require_vela():
    """Raise ImportError, naming the extra to install, where Vela is missing."""
    if importlib.util.find_spec("ethosu") is None or importlib.util.find_spec(MODULE) is None:
        raise ImportError(
            "Ethos-U targets need Vela, Arm's compiler (ethos-u-vela), not installed here: "
            'pip install "kprune[ethos]"'
        )


def vela_version():
    """Return Vela's version, such as `5.2.0`."""
    return version("ethos-u-vela")


def compile_tflite(blob, target, sram=None, timeout=TIME_LIMIT):
    """Compile a `.tflite` file for an Ethos-U.

    Example:

    ```python
    compiled = compile_tflite(Path("int8.tflite").read_bytes(), "ethos-u55-128")
    compiled.estimate.cycles, compiled.estimate.weight_bytes
    ```

    Args:
        blob: the bytes of the file.
        target: the name of an Ethos-U target, which is Vela's name of the configuration.
        sram: bytes of SRAM that Vela may use: it is told to keep to them, first with the best
            speed and, if that takes more, with the least memory. None: as much as it wants.
        timeout: seconds it may take.

    Returns:
        A `Compiled`. Its estimate may still need more than `sram`.

    Raises:
        ImportError: Vela is not installed.
        ExportError: it ended with an error, crashed, or took too long.
    """
    require_vela()
    limit = [] if sram is None else ["--arena-cache-size", str(sram)]
    compiled = _compiled(blob, target, [PERFORMANCE, *limit], timeout)
    if sram is not None and compiled.estimate.sram_bytes > sram:
        smaller = _compiled(blob, target, [SIZE, *limit], timeout)
        if smaller.estimate.sram_bytes < compiled.estimate.sram_bytes:
            return smaller
    return compiled


def _compiled(blob, target, options, timeout):
    with files.scratch() as folder:
        run = _run(blob, target, [*_OPTIONS, *options], folder, timeout)
        made = run.folder / "model_vela.tflite"
        if run.status != 0 or not made.is_file():
            raise ExportError(_failure(blob, target, options, run, timeout))
        compiled = made.read_bytes()
        estimate = read_estimate(
            run.folder, run.printed, target, f"Vela {vela_version()}", _layers(blob), len(compiled)
        )
        return Compiled(compiled, estimate)


def _run(blob, target, options, folder, timeout):
    source, printed = folder / "model.tflite", folder / "printed.txt"
    source.write_bytes(blob)
    out = folder / "made"
    command = [sys.executable, *python_flags(), "-m", MODULE, str(source)]
    command += ["--accelerator-config", target, "--output-dir", str(out), *options]
    with (
        open(printed, "wb") as log,
        child(command, folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = None
    return _Run(status, printed.read_text(errors="replace"), out)


def _layers(blob):
    """The layer of each operator of a file, in order; none where it cannot be read."""
    file = FirstSubgraph(blob)
    return [operator_layer(file, operator) for operator in file.operators]


def _failure(blob, target, options, run, timeout):
    """Say in a line why Vela made nothing, and of which layer that comes."""
    if run.status is None:
        return (
            f"Vela did not compile the file for {target} within {timeout:g} seconds, so nothing "
            "was kept: give a model that is smaller."
        )
    lines = [line.strip() for line in run.printed.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Warning", "Reason"))]
    why = said[-1][:300].rstrip(".") if said else f"it ended with status {run.status}"
    culprit = _culprit(blob, target, options, timeout)
    where = ""
    if culprit is not None:
        operator, layers = culprit
        where = f" It does without {operator} ({', '.join(layers)}): use another layer there."
    return f"Vela {vela_version()} could not compile the file for {target}: {why}.{where}"


def _culprit(blob, target, options, timeout):
    """The operator without which Vela does compile the file, and its layers; None if none is."""
    try:
        file = FirstSubgraph(blob)
        layers = {}
        for operator, layer in zip(file.operators, _layers(blob)):
            layers.setdefault(operator.name, []).append(layer)
    except Exception:  # what the reader of a damaged file runs into is anyone's guess
        return None
    for operator, named in layers.items():
        with files.scratch() as folder:
            left_out = [*_OPTIONS, *options, "--ignore-ops", operator]
            if _run(blob, target, left_out, folder, timeout).status == 0:
                return operator, list(dict.fromkeys(named))[:_NAMED]
    return None
