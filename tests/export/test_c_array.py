"""Files as arrays in C: parsed back, compiled by a C and a C++ compiler, and never half there."""

import re
import shutil
import subprocess

import numpy as np
import pytest

import kprune
from kprune.export import VerificationError, c_array
from tests.helpers.runtimes import SKIP, needs_tensorflow
from tests.helpers.zoo import ZOO

BLOB = b"\x1c\x00\x00\x00TFL3" + bytes(range(256)) * 3 + b"\x07"
MAIN = """
#include "{header}"
#include <stdint.h>
#include <stdio.h>
int main(void) {{
  if ((uintptr_t){name} % 16) return 2;
  return fwrite({name}, 1, {name}_len, stdout) != {name}_len;
}}
"""


def parsed(source):
    """{name, bytes, length} of what a `.cc` file says."""
    name, values = re.search(
        r"alignas\(16\) const unsigned char (\w+)\[\] = \{(.*?)\};", source, re.DOTALL
    ).groups()
    (length,) = re.findall(rf"const unsigned int {name}_len = (\d+);", source)
    return name, bytes(int(each, 16) for each in re.findall(r"0x\w\w", values)), int(length)


def test_it_reads_back_as_the_file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(BLOB)
    paths = kprune.to_c_array(path)
    assert paths == [tmp_path / "model.cc", tmp_path / "model.h"]
    source, header = (each.read_text() for each in paths)
    assert parsed(source) == ("g_model", BLOB, len(BLOB))
    assert '#include "model.h"' in source
    assert max(map(len, source.splitlines())) < 100
    assert "extern const unsigned char g_model[];" in header
    assert "extern const unsigned int g_model_len;" in header
    assert header.startswith("// Written by kprune: model.tflite, 777 bytes.\n")
    guards = re.findall(r"^#(?:ifndef|define) (\w+_H_)$", header, re.MULTILINE)
    assert guards == ["KPRUNE_MODEL_H_"] * 2
    before = [each.read_bytes() for each in paths]
    kprune.to_c_array(path)
    assert [each.read_bytes() for each in paths] == before


@pytest.mark.parametrize("name", ["model", "3-nets.v2 (b)", "größe", "class"])
@pytest.mark.parametrize("language", ["c", "c++"])
def test_compilers_see_the_same_bytes(name, language, tmp_path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path / f"{name}.tflite"
    path.write_bytes(BLOB)
    source, header = kprune.to_c_array(path)
    array = parsed(source.read_text())[0]
    assert re.fullmatch(r"g_[0-9A-Za-z_]+", array)
    main = tmp_path / "main.c"
    main.write_text(MAIN.format(header=header.name, name=array), encoding="utf-8")
    standard = "-std=c11" if language == "c" else "-std=c++11"
    command = [compiler, "-x", language, standard, "-Wall", "-Wextra", "-Werror", "-c", source]
    done = subprocess.run([*command, "-o", tmp_path / "a.o"], capture_output=True, text=True)
    if "cc1plus" in done.stderr:
        pytest.skip("there is no C++ compiler")
    assert done.returncode == 0, done.stderr
    # The program is in C both times: what C++ compiled links with it.
    command = [compiler, "-x", "c", main, "-x", "none", tmp_path / "a.o", "-o", tmp_path / "a"]
    subprocess.run(command, check=True)
    assert subprocess.run([tmp_path / "a"], check=True, capture_output=True).stdout == BLOB


@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
def test_exports_write_it_of_the_bytes_they_keep(tmp_path):
    data = np.random.default_rng(0).normal(size=(30, *ZOO["mlp"]().input_shape[1:]))
    report = kprune.export_tflite(
        ZOO["mlp"](), tmp_path / "m.tflite", "int8", data, io="int8", c_array=True
    )
    assert report.beside == [str(tmp_path / "m.cc"), str(tmp_path / "m.h")]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.cc", "m.h", "m.tflite"]
    name, values, length = parsed((tmp_path / "m.cc").read_text())
    assert (name, length) == ("g_m", report.bytes)
    assert values == (tmp_path / "m.tflite").read_bytes()


@pytest.mark.skipif(needs_tensorflow, reason=SKIP)
def test_a_file_that_fails_leaves_no_array(tmp_path):
    with pytest.raises(VerificationError):
        kprune.export_tflite(
            ZOO["mlp"](), tmp_path / "m.tflite", "float16", tolerance=1e-12, c_array=True
        )
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_written_by_kprune_stays(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(BLOB)
    (tmp_path / "model.h").write_text("#pragma once\n")
    with pytest.raises(FileExistsError, match=r"model\.h' was not written by kprune"):
        kprune.to_c_array(path)
    assert (tmp_path / "model.h").read_text() == "#pragma once\n"
    assert not (tmp_path / "model.cc").exists()


@pytest.mark.parametrize(
    ("name", "blob", "error", "said"),
    [
        ("m.onnx", BLOB, ValueError, "Give a .tflite file"),
        ("m.tflite", b"no such thing", ValueError, "13 bytes that begin with"),
        ('a".tflite', BLOB, ValueError, "quotes"),
        ("m.tflite", None, FileNotFoundError, "No such file"),
    ],
)
def test_what_is_no_such_file_is_refused(name, blob, error, said, tmp_path):
    if blob is not None:
        (tmp_path / name).write_bytes(blob)
    with pytest.raises(error, match=said):
        kprune.to_c_array(tmp_path / name)
    assert [each.name for each in tmp_path.iterdir()] == ([] if blob is None else [name])


def test_names():
    source, header = c_array.sources(BLOB, "9 lives.tflite")
    assert b'#include "9 lives.h"' in source
    assert b"g_9_lives_len;" in header
