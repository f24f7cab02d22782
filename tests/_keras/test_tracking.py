"""Each function of `kprune._keras.tracking` does on this Keras what it says."""

import keras
import numpy as np
import pytest

from kprune._keras import tracking


class Pair(keras.Model):
    """A subclassed model: a layer in an attribute, one in a list and one in a dict."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(2, name="first")
        self.listed = [keras.layers.Dense(2, name="listed")]
        self.named = {"one": keras.layers.Dense(2, name="named")}

    def call(self, inputs):
        return self.named["one"](self.listed[0](self.first(inputs)))


@pytest.fixture
def model():
    model = Pair()
    model(np.zeros((1, 2), "float32"))
    return model


def other(name="other"):
    layer = keras.layers.Dense(2, name=name)
    layer.build((None, 2))
    return layer


def test_untracked():
    class Keeper(keras.layers.Layer):
        @tracking.untracked
        def keep(self, layer):
            self.kept = [layer]
            return layer

        def take(self, layer):
            self.taken = layer

    keeper = Keeper()
    kept = keeper.keep(other())
    assert keeper.kept == [kept]
    assert keeper.variables == []
    keeper.take(kept)
    assert len(keeper.variables) == 2


def test_tracker_is_listed_by_dir():
    assert tracking.TRACKER in dir(keras.optimizers.SGD())


def test_replace_sublayer(model):
    old, new = model.first, other()
    tracking.replace_sublayer(model, old, new)
    assert model.layers[0] is new
    assert model.first is old


@pytest.mark.parametrize("place", ["first", "listed", "named"])
def test_replace_part(model, place):
    def found():
        value = getattr(model, place)
        return next(iter(value.values() if isinstance(value, dict) else value), None)

    old = model.first if place == "first" else found()
    new = other()
    tracking.replace_part(model, old, new)
    assert (model.first if place == "first" else found()) is new
    assert new in model.layers
    assert old not in model.layers
    assert [v is w for v, w in zip(new.variables, model.variables)].count(True) <= 2
    assert {id(v) for v in new.variables} <= {id(v) for v in model.variables}
    assert not {id(v) for v in old.variables} & {id(v) for v in model.variables}


def test_replace_part_that_is_a_variable():
    layer, giver = other(), other("giver")
    old = layer.kernel
    tracking.replace_part(layer, old, giver.kernel)
    assert layer.kernel is giver.kernel
    assert [v is giver.kernel for v in layer.trainable_variables].count(True) == 1
    assert not any(v is old for v in layer.variables)
    ones = np.ones((1, 2), "float32")
    found, expected = (keras.ops.convert_to_numpy(one(ones)) for one in (layer, giver))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_forget_derived(model, recwarn):
    model.compile("sgd", "mse")
    model.fit(np.zeros((2, 2)), np.zeros((2, 2)), verbose=0)
    model.predict(np.zeros((2, 2)), verbose=0)
    model.first.trainable = False
    tracking.replace_part(model, model.listed[0], other())
    tracking.forget_derived(model)
    assert model.train_function is None
    assert model.test_function is None
    assert model.predict_function is None
    recwarn.clear()
    _ = model.trainable_variables
    model.summary(print_fn=lambda *args, **kwargs: None)
    assert not [w for w in recwarn if "trainable" in str(w.message)]
    if keras.backend.backend() == "torch":
        held = {id(v.value) for v in model.variables}
        assert {id(p) for p in model.parameters()} == held
