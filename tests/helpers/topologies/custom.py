"""Models of custom layers that are made of layers, as the Keras examples write them."""

import keras
import numpy as np
from keras import layers, ops

from tests.helpers.topologies.parts import classifier
from tests.helpers.topologies.registry import VOCABULARY, topology

register = keras.saving.register_keras_serializable(package="topologies")


@register
class TokensAndPositions(layers.Layer):
    """As in "Text classification with Transformer"."""

    def __init__(self, length, vocabulary, size, **options):
        super().__init__(**options)
        self.tokens = layers.Embedding(vocabulary, size, name="tokens")
        self.positions = layers.Embedding(length, size, name="positions")

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(ops.shape(x)[-1]))


@register
class TransformerBlock(layers.Layer):
    """As in "Text classification with Transformer"; without a `get_config` of its own."""

    def __init__(self, size, num_heads, width, rate=0.1, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(num_heads, size // num_heads, name="attention")
        self.mlp = keras.Sequential(
            [layers.Dense(width, activation="relu", name="wide"), layers.Dense(size, name="narrow")]
        )
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.dropouts = [layers.Dropout(rate) for _ in range(2)]

    def call(self, x):
        x = self.norms[0](x + self.dropouts[0](self.attention(x, x)))
        return self.norms[1](x + self.dropouts[1](self.mlp(x)))


@topology(frozen="head")
def keras_transformer():
    x = inputs = keras.Input((10,), dtype="int32")
    x = TokensAndPositions(10, VOCABULARY, 12, name="embed")(x)
    x = TransformerBlock(12, 3, 20, name="first")(x)
    x = TransformerBlock(12, 2, 16, name="second")(x)
    return classifier(inputs, layers.GlobalAveragePooling1D()(x))


@register
class Patches(layers.Layer):
    def __init__(self, size, **options):
        super().__init__(**options)
        self.size = size

    def call(self, images):
        _, height, width, channels = images.shape
        rows, columns = height // self.size, width // self.size
        x = ops.reshape(images, (-1, rows, self.size, columns, self.size, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, rows * columns, self.size * self.size * channels))


@register
class ClassToken(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        return ops.concatenate([ops.repeat(self.token, ops.shape(x)[0], axis=0), x], axis=1)


@register
class FusedAttention(layers.Layer):
    """Queries, keys and values made at once, as vision models are written for PyTorch."""

    def __init__(self, size, heads, **options):
        super().__init__(**options)
        self.size, self.heads = size, heads
        self.qkv = layers.Dense(3 * size, name="qkv")
        self.out = layers.Dense(size, name="out")

    def call(self, x):
        steps, each = x.shape[1], self.size // self.heads
        qkv = ops.reshape(self.qkv(x), (-1, steps, 3, self.heads, each))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3, axis=0)
        scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * each**-0.5)
        mixed = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, steps, self.size)))


@register
class EncoderBlock(layers.Layer):
    """Pre-norm, with a scale of its own on each branch, as CaiT has it."""

    def __init__(self, size, heads, ratio=2.0, **options):
        super().__init__(**options)
        self.attention = FusedAttention(size, heads, name="attention")
        self.wide = layers.Dense(int(ratio * size), activation="gelu", name="wide")
        self.narrow = layers.Dense(size, name="narrow")
        self.norms = [layers.LayerNormalization() for _ in range(2)]

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        super().build(shape)

    def call(self, x):
        x = x + self.scale * self.attention(self.norms[0](x))
        return x + self.narrow(self.wide(self.norms[1](x)))


@topology(
    frozen="""project first/attention/qkv first/attention/out first/narrow
    second/attention/qkv second/attention/out second/narrow head"""
)
def vision_transformer():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(12, name="project")(Patches(4)(inputs))
    x = ClassToken()(x)
    x = EncoderBlock(12, 3, name="first")(x)
    x = EncoderBlock(12, 2, name="second")(x)
    return classifier(inputs, layers.LayerNormalization()(x)[:, 0])


@register
class MixerBlock(layers.Layer):
    def __init__(self, tokens, size, width, **options):
        super().__init__(**options)
        self.over_tokens = [
            layers.Dense(width, activation="gelu", name="tokens_wide"),
            layers.Dense(tokens, name="tokens_narrow"),
        ]
        self.over_channels = [
            layers.Dense(width, activation="gelu", name="wide"),
            layers.Dense(size, name="narrow"),
        ]
        self.norms = [layers.LayerNormalization() for _ in range(2)]

    def call(self, x):
        y = ops.transpose(self.norms[0](x), (0, 2, 1))
        for layer in self.over_tokens:
            y = layer(y)
        x = x + ops.transpose(y, (0, 2, 1))
        y = self.norms[1](x)
        for layer in self.over_channels:
            y = layer(y)
        return x + y


