import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

from kprune.graphs.flops import flops
from tests.helpers.dynamic_sizes import at_most_40, splice
from tests.helpers.zoo import ZOO


@pytest.mark.fast_for("MobileNet-568740352")
@pytest.mark.parametrize(
    ("build", "macs"),
    [
        # The papers print 569M, 300M and 3.8G multiply-adds; these are the exact sums for the
        # Keras graphs.
        (keras.applications.MobileNet, 568_740_352),
        (keras.applications.MobileNetV2, 300_774_272),
        (keras.applications.ResNet50, 3_857_973_248),
    ],
)
def test_published_networks(build, macs):
    assert flops(build(weights=None)).total == 2 * macs


def sequential(shape, *stack, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stack])


LAYERS = {
    "dense_on_rank_3": (lambda: sequential((7, 5), layers.Dense(3)), 2 * 7 * 5 * 3),
    "einsum_dense": (
        lambda: sequential((7, 6), layers.EinsumDense("abc,cde->abde", (None, 2, 4))),
        2 * 7 * 6 * 8,
    ),
    "einsum_dense_with_ellipsis": (
        lambda: sequential((7, 6), layers.EinsumDense("...c,cd->...d", 5)),
        2 * 7 * 6 * 5,
    ),
    "conv1d": (lambda: sequential((9, 4), layers.Conv1D(5, 3)), 2 * 7 * 5 * 3 * 4),
    "conv2d_strides": (
        lambda: sequential((9, 9, 4), layers.Conv2D(5, 3, strides=2)),
        2 * 16 * 5 * 9 * 4,
    ),
    "conv2d_dilated": (
        lambda: sequential((9, 9, 4), layers.Conv2D(5, 3, dilation_rate=2)),
        2 * 25 * 5 * 9 * 4,
    ),
    "conv2d_groups": (
        lambda: sequential((8, 8, 4), layers.Conv2D(6, 1, groups=2)),
        2 * 64 * 6 * 2,
    ),
    "conv3d": (lambda: sequential((5, 5, 5, 2), layers.Conv3D(3, 2)), 2 * 64 * 3 * 8 * 2),
    "conv1d_transpose": (
        lambda: sequential((6, 4), layers.Conv1DTranspose(5, 3, strides=2)),
        2 * 6 * 4 * 3 * 5,
    ),
    "conv2d_transpose": (
        lambda: sequential((6, 6, 4), layers.Conv2DTranspose(5, 3, strides=2, padding="same")),
        2 * 36 * 4 * 9 * 5,
    ),
    "conv3d_transpose": (
        lambda: sequential((3, 3, 3, 2), layers.Conv3DTranspose(4, 2)),
        2 * 27 * 2 * 8 * 4,
    ),
    "depthwise_conv1d": (
        lambda: sequential((8, 4), layers.DepthwiseConv1D(3, depth_multiplier=2)),
        2 * 6 * 8 * 3,
    ),
    "depthwise_conv2d": (
        lambda: sequential((8, 8, 4), layers.DepthwiseConv2D(3, depth_multiplier=2)),
        2 * 36 * 8 * 9,
    ),
    "separable_conv1d": (
        lambda: sequential((8, 4), layers.SeparableConv1D(5, 3, depth_multiplier=2)),
        2 * 6 * (8 * 3 + 8 * 5),
    ),
    "separable_conv2d": (
        lambda: sequential((8, 8, 4), layers.SeparableConv2D(5, 3)),
        2 * 36 * (4 * 9 + 4 * 5),
    ),
    "embedding": (lambda: sequential((8,), layers.Embedding(50, 4), dtype="int32"), 0),
    "simple_rnn": (lambda: sequential((8, 3), layers.SimpleRNN(4)), 2 * 8 * (3 + 4) * 4),
    "lstm": (lambda: sequential((8, 3), layers.LSTM(4)), 2 * 8 * (3 + 4) * 16),
    "lstm_unrolled": (
        lambda: sequential((8, 3), layers.LSTM(4, unroll=True)),
        2 * 8 * (3 + 4) * 16,
    ),
    "gru": (lambda: sequential((8, 3), layers.GRU(4)), 2 * 8 * (3 + 4) * 12),
    "gru_reset_before": (
        lambda: sequential((8, 3), layers.GRU(4, reset_after=False, return_sequences=True)),
        2 * 8 * (3 + 4) * 12,
    ),
    "stacked_cells": (
        lambda: sequential((8, 3), layers.RNN([layers.LSTMCell(4), layers.GRUCell(5)])),
        2 * 8 * ((3 + 4) * 16 + (4 + 5) * 15),
    ),
    "masked_lstm": (
        lambda: sequential((8,), layers.Embedding(9, 3, mask_zero=True), layers.LSTM(4)),
        2 * 8 * (3 + 4) * 16,
    ),
    "bidirectional": (
        lambda: sequential((8, 3), layers.Bidirectional(layers.LSTM(4))),
        2 * 2 * 8 * (3 + 4) * 16,
    ),
    "time_distributed": (
        lambda: sequential((8, 6, 6, 2), layers.TimeDistributed(layers.Conv2D(3, 3))),
        8 * 2 * 16 * 3 * 9 * 2,
    ),
    "conv_lstm": (
        lambda: sequential((4, 6, 2), layers.ConvLSTM1D(3, 3, padding="same")),
        4 * 2 * 6 * 3 * (2 + 3) * 12,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_with_a_kernel(name):
    build, expected = LAYERS[name]
    report = flops(build())
    assert report.total == expected
    assert not report.uncounted
    assert sum(row.flops for row in report) == expected


def test_attention_counts_projections_scores_and_their_use():
    queries, keys = keras.Input((5, 12)), keras.Input((7, 12))
    model = keras.Model(
        [queries, keys], layers.MultiHeadAttention(3, 4, value_dim=4)(queries, keys)
    )
    projections = 5 * 12 * 12 + 7 * 12 * 12 * 2 + 5 * 12 * 12
    products = 2 * 3 * 5 * 7 * 4
    assert flops(model).total == 2 * (projections + products)


def test_grouped_query_attention_shares_keys_but_not_scores():
    x = keras.Input((5, 12))
    model = keras.Model(x, layers.GroupQueryAttention(4, 6, 2)(x, x))
    projections = 5 * 12 * 4 * (6 + 2 + 2) + 5 * 24 * 12
    assert flops(model).total == 2 * (projections + 2 * 6 * 5 * 5 * 4)


def test_a_shared_layer_counts_at_each_call_with_its_own_shape():
    conv = layers.Conv2D(4, 3, padding="same", name="shared")
    a, b = keras.Input((8, 8, 2)), keras.Input((4, 4, 2))
    report = flops(keras.Model([a, b], [conv(a), conv(b)]))
    (row,) = report.rows
    assert (row.name, row.calls, row.flops) == ("shared", 2, 2 * (64 + 16) * 4 * 18)


def test_products_of_graphs_and_custom_layers():
    class Bilinear(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 3), name="w")

        def call(self, x):
            return ops.matmul(x, self.w)

    x = keras.Input((4, 5))
    y = ops.einsum("bij,bkj->bik", x, x)
    model = keras.Model(x, [Bilinear(name="bilinear")(x), ops.matmul(y, x), x * 2.0])
    report = flops(model)
    assert report.total == 2 * (4 * 5 * 3 + 4 * 4 * 5 + 4 * 4 * 5)
    assert {row.type for row in report} == {"Bilinear", "Einsum", "Matmul"}


def test_what_could_not_be_seen_is_said():
    class Hidden(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 3), name="w")

        def call(self, x):
            return ops.sum(x[..., None] * self.w, axis=-2)

    report = flops(sequential((5,), Hidden(name="hidden"), layers.Dense(2)))
    assert report.total == 2 * 3 * 2
    (message,) = report.uncounted
    assert "hidden" in message
    assert "(5, 3)" in message
    assert message in str(report)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ZOO)
