"""Scores that need gradients, summed over batches of data."""

import keras

from kprune._keras.optimizers import trained_variables, variable_index
from kprune._system.errors import first_line
from kprune.structured.surgery import cut

_BATCH = 32


class _Recorder(keras.optimizers.Optimizer):
    """An optimizer that changes nothing, and adds up the scores of the weights."""

    def __init__(self, criterion):
        super().__init__(learning_rate=0.0, name="recorder")
        self._criterion = criterion
        self.sums = []

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.sums = [self.add_variable_from_reference(v, "score") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        score = self._criterion(variable, gradient)
        self.assign_add(self.sums[variable_index(self, variable)], score)


def scores_on_data(graph, criterion, data, loss=None):
    """Return a function from a variable of the model to its scores, summed over the data.

    A copy of the model is run, in training mode; the model itself does not change.

    Args:
        graph: the `ChannelGraph` of the model.
        criterion: a `Criterion` with `needs_gradient`.
        data: `(x, y)` of arrays, or whatever else `fit` takes as its data.
        loss: what the gradient is of; the model's own, if it is compiled.

    Raises:
        ValueError: no data, no loss, or data that the model does not take.
    """
    model = graph.model
    if data is None:
        raise ValueError(f"{criterion} needs gradients: pass `data=(x, y)`.")
    loss = loss or (model.loss if model.compiled else None)
    if loss is None:
        raise ValueError(
            f"{criterion} needs gradients of a loss: compile the model, or pass `loss=`."
        )
    places = {}

    def remember(new_of):
        for record in graph.layers.values():
            pairs = zip(record.layer.weights, new_of(record.layer).weights)
            places.update((id(old), new) for old, new in pairs)

    copy = cut(graph, [], remember)
    recorder = _Recorder(criterion)
    copy.compile(recorder, loss, auto_scale_loss=False)
    pair = isinstance(data, tuple) and len(data) in (2, 3)
    try:
        if pair:
            copy.fit(*data[:2], batch_size=_BATCH, sample_weight=(*data, None)[2], verbose=0)
        else:
            copy.fit(data, verbose=0)
    except Exception as error:
        raise ValueError(
            f"{model.name!r} cannot be trained on `data`; it needs batches of inputs of shape "
            f"{model.input_shape} and targets for the loss {loss!r}. Keras says: "
            f"{first_line(error)}"
        ) from error
    if not recorder.built:
        raise ValueError("`data` has no batch in it.")
    sums = {id(v): s for v, s in zip(trained_variables(recorder), recorder.sums)}

    def scores(variable):
        found = sums.get(id(places[id(variable)]))
        return keras.ops.zeros(variable.shape) if found is None else found.value

    return scores
