"""The block of channels that a runtime computes at once, by stairs in times."""

import numpy as np
import pytest

from kprune.search.latency.blocks import BLOCKS, block_of


def curve(block, noise=0.0, seed=0, start=32):
    widths = list(range(start, start + 17))
    rng = np.random.default_rng(seed)
    times = [3.0 + np.ceil(n / block) * block * (1 + noise * rng.normal()) for n in widths]
    return widths, times


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("start", [32, 45])
def test_stairs_are_found(block, start):
    assert block_of([curve(block, start=start)]) == block


@pytest.mark.parametrize("block", [4, 8, 16])
@pytest.mark.parametrize("seed", range(5))
def test_stairs_are_found_in_noise(block, seed):
    curves = [curve(block, 0.01, seed + 10 * i) for i in range(3)]
    assert block_of(curves) == block


def test_times_that_do_not_depend_on_channels_say_nothing():
    rng = np.random.default_rng(0)
    widths = list(range(32, 49))
    assert block_of([(widths, (1 + 0.01 * rng.normal(size=17)).tolist())]) is None
    assert block_of([(widths, [1.0] * 17)]) is None
    assert block_of([(widths, [None] * 17)]) is None
    assert block_of([]) is None