def test_flops_grow_with_the_batch_and_leave_the_model_as_it_was(name):
    model = ZOO[name]()
    before = [
        [len(layer._inbound_nodes) for layer in model._flatten_layers()],
        [v.path for v in model.variables],
        model.get_config() if hasattr(model, "input") else None,
    ]
    values = [np.array(v) for v in model.variables]
    report = flops(model, batch_size=3)
    assert report.total == 3 * flops(model).total > 0
    assert not report.uncounted
    assert not model.losses
    assert before == [
        [len(layer._inbound_nodes) for layer in model._flatten_layers()],
        [v.path for v in model.variables],
        model.get_config() if hasattr(model, "input") else None,
    ]
    for value, variable in zip(values, model.variables):
        np.testing.assert_array_equal(value, np.array(variable))


def test_a_fixed_batch_is_scaled():
    inputs = keras.Input(batch_shape=(4, 8, 3))
    model = keras.Model(inputs, layers.LSTM(4, stateful=True)(inputs))
    assert flops(model, batch_size=1).total == LAYERS["lstm"][1]


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_mixed_precision_and_quantized_models_count_the_same():
    expected = flops(ZOO["mlp"]()).total
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert flops(ZOO["mlp"]()).total == expected
    keras.config.set_dtype_policy("float32")
    model = ZOO["mlp"]()
    model.quantize("int8")
    assert flops(model).total == expected


