"""The `fit` call that is under way, as seen from one of its callbacks."""

import keras


def run_last(model, function):
    """Run a function when `fit` ends, after `on_train_end` of the callbacks that were passed.

    Callbacks like `EarlyStopping` change the weights in `on_train_end`, and a callback cannot
    know whether it stands before or after them. Keras puts the `History` callback of a `fit`
    behind those that the user passes, and keeps it in `model.history`.

    Args:
        model: the model that is trained; call this from `on_epoch_begin` of the first epoch.
        function: takes no arguments. Of several in one `fit` the first runs.

    Returns:
        Whether it will run. Not where the callbacks are called by hand, without a `History`.
    """
    history = getattr(model, "history", None)
    # The history of a `fit` that is over has epochs in it.
    if not isinstance(history, keras.callbacks.History) or getattr(history, "epoch", None) != []:
        return False
    if "on_train_end" in vars(history):
        return True  # Another callback of this `fit` has said what is to run.
    on_train_end = history.on_train_end

    def then_run(logs=None):
        del history.on_train_end
        on_train_end(logs)
        function()

    history.on_train_end = then_run
    return True


def lower_is_better(model, monitor):
    """Whether lower values of a metric in the logs of `fit` are better; None if Keras cannot tell.

    Keras' metrics know it of themselves, as `EarlyStopping(mode="auto")` asks them, by no public
    name.

    Args:
        model: the compiled model, after a step of training.
        monitor: str, the metric's name in the logs.
    """
    name = monitor.removeprefix("val_")
    if name == "loss" or name.endswith("_loss"):
        return True
    found = [one for metric in model.metrics for one in getattr(metric, "metrics", [metric])]
    for metric in found:
        if name == metric.name or name.endswith(f"_{metric.name}"):
            direction = getattr(metric, "_direction", None)
            return None if direction is None else direction != "up"
    return None
