import gzip
import json

import pytest

from kprune.report.files import gzipped_bytes, write_json


def test_gzipped_bytes_is_what_gzip_writes(tmp_path):
    path = tmp_path / "weights.bin"
    data = bytes(range(256)) * 9000 + bytes(500_000)
    path.write_bytes(data)
    assert gzipped_bytes(path) == len(gzip.compress(data, compresslevel=9, mtime=0))
    path.write_bytes(b"")
    assert gzipped_bytes(path) == len(gzip.compress(b"", mtime=0))


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
