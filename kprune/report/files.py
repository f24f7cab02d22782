"""Files: written whole or not at all, and what they weigh."""

import json
import zlib

from kprune.export.files import destination, replacing, write


def gzipped_bytes(path):
    """Return how many bytes a file has after gzip at its highest level: what a download costs.

    Nothing in it depends on the time or the file's name, so equal files give equal figures.
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    total = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())


def write_json(path, data):
    """Write `data` as indented JSON, whole or not at all; NaN and infinity are refused.

    Raises:
        ValueError: `data` holds a NaN or an infinite number, or the name does not end in `.json`.
        OSError: the folder does not exist or cannot be written to.
        ExportError: the disk is full.
    """
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    path = destination(path, ".json")
    with replacing(path) as temporary:
        write(temporary, text.encode(), path)