def test_dynamic_dimensions_are_given_or_found():
    model = sequential((None, None, 3), layers.Conv2D(4, 3, padding="same"))
    assert flops(model, free_dim=10).total == 2 * 100 * 4 * 27
    report = flops(model, input_shape=(10, 20, 3))
    assert report.total == 2 * 200 * 4 * 27
    assert report.sizes == {"input": (10, 20, 3)}
    assert "(10, 20, 3)" in str(report)
    assert flops(model).total == flops(model, input_shape=(224, 224, 3)).total
    assert flops(sequential((8, 8, 3), layers.Conv2D(4, 3))).sizes == {}


def test_where_the_usual_size_is_refused_the_smallest_accepted_counts():
    report = flops(splice())
    assert report.sizes == {"input": (10_001, 4)}
    assert report.total == flops(splice(), free_dim=10_001).total
    with pytest.raises(ValueError, match=r"\(700, 4\).*Cropping1D.*\(10001, 4\)"):
        flops(splice(), input_shape=(700, 4))
    with pytest.raises(ValueError, match=r"fixes dimension 2.*at 4.*\(20000, 5\)"):
        flops(splice(), input_shape=(20_000, 5))


def test_a_size_that_only_the_call_refuses_is_explained():
    with pytest.raises(ValueError, match=r"\(41,\).*At most 40.*accepts.*\(32,\)"):
        flops(at_most_40(), input_shape=(41,))
    assert flops(at_most_40(), input_shape=(40,)).total == 2 * 8 * 3


def test_a_file_is_counted_like_its_model(tmp_path):
    model = ZOO["cnn"]()
    model.save(tmp_path / "model.keras")
    assert flops(tmp_path / "model.keras").total == flops(model).total


def test_report_is_plain_data():
    report = flops(ZOO["multi_io"]())
    data = json.loads(json.dumps(report.to_dict()))
    assert data["total"] == report.total == sum(row["flops"] for row in data["rows"])


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 1.5}, {"free_dim": -1}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"positive int\. Received"):
        flops(ZOO["mlp"](), **arguments)


def test_bad_models(tmp_path):
    with pytest.raises(ValueError, match="not built"):
        flops(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(TypeError, match="Received: 3"):
        flops(3)
    with pytest.raises(FileNotFoundError, match=r"none\.keras"):
        flops(tmp_path / "none.keras")
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"cut\.keras"):
        flops(tmp_path / "cut.keras")


def test_recurrent_layers_in_time_distributed_ones():
    inner = keras.layers.LSTM(24)
    model = keras.Sequential([keras.Input((3, 7, 6)), keras.layers.TimeDistributed(inner)])
    assert flops(model).total == 3 * 7 * 2 * 4 * 24 * (6 + 24)


def test_a_file_that_unpacks_to_much_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(10**8))
    with pytest.raises(ValueError, match=r"bomb\.keras is damaged: it says to hold 100,000,000"):
        flops(tmp_path / "bomb.keras")


def test_a_file_is_counted_as_its_model(tmp_path):
    model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300)], name="one")
    model.save(tmp_path / "one.keras")
    report = flops(tmp_path / "one.keras")
    assert (report.model, report.total) == ("one", flops(model).total)
