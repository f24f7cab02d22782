import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kprune.measure import benchmark
from kprune.measure.compare import Comparison, read_report


def test_reports_of_two_machines_side_by_side(files, tmp_path):
    here = benchmark([files / "cnn.onnx", files / "cnn.tflite"], rounds=2, warmup=0).to_dict()
    path = tmp_path / "there.json"
    there = json.loads(json.dumps(here))
    there["machine"]["processor"] = "Raspberry Pi 5"
    there["rows"][1] |= {"path": "/home/pi/cnn.tflite", "median": 0.123, "speedup": 7.5}
    there["rows"].append(there["rows"][1] | {"path": "x.tflite", "median": None, "reason": "why"})
    path.write_text(json.dumps(there))
    text = str(Comparison(here, read_report(path)))
    (line,) = [line for line in text.splitlines() if line.strip().startswith("cnn.tflite")]
    assert "123.0 ms" in line
    assert "7.50x" in line
    assert "there: Raspberry Pi 5" in text
    assert "x.tflite there: why" in text


def test_what_is_no_report_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_report(tmp_path / "none.json")
    path = tmp_path / "bad.json"
    row = {"path": "m.tflite", "runtime": "LiteRT", "median": "fast"}
    for text in ("", "\xff", "[]", '{"rows": []}', "[" * 100_000, "NaN"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"bad\.json"):
            read_report(path)
    path.write_text(json.dumps({"machine": {}, "rows": [row]}))
    with pytest.raises(ValueError, match=r"bad\.json is not a report"):
        read_report(path)


plain = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
names = st.sampled_from(["path", "runtime", "median", "speedup", "difference", "reason"])
rows = st.lists(st.dictionaries(names, plain), max_size=3)
reports = st.fixed_dictionaries({"rows": rows | plain, "machine": st.dictionaries(names, plain)})


@pytest.mark.slow
@given(plain | reports)
def test_any_json_is_shown_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(data))
    try:
        report = read_report(path)
    except ValueError:
        return
    assert str(Comparison(report, report))


def test_a_file_in_two_runtimes_is_compared_with_itself_in_the_same():
    def report(*runtimes):
        rows = [
            {"path": "m.onnx", "runtime": name, "median": ms / 1000, "speedup": 1.0}
            for name, ms in runtimes
        ]
        return {"rows": rows, "machine": {}}

    here = report(("ONNX Runtime", 1.0), ("OpenVINO", 2.0))
    text = str(Comparison(here, report(("OpenVINO", 30.0))))
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert "30.00 ms" in lines["m.onnx in OpenVINO"]
    assert "2.00 ms" in lines["m.onnx in OpenVINO"]
    assert "30.00 ms" not in lines["m.onnx in ONNX Runtime"]
    one = str(Comparison(report(("LiteRT", 1.0)), report(("LiteRT.js", 5.0))))
    (line,) = [line for line in one.splitlines() if line.strip().startswith("m.onnx ")]
    assert "1.00 ms" in line
    assert "5.00 ms" in line
