"""Text, recurrence and attention."""

import keras
from keras import layers

from tests.helpers.topologies.parts import classifier
from tests.helpers.topologies.registry import VOCABULARY, topology


@topology(frozen="head")
def text_conv1d():
    x = inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 8)(x)
    x = layers.SpatialDropout1D(0.1)(x)
    x = layers.Conv1D(7, 3, padding="causal", activation="relu")(x)
    x = layers.MaxPooling1D(2)(layers.Cropping1D(1)(x))
    x = layers.SeparableConv1D(6, 3, depth_multiplier=2, activation="gelu")(x)
    x = layers.DepthwiseConv1D(2, depth_multiplier=2)(x)
    x = layers.Conv1DTranspose(5, 3)(x)
    return classifier(inputs, layers.GlobalMaxPooling1D()(x))


@topology(frozen="head")
def lstm_stack():
    return keras.Sequential(
        [
            keras.Input((7, 5)),
            layers.LSTM(8, return_sequences=True),
            layers.LSTM(6, return_sequences=True, use_bias=False),
            layers.SimpleRNN(5),
            layers.Dense(3, name="head"),
        ]
    )


@topology(frozen="head")
def bidirectional_gru_stack():
    x = inputs = keras.Input((7, 5))
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(x)
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True, reset_after=False))(x)
    x = layers.Bidirectional(layers.LSTM(4), merge_mode="sum")(x)
    return classifier(inputs, x)


@topology(frozen="head")
def masked_text():
    x = inputs = keras.Input((9,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 8, mask_zero=True)(x)
    x = layers.LSTM(6, return_sequences=True)(x)
    x = layers.Bidirectional(layers.GRU(5))(x)
    return classifier(inputs, x)


@topology(frozen="head decoder")
def encoder_decoder():
    """A state handed over: the encoder's units are the decoder's."""
    a, b = keras.Input((5, 4)), keras.Input((6, 3))
    _, *state = layers.LSTM(6, return_state=True)(layers.Dense(5)(a))
    x = layers.LSTM(6, return_sequences=True)(b, initial_state=state)
    x, last = layers.GRU(5, return_sequences=True, return_state=True, name="decoder")(x)
    return keras.Model([a, b], [layers.Dense(3, name="head")(x), last])


@topology(frozen="head")
def transformer():
    x = inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 12)(x)
    for _ in range(2):
        value_dim = 4 if keras.backend.backend() == "jax" else 5  # where Keras wants them equal
        y = layers.MultiHeadAttention(3, 4, value_dim=value_dim)(x, x)
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(y))
        y = layers.Dense(12)(layers.Dense(16, activation="gelu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    return classifier(inputs, layers.GlobalAveragePooling1D()(x))


@topology(frozen="head")
def rms_transformer():
    """Pre-norm with RMSNormalization: nothing in it is inexact."""
    x = inputs = keras.Input((6, 8))
    x = layers.Dense(12)(x)
    y = layers.RMSNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 6)(y, y, use_causal_mask=True)
    y = layers.RMSNormalization()(x)
    y = layers.Dense(10, activation="silu")(y) * layers.Dense(10)(y)
    x = layers.RMSNormalization()(x + layers.Dense(12)(y))
    return classifier(inputs, x[:, 0])


@topology(frozen="head")
def cross_attention():
    a, b = keras.Input((5, 4)), keras.Input((7, 3))
    query, value, key = layers.Dense(6)(a), layers.Dense(8)(b), layers.Dense(10)(b)
    x = layers.MultiHeadAttention(2, 4, output_shape=9)(query, value, key=key)
    return classifier([a, b], layers.GlobalAveragePooling1D()(x))


@topology(frozen="head")
def einsum_dense():
    x = inputs = keras.Input((5, 6))
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 8), bias_axes="d")(x)
    x = layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 6), bias_axes="de")(x)
    x = layers.EinsumDense("abde,def->abf", output_shape=(None, 7), bias_axes="f")(x)
    x = layers.EinsumDense("...f,fg->...g", output_shape=6, activation="relu")(x)
    return classifier(inputs, layers.GlobalAveragePooling1D()(x))


@topology(frozen="head")
def time_distributed():
    x = inputs = keras.Input((3, 6, 6, 2))
    x = layers.TimeDistributed(layers.Conv2D(6, 3, activation="relu"))(x)
    x = layers.TimeDistributed(layers.BatchNormalization())(x)
    x = layers.TimeDistributed(layers.MaxPooling2D())(x)
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.TimeDistributed(layers.Dense(8))(x)
    return classifier(inputs, layers.LSTM(5)(x))


def _grouped(heads, groups, **options):
    x = inputs = keras.Input((6, 5))
    x = layers.Dense(8, name="before")(x)
    other = layers.Dense(8, name="other")(inputs)
    attention = layers.GroupQueryAttention(4, heads, groups, name="attention", **options)
    return classifier(inputs, layers.GlobalAveragePooling1D()(attention(x, other)))


@topology(frozen="head")
def grouped_queries():
    return _grouped(6, 3)


@topology(frozen="head")
def few_groups_of_queries():
    return _grouped(6, 2, use_bias=False)


def _language_model(tied):
    inputs = keras.Input((6,), dtype="int32")
    words = layers.ReversibleEmbedding(VOCABULARY, 8, tie_weights=tied, name="words")
    x = words(inputs)
    x = layers.Add()([x, layers.Dense(8)(layers.Dense(12, activation="relu")(x))])
    return keras.Model(inputs, words(x, reverse=True))


@topology(frozen="")
def language_model_of_tied_words():
    return _language_model(True)


@topology(frozen="")
def language_model_of_untied_words():
    return _language_model(False)
