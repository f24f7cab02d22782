"""What a target has no kernels for: operators of a file, and the types that they read."""

from kprune.formats.tflite.lookup_tables import DECODE

_TABLES = DECODE.decode()
_OTHER = "write that part with other operations, or leave it out of the model"


def unfit(graph, target):
    """Find the operators of a file that a target does not run.

    Args:
        graph: the `Graph` of a `.tflite` file.
        target: a `Target`.

    Returns:
        A list of `(op, why, advice)`: an `Op`, and clauses. Without `Target.operators`, what is for
        another runtime only.
    """
    return [(op, *said) for op in graph.ops if (said := _why(op, target))]


def _why(op, target):
    if target.operators is None:
        why = f"its weights are in TensorFlow Lite Micro's lookup tables, not for {target.runtime}"
        return (why, "export it without target='tflm'") if op.type == _TABLES else None
    if op.type not in target.operators:
        return f"{target.runtime} has no operator {op.type}", _OTHER
    if op.weight is None:
        return None
    if op.weight.encoding != "dense":
        return f"{target.runtime} reads no sparse weights", "export it with sparse=False"
    if op.weight.dtype == "float16":
        advice = "export it with quantize='codebook', 'int8' or None"
        return f"{target.runtime} has no kernels for float16", advice
    if op.weight.dtype == "int8" and op.inputs[0].floating:
        why = f"{target.runtime} has no hybrid kernels: its weights are integers, its inputs floats"
        return why, "export it with quantize='int8'"
    return None
