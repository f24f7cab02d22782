"""What `check` says of files, and what `export_tflite` makes, against a real browser."""

import keras
import pytest

import kprune
from kprune.measure import web
from tests.helpers.browser import require_browser
from tests.helpers.target_graphs import GRAPHS, as_it_is, model

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the files are the same on every backend"
)

EXPORTED = ["asymmetric_depthwise", "max_pooling", "late_batch_normalization", "mean_over_height"]
EXPORTED += ["convolution_after_mean", "product_with_mean", "squeeze_and_excite", "nested"]


@pytest.fixture(scope="module", autouse=True)
def _browser():
    require_browser()


def test_check_and_the_browser_agree_on_every_graph(tmp_path):
    for name in GRAPHS:
        (tmp_path / f"{name}.tflite").write_bytes(as_it_is(name))
    files = sorted(tmp_path.glob("*.tflite"))
    report = web.benchmark_web(files, rounds=0, tolerance=1e-4)
    runs = {row.path: row.reason is None for row in report.rows}
    assert runs == {str(file): kprune.check(file, "litert-wasm").ok for file in files}


def test_every_exported_file_is_right_in_the_browser(tmp_path):
    for name in EXPORTED:
        kprune.export_tflite(model(name), tmp_path / f"{name}.tflite", tolerance=1e-3)
    report = web.benchmark_web(sorted(tmp_path.glob("*.tflite")), rounds=0, tolerance=1e-4)
    assert {row.path: row.reason for row in report.failures} == {}
