"""The child process of `transport`: loads a `.keras` file on TensorFlow and converts it."""

import pickle
import sys
from pathlib import Path

import keras

from kprune.export import transport
from kprune.export.convert import convert
from kprune.export.errors import ExportError


def main(folder):
    """Convert the model in `folder` as its job says; leave a result, or a refusal, there."""
    job = pickle.loads((folder / transport.JOB).read_bytes())
    objects = {name: pickle.loads(data) for name, data in job["objects"].items()}
    model = keras.saving.load_model(
        folder / transport.MODEL, custom_objects=objects, compile=False, safe_mode=False
    )
    try:
        data = convert(model, job["request"])
    except ExportError as error:
        (folder / transport.REFUSAL).write_text(str(error))
        return
    (folder / transport.RESULT).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
