import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from kprune.graphs.weights import check_model, weights_of
from kprune.pruning import selection
from kprune.pruning.groups import Setting
from tests.helpers.training import compiled


def prunable(layer):
    return [w.name.rpartition("/")[2] for w in weights_of(layer) if w.reason is None]


def call(layer, *shapes):
    layer(*(np.zeros((2, *shape), "float32") for shape in shapes))
    return layer


IMAGE, SEQUENCE = (8, 8, 4), (6, 4)
LAYERS = [
    (lambda: layers.Dense(3), [(4,)], ["kernel"]),
    (lambda: layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d"), [SEQUENCE], ["kernel"]),
    (lambda: layers.Conv1D(3, 3), [SEQUENCE], ["kernel"]),
    (lambda: layers.Conv2D(4, 3, groups=2), [IMAGE], ["kernel"]),
    (lambda: layers.Conv3D(3, 3), [(8, 8, 8, 2)], ["kernel"]),
    (lambda: layers.Conv1DTranspose(3, 3), [SEQUENCE], ["kernel"]),
    (lambda: layers.Conv2DTranspose(3, 3), [IMAGE], ["kernel"]),
    (lambda: layers.Conv3DTranspose(3, 3), [(8, 8, 8, 2)], ["kernel"]),
    (lambda: layers.DepthwiseConv1D(3), [SEQUENCE], ["kernel"]),
    (lambda: layers.DepthwiseConv2D(3), [IMAGE], ["kernel"]),
    (lambda: layers.SeparableConv1D(3, 3), [SEQUENCE], ["depthwise_kernel", "pointwise_kernel"]),
    (lambda: layers.SeparableConv2D(3, 3), [IMAGE], ["depthwise_kernel", "pointwise_kernel"]),
    (lambda: layers.Embedding(10, 3), [(5,)], ["embeddings"]),
    (lambda: layers.LSTM(3), [SEQUENCE], ["kernel", "recurrent_kernel"]),
    (lambda: layers.GRU(3), [SEQUENCE], ["kernel", "recurrent_kernel"]),
    (lambda: layers.SimpleRNN(3), [SEQUENCE], ["kernel", "recurrent_kernel"]),
    (lambda: layers.ConvLSTM1D(3, 3), [(5, *SEQUENCE)], ["kernel", "recurrent_kernel"]),
    (lambda: layers.MultiHeadAttention(2, 3), [SEQUENCE, SEQUENCE], ["kernel"] * 4),
    (lambda: layers.GroupQueryAttention(3, 4, 2), [SEQUENCE, SEQUENCE], ["kernel"] * 4),
    (lambda: layers.Bidirectional(layers.GRU(3)), [SEQUENCE], ["kernel", "recurrent_kernel"] * 2),
    (lambda: layers.TimeDistributed(layers.Dense(3)), [SEQUENCE], ["kernel"]),
    (lambda: layers.BatchNormalization(), [IMAGE], []),
    (lambda: layers.LayerNormalization(axis=(-2, -1)), [IMAGE], []),
    (lambda: layers.GroupNormalization(2), [IMAGE], []),
    (lambda: layers.PReLU(), [IMAGE], []),
]


@pytest.mark.parametrize(("make", "shapes", "names"), LAYERS)
def test_kernels_of_the_built_in_layers(make, shapes, names):
    layer = call(make(), *shapes)
    assert prunable(layer) == names
    every = {id(w.variable) for w in weights_of(layer)}
    assert every == {
        id(v) for v in layer.weights if "seed_generator" not in v.path and v.path
    } or type(layer).__name__ in ("MultiHeadAttention", "GroupQueryAttention")


class Custom(layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 5), name="w")
        self.bias = self.add_weight(shape=(2, 5), name="bias")
        self.table = self.add_weight(shape=(3, 5), name="table")
        self.inner = layers.Dense(2)
        self.inner.build((None, 5))

    def call(self, x):
        return self.inner(x @ self.w + self.bias[0] + self.table[0])


class Choosy(Custom):
    def get_prunable_weights(self):
        return [self.table]


