import json

import pytest

from kprune.report.files import write_json


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    with pytest.raises(OSError, match="missing"):
        write_json(tmp_path / "missing" / "out.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
