"""Time .tflite files on an Android phone, with TensorFlow Lite's or LiteRT's `benchmark_model`.

The phone is connected by USB, with USB debugging on, and `adb` (Android's platform-tools) is on
this machine; docs/devices.md says where the binary comes from. Nothing of kprune and no Python goes
to the phone: the binary and the files are pushed into a folder of /data/local/tmp, which is removed
at the end.

    workstation$ python scripts/benchmark_android.py dense.tflite pruned.tflite \
                     --binary android_aarch64_benchmark_model --json phone.json
    workstation$ kprune benchmark dense.tflite pruned.tflite --compare phone.json

In every round every file is run once by the binary, in a new random order; its median (or average,
of older binaries) is one visit. Outputs are not compared: only that the file runs is known. Exit
status 1 if one does not.
"""

import argparse
import gzip
import hashlib
import random
import re
import shlex
import shutil
import statistics
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from benchmark_device import write_json

FOLDER = "/data/local/tmp/kprune"  # the one place where adb may write programs and run them
PROCESSORS = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86"}  # by ELF's e_machine
PUBLISHED = {"arm64-v8a": "android_aarch64", "armeabi-v7a": "android_arm"}
# What the shell and the loader of Android say of a program that cannot be started.
_NOT_STARTED = re.compile(
    r"not executable:|CANNOT LINK EXECUTABLE|Permission denied|cannot execute|Exec format error"
    r"|: inaccessible or not found"
)
_LOST = re.compile(r"^(?:adb: |error: )")
# Not the profiler's statistics, which say what they are of.
_OF_RUNS = re.compile(r"(?:INFO: )?(?:\[[^]]*\] )?count=\d")
_STATISTICS = re.compile(r"(\w+)=([-+.\deE]+)")


class Failed(Exception):
    """Nothing, or one file, can be measured; the message says why."""


# --- The binary's output ------------------------------------------------------------------------


