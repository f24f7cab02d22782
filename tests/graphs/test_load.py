"""`.keras` files that are not what they say, refused before Keras unpacks them."""

import tracemalloc
import warnings
import zipfile
import zlib

import keras
import pytest

from kprune.graphs.load import load_keras

MANY = 300_000_000  # bytes of zeros, which take 300 kB packed


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    return path


def zeros(size):
    piece = bytes(1 << 20)
    return (piece[: min(len(piece), size - done)] for done in range(0, size, len(piece)))


def repacked(path, change, method=zipfile.ZIP_DEFLATED):
    """Write the archive again, `change`d while its directory is not written yet."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        change(archive)
    return path


def refused(path, match):
    """Refuse it with one line, and with little memory."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=match) as error:
                load_keras(path)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_packed_file_that_is_honest_is_loaded(saved):
    assert load_keras(repacked(saved, lambda archive: None)).count_params() == 8


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5", "assets/x"])
def test_a_member_that_is_larger_than_it_says(saved, name):
    def lie(archive):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are there twice
            with archive.open(name, "w", force_zip64=True) as member:
                for piece in zeros(MANY):
                    member.write(piece)
        entry = archive.filelist[-1]
        entry.file_size, entry.CRC = 1000, zlib.crc32(bytes(1000))

    refused(repacked(saved, lie), f"'{name}' holds more than the 1,000 bytes that it says")


def test_a_member_that_says_how_large_it_is(saved):
    def add(archive):
        with archive.open("assets/x", "w", force_zip64=True) as member:
            for piece in zeros(MANY):
                member.write(piece)

    refused(repacked(saved, add), "it says to hold 300,0")


def test_packed_as_keras_does_not(saved):
    refused(repacked(saved, lambda archive: None, zipfile.ZIP_BZIP2), "a way that Keras does not")


@pytest.mark.parametrize("name", ["../x", "assets/../../x", "/etc/x", "..\\x", "C:\\x"])
def test_names_that_lead_outside(saved, name, capfd):
    refused(repacked(saved, lambda archive: archive.writestr(name, b"x")), "outside of its own")
    assert capfd.readouterr() == ("", "")


def test_damaged_packing(saved):
    def damage(archive):
        archive.writestr("assets/x", bytes(range(256)) * 100)
        entry = archive.filelist[-1]
        end = archive.fp.tell()
        archive.fp.seek(end - entry.compress_size)
        archive.fp.write(b"\xff" * min(entry.compress_size, 50))
        archive.fp.seek(end)

    refused(repacked(saved, damage), "m.keras is damaged")