def test_custom_layers():
    assert prunable(call(Custom(), (4,))) == ["w", "table", "kernel"]
    layer = call(Choosy(), (4,))
    assert prunable(layer) == ["table", "kernel"]
    reasons = {w.name.rpartition("/")[2]: w.reason for w in weights_of(layer)}
    assert "get_prunable_weights" in reasons["w"]


class Scale(layers.Layer):
    """Weights of several axes that multiply channels, and no inputs."""

    def build(self, shape):
        width = shape[-1]
        self.strength = self.add_weight(shape=(1, 1, 1, width), initializer="ones", name="w")
        self.shift = self.add_weight(shape=(1, width), initializer="ones", name="v")
        self.gamma = self.add_weight(shape=(2, width), initializer="ones", name="gamma")

    def call(self, x):
        return x * self.strength * self.gamma[0] + self.shift


class Tokens(layers.Layer):
    """Adds positions in the four ways people write them; `words` is no such table."""

    def build(self, shape):
        _, n, width = shape
        self.row = self.add_weight(shape=(1, n, width), initializer="ones", name="a")
        self.pos = self.add_weight(shape=(n, width), initializer="ones", name="b")
        self.pos_emb = layers.Embedding(n, width, "ones", name="c")
        self.places = layers.Embedding(n, width, "ones", name="position_embedding")
        self.words = layers.Embedding(n, width, name="words")
        for table in (self.pos_emb, self.places, self.words):
            table.build((None,))

    def call(self, x):
        n = ops.arange(x.shape[1])
        return x + self.row + self.pos + self.pos_emb(n) + self.places(n) + self.words(n)


class LearnedPositionalEncoding(Scale):
    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], initializer="ones", name="table")

    def call(self, x):
        return x + self.table


def vision_transformer():
    x = inputs = keras.Input((4, 4, 3))
    x = Scale()(layers.Conv2D(8, 1, name="patches")(x))
    x = Tokens()(layers.Reshape((16, 8))(x))
    x = layers.Dense(8, name="position_mlp")(LearnedPositionalEncoding()(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.GlobalAveragePooling1D()(x)))


VECTOR = "a vector: fewer than two of its axes are longer than 1"
NO_KERNELS = {
    "scale/w": VECTOR,
    "scale/v": VECTOR,
    "scale/gamma": "gamma: never pruned",
    "tokens/a": "positions, not a kernel",
    "tokens/b": "positions, not a kernel",
    "c/embeddings": "positions, not a kernel",
    "position_embedding/embeddings": "positions, not a kernel",
    "learned_positional_encoding/table": "positions, not a kernel",
}


@pytest.mark.slow
def test_scales_and_positions_are_no_kernels():
    model = compiled(vision_transformer())
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, 4, 4, 3)), random.integers(0, 2, 32)
    model.fit(x, y, 8, epochs=2, verbose=0, callbacks=[kprune.Pruning(0.9)])
    report = kprune.sparsity(model)
    rows = {"/".join(row.name.split("/")[-2:]): row for row in report if len(row.shape) > 1}
    kernels = {"patches/kernel", "words/embeddings", "position_mlp/kernel", "head/kernel"}
    assert {name for name, row in rows.items() if row.prunable} == kernels
    for name in kernels:
        assert rows[name].zeros == round(0.9 * rows[name].size)
    assert {name: rows[name].reason for name in rows.keys() - kernels} == NO_KERNELS
    assert not any(rows[name].zeros for name in NO_KERNELS)
    text = " ".join(str(report).split())
    assert "no: positions, not a kernel" in text
    assert VECTOR in text


def test_frozen_and_integer_weights_are_skipped():
    frozen = call(layers.Dense(3, trainable=False), (4,))
    assert prunable(frozen) == []
    assert weights_of(frozen)[0].reason == "not trainable"
    quantized = call(layers.Dense(3), (4,))
    quantized.quantize("int8")
    assert prunable(quantized) == []


def make_model():
    shared = layers.Dense(8, name="shared")
    trunk_in = keras.Input((8,))
    trunk = keras.Model(trunk_in, layers.Dense(8, name="deep")(trunk_in), name="trunk")
    a, b = keras.Input((8,)), keras.Input((8,))
    x = layers.Add()([trunk(shared(a)), shared(b)])
    x = layers.Reshape((4, 2))(x)
    x = layers.LSTM(4, name="memory")(x)
    return keras.Model([a, b], layers.Dense(2, name="head")(x))


