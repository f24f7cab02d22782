"""The child process of `transport`: loads a `.keras` file on TensorFlow and converts it.

A program of its own, given a folder. What its parent imports from is all that it imports from,
so nothing but the standard library is imported before that is set.
"""

import json
import pickle
import sys
from pathlib import Path


def main(folder):
    """Convert the model in `folder` as its job says; leave a result, or a refusal, there."""
    sys.path[:] = json.loads((folder / "path.json").read_text())

    import keras

    from kprune._system.errors import ExportError
    from kprune.export import transport
    from kprune.export.convert import convert

    job = pickle.loads((folder / transport.JOB).read_bytes())
    model = keras.saving.load_model(
        folder / transport.MODEL,
        custom_objects=job["parcel"].unpack(),
        compile=False,
        safe_mode=False,
    )
    try:
        data = convert(model, job["request"])
    except ExportError as error:
        (folder / transport.REFUSAL).write_text(str(error))
        return
    (folder / transport.RESULT).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
