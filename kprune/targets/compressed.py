"""What `for_target` prunes where weights are stored compressed: on an Ethos-U, all that pays."""

from kprune.pruning.patterns import NM, Unstructured
from kprune.report import tables
from kprune.runtimes.vela_tables import WEIGHTS
from kprune.targets.ethos_u import foreseen_bound

_KEPT, _OF = 2, 4  # what takes half the multiply-adds: at most 2 of every 4 inputs kept
_FEW = 0.1  # of the model's weights: depthwise kernels that are fewer save next to nothing


def choose(ops, target, sparsity, channels):
    """Choose a pattern for each layer with a kernel.

    Args:
        ops: the model's `Op`s.
        target: a `Target` with compressed weights.
        sparsity: float, of the zeros.
        channels: bool, whether layers that are not faster with zeros are to lose channels.

    Returns:
        ({layer name: {"sparsity": ..., "pattern": ...}}, {layer name: why or why not}).
    """
    weighted = [op for op in ops if op.weight is not None]
    total = sum(op.weight.size for op in weighted)
    depthwise = sum(op.weight.size for op in weighted if op.kind == "depthwise")
    chosen, reasons, settings = {}, {}, {}
    for op in weighted:
        if op.name in reasons:
            continue
        if op.kind == "depthwise" and depthwise < _FEW * total:
            share = tables.percent(depthwise / total)
            reasons[op.name] = f"depthwise kernels are {share} of the weights: too few to pay"
            continue
        bound, clear = foreseen_bound(op, target)
        faster = bound == WEIGHTS
        if channels and not faster:
            reasons[op.name] = "zeros would only save flash"
            continue
        pattern, share = _pattern(op, target, sparsity)
        # One setting for all of a kind, so that an allocation of `Pruning`'s shares it out.
        setting = {"sparsity": share, "pattern": pattern}
        chosen[op.name] = settings.setdefault((share, str(pattern)), setting)
        reasons[op.name] = _why(faster, clear, pattern)
    return chosen, reasons


def _pattern(op, target, sparsity):
    """(pattern, its sparsity): in pairs where the target has them and the shapes allow it."""
    if target.pairs and op.kind in ("conv", "dense") and sparsity >= 1 - _KEPT / _OF:
        # At most 2 of every 8, 12, 16 … are at most 2 of every 4, too.
        group = _OF * max(1, round(_KEPT / (1 - sparsity) / _OF))
        inputs = op.inputs[0].shape[-1]
        if op.groups == 1 and inputs and inputs % _OF == 0 and inputs >= group:
            reached = 1 - _KEPT / group
            same = abs(reached - sparsity) < 1e-9
            return NM(_KEPT, group), sparsity if same else reached
    return Unstructured(), sparsity


def _why(faster, clear, pattern):
    why = "zeros save flash" + (f", and time{'' if clear else ', perhaps'}" if faster else "")
    if isinstance(pattern, NM):
        why += "; in pairs they take half the multiply-adds"
    elif not faster:
        why += "; for time, take channels"
    return why
