"""What `benchmark` shows of files for an Arm Ethos-U, which is not here: Vela's estimates."""

from kprune._system.errors import ExportError
from kprune.formats.damaged import DAMAGE, read_bytes
from kprune.formats.tflite.compiled import is_compiled
from kprune.measure.size import size
from kprune.report import tables
from kprune.runtimes.vela import compile_tflite
from kprune.runtimes.vela_tables import estimate_beside
from kprune.targets.target import get_target


def of(paths, target=None):
    """Return what `FileBenchmark` is made of, for each file; None where they are to be measured.

    Args:
        paths: list of `Path`s, of files that are there.
        target: an Ethos-U target; by default that which compiled files were compiled for.

    Raises:
        ValueError: a target that is measured; files that are for no Ethos-U, or another one; no
            estimate beside a compiled file; Vela cannot compile one.
        ImportError: Vela is not installed.
    """
    chosen = None if target is None else get_target(target)
    if chosen is not None and not chosen.compressed:
        raise ValueError(
            "`target` is for an Ethos-U, such as 'ethos-u55-128': for all others, files are "
            f"measured in the runtime of this machine. Received: target={chosen.name!r}"
        )
    compiled = [path.suffix == ".tflite" and _is_compiled(path) for path in paths]
    if chosen is None and not any(compiled):
        return None
    found = [_estimate(*each, chosen) for each in zip(paths, compiled)]
    return [
        size(path).to_dict()
        | {
            "path": str(path),
            "runtime": f"{estimate.compiler}, estimated",
            **dict.fromkeys(("median", "p10", "p90"), estimate.seconds),
            "speedup": found[0].seconds / estimate.seconds,
            "flops": None,
            "estimate": estimate,
        }
        for path, estimate in zip(paths, found)
    ]


def _is_compiled(path):
    try:
        return is_compiled(read_bytes(path))
    except (*DAMAGE, ImportError):  # Whoever reads the rest of it says so.
        return False


def _estimate(path, compiled, target):
    if compiled:
        estimate = estimate_beside(path)
        if target is not None and estimate.target != target.name:
            raise ValueError(
                f"{path} was compiled for {estimate.target}, not for {target.name}: give the int8 "
                "file that it was made from."
            )
        return estimate
    if target is None or path.suffix != ".tflite":
        raise ValueError(
            f"{path} was not compiled for an Ethos-U: give .tflite files with a `target`, such as "
            "'ethos-u55-128', or compiled ones only."
        )
    try:
        estimate = compile_tflite(read_bytes(path), target.name).estimate
    except ExportError as error:
        raise ValueError(f"{path}: {error}") from error
    if not estimate.npu_operators:
        raise ValueError(
            f"Nothing of {path} would run on {target.name}: export it with quantize='int8'."
        )
    return estimate


def table(rows, names):
    """Return the table of a `BenchmarkReport` whose rows have estimates.

    Args:
        rows: `FileBenchmark`s.
        names: {column: cells} that it begins with.
    """
    found = [row.estimate for row in rows]
    columns = {
        "target": [one.target for one in found],
        ">cycles": [tables.count(one.cycles) for one in found],
        ">time": [tables.milliseconds(one.seconds) for one in found],
        ">inferences/s": [f"{one.inferences_per_second:,.0f}" for one in found],
        ">speed": [tables.ratio(row.speedup) for row in rows],
        ">SRAM": [tables.size(one.sram_bytes) for one in found],
        ">flash": [tables.size(one.flash_bytes) for one in found],
        ">weights": [tables.size(one.weight_bytes) for one in found],
    }
    notes = [
        f"speed: time of {next(iter(names.values()))[0]} / this file's; above 1 is faster. What "
        "is left to the processor is not in the time.",
        "flash: the compiled file, whole; weights: those in it, as compiled.",
    ]
    about = ", ".join(
        dict.fromkeys(f"{one.compiler} ({one.system_config}, {one.memory_mode})" for one in found)
    )
    title = f"Estimated by {about}, not measured"
    return tables.Parts(names, (title, columns, notes))
