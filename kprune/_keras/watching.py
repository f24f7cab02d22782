"""Watch what a model computes: every product of tensors, and every call of an operation."""

import contextlib
import threading

import keras
from keras.src import backend

from kprune._system.replaced import replaced

# Keras 3.16 has moved what products and recurrent layers are computed with.
_OPS = getattr(backend, "ops", backend)
_RNN = backend.rnn if hasattr(backend.rnn, "lstm") else backend
# Where every product of every layer passes through.
_MODULES = {"numpy": _OPS.numpy, "nn": _OPS.nn}
_FUSED = ("lstm", "gru")
_lock = threading.Lock()


@contextlib.contextmanager
def watched(products, operation_call, rnn_call):
    """A scope in which other functions stand for those that layers come down to.

    Needs the modules of `keras.src.backend`, since layers call them and not the public
    `keras.ops`, and has no hook to be called by. All threads are affected; scopes take turns.
    Kernels of a backend that compute an LSTM or GRU at once are not used within.

    Args:
        products: dict from a name such as "numpy.matmul" or "nn.conv" to a function from the
            backend's function to the one in its place.
        operation_call: function from `keras.Operation.__call__` to the one in its place.
        rnn_call: function from `keras.layers.RNN.call`, which `TimeDistributed` calls without
            calling the layer, to the one in its place.
    """
    with _lock, contextlib.ExitStack() as stack:

        def replace(owner, name, wrap):
            stack.enter_context(replaced(owner, name, wrap(getattr(owner, name))))

        for path, wrap in products.items():
            module, name = path.split(".")
            replace(_MODULES[module], name, wrap)
        for name in _FUSED:
            replace(_RNN, name, lambda _: _not_fused)
        replace(keras.Operation, "__call__", operation_call)
        replace(keras.layers.RNN, "call", rnn_call)
        yield


def _not_fused(*_, **__):
    raise NotImplementedError
