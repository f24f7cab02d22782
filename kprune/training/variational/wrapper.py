"""A layer that learns how much noise each weight of the layer it wraps bears."""

from typing import Any, Self

import keras
from keras import ops

from kprune._keras import backend
from kprune._keras.layers import flatten_layers
from kprune._keras.scope import made_once_a_step
from kprune._keras.wrapper import ReplacingWrapper
from kprune._system.type_aliases import Tensor
from kprune.training.variational import local_reparametrization
from kprune.training.variational.divergence import kl_divergence, log_alpha
from kprune.training.wrappers.prunable import nothing_to_prune, prunable_weights, weights_are_known


@keras.saving.register_keras_serializable(package="kprune")
class SparseVariationalDropout(ReplacingWrapper):
    """Learns the kernels of the layer it wraps together with the noise that each weight bears.

    Each weight has a normal distribution: its mean theta is the layer's own weight, and the log
    of its variance, `log_sigma2`, is a weight of this layer. In training, the outputs have the
    noise that weights drawn anew for each example would give (the local reparametrization trick),
    and the divergence of the distributions from a log-uniform prior is added to the loss. It
    drives log alpha = log(sigma^2 / theta^2) up wherever the data allow it; a weight of which it
    is above `threshold` is mostly noise, and zero when the layer is not training. It is exactly
    zero once `kprune.strip_pruning` has taken the wrapper off; until then theta goes on.

    So it is for Dense, EinsumDense, convolutions, also transposed and depthwise ones. Any other
    layer (recurrent, attention, embedding, separable convolution, or of your own) has noise on its
    weights themselves, the same for a whole batch: correct, too, with gradients of more variance.

    The divergence counts in the loss by `kl_weight` / number of training examples, which
    `KLWarmUp` finds out in `fit`. Losses of `evaluate` and of validation are without it.

    Molchanov, Ashukha and Vetrov, "Variational dropout sparsifies deep neural networks" (2017).

    Example:

    ```python
    model = keras.Sequential(
        [
            keras.Input((784,)),
            kprune.training.SparseVariationalDropout(keras.layers.Dense(300, activation="relu")),
            keras.layers.Dense(10),
        ]
    )
    ```

    Args:
        layer: the `keras.Layer`, built or not.
        threshold: float, the log alpha from which on a weight is zero; 3, by default, is a
            dropout rate of 0.95.
        initial_log_sigma2: float, of every weight.
        kl_scale: float > 0, what the divergence is multiplied with in the loss, for training
            without `KLWarmUp`: 1 / number of training examples is the variational bound.
        **kwargs: those of `keras.Layer`.

    Raises:
        ValueError: an argument out of its range, or a layer with no weight that can be pruned. In
            training: neither `KLWarmUp` nor `kl_scale`.
        TypeError: `layer` is no Keras layer, or a model.
    """

    def __init__(
        self,
        layer: keras.Layer,
        threshold: float = 3.0,
        initial_log_sigma2: float = -10.0,
        kl_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(threshold, initial_log_sigma2, kl_scale)
        _check_layer(layer)
        kwargs.setdefault("name", f"sparse_variational_dropout_{layer.name}")
        super().__init__(layer, **kwargs)
        self.threshold = float(threshold)
        self.initial_log_sigma2 = float(initial_log_sigma2)
        self.kl_scale = None if kl_scale is None else float(kl_scale)
        self._initial_scale, self._initial_warm_up = self.kl_scale or 0.0, 0.0
        self._is_scaled = kl_scale is not None
        self._noisy: list[_NoisyWeight] | None = None
        self._seed_generator = keras.random.SeedGenerator()

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Build the wrapped layer, if it is not, and the variances of its kernels."""
        if self._noisy is not None:
            return
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
        found = [weight.variable for weight in prunable_weights(self.layer)]
        self._noisy = [_NoisyWeight(self, variable) for variable in found]
        self._scale = self._add_state("kl_scale", "float32", self._initial_scale)
        self._warm_up_steps = self._add_state("warm_up_steps", "float32", self._initial_warm_up)
        self._step = self._add_state("step", "int32", 0)

    def _add_state(self, name, dtype, value):
        return self.add_weight(
            name=name,
            shape=(),
            dtype=dtype,
            initializer=keras.initializers.Constant(value),
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",  # The same on all.
        )

    def _call(self, *args, **kwargs):
        if not kwargs.get("training") or not self._noisy:
            return super()._call(*args, **kwargs)
        if not self._is_scaled:
            raise ValueError(
                f"The KL divergence of {self.name!r} has no weight in the loss yet: pass "
                "kprune.training.KLWarmUp() to the callbacks of `fit`, or, without it, "
                "`kl_scale`, which is 1 / number of training examples."
            )
        self._add_once(made_once_a_step(self, self._divergence))
        if len(self._noisy) == 1 and local_reparametrization.is_linear(self.layer):
            return self._with_noisy_outputs(*args, **kwargs)
        noisy = [weight.variable for weight in self._noisy]
        values = [ops.cast(each.drawn(), each.variable.dtype) for each in self._noisy]
        return self.call_with((noisy, values), args, kwargs)

    def _with_noisy_outputs(self, *args, **kwargs):
        (noisy,) = self._noisy
        inputs = args[0] if args else kwargs["inputs"]
        deviation = local_reparametrization.standard_deviation(
            self.layer, noisy.variable, noisy.variance(), inputs
        )
        noise = deviation * self.normal(ops.shape(deviation))
        layer = local_reparametrization.with_noise(self.layer, noise)
        return layer(*args, **self.accepted(kwargs))

    def _add_once(self, loss):
        # On JAX, Keras drops the losses of a layer's earlier calls in the step.
        if loss is not None and not any(loss is other for other in self.losses):
            self.add_loss(loss)

    def _divergence(self):
        """Make a step; return the divergence, in its weight in the loss at this step."""
        step, length = ops.cast(backend.read(self._step), "float32"), self._warm_up_steps
        length = backend.read(length)
        share = ops.where(length > 0, ops.minimum(step / ops.maximum(length, 1.0), 1.0), 1.0)
        self._step.assign(backend.read(self._step) + 1)
        return backend.read(self._scale) * share * self.kl()

    def normal(self, shape: Any) -> Tensor:
        """Return new standard normal noise, float32."""
        return keras.random.normal(shape, dtype="float32", seed=self._seed_generator)

    def kl(self) -> Tensor:
        """Return the divergence of all weights from the prior, in nats: a float32 scalar."""
        return sum(ops.sum(kl_divergence(weight.log_alpha())) for weight in self._noisy or [])

    def replaced_values(self) -> tuple[list[keras.Variable], list[Tensor]]:
        """Return the kernels, and their values without those that are mostly noise."""
        noisy = self._noisy or []
        return [weight.variable for weight in noisy], [weight.masked() for weight in noisy]

    def mask_weights(self) -> None:
        """Write zeros into the weights that are mostly noise."""
        for weight in self._noisy or []:
            weight.variable.assign(weight.masked())

    def scale_kl(self, kl_scale: float | None, warm_up_steps: float) -> None:
        """Set what the divergence is multiplied with in the loss, and by which step.

        Args:
            kl_scale: float; None for the one that there is, until it is known.
            warm_up_steps: float, the step at which the multiplier has risen to it, linearly from
                the first step of this layer on; 0 for at once.
        """
        self._is_scaled = True
        if self._noisy is None:  # It is built in the first step.
            self._initial_warm_up = warm_up_steps
            self._initial_scale = self._initial_scale if kl_scale is None else kl_scale
            return
        self._warm_up_steps.assign(warm_up_steps)
        if kl_scale is not None:
            self._scale.assign(kl_scale)

    def count_noise(self) -> int:
        """Return how many weights are mostly noise, and zero when the layer is not training."""
        return sum(
            int(backend.count_true(ops.logical_not(weight.is_signal())))
            for weight in self._noisy or []
        )

    @property
    def noisy_variables(self) -> list[keras.Variable]:
        """List of the kernels' variables, the means; empty before it is built."""
        return [weight.variable for weight in self._noisy or []]

    @property
    def log_sigma2(self) -> list[keras.Variable]:
        """List of the variables of the log variances, in the same order."""
        return [weight.log_sigma2 for weight in self._noisy or []]

    def get_prunable_weights(self) -> list[keras.Variable]:
        """Return no variable: variances are not pruned."""
        return []

    def get_config(self) -> dict[str, Any]:
        """Return all arguments, serializable."""
        return {
            **super().get_config(),
            "threshold": self.threshold,
            "initial_log_sigma2": self.initial_log_sigma2,
            "kl_scale": self.kl_scale,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """Make a wrapper from what `get_config` returned."""
        layer = keras.saving.deserialize_keras_object(
            config["layer"], custom_objects=custom_objects
        )
        return cls(**{**config, "layer": layer})


class _NoisyWeight:
    """A variable of a wrapped layer, the means, and the variable of its log variances."""

    def __init__(self, wrapper, variable):
        self.variable, self.wrapper = variable, wrapper
        self.log_sigma2 = wrapper.add_weight(
            name="log_sigma2",
            shape=variable.shape,
            dtype="float32",
            initializer=keras.initializers.Constant(wrapper.initial_log_sigma2),
            autocast=False,
        )

    def theta(self):
        return ops.cast(backend.read(self.variable), "float32")

    def variance(self):
        return ops.exp(backend.read(self.log_sigma2))

    def log_alpha(self):
        return log_alpha(self.theta(), backend.read(self.log_sigma2))

    def is_signal(self):
        return self.log_alpha() < self.wrapper.threshold

    def masked(self):
        return backend.apply_mask(self.variable, self.is_signal())

    def drawn(self):
        """Return the weights, drawn once."""
        noise = self.wrapper.normal(self.variable.shape)
        return self.theta() + ops.exp(0.5 * backend.read(self.log_sigma2)) * noise


def noisy_layers_in(layer):
    """Return the `SparseVariationalDropout`s in a layer or model, itself included."""
    return [part for part in flatten_layers(layer) if isinstance(part, SparseVariationalDropout)]


def check_arguments(threshold, initial_log_sigma2, kl_scale=None):
    """Raise unless the numbers that `SparseVariationalDropout` takes are sound."""
    for name, value in {"threshold": threshold, "initial_log_sigma2": initial_log_sigma2}.items():
        if not isinstance(value, int | float) or not -100 < value < 100:
            raise ValueError(
                f"`{name}` must be a float, the log of a ratio or variance. "
                f"Received: {name}={value!r}"
            )
    if kl_scale is not None and (not isinstance(kl_scale, int | float) or not kl_scale > 0):
        raise ValueError(
            "`kl_scale` must be a float above 0, such as 1 / number of training examples, or None "
            f"to let KLWarmUp find it out. Received: kl_scale={kl_scale!r}"
        )


def _check_layer(layer):
    if not isinstance(layer, keras.Layer) or isinstance(layer, keras.Model):
        raise TypeError(
            "SparseVariationalDropout wraps a layer; wrap a model with "
            "`kprune.training.sparse_variational_dropout`. "
            f"Received: {layer!r} (of type {type(layer)})"
        )
    if any(isinstance(part, ReplacingWrapper) for part in flatten_layers(layer)):
        raise ValueError(f"The layer {layer.name!r} is wrapped already. Received: {layer!r}")
    if weights_are_known(layer) and not prunable_weights(layer):
        raise nothing_to_prune(layer)