@topology(frozen="stem mixer/tokens_narrow mixer/narrow head")
def mlp_mixer():
    inputs = keras.Input((6, 5))
    x = layers.Dense(10, name="stem")(inputs)
    x = MixerBlock(6, 10, 9, name="mixer")(x)
    return classifier(inputs, layers.GlobalAveragePooling1D()(x))


@register
class ConformerBlock(layers.Layer):
    """Half-step feed-forward, attention, gated convolution, half-step feed-forward."""

    def __init__(self, size, heads, width, kernel_size=3, **options):
        super().__init__(**options)
        self.wide = [layers.Dense(width, activation="silu", name=f"wide_{i}") for i in range(2)]
        self.narrow = [layers.Dense(size, name=f"narrow_{i}") for i in range(2)]
        self.attention = layers.MultiHeadAttention(heads, size // heads, name="attention")
        self.pointwise = layers.Conv1D(2 * width, 1, name="pointwise")
        self.depthwise = layers.DepthwiseConv1D(kernel_size, padding="same")
        self.batch_norm = layers.BatchNormalization()
        self.last = layers.Conv1D(size, 1, name="last")
        self.norms = [layers.LayerNormalization() for _ in range(4)]

    def call(self, x, training=None):
        x = x + 0.5 * self.narrow[0](self.wide[0](self.norms[0](x)))
        y = self.norms[1](x)
        x = x + self.attention(y, y, training=training)
        y, gate = ops.split(self.pointwise(self.norms[2](x)), 2, axis=-1)
        y = self.batch_norm(self.depthwise(y * ops.sigmoid(gate)), training=training)
        x = x + self.last(ops.silu(y))
        return x + 0.5 * self.narrow[1](self.wide[1](self.norms[3](x)))


@topology(frozen="head")
def conformer():
    inputs = keras.Input((12, 5))
    x = layers.Conv1D(12, 3, name="stem")(inputs)
    x = ConformerBlock(12, 3, 10, name="conformer")(x)
    return classifier(inputs, layers.GlobalAveragePooling1D()(x))


@register
class WindowAttention(layers.Layer):
    """Swin: attention within windows of an image, with a bias for each relative position."""

    def __init__(self, size, heads, window, **options):
        super().__init__(**options)
        self.size, self.heads, self.window = size, heads, window
        self.norm = layers.LayerNormalization()
        self.attention = FusedAttention(size, heads, name="attention")
        self.wide = layers.Dense(2 * size, activation="gelu", name="wide")
        self.narrow = layers.Dense(size, name="narrow")

    def call(self, x):
        _, height, width, channels = x.shape
        n, rows, columns = self.window, height // self.window, width // self.window
        y = ops.reshape(self.norm(x), (-1, rows, n, columns, n, channels))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, n * n, channels))
        y = self.attention(y)
        y = ops.reshape(y, (-1, rows, columns, n, n, channels))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, height, width, channels))
        x = x + y
        return x + self.narrow(self.wide(x))


@topology(frozen="stem windows/attention/out windows/narrow head")
def swin_windows():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 1, name="stem")(inputs)
    x = WindowAttention(12, 3, 4, name="windows")(x)
    return classifier(inputs, layers.GlobalAveragePooling2D()(layers.LayerNormalization()(x)))


