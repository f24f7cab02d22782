"""The script that takes blocks out of a text classifier."""

import json

import keras
import pytest

from tests.helpers.scripts import fake_reviews, run

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend shows that they run"
)


@pytest.mark.slow
def test_reproduce_depth(tmp_path):
    fake_reviews(tmp_path)
    out = tmp_path / "out.json"
    arguments = ["--data-dir", tmp_path, "--json", out, "--seeds", 1, "--no-latency"]
    done = run("reproduce_depth.py", *arguments, "--train-size", 800)
    assert not done.stderr
    assert "Blocks that stay" in done.stdout
    report = json.loads(out.read_text())
    assert report["accuracy_on"] == "200 test reviews"
    (only,) = report["runs"]
    assert len(only["blocks"]) <= 8
    for arm in ("pruned", "channels", "random", "scratch"):
        assert abs(only["flops"][arm] / only["flops"]["dense"] - 0.5) <= 0.03
    assert only["accuracy"]["dense"] > 0.9
    assert only["accuracy"]["pruned"] > 0.9
