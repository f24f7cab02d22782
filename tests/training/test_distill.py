"""Distillation: the teacher's share of the loss, and the student that comes out."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kprune
from tests.helpers.training import compiled, data, expected_zeros, kernels, mlp, zeros


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _pair(**kwargs):
    keras.utils.set_random_seed(0)
    return mlp(**kwargs), mlp(**kwargs)


def _divergence(teacher, student, temperature):
    p, q = (_softmax(one.astype("float64") / temperature) for one in (teacher, student))
    return (p * (np.log(p) - np.log(q))).sum(axis=-1).mean()


def test_the_loss_is_that_of_the_paper():
    student, teacher = _pair()
    x, y = data()
    outputs = [ops.convert_to_numpy(one(x)) for one in (teacher, student)]
    model = kprune.training.distill(student, teacher, temperature=3.0, weight=0.25)
    compiled(model, keras.optimizers.SGD(0.0))
    loss = model.fit(x, y, batch_size=len(x), verbose=0).history["loss"][0]
    hard = -np.log(_softmax(outputs[1])[np.arange(len(y)), y]).mean()
    assert loss == pytest.approx(hard + 0.25 * 9 * _divergence(*outputs, 3.0), rel=1e-4)


@pytest.mark.parametrize("weight", [0.25, 0.9])
def test_gradients_are_those_of_both_parts(weight):
    """One SGD step of the whole is the weighted mean of the steps of each part."""
    x, y = data(64)

    def step(share):
        keras.utils.set_random_seed(0)
        student, teacher = mlp(), mlp()
        before = kernels(student)
        model = kprune.training.distill(student, teacher, 2.0, share) if share else student
        compiled(model, keras.optimizers.SGD(0.01))
        model.fit(x, y, batch_size=64, epochs=1, verbose=0)
        return {name: value - before[name] for name, value in kernels(student).items()}

    hard, low, got = step(0.0), step(1e-6), step(weight)
    for name in hard:
        np.testing.assert_allclose(low[name], hard[name], atol=1e-7)
    half = step(0.5)
    for name in hard:
        soft = 2 * half[name] - hard[name]
        expected = (1 - weight) * hard[name] + weight * soft
        np.testing.assert_allclose(got[name], expected, atol=2e-6)


def test_the_student_is_pruned_and_the_teacher_left_alone():
    student, teacher = _pair()
    compiled(teacher)
    teacher.fit(*data(), epochs=2, verbose=0)
    before = teacher.get_weights()
    model = compiled(kprune.training.distill(student, teacher))
    history = model.fit(*data(), epochs=6, verbose=0, callbacks=[kprune.Pruning(0.75)]).history
    kprune.strip_pruning(model)
    share = sum(zeros(student).values()) / student.count_params()
    assert history["model_sparsity"][-1] == pytest.approx(share, abs=2e-3)  # Of biases, too.
    assert zeros(student) == expected_zeros(student, 0.75)
    for now, then in zip(teacher.get_weights(), before):
        np.testing.assert_array_equal(now, then)
    x, _ = data()
    np.testing.assert_array_equal(model.predict(x, verbose=0), student.predict(x, verbose=0))


def test_evaluate_is_the_students_own():
    student, teacher = _pair()
    x, y = data()
    model = compiled(kprune.training.distill(student, teacher))
    compiled(student)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(student.evaluate(x, y, verbose=0))


def test_a_teacher_from_a_file_has_metrics_that_were_never_counted(tmp_path):
    student, teacher = _pair()
    x, y = data()
    for model in (student, teacher):
        compiled(model, metrics=["accuracy"])
    teacher.save(tmp_path / "teacher.keras")
    teacher = keras.models.load_model(tmp_path / "teacher.keras")
    taught = compiled(kprune.training.distill(student, teacher), metrics=["accuracy"])
    history = taught.fit(x, y, epochs=2, verbose=0, validation_data=(x, y)).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}


@pytest.mark.parametrize("classes", [1, 3])
def test_probabilities_are_told_from_logits(classes):
    """The divergence is the same, whichever the models give out."""
    x = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")
    y = np.zeros(32, "int32")
    found = []
    for activation in (None, "sigmoid" if classes == 1 else "softmax"):
        keras.utils.set_random_seed(1)
        student, teacher = (
            keras.Sequential([keras.Input((5,)), layers.Dense(classes, activation)])
            for _ in range(2)
        )
        model = kprune.training.distill(student, teacher)
        model.compile(keras.optimizers.SGD(0.0), lambda y_true, y_pred: 0.0 * ops.sum(y_pred))
        found.append(model.fit(x, y, batch_size=32, verbose=0).history["loss"][0])
    assert found[0] > 1e-3
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        student, teacher = _pair()
        model = compiled(kprune.training.distill(student, teacher))
        history = model.fit(*data(), epochs=4, verbose=0, callbacks=[kprune.Pruning(0.5)])
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history.history["loss"]).all()
    assert zeros(student) == expected_zeros(student, 0.5)


def test_inputs_by_name_and_files(tmp_path):
    def build():
        inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((3,), name="b")}
        x = layers.Concatenate()([inputs["a"], inputs["b"]])
        return keras.Model(inputs, layers.Dense(2)(layers.Dense(8, activation="relu")(x)))

    model = compiled(kprune.training.distill(build(), build()))
    random = np.random.default_rng(0)
    x = {"a": random.normal(size=(64, 4)), "b": random.normal(size=(64, 3))}
    y = random.integers(0, 2, 64)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[kprune.Pruning(0.5)])
    kprune.strip_pruning(model).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )


def _classes(n):
    return keras.Sequential([keras.Input((20,)), layers.Dense(n)])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: kprune.training.distill(mlp(), _classes(3)), ValueError, "student's shape"),
        (lambda: kprune.training.distill(mlp(), "mlp"), TypeError, "Keras 3 model"),
        (lambda: kprune.training.distill(mlp(), mlp(), temperature=0), ValueError, "temperature"),
        (lambda: kprune.training.distill(mlp(), mlp(), weight=1.0), ValueError, "weight"),
        (lambda: kprune.training.distill(mlp(built=False), mlp()), ValueError,
         "not built"),
    ],
)  # fmt: skip
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_teacher_does_not_teach_itself():
    model = mlp()
    with pytest.raises(ValueError, match="weights in common"):
        kprune.training.distill(model, model)