@register
class ShuffleUnit(layers.Layer):
    def __init__(self, filters, groups=2, **options):
        super().__init__(**options)
        self.filters, self.groups = filters, groups
        self.first = layers.Conv2D(filters, 1, activation="relu", name="first")
        self.depthwise = layers.DepthwiseConv2D(3, padding="same")
        self.last = layers.Conv2D(filters, 1, name="last")

    def call(self, x):
        y = self.last(self.depthwise(self.first(x)))
        y = ops.concatenate([x, y], axis=-1)
        _, height, width, channels = y.shape
        y = ops.reshape(y, (-1, height, width, self.groups, channels // self.groups))
        return ops.reshape(ops.transpose(y, (0, 1, 2, 4, 3)), (-1, height, width, channels))


@topology(frozen="head")
def shuffle_units():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="stem")(inputs)
    x = ShuffleUnit(8, name="shuffle")(x)
    x = layers.Conv2D(6, 1, activation="relu", name="after")(x)
    return classifier(inputs, layers.GlobalAveragePooling2D()(x))


@register
class Tower(layers.Layer):
    def __init__(self, size, width, **options):
        super().__init__(**options)
        self.embedding = layers.Embedding(VOCABULARY, size, name="embedding")
        self.wide = layers.Dense(width, activation="relu", name="wide")
        self.narrow = layers.Dense(size, name="narrow")

    def call(self, ids):
        return self.narrow(self.wide(self.embedding(ids)))


@topology(frozen="user/narrow item/narrow")
def two_towers():
    user, item = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    scores = layers.Dot(-1)([Tower(8, 12, name="user")(user), Tower(8, 10, name="item")(item)])
    return keras.Model([user, item], scores)


@register
class AttentionGate(layers.Layer):
    """Of Attention U-Net: a skip connection, weighted by what is below it."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.of_skip = layers.Conv2D(width, 1, name="of_skip")
        self.of_below = layers.Conv2D(width, 1, name="of_below")
        self.weight = layers.Conv2D(1, 1, activation="sigmoid", name="weight")

    def call(self, skip, below):
        below = ops.image.resize(below, skip.shape[1:3], interpolation="nearest")
        return skip * self.weight(ops.relu(self.of_skip(skip) + self.of_below(below)))


@topology(frozen="gate/weight map")
def attention_unet():
    inputs = keras.Input((8, 8, 3))
    skip = layers.Conv2D(6, 3, padding="same", activation="relu", name="down")(inputs)
    below = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="below")(skip)
    gated = AttentionGate(5, name="gate")(skip, below)
    up = layers.Conv2DTranspose(6, 2, strides=2, name="up")(below)
    x = layers.Conv2D(7, 3, padding="same", name="joined")(layers.Concatenate()([gated, up]))
    return keras.Model(inputs, layers.Conv2D(2, 1, name="map")(x))


@register
class DecoderBlock(layers.Layer):
    """As in Llama: grouped queries, rotary positions, a causal mask, a gated feed-forward."""

    def __init__(self, size, heads, groups, width, **options):
        super().__init__(**options)
        self.size, self.heads, self.groups, self.width = size, heads, groups, width
        self.each = size // heads
        self.q = layers.Dense(size, use_bias=False, name="q")
        self.k = layers.Dense(groups * self.each, use_bias=False, name="k")
        self.v = layers.Dense(groups * self.each, use_bias=False, name="v")
        self.out = layers.Dense(size, use_bias=False, name="out")
        self.gate = layers.Dense(width, activation="silu", name="gate")
        self.wide = layers.Dense(width, name="wide")
        self.narrow = layers.Dense(size, name="narrow")
        self.norms = [layers.LayerNormalization() for _ in range(2)]

    def _rotated(self, x):
        angles = np.arange(x.shape[1])[:, None] / 10.0 ** np.arange(self.each // 2)
        cosine, sine = (
            ops.convert_to_tensor(f(angles)[:, None].astype("float32")) for f in (np.cos, np.sin)
        )
        first, second = ops.split(x, 2, axis=-1)
        return ops.concatenate(
            [first * cosine - second * sine, second * cosine + first * sine], axis=-1
        )

    def call(self, x):
        steps, groups, each = x.shape[1], self.groups, self.each
        y = self.norms[0](x)
        q = ops.reshape(self.q(y), (-1, steps, self.heads, each))
        k, v = (ops.reshape(f(y), (-1, steps, groups, each)) for f in (self.k, self.v))
        q = ops.reshape(self._rotated(q), (-1, steps, groups, self.heads // groups, each))
        scores = ops.einsum("btkgd,bskd->bkgts", q, self._rotated(k)) / each**0.5
        later = ops.convert_to_tensor((1 - np.tri(steps, dtype="float32")) * -1e9)
        scores = ops.softmax(scores + later)
        mixed = ops.einsum("bkgts,bskd->btkgd", scores, v)
        x = x + self.out(ops.reshape(mixed, (-1, steps, self.size)))
        y = self.norms[1](x)
        return x + self.narrow(self.gate(y) * self.wide(y))


@topology(frozen="head")
def causal_decoder():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 24, name="embed")(inputs)
    x = DecoderBlock(24, 6, 3, 14, name="decoder")(x)
    return classifier(inputs, layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x)))
