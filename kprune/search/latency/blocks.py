"""How many channels a runtime computes at once, by the stairs in the times of its operators."""

import numpy as np

BLOCKS = (1, 2, 4, 8, 16)
_STEPS = 16  # Widths beside each other that are measured.
_CURVES = 3  # Operators that are measured so.
_NARROWEST = 32  # Groups of fewer channels say little.
_EXPLAINED = 0.5  # Of the variance, or there is no answer.
_AS_GOOD = 1.3  # How much worse a coarser block may explain the times.


def widths_beside(cuts, times):
    """Choose the operators that show blocks best: those that take the most time.

    Args:
        cuts: a `Cuts`.
        times: a `Times` that knows the dense file's operators.

    Returns:
        List of `(widths, requests)`: with one group's channels at these widths, what to measure.
    """
    counts, sizes = cuts.counts, cuts.sizes
    dense, curves, seen = sizes(counts), [], set()
    for g in np.flatnonzero(cuts.free & (counts >= _NARROWEST)):
        widths = [int(counts[g]) // 2 + step for step in range(_STEPS + 1)]
        tables = []
        for width in widths:
            kept = counts.copy()
            kept[g] = width
            tables.append(sizes(kept))
        for i, operator in enumerate(cuts.operators):
            asked = tuple(table[i] for table in tables)
            key = operator.kind, asked
            if asked[0] != dense[i] and key not in seen:
                seen.add(key)
                time = times.at(operator, dense[i]) or 0.0
                curves.append((time, widths, [(operator, shapes) for shapes in asked]))
    curves.sort(key=lambda curve: -curve[0])
    return [curve[1:] for curve in curves[:_CURVES]]


def block_of(curves):
    """Find the block whose stairs explain times best, and of equally good ones the largest.

    Args:
        curves: list of `(widths, seconds)`: seconds are None where nothing was measured.

    Returns:
        One of `BLOCKS`; None where none explains the times.
    """
    left = np.zeros(len(BLOCKS))
    used = 0
    for widths, seconds in curves:
        if None in seconds or len(set(seconds)) < 2:
            continue
        times = np.array(seconds, float)
        variance = np.sum((times - times.mean()) ** 2)
        left += [_unexplained(np.array(widths), times, block) / variance for block in BLOCKS]
        used += 1
    if not used or left.min() / used > 1 - _EXPLAINED:
        return None
    # What noise leaves differs a little from block to block.
    good = left <= _AS_GOOD * left.min() + 1e-3 * used
    return max(block for block, is_good in zip(BLOCKS, good) if is_good)


def _unexplained(widths, times, block):
    """The squares that are left of times, by `a + b * blocks` with b of at least 0."""
    stairs = np.ceil(widths / block)
    stairs = stairs - stairs.mean()
    slope = max(0.0, stairs @ times / max(stairs @ stairs, 1e-12))
    return np.sum((times - times.mean() - slope * stairs) ** 2)
