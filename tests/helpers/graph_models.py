"""Small models with what makes graphs hard: `MODELS[name]()` builds one."""

import keras
from keras import layers, ops

MODELS = {}


def entry(builder):
    MODELS[builder.__name__] = builder
    return builder


def dict_model(name="dicts"):
    """Inputs and outputs in dicts, whose keys are not in the order of the alphabet."""
    z, a = keras.Input((3,), name="z"), keras.Input((4,), name="a")
    x = layers.Concatenate()([layers.Dense(5, name="of_z")(z), layers.Dense(2, name="of_a")(a)])
    outputs = {"wide": layers.Dense(6, name="wide")(x), "narrow": layers.Dense(1, name="narrow")(x)}
    return keras.Model({"z": z, "a": a}, outputs, name=name)


@entry
def dicts():
    return dict_model()


@entry
def nested_dicts():
    """A model of dicts in another one, called with its inputs in another order."""
    a, z = keras.Input((4,), name="a"), keras.Input((3,), name="z")
    out = dict_model("inner")({"a": a, "z": z})
    return keras.Model([a, z], [out["narrow"], layers.Dense(2, name="head")(out["wide"])])


@entry
def list_called_with_a_dict():
    """A nested model of a list of inputs, called by their names, and with one too many."""
    z, a = keras.Input((3,), name="z"), keras.Input((4,), name="a")
    x = layers.Concatenate()([layers.Dense(5, name="of_z")(z), a])
    inner = keras.Model([z, a], layers.Dense(2, name="joined")(x), name="inner")
    inputs = [keras.Input((4,)), keras.Input((3,))]
    given = {"a": inputs[0], "z": inputs[1]}
    return keras.Model(inputs, inner(given))


@entry
def nested_twice():
    """A Sequential model in a functional one in a Sequential one."""
    x = inputs = keras.Input((4,))
    innermost = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, name="deep"), layers.Dropout(0.5)], name="innermost"
    )
    x = layers.BatchNormalization(name="norm")(innermost(x))
    middle = keras.Model(inputs, ops.tanh(x) + 1, name="middle")
    return keras.Sequential([keras.Input((4,)), middle, layers.Dense(2, name="head")], name="outer")


@entry
def shared_model_and_layer():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(4, name="b")], name="inner"
    )
    layer = layers.Dense(4, activation="relu", name="shared")
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    x = inner(inputs=layer(inner(first)))
    return keras.Model([first, second], [layer(x), layers.Add()([inner(second), x])])


@entry
def trained_in_part():
    x = inputs = keras.Input((4,))
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="cold"), layers.Dense(4, name="warm")],
        name="inner",
    )
    inner.trainable = False
    inner.layers[1].trainable = True
    both = layers.Bidirectional(layers.LSTM(3), name="both")
    x = both(layers.Reshape((2, 2))(inner(x, training=False)))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    both.backward_layer.trainable = False
    model.get_layer("head").bias.trainable = False
    return model


@entry
def tied():
    """An embedding whose variable is an argument of an operation, too."""
    inputs = keras.Input((5,), dtype="int32")
    words = layers.Embedding(20, 4, name="words")
    x = layers.Dense(4, name="mix")(words(inputs))
    return keras.Model(inputs, ops.einsum("btd,vd->btv", x, words.embeddings))


@entry
def tied_by_a_function():
    inputs = keras.Input((4,))
    source = layers.Dense(6, name="source")
    x = source(inputs)
    return keras.Model(
        inputs, layers.Lambda(lambda t: ops.matmul(t, ops.transpose(source.kernel)))(x)
    )


@entry
def masked():
    """A mask that goes on from an Embedding into a nested model."""
    steps = keras.Input((5, 4))
    inner = keras.Model(steps, layers.LSTM(3, name="lstm")(steps), name="inner")
    inputs = keras.Input((5,), dtype="int32")
    return keras.Model(inputs, inner(layers.Embedding(20, 4, mask_zero=True)(inputs)))


@entry
def from_the_middle():
    """A model of a part of another one's graph."""
    x = layers.Dense(5, name="before")(keras.Input((4,)))
    y = layers.Dense(3, name="inside")(x)
    keras.Model(x, layers.Dense(2, name="after")(y))
    return keras.Model(x, y)


@keras.saving.register_keras_serializable("kprune_tests")
class Scaled(layers.Layer):
    """One with a configuration of its own, and functions in it."""

    def __init__(self, units, function, **options):
        super().__init__(**options)
        self.inner, self.function = layers.Dense(units, name="in_it"), function

    def build(self, shape):
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(1,), name="scale", trainable=False)

    def call(self, x):
        return self.function(self.inner(x)) * self.scale

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.inner.units,
            "function": keras.activations.serialize(keras.activations.relu),
        }


@entry
def own_config():
    inputs = keras.Input((4,))
    return keras.Model(inputs, Scaled(3, lambda x: ops.sin(x) + 2)(inputs))


@entry
def unused_input():
    used, unused = keras.Input((4,), name="used"), keras.Input((2,), name="unused")
    return keras.Model({"used": used, "unused": unused}, layers.Dense(2)(used))
