"""The images that the demo learns from: scikit-learn's digits, or the user's."""

from pathlib import Path

import numpy as np


def digits():
    """Return scikit-learn's digits: their name, and images and classes to train and to test on."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            'The demo\'s digits come with scikit-learn. Install it with: pip install "kprune[demo]"'
            ", or give data of your own."
        ) from error
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=0.2, random_state=0, stratify=y
    )
    return "scikit-learn's digits", *_prepared(x_train, y_train, x_test, y_test)


def load(path):
    """Return what `digits` does, of an `.npz` file; see `demo`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[key] for key in keys]
    except Exception as error:
        raise ValueError(
            f"{path} must be an .npz file with the arrays {', '.join(keys)}, without pickles: "
            f"{error}"
        ) from error
    for key, array in zip(keys, arrays):
        good_x = array.ndim in (3, 4) and array.dtype.kind in "uif"
        good_y = array.ndim == 1 and array.dtype.kind in "ui"
        if not (good_x if key[0] == "x" else good_y) or len(array) == 0:
            raise ValueError(
                f"{path}: {key} must be "
                + ("images (n, height, width[, channels])" if key[0] == "x" else "integer classes")
                + f". Received: shape {array.shape}, dtype {array.dtype}"
            )
    for x, y, half in ((arrays[0], arrays[1], "train"), (arrays[2], arrays[3], "test")):
        if len(x) != len(y):
            raise ValueError(f"{path}: {len(x)} images and {len(y)} classes in x_{half}, y_{half}")
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise ValueError(
            f"{path}: x_train and x_test must hold images of one size. Received: "
            f"{arrays[0].shape[1:]} and {arrays[2].shape[1:]}"
        )
    return path.stem, *_prepared(*arrays)


def _prepared(x_train, y_train, x_test, y_test):
    def images(x):
        x = x[..., None] if x.ndim == 3 else x
        return x.astype("float32") / np.float32(x_train.max() or 1)

    classes = [y.astype("int32") for y in (y_train, y_test)]
    return (images(x_train), classes[0]), (images(x_test), classes[1])
