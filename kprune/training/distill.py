"""Distillation: the dense model teaches the pruned one while it is trained."""

import math
import numbers
from typing import Any

import keras
from keras import ops, tree

from kprune._system.type_aliases import Tensor
from kprune.graphs.walk import graph_of
from kprune.graphs.weights import check_model

_SMALLEST = 1e-7


def distill(
    student: keras.Model,
    teacher: keras.Model,
    temperature: float = 2.0,
    weight: float = 0.5,
    from_logits: bool | None = None,
) -> keras.Model:
    """Return a model to compile and fit in the student's place, whom the teacher then guides.

    It has the inputs, the outputs and the very layers of the student, so that `kprune.Pruning`
    beside it prunes the student; after `strip_pruning` the student itself is what is exported. Its
    loss is (1 - weight) x the compiled loss + weight x temperature² x the divergence of the
    student's softened outputs from the teacher's. Both parts have gradients of the same size,
    whatever the temperature, so that learning rates stand as they are. Of the first part only the
    gradients are scaled: `fit` prints the compiled loss whole, and the divergence added to it.

    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015).

    Example:

    ```python
    student = keras.models.clone_model(model)
    student.set_weights(model.get_weights())
    taught = kprune.training.distill(student, teacher=model)
    taught.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    taught.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.95)])
    kprune.strip_pruning(taught)
    kprune.export_tflite(student, "student.tflite")
    ```

    Args:
        student: a built Sequential or functional classifier, one output [..., classes], or [..., 1]
            for two classes.
        teacher: a built model that takes the same inputs, and gives outputs of the same shape. It
            is frozen: its `trainable` is False from here on. It is run without dropout.
        temperature: float > 0, by which the logits of both are divided.
        weight: float in (0, 1).
        from_logits: bool, whether the outputs of both are logits; else they are probabilities. By
            default what the activation of the student's last layer says.

    Raises:
        TypeError: not Keras 3 models.
        ValueError: an argument out of its range; models that are not built, of other outputs than
            those, or with weights in common.
    """
    for model in (student, teacher):
        check_model(model)
    _check(temperature, weight)
    graph = graph_of(student)
    if graph is None:
        raise ValueError(
            "`student` must be a Sequential or functional model, whose inputs are known. "
            f"Received: {student!r}"
        )
    shared = {id(v) for v in student.variables} & {id(v) for v in teacher.variables}
    if shared:
        raise ValueError(
            "`student` and `teacher` have weights in common; give the student its own: "
            "keras.models.clone_model(teacher), and set_weights."
        )
    if not isinstance(graph.output, keras.KerasTensor):
        raise ValueError(f"`student` must have one output. Received: {graph.output}")
    inputs = tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name),
        graph.input,
    )
    logits = _ends_in_logits(student) if from_logits is None else from_logits
    taught = Teacher(teacher, temperature, weight, logits)
    outputs = taught(student(inputs), inputs)
    return keras.Model(inputs, outputs, name=f"distilled_{student.name}")


def _check(temperature, weight):
    if not isinstance(temperature, numbers.Real) or not 0 < temperature < math.inf:
        raise ValueError(
            f"`temperature` must be a number above 0. Received: temperature={temperature!r}"
        )
    if not isinstance(weight, numbers.Real) or not 0 < weight < 1:
        raise ValueError(f"`weight` must be a number between 0 and 1. Received: weight={weight!r}")


def _ends_in_logits(model):
    """Whether a model ends without a softmax or sigmoid."""
    last = model
    while isinstance(last, keras.Model):
        last = last.layers[-1]
    activation = getattr(last, "activation", None)
    probable = (keras.activations.softmax, keras.activations.sigmoid)
    return not isinstance(last, keras.layers.Softmax) and activation not in probable


@keras.saving.register_keras_serializable(package="kprune")
class Teacher(keras.layers.Layer):
    """Passes the student's outputs on, and adds to the loss how far they are from the teacher's."""

    def __init__(self, teacher, temperature, weight, from_logits, name="teacher", **kwargs):
        super().__init__(name=name, **kwargs)
        teacher.trainable = False
        self.teacher, self.from_logits = teacher, from_logits
        self.temperature, self.weight = temperature, weight

    @property
    def metrics(self) -> list[Any]:
        """None: those that the teacher was compiled with are not of this training."""
        return []

    def compute_output_spec(self, outputs: Any, inputs: Any, training: Any = None) -> Any:
        """Check that the teacher's outputs are like the student's."""
        taught = self.teacher.compute_output_spec(inputs, training=False)
        if getattr(taught, "shape", None) != outputs.shape:
            raise ValueError(
                "`teacher` must give outputs of the student's shape. Received: "
                f"{getattr(taught, 'shape', taught)} and {outputs.shape}"
            )
        return keras.KerasTensor(outputs.shape, outputs.dtype)

    def call(self, outputs: Tensor, inputs: Any, training: bool | None = None) -> Tensor:
        """Return the outputs of the student as they are."""
        if not training:
            return outputs
        taught = ops.stop_gradient(self.teacher(inputs, training=False))
        expected, got = (self._log_softmax(one) for one in (taught, outputs))
        divergence = ops.sum(ops.exp(expected) * (expected - got), axis=-1)
        self.add_loss(self.weight * self.temperature**2 * ops.mean(divergence))
        # The same values, with the share of the gradient that the compiled loss has.
        return outputs - self.weight * (outputs - ops.stop_gradient(outputs))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, the teacher among them."""
        return {
            **super().get_config(),
            "teacher": keras.saving.serialize_keras_object(self.teacher),
            "temperature": self.temperature,
            "weight": self.weight,
            "from_logits": self.from_logits,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Teacher":
        """Make the layer, and its teacher, from what `get_config` returned."""
        teacher = keras.saving.deserialize_keras_object(config["teacher"])
        return cls(**{**config, "teacher": teacher})

    def _log_softmax(self, outputs):
        """Logarithms of the softened probabilities of the classes, in float32."""
        outputs = ops.cast(outputs, "float32")
        if outputs.shape[-1] == 1:
            if not self.from_logits:
                outputs = ops.clip(outputs, _SMALLEST, 1 - _SMALLEST)
                outputs = ops.log(outputs) - ops.log(1 - outputs)
            outputs = ops.concatenate([ops.zeros_like(outputs), outputs], axis=-1)
        elif not self.from_logits:
            outputs = ops.log(ops.maximum(outputs, _SMALLEST))
        return ops.log_softmax(outputs / self.temperature, axis=-1)
