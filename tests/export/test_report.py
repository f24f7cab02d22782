from kprune.export import ExportReport
from kprune.formats.weights import StoredWeight


def test_not_all_is_not_printed_as_all():
    weight = StoredWeight("dense/kernel", (100, 1000), "float32", sparsity=0.99996)
    report = ExportReport(
        path="m.tflite",
        format="tflite",
        quantize=None,
        bytes=1,
        gzipped_bytes=1,
        max_abs_diff=0.0,
        max_rel_diff=0.0,
        top1_agreement=0.99996,
        samples=50_000,
        outputs=[],
        weights=[weight],
        seconds=1.0,
        notes=[],
    )
    assert str(report).count(">99.99%") == 3
    assert "100.00%" not in str(report)
