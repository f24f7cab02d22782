"""The optimizer steps of a `fit` call."""

from kprune._keras import backend
from kprune._keras.optimizers import steps_made

# By this share of the run may the steps that an optimizer makes differ from those expected.
_TOLERANCE = 0.1


class Run:
    """The steps that one optimizer makes in a `fit` call.

    Attributes:
        now: the step that was reached.
        first: the step at which the whole run begins; before `now` when the run is resumed in a
            later epoch.
        total: how many steps the whole run has; None if unknown.
        last: the step at which it ends; None if unknown.
        beginnings: the steps at which the whole run may have begun, the likeliest first.
        repeated: how many steps before `first` it may have begun, too: where it was cut short
            within an epoch, Keras makes that epoch's steps again.
    """

    def __init__(self, optimizer, epoch, epochs, batches):
        self._optimizer, self._epochs = optimizer, epochs
        self.now = backend.to_int(optimizer.iterations)
        self.beginnings, self.repeated = [self.now], 0
        self.total, self.last = None, None
        self._epoch_began = self.now
        if batches is None or epochs is None:
            return
        accumulated = _accumulation(optimizer)
        made = backend.to_int(steps_made(_innermost(optimizer)))
        self.last = (made + (epochs - epoch) * batches) // accumulated
        earlier = epoch * batches // accumulated
        an_epoch = batches // accumulated
        if not earlier and self.now <= an_epoch:
            self.beginnings.append(0)  # A new run, unless it was cut short in its first epoch.
        elif earlier and self.now >= earlier:
            first = self.now - earlier
            self.repeated = min(first, an_epoch)
            # Most often it began with an optimizer's very first step.
            self.beginnings = [first, first - self.repeated]
        self.total = self.last - self.first
        if self.total < 1:
            raise ValueError(
                "This `fit` call makes no optimizer step, so there is nothing to prune in. "
                f"Received: epochs={epochs}, {batches} batches an epoch, "
                f"gradient_accumulation_steps={accumulated}"
            )

    @property
    def first(self):
        return self.beginnings[0]

    def follow(self, epoch):
        """Take the steps of the epoch that has ended as the measure of those to come.

        An optimizer of a `train_step` of the user's own may make several steps a batch, or one
        every few batches, and a data set may run out.

        Returns:
            Whether the run is clearly another one than was expected.
        """
        now = backend.to_int(self._optimizer.iterations)
        made, self._epoch_began, self.now = now - self._epoch_began, now, now
        if self.last is None or not made:
            return False
        last = now + made * (self._epochs - epoch)
        if abs(last - self.last) <= _TOLERANCE * self.total:
            return False
        self.beginnings, self.repeated = [self.first], 0
        self.last, self.total = last, last - self.first
        return True


def _innermost(optimizer):
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _accumulation(optimizer):
    return _innermost(optimizer).gradient_accumulation_steps or 1
