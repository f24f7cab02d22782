"""Take away all pruning machinery; exact zeros stay."""

from kprune import _backend, selection
from kprune.optimizer import PruningOptimizer


def find_pruning(model):
    """Return what of kprune is still attached to a model, as a list of strings."""
    found = []
    if isinstance(getattr(model, "optimizer", None), PruningOptimizer):
        found.append(f"the optimizer of {model.name!r} is a PruningOptimizer")
    return found


def strip_pruning(model):
    """Return the model as plain Keras: no pruning machinery, exact zeros.

    A model pruned with `kprune.Pruning` keeps its identity: its optimizer is unwrapped,
    with its state, and the same model comes back.

    Example:

    ```python
    model.fit(x, y, epochs=10, callbacks=[kprune.Pruning(0.9)])
    model = kprune.strip_pruning(model)
    model.save("pruned.keras")  # opens without kprune
    ```

    Args:
        model: a built `keras.Model` that was pruned.

    Raises:
        ValueError: nothing of the model was pruned yet.
        TypeError: not a Keras 3 model.
    """
    selection.check_model(model)
    weights = [w for w in selection.weights(model) if w.reason is None]
    if not any(selection.count_zeros([w]) for w in weights):
        attached = "; ".join(find_pruning(model)) or "it carries no pruning machinery"
        raise ValueError(
            f"There is nothing to strip: no weight of {model.name!r} is zero ({attached}). "
            "Train it with kprune.Pruning past the schedule's begin_step first."
        )
    if isinstance(getattr(model, "optimizer", None), PruningOptimizer):
        model.optimizer = model.optimizer.base_optimizer
        _backend.recompile(model)
    return model
