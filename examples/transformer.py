"""A Transformer of custom blocks at half its FLOPs: heads and widths removed, then two files.

    python examples/transformer.py --data-dir FOLDER  # FOLDER/review_sentiment.npz

The block is the one of Keras' own example of text classification: a layer made of layers, without a
word about pruning. `kprune.channel_groups` looks into it and says what can go; the smaller block is
one of plain Keras layers, or of the same class where its constructor can say the new number.

`review_sentiment.npz`: `x_train`, `x_test` (ids of characters, 96 long), `y_train`, `y_test`
(0 or 1), and `vocabulary`.
"""

from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import typer
from keras import layers, ops

import kprune

LENGTH, SIZE = 96, 64


@keras.saving.register_keras_serializable()
class TransformerBlock(layers.Layer):
    """Attention and a feed-forward network, each with a residual connection and a norm."""

    def __init__(self, size, heads, width, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(heads, size // heads)
        self.network = keras.Sequential([layers.Dense(width, "relu"), layers.Dense(size)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.dropouts = [layers.Dropout(0.1) for _ in range(2)]

    def call(self, x):
        x = self.norms[0](x + self.dropouts[0](self.attention(x, x)))
        return self.norms[1](x + self.dropouts[1](self.network(x)))


@keras.saving.register_keras_serializable()
class TokensAndPositions(layers.Layer):
    """The embedding of each token and that of its place, added up."""

    def __init__(self, length, vocabulary, size, **options):
        super().__init__(**options)
        self.tokens = layers.Embedding(vocabulary, size)
        self.positions = layers.Embedding(length, size)

    def call(self, ids):
        return self.tokens(ids) + self.positions(ops.arange(ops.shape(ids)[-1]))


def build(vocabulary):
    """Return a classifier of two blocks."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = TokensAndPositions(LENGTH, vocabulary, SIZE)(inputs)
    for _ in range(2):
        x = TransformerBlock(SIZE, 4, 4 * SIZE)(x)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of review_sentiment.npz.")],
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    size: Annotated[int | None, typer.Option(help="How many reviews of each set.")] = None,
    out: Annotated[Path, typer.Option(help="Where the files go.")] = Path("."),
):
    """Train the classifier, cut it to half its FLOPs, train on, and export it."""
    keras.utils.set_random_seed(0)
    data = np.load(data_dir / "review_sentiment.npz", allow_pickle=False)
    vocabulary = len(data["vocabulary"]) + 2  # Padding, and what is not in it.
    x, x_test = (data[name][:, :LENGTH].astype("int32") for name in ("x_train", "x_test"))
    y, y_test = data["y_train"], data["y_test"]
    x, y, x_test, y_test = (array[:size] for array in (x, y, x_test, y_test))
    model = build(vocabulary)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    dense = model.evaluate(x_test, y_test, verbose=0)[1]

    print(kprune.channel_groups(model))
    small = kprune.prune_channels(model, flops=0.5, round_to=4)
    small.compile(
        keras.optimizers.Adam(3e-4), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    small.fit(x, y, batch_size=64, epochs=1, verbose=0)
    pruned = small.evaluate(x_test, y_test, verbose=0)[1]
    share = kprune.flops(small).total / kprune.flops(model).total
    print(f"accuracy {dense:.4f} dense, {pruned:.4f} with {share:.3f} of the FLOPs")

    for name, one in (("dense", model), ("small", small)):
        kprune.export_tflite(one, out / f"{name}.tflite", inputs=x_test[:2])
    kprune.export_onnx(small, out / "small.onnx", inputs=x_test[:2])
    print(kprune.benchmark([out / "dense.tflite", out / "small.tflite"], threads=1))


if __name__ == "__main__":
    typer.run(main)
