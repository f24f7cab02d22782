"""Pruning of a trained model at once, from data without labels."""

from collections.abc import Sequence
from typing import Any

import keras

from kprune._system.errors import first_line
from kprune.graphs.weights import check_model, weights_of
from kprune.oneshot.pruner import Pruner, first
from kprune.oneshot.report import OneShotReport
from kprune.pruning.allocation import Allocation, Uniform
from kprune.pruning.groups import Setting, check_finite
from kprune.pruning.patterns import Pattern, Unstructured
from kprune.pruning.schedules import check_sparsity
from kprune.pruning.selection import group
from kprune.structured.block_scores import cut_data

METHODS = ("obs", "wanda", "magnitude")


def prune_once(
    model: keras.Model,
    sparsity: float,
    data: Any,
    method: str = "obs",
    pattern: Pattern | None = None,
    allocation: Allocation | None = None,
    layers: Any = None,
    batch_size: int = 64,
    recalibrate: bool = True,
) -> tuple[keras.Model, OneShotReport]:
    """Prune a trained model in place, without training, from a few hundred unlabelled examples.

    Layer by layer, on what the pruned layers before it make of the data, the weights that go and
    new values for those that stay are chosen so that the layer's output changes the least. For
    Dense, EinsumDense (so attention's projections), convolutions of all kinds, and the kernels of
    recurrent layers; other weights go by magnitude, which the report says. Then zeros are exactly
    those of `Pruning(sparsity)`, and `HoldZeros` keeps them if the model is trained further.

    Example:

    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(8)])
    >>> x = np.random.default_rng(0).normal(size=(256, 20)).astype("float32")
    >>> model, report = kprune.prune_once(model, 0.7, x)
    >>> int(np.sum(model.layers[0].get_weights()[0] == 0))
    112

    Methods:

    - `"obs"`: what is kept is updated, by the second moments of the inputs: the layer-wise problem
      of Optimal Brain Surgeon (Hassibi & Stork, 1993) and SparseGPT (Frantar & Alistarh, 2023),
      solved as in Boža (2024).
    - `"wanda"`: |weight| x the norm of its input decides (Sun et al., 2024); what is kept stays.
    - `"magnitude"`: |weight| decides; the control.

    With `pattern=Channels()` whole channels become zero, those that the layers which take them in
    can best do without (`"obs"`: after their update, as in ZipLM, Kurtic et al., 2023), and
    `kprune.shrink` then removes them.

    Args:
        model: a built `keras.Model` with trained weights.
        sparsity: float in [0, 1), the share of zeros.
        data: inputs of the model: an array, a list or dict of arrays, `(inputs, labels)`, or an
            iterable of batches of these. With labels, and if the model is compiled, the report has
            its metrics before and after.
        method: str, see above.
        pattern: as in `Pruning`.
        allocation: as in `Pruning`: how much of each layer; by magnitude, where scores decide.
        layers: as in `Pruning`.
        batch_size: int, examples in a batch that is cut from arrays.
        recalibrate: whether the statistics of batch normalizations are measured again.

    Returns:
        `(model, report)`: the model itself, and a `OneShotReport`.

    Raises:
        TypeError: not a Keras 3 model, a pattern or an allocation.
        ValueError: a sparsity or method that is none, no data, data that the model does not take,
            or NaN in it. The model is unchanged then.
    """
    check_model(model)
    check_sparsity(sparsity)
    if method not in METHODS:
        raise ValueError(f"`method` is one of {', '.join(METHODS)}. Received: method={method!r}")
    setting = Setting(
        sparsity=sparsity, pattern=pattern or Unstructured(), allocation=allocation or Uniform()
    )
    groups = group(weights_of(model), setting, layers, model)
    check_finite([weight for one in groups for weight in one.weights])
    batches = _batches(model, data, batch_size)
    before = model.get_weights()
    try:
        metrics = [_metrics(model, batches)]
        results = Pruner(model, groups, method, [x for x, *_ in batches], recalibrate).run()
        metrics.append(_metrics(model, batches))
    except BaseException:
        model.set_weights(before)
        raise
    return model, OneShotReport(model.name, method, results, *metrics)


def _batches(model, data, size):
    """Data as a list of `(inputs, labels, weights)`, in the model's own structure."""
    inputs = len(getattr(model, "inputs", None) or [0])
    parts = [p if isinstance(p, tuple) else (p,) for p in cut_data(data, inputs, size)]
    if not parts or not len(first(parts[0])):
        raise ValueError("`data` has no example in it.")
    batches = [((*part, None, None)[:3]) for part in parts]
    try:
        model(batches[0][0], training=False)
    except Exception as error:
        shapes = keras.tree.map_structure(lambda a: tuple(a.shape), batches[0][0])
        raise ValueError(
            f"`data` does not fit {model.name!r}: {first_line(error)} Received: a batch of "
            f"shape {shapes}"
        ) from error
    return batches


def _metrics(model: Any, batches: Sequence[Any]) -> dict[str, float] | None:
    """The metrics of a compiled model on labelled batches, or None."""
    if not model.compiled or batches[0][1] is None:
        return None
    totals: dict[str, float] = {}
    n = 0
    for x, y, weights in batches:
        size = len(first(x))
        found = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + float(value) * size
        n += size
    return {name: total / n for name, total in totals.items()}
