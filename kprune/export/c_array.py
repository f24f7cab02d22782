"""A `.tflite` file as an array in C, for programs that have no files."""

import contextlib
import re
from pathlib import Path

from kprune._system import files
from kprune._system.type_aliases import FilePath

_MARK = "// Written by kprune: "
_A_LINE = 12
# Also compiled as C, which has `alignas` from 2011 on.
_SOURCE = """{about}
#include "{header}"

#ifndef __cplusplus
#include <stdalign.h>
#endif

alignas(16) const unsigned char {name}[] = {{
{values}
}};
const unsigned int {name}_len = {length};
"""
_HEADER = """{about}
#ifndef {guard}
#define {guard}

#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char {name}[];
extern const unsigned int {name}_len;

#ifdef __cplusplus
}}
#endif

#endif  // {guard}
"""


def to_c_array(path: FilePath) -> list[Path]:
    """Write a `.tflite` file as an array in C beside it, as TensorFlow Lite Micro takes it.

    Of `model.tflite` that is `model.cc` with `alignas(16) const unsigned char g_model[]` and
    `g_model_len`, and `model.h`, which declares them, for C and C++. The same file always gives the
    same bytes.

    Example:

    ```python
    kprune.to_c_array("model.tflite")  # model.cc, model.h
    ```

    Args:
        path: a `.tflite` file, of kprune's or of any other.

    Returns:
        The two paths.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TFLite file, or its name cannot stand in an `#include`.
        FileExistsError: a file is in the way that was not written by kprune.
        OSError: nothing can be written beside it.
        ExportError: the disk is full.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    blob = path.read_bytes()
    if path.suffix != ".tflite" or blob[4:8] != b"TFL3":
        raise ValueError(
            f"Give a .tflite file. Received: '{path}', {len(blob):,} bytes that begin with "
            f"{blob[:8]!r}"
        )
    paths = beside(path)
    with contextlib.ExitStack() as places:
        temporaries = [places.enter_context(files.replacing(each)) for each in paths]
        for temporary, where, data in zip(temporaries, paths, sources(blob, path.name)):
            files.write(temporary, data, where)
    return paths


def beside(path):
    """Return where the source and the header of a file go.

    Raises:
        ValueError: the file's name cannot stand in an `#include`.
        FileExistsError: something else is there.
    """
    if re.search(r'["\\\n\r]', path.name):
        raise ValueError(
            "A C program cannot include a file whose name has quotes, backslashes or line breaks "
            f"in it: give another name. Received: path={str(path)!r}"
        )
    paths = [files.destination(path.with_suffix(each), each) for each in (".cc", ".h")]
    for each in paths:
        if each.is_file() and not each.read_bytes().startswith(_MARK.encode()):
            raise FileExistsError(
                f"'{each}' was not written by kprune, and would be replaced: move it, or give the "
                "model another name."
            )
    return paths


def sources(blob, filename):
    """Return the bytes of the `.cc` and of the `.h` file.

    Args:
        blob: the bytes of a `.tflite` file.
        filename: its name, which those of the array and of the header come from.
    """
    stem = filename.removesuffix(".tflite")
    name = "g_" + re.sub(r"[^0-9A-Za-z_]", "_", stem)
    digits = [f"0x{byte:02x}" for byte in blob]
    rows = [", ".join(digits[i : i + _A_LINE]) for i in range(0, len(digits), _A_LINE)]
    words = {
        "about": f"{_MARK}{filename}, {len(blob):,} bytes.",
        "header": f"{stem}.h",
        "guard": f"KPRUNE_{name[2:].upper()}_H_",
        "name": name,
        "length": len(blob),
        "values": "\n".join(f"    {row}," for row in rows),
    }
    return [text.format(**words).encode() for text in (_SOURCE, _HEADER)]