def chosen(default, rules):
    found = weights_of(make_model())
    return {
        weight.name.split("/")[-2] + "/" + weight.variable.name: group.setting
        for group in selection.group(found, default, rules)
        for weight in group.weights
    }


def test_every_variable_once():
    model = make_model()
    found = weights_of(model)
    assert sorted(map(id, (w.variable for w in found))) == sorted(map(id, model.weights))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("head", {"head"}),
        (["h*", "shared"], {"head", "shared"}),
        ("trunk", {"deep"}),
        (layers.LSTM, {"lstm_cell"}),
        (lambda layer: layer.name != "memory", {"shared", "deep", "head"}),
        (lambda layer: isinstance(layer, layers.LSTM), {"lstm_cell"}),
        (None, {"shared", "deep", "lstm_cell", "head"}),
    ],
)
def test_ways_to_name_layers(rules, expected):
    default = Setting(sparsity=0.5)
    assert {name.split("/")[0] for name in chosen(default, rules)} == expected


def test_a_dict_gives_each_its_own():
    default = Setting(sparsity=0.5)
    schedule = kprune.ConstantSparsity(0.7, 0)
    settings = chosen(
        default,
        {
            "head": None,
            layers.LSTM: 0.3,
            "deep": {"sparsity": 0.4, "pattern": kprune.Block((2, 1))},
            "shared": schedule,
        },
    )
    assert "head/kernel" not in settings
    assert settings["lstm_cell/kernel"].sparsity == 0.3
    assert settings["deep/kernel"].pattern == kprune.Block((2, 1))
    assert settings["shared/kernel"].schedule is schedule
    only = chosen(Setting(), {"head": 0.3})
    assert list(only) == ["head/kernel"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("missing", r"\['missing'\].*'head'"),
        ({"head": 0.5, layers.Conv2D: 0.5}, "Conv2D"),
        ({"*": None}, "nothing to prune"),
        ({"head": {"sparsty": 0.5}}, "sparsty"),
        ({"head": 90}, "percentage"),
    ],
)
def test_bad_layers(rules, message):
    with pytest.raises(ValueError, match=message):
        chosen(Setting(sparsity=0.5), rules)


def test_wrong_kinds():
    with pytest.raises(TypeError, match="Received: 3"):
        chosen(Setting(sparsity=0.5), [3])
    with pytest.raises(TypeError, match="criterion"):
        Setting(sparsity=0.5, criterion=abs).check()
    with pytest.raises(TypeError, match="pattern"):
        Setting(sparsity=0.5, pattern=(4, 1)).check()
    with pytest.raises(ValueError, match=r"at most 0\.5"):
        Setting(sparsity=0.9, pattern=kprune.NM(2, 4)).check()


def test_a_model_with_nothing_prunable():
    model = keras.Sequential([keras.Input((4,)), layers.LayerNormalization()])
    with pytest.raises(ValueError, match=r"no weight that can be pruned.*gamma"):
        selection.group(weights_of(model), Setting(sparsity=0.5))


def test_models_that_are_not_keras_3():
    with pytest.raises(ValueError, match="not built"):
        check_model(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(TypeError, match="Expected a Keras 3 model"):
        check_model("model.keras")
    if keras.backend.backend() == "tensorflow":
        tf_keras = pytest.importorskip("tf_keras")
        with pytest.raises(TypeError, match="tensorflow_model_optimization"):
            check_model(tf_keras.Sequential([tf_keras.layers.Dense(2)]))


@pytest.mark.parametrize(
    ("make", "shapes", "expected"),
    [
        (lambda: layers.Conv2DTranspose(3, 3), [IMAGE], (-1, -2)),
        (lambda: layers.Conv2D(3, 3), [IMAGE], (-2, -1)),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), [SEQUENCE], (-3, -1)),
        (lambda: layers.EinsumDense("abc,dc->abd", (None, 3)), [SEQUENCE], (-1, -2)),
    ],
)
def test_where_the_input_channels_are(make, shapes, expected):
    assert weights_of(call(make(), *shapes))[0].axes == expected
