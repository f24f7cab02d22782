"""Operators in LiteRT.js."""

import pytest

from kprune.formats.single_operator import SingleOperator
from kprune.formats.tflite.single_operator import tflite_empty
from kprune.search.latency.web import WebTimer
from tests.helpers.browser import require_browser


def operator(blob):
    return SingleOperator("X", "x", ((1,),), lambda shapes: blob, lambda shapes: 1.0)


def test_one_thread_only():
    with pytest.raises(ValueError, match=r"LiteRT.js runs on one thread. Received: threads=2"):
        WebTimer(2)


@pytest.mark.slow
def test_files_are_timed_in_the_browser(tmp_path):
    require_browser()
    timer = WebTimer()
    blobs = [tflite_empty(size=1 << 12), b"damaged", tflite_empty(40)]
    times = timer.operators([(operator(blob), ((1,),)) for blob in blobs])
    assert [time is None for time in times] == [False, True, False]
    assert all(time is None or time >= 0 for time in times)
    paths = [tmp_path / f"{n}.tflite" for n in (1, 2)]
    for path in paths:
        path.write_bytes(tflite_empty())
    assert timer.whole(*paths) > 0
    assert timer.place[0] == "LiteRT.js"
