import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kprune.runtimes.batches import batches, join


@given(st.integers(1, 23), st.integers(1, 9))
def test_batches_join_to_what_they_were_cut_from(samples, size):
    arrays = [np.arange(samples * 2).reshape(samples, 2), np.arange(samples)]
    cut = list(batches(arrays, size))
    assert {len(part) for batch in cut for part in batch} == {size}
    for joined, array in zip(join(cut, size, samples), arrays):
        np.testing.assert_array_equal(joined, array)
