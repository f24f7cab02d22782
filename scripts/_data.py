"""The data of the scripts: those of `keras.datasets`, or of .npz files."""

import numpy as np

VALIDATION = 10_000


def images(name, data_dir, validate=False, train_size=None, validation=VALIDATION):
    """Return `(x, y)` to train on and `(x, y)` to measure the error on.

    Args:
        name: "mnist" or "fashion_mnist".
        data_dir: folder that holds <name>.npz; None to let Keras download it.
        validate: hold out the last training images, and leave the test images alone.
        train_size: only the first training images; None for all.
        validation: how many images are held out.

    Returns:
        Images as float32 [n, 28, 28, 1] in [0, 1], labels as uint8 [n].
    """
    if data_dir:
        with np.load(data_dir / f"{name}.npz", allow_pickle=False) as arrays:
            trained = arrays["x_train"], arrays["y_train"]
            held_out = arrays["x_test"], arrays["y_test"]
    else:
        import keras

        try:
            trained, held_out = getattr(keras.datasets, name).load_data()
        except Exception as error:  # Keras raises no other
            raise OSError(
                f"{name} could not be downloaded; pass the folder that holds {name}.npz as "
                f"--data-dir. Received: {error}"
            ) from None
    if validate:
        held_out = tuple(a[-validation:] for a in trained)
        trained = tuple(a[:-validation] for a in trained)
    trained = tuple(a[:train_size] for a in trained)
    return tuple((x[..., None].astype("float32") / 255, y) for x, y in (trained, held_out))


def shifted(x, y, batch_size, seed, pixels=1):
    """Return batches to train on, in which every image is moved by up to `pixels` each way.

    Args:
        x: float array [n, height, width, 1]; 0 is what comes in at the border.
        y: array [n].
        batch_size: int.
        seed: of the order and of the moves, which are new in every epoch.
        pixels: int.

    Returns:
        A `keras.utils.PyDataset`.
    """
    import keras

    moved = np.pad(x[..., 0], ((0, 0), (pixels, pixels), (pixels, pixels)))
    moved = np.lib.stride_tricks.sliding_window_view(moved, x.shape[1:3], axis=(1, 2))
    rng = np.random.default_rng(seed)

    class Shifted(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.on_epoch_end()

        def __len__(self):
            return -(-len(x) // batch_size)

        def __getitem__(self, i):
            batch = slice(i * batch_size, (i + 1) * batch_size)
            rows = self.order[batch]
            return moved[rows, *self.moves[batch].T][..., None], y[rows]

        def on_epoch_end(self):
            self.order = rng.permutation(len(x))
            self.moves = rng.integers(0, 2 * pixels + 1, (len(x), 2))

    return Shifted()