def latency(text):
    """Read what a run of `benchmark_model` printed; return the median (or mean) in seconds.

    It prints a line of statistics of the warm-up, and then one of the runs that count:

        INFO: count=24 first=90 curr=41 min=41 max=90 avg=43.5 std=8 p5=41 median=42 p95=71

    all in microseconds; older versions leave out what follows `std`, and where all runs took the
    same it says `count=24 curr=42(all same)`.

    Raises:
        Failed: it did not get as far; the message is the first error that it printed.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if _NOT_STARTED.search(line):
            raise Failed(f"the binary does not start there: {line}")
    found = [dict(_STATISTICS.findall(line)) for line in lines if _OF_RUNS.match(line)]
    if len(found) < 2:  # the first is of the warm-up
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        why = (
            errors[:1] or lines[-1:] or ["it printed nothing"]
        )  # later errors follow from the first
        raise Failed(f"it does not run: {why[0]}")
    figures = found[-1]
    typical = figures.get("median") or figures.get("avg") or figures.get("curr")
    if typical is None or not float(typical) > 0:
        raise Failed(f"it tells no time: {lines[-1]}")
    return float(typical) * 1e-6


# --- adb ----------------------------------------------------------------------------------------


class Phone:
    """A phone behind adb.

    Args:
        adb: path of the program.
        serial: of the phone; None where one alone is connected.
        timeout: float, seconds that a command may take.
    """

    def __init__(self, adb, serial, timeout):
        self._timeout, self._adb = timeout, shutil.which(adb)
        if self._adb is None:
            raise Failed(
                f"there is no program {adb!r}: install Android's platform-tools, or give --adb"
            )
        self.serial = self._choose(serial)

    def _run(self, *arguments):
        """Return (exit status, what it printed)."""
        try:
            done = subprocess.run(
                [self._adb, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=self._timeout,
            )
        except subprocess.TimeoutExpired:
            raise Failed(
                f"adb {arguments[-1]!r} took over {self._timeout:g} s (--timeout)"
            ) from None
        except OSError as error:
            raise Failed(f"{self._adb} does not start: {error}") from error
        return done.returncode, done.stdout.decode(errors="replace").replace("\r\n", "\n")

    def _choose(self, serial):
        """Return the serial number of the phone to use."""
        _, text = self._run("devices")
        listed = [line.split(maxsplit=1) for line in text.splitlines() if line[:1] not in ("*", "")]
        states = dict(pair for pair in listed if len(pair) == 2 and pair[0] != "List")
        if not states:
            raise Failed(
                "no phone is connected: plug it in, and switch on USB debugging in its developer "
                "options (adb devices lists it then)"
            )
        if serial is None and len(states) > 1:
            raise Failed(f"{len(states)} devices are connected: give --serial, of {list(states)}")
        serial = serial or next(iter(states))
        if serial not in states:
            raise Failed(f"no device {serial!r} is connected, but {list(states)}")
        if states[serial].startswith("unauthorized"):
            raise Failed(
                f"{serial} does not trust this machine yet: unlock it and allow USB debugging in "
                "the dialog that it shows"
            )
        if not states[serial].startswith("device"):
            raise Failed(f"{serial} cannot be used: adb says {states[serial]!r}")
        return serial

    def shell(self, command):
        """Run a command on the phone; return what it printed.

        Raises:
            Failed: the phone is gone.
        """
        status, text = self._run("-s", self.serial, "shell", command)
        if status and _LOST.search(text):
            raise Failed(f"the phone is gone: {text.strip().splitlines()[-1]}")
        return text

    def push(self, file, name):
        """Copy a file there.

        Raises:
            Failed: it cannot be, as where there is no space.
        """
        status, text = self._run("-s", self.serial, "push", str(file), f"{FOLDER}/{name}")
        # Old versions exit with 0 all the same.
        errors = [line for line in text.splitlines() if "error:" in line or "failed to" in line]
        if status or errors:
            lines = errors or text.strip().splitlines() or [f"exit status {status}"]
            raise Failed(f"{file} cannot be copied to the phone: {lines[-1].strip()}")

    def about(self):
        """Describe the phone, as `machine` of a report."""
        names = ("ro.product.manufacturer", "ro.product.model", "ro.soc.model")
        maker, model, chip = (self.shell(f"getprop {name}").strip() for name in names)
        model = model if model.lower().startswith(maker.lower()) else f"{maker} {model}".strip()
        cores = self.shell("nproc").strip()
        return {
            "processor": f"{model} ({chip})" if chip else model or self.serial,
            "architecture": self.shell("getprop ro.product.cpu.abi").strip(),
            "cores": int(cores) if cores.isdigit() else None,
            "system": f"Android {self.shell('getprop ro.build.version.release').strip()}",
            "python": None,
        }

    def check(self, binary):
        """Raise `Failed` unless a program is for the phone's processor."""
        head = binary.read_bytes()[:20]
        if head[:4] != b"\x7fELF" or len(head) < 20:
            what = "an app: take the file without .apk" if head[:2] == b"PK" else "no program"
            raise Failed(f"{binary} is {what} (an ELF file for Android is needed)")
        made_for = PROCESSORS.get(struct.unpack("<H", head[18:20])[0], "another processor")
        taken = self.shell("getprop ro.product.cpu.abilist").strip().split(",")
        if made_for not in taken:
            names = [PUBLISHED[abi] for abi in taken if abi in PUBLISHED]
            other = f": take {names[0]}_benchmark_model" if names else ""
            raise Failed(f"{binary} is for {made_for}, and the phone runs {taken}{other}")


# --- Measuring ----------------------------------------------------------------------------------


def command(number, options, profile=False):
    """Return the shell command that runs the file of this number once."""
    flags = {
        "graph": f"{number}.tflite",
        "num_threads": options.threads,
        "num_runs": options.runs,
        "warmup_runs": options.warmup,
        "min_secs": options.seconds,
    }
    flags |= dict(flag.split("=", 1) for flag in options.flag)
    if profile:
        flags["enable_op_profiling"] = "true"
    words = ["taskset", options.taskset] if options.taskset else []
    words += ["./benchmark_model", *(f"--{name}={value}" for name, value in flags.items())]
    return f"cd {FOLDER} && {shlex.join(words)} 2>&1"


class Visits:
    """What was measured of one file."""

    def __init__(self, file):
        self.file, self.times, self.reason = file, [], None

    def row(self, first, runtime):
        """Return it as plain data, in the schema of `kprune benchmark --json`."""
        data, times = self.file.read_bytes(), self.times
        done = bool(times) and self.reason is None
        deciles = [times[0]] * 2 if done else [None] * 2
        if done and len(times) > 1:
            deciles = statistics.quantiles(times, n=10, method="inclusive")
        speedup = None
        if done and len(first.times) == len(times):
            speedup = statistics.median(a / b for a, b in zip(first.times, times))
        return {
            "path": str(self.file),
            "runtime": runtime,
            "median": statistics.median(times) if done else None,
            "p10": deciles[0],
            "p90": deciles[-1],
            "speedup": speedup,
            "bytes": len(data),
            "gzipped_bytes": len(gzip.compress(data, 9, mtime=0)),
            "parameters": None,
            "nonzeros": None,
            "flops": None,
            "difference": None,
            "reason": self.reason,
        }


