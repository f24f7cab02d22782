"""Results as files, written whole or not at all."""

import json

from kprune._system.files import destination, replacing, write


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