def measure(phone, options):
    """Push the binary and the files, run them in rounds; return the report."""
    phone.check(options.binary)
    about = phone.about()
    files = [Visits(file) for file in options.files]
    try:
        phone.shell(f"rm -rf {FOLDER}; mkdir -p {FOLDER}")
        phone.push(options.binary, "benchmark_model")
        phone.shell(f"chmod 755 {FOLDER}/benchmark_model")
        for number, each in enumerate(files):
            phone.push(each.file, f"{number}.tflite")
        order = random.Random(options.seed)
        for _ in range(options.rounds):
            for number in order.sample(range(len(files)), len(files)):
                visit(phone, files[number], command(number, options))
        if options.profile:
            for number, each in enumerate(files):
                target = options.profile / f"{each.file.name}.profile.txt"
                target.write_text(phone.shell(command(number, options, profile=True)))
    finally:
        with suppress(Failed):
            phone.shell(f"rm -rf {FOLDER}")
    runtime = " ".join(["benchmark_model", *options.flag])
    digest = hashlib.sha256(options.binary.read_bytes()).hexdigest()[:12]
    return {
        "rows": [each.row(files[0], runtime) for each in files],
        "threads": options.threads,
        "batch_size": "as in the file",
        "rounds": options.rounds,
        "warmup": options.warmup,
        "seed": options.seed,
        "tolerance": None,
        "machine": about | {"runtimes": {options.binary.name: f"sha256 {digest}"}},
    }


def visit(phone, each, line):
    """Run a file once more, unless it did not run before."""
    if each.reason is not None:
        return
    text = phone.shell(line)
    try:
        each.times.append(latency(text))
    except Failed as error:
        if "does not start" in str(error):
            raise
        each.reason = str(error)


# --- The terminal -------------------------------------------------------------------------------


def show(report):
    """Print a report as a table."""

    def cells(row):
        times = [row[name] for name in ("median", "p10", "p90")]
        shown = ["-" if time is None else f"{1000 * time:.3f} ms" for time in times]
        speed = "-" if row["speedup"] is None else f"{row['speedup']:.2f}x"
        return [Path(row["path"]).name, *shown, speed]

    table = [["file", "median", "p10", "p90", "speed"], *map(cells, report["rows"])]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    about = report["machine"]
    print(f"{about['processor']} ({about['architecture']}), {report['threads']} thread(s)")
    for line in table:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths))
        print("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())


def arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help=".tflite files")
    parser.add_argument("--binary", type=Path, required=True, help="benchmark_model for the phone")
    parser.add_argument("--adb", default="adb", help="the program adb")
    parser.add_argument("--serial", help="of the phone, where several are connected")
    parser.add_argument("--threads", type=int, default=1, help="threads the runtime may use")
    parser.add_argument("--rounds", type=int, default=10, help="visits to every file")
    parser.add_argument("--runs", type=int, default=50, help="runs a visit, at least")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds a visit, at least")
    parser.add_argument("--warmup", type=int, default=5, help="runs before each visit")
    parser.add_argument("--seed", type=int, default=0, help="of the order of visits")
    parser.add_argument("--taskset", help="mask of the cores to run on, such as f0")
    parser.add_argument(
        "--flag", action="append", default=[], help="more for the binary: use_xnnpack=false"
    )
    parser.add_argument("--profile", type=Path, help="folder for the times of the operators")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a command may take")
    parser.add_argument("--json", type=Path, help="also write everything as JSON here")
    options = parser.parse_args()
    for name, least in (("threads", 1), ("rounds", 1), ("runs", 1), ("warmup", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}")
    if not options.timeout > 0 or not options.seconds >= 0:
        parser.error("--timeout and --seconds must be positive")
    if any(not re.fullmatch(r"\w+=.*", flag) for flag in options.flag):
        parser.error(f"--flag takes NAME=VALUE, not {options.flag}")
    for file in (*options.files, options.binary):
        if not file.is_file():
            parser.error(f"no such file: {file}")
    if any(file.suffix != ".tflite" for file in options.files):
        parser.error("can measure .tflite files only")
    for folder in (options.json and options.json.parent, options.profile):
        if folder and not folder.is_dir():
            parser.error(f"no such folder: {folder}")
    return options


def main():
    """Measure, print and write."""
    options = arguments()
    try:
        report = measure(Phone(options.adb, options.serial, options.timeout), options)
    except Failed as error:
        sys.exit(str(error))
    show(report)
    if options.json:
        write_json(report, options.json)
    reasons = [f"{row['path']}: {row['reason']}" for row in report["rows"] if row["reason"]]
    if reasons:
        sys.exit("\n".join(reasons))


if __name__ == "__main__":
    main()
