"""TFMOT's own tests of its pruning API, with kprune in the place of TFMOT.

    git clone https://github.com/tensorflow/model-optimization
    python scripts/run_tfmot_tests.py model-optimization

Each test file runs as it is. What it imports of TFMOT is kprune, and what it imports of Keras 2
is Keras 3, with the spellings that Keras itself has changed put back (`.tf` files of weights,
`Input(shape=16)`, `get_shape().as_list()`, ...).
"""

import os

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}

import contextlib
import functools
import importlib.util
import io
import json
import sys
import types
import unittest
from pathlib import Path
from typing import Annotated

import keras
import tensorflow as tf
import typer
from keras.src.legacy.saving import legacy_h5_format

import kprune
from kprune.training.wrappers.pruning_wrapper import wrappers_in

CORE = "tensorflow_model_optimization.python.core"
FOLDER = "tensorflow_model_optimization/python/core/"
FILES = [
    "prune_test",
    "prune_integration_test",
    "prune_distributed_test",
    "pruning_callbacks_test",
    "pruning_policy_test",
    "pruning_schedule_test",
    "pruning_wrapper_test",
]


# Why a test does not pass: the difference in docs/tfmot.md.
ON_PURPOSE = {
    "testPruneSubclassModel": "D1",
    "testPruneKerasUnsupportedLayer": "D2",
    "testPruneCustomNonPrunableLayer": "D2",
    "testPruneModelUnsupportedKerasLayerRaisesError": "D2",
    "testPruneModelCustomNonPrunableLayerRaisesError": "D2",
    "testCustomLayerNonPrunable": "D2",
    "testSparsityPruningMbyN_SupportedSubclassLayers": "D3",
    "testPruneFunctionalModel": "D4",
    "testPruneModelValidLayersSuccessful": "D4",
    "testPruneValidLayersListSuccessful": "D4",
    "testPruneMiscObject": "D5",
    "testStripPruningFunctionalModel": "D7",
    "testStripPruningSequentialModel": "D7",
    "testPruneScope_NeededForKerasModel": "D8",
    "testPruneTrainingRaisesError_PruningStepCallbackMissing": "D9",
    "testPruneTrainingLoopRaisesError_PruningStepCallbackMissing_CustomTrainingLoop": "D9",
    "testFunctionalModelForLatencyOnXNNPackPolicy": "D13",
    "testFunctionalModelNoPruningLayersForLatencyOnXNNPackPolicy": "D13",
    "testFunctionalModelWithTFOpsForLatencyOnXNNPackPolicy": "D13",
    "testPruneSequentialModelForLatencyOnXNNPackPolicy": "D13",
    "testPruneUnsupportedModelForLatencyOnXNNPackPolicyMiddleLayer": "D13",
    "testPruneUnsupportedModelForLatencyOnXNNPackPolicyNoStartLayer": "D13",
    "testPruneUnsupportedModelForLatencyOnXNNPackPolicyNoStopLayer": "D13",
    "testPruneCheckpoints_CheckpointsNotSparse": "D15",
    "testPruneThenLoadTFWeights_DifferentInferenceWithoutTraining": "D16",
    "testPruneThenLoadTFWeights_DoesNotPreserveWeights": "D16",
    "testConv3DWeightNotPrunedWithSparsityMbyN": "Keras 3 takes one axis of examples",
}


def main(
    source: Annotated[Path, typer.Argument(help="A checkout of tensorflow/model-optimization.")],
    only: Annotated[str, typer.Option(help="Only tests with this in their name.")] = "",
    verbose: Annotated[bool, typer.Option(help="The traceback of each failure.")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write the results here.")] = None,
):
    """Run TFMOT's tests against kprune and list those that fail, with the reason."""
    _install(source / FOLDER)
    results = {}
    for name in FILES:
        module = _load(source / FOLDER / "sparsity" / "keras" / f"{name}.py", name)
        # For TF <= 2.5; the layer of Keras has been the same since.
        module.CompatGlobalAveragePooling2D = keras.layers.GlobalAveragePooling2D
        for test in _tests(unittest.defaultTestLoader.loadTestsFromModule(module)):
            if only in test.id() and not test.id().endswith("test_session"):
                results[test.id()] = _run(test, verbose)
                print(f"{test.id()}: {_shown(test, results[test.id()])}", flush=True)
    failed = [name for name, result in results.items() if result is not None]
    unknown = [name for name in failed if name.rpartition(".")[2] not in ON_PURPOSE]
    print(
        f"{len(results) - len(failed)} of {len(results)} pass; {len(failed) - len(unknown)} differ "
        f"on purpose; {len(unknown)} fail: {unknown}"
    )
    if output is not None:
        output.write_text(json.dumps(results, indent=1))


def _shown(test, result):
    if result is None:
        return "ok"
    reason = ON_PURPOSE.get(test.id().rpartition(".")[2])
    return f"differs ({reason})" if reason else result


def _tests(suite):
    for part in suite:
        yield from _tests(part) if isinstance(part, unittest.TestSuite) else [part]


def _run(test, verbose):
    """Run a test; return None, or the last line of what went wrong."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    result = unittest.TestResult()
    with contextlib.redirect_stdout(io.StringIO()):
        test.run(result)
    wrong = [text for _, text in result.failures + result.errors]
    wrong += [f"skipped: {reason}" for _, reason in result.skipped]
    if wrong and verbose:
        print(wrong[0])
    return wrong[0].strip().splitlines()[-1][:300] if wrong else None


def _module(name, **attributes):
    """Register a module, and the packages around it."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        package = sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(parts[i - 1]))
        package.__path__ = []
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(attributes)
    setattr(sys.modules[name.rpartition(".")[0]], parts[-1], module)
    return module


def _load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if "." in name:
        setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], module)
    spec.loader.exec_module(module)
    return module


def _install(core):
    """Put kprune, and Keras 3, where TFMOT's tests look for TFMOT and Keras 2."""
    _module(f"{CORE}.keras.compat", keras=_keras_2(), initialize_variables=lambda test: None)
    _module(
        f"{CORE}.quantization.keras.utils",
        deserialize_keras_object=keras.saving.deserialize_keras_object,
    )
    sparsity = f"{CORE}.sparsity.keras"
    for name, attributes in {
        "prune": ["prune_low_magnitude", "prune_scope", "strip_pruning"],
        "pruning_callbacks": ["UpdatePruningStep", "PruningSummaries"],
        "pruning_schedule": ["ConstantSparsity", "PolynomialDecay"],
        "pruning_policy": ["PruneForLatencyOnXNNPack"],
        "prunable_layer": ["PrunableLayer"],
        "pruning_wrapper": ["PruneLowMagnitude"],
    }.items():
        _module(f"{sparsity}.{name}", **{each: getattr(kprune, each) for each in attributes})
    sys.modules[f"{sparsity}.pruning_wrapper"].collect_prunable_layers = wrappers_in
    _module(f"{sparsity}.prune_registry", PruneRegistry=_Registry)
    _load(core / "sparsity/keras/pruning_utils.py", f"{sparsity}.pruning_utils")
    _load(core / "sparsity/keras/test_utils.py", f"{sparsity}.test_utils")
    _load(core / "keras/test_utils.py", f"{CORE}.keras.test_utils")


class _Registry:
    """The layers that TFMOT's tests go through, less those that Keras 3 does not have."""

    _LAYERS_WEIGHTS_MAP = dict.fromkeys(
        [
            keras.layers.Conv1D,
            keras.layers.Conv2D,
            keras.layers.Conv2DTranspose,
            keras.layers.Conv3D,
            keras.layers.Conv3DTranspose,
            keras.layers.SeparableConv1D,
            keras.layers.SeparableConv2D,
            keras.layers.Dense,
            keras.layers.Embedding,
            keras.layers.MultiHeadAttention,
        ],
        "kernel",
    )
    _RNN_LAYERS = frozenset(
        {keras.layers.GRU, keras.layers.LSTM, keras.layers.RNN, keras.layers.SimpleRNN}
    )


def _keras_2():
    """Keras 3 with the names and arguments of Keras 2 that the tests use."""
    keras_2 = tf.keras
    layers, models = keras_2.layers, keras_2.models
    for name in ("LocallyConnected1D", "LocallyConnected2D"):
        setattr(layers, name, type(name, (), {}))  # Keras 3 has none.
    models.model_from_config = keras.saving.deserialize_keras_object
    keras.KerasTensor.get_shape = lambda self: tf.TensorShape(self.shape)
    for model in (keras.Sequential, keras.src.models.functional.Functional):
        model.input = property(lambda self: _one_or_all(self.inputs))
        model.output = property(lambda self: _one_or_all(self.outputs))
    keras.Model.optimizer = None  # Before `compile`.
    save_optimizer = legacy_h5_format.save_optimizer_weights_to_hdf5_group
    legacy_h5_format.save_optimizer_weights_to_hdf5_group = lambda group, optimizer: (
        optimizer and save_optimizer(group, optimizer)
    )
    layers.Input = _with_a_tuple(layers.Input)
    layers.AveragePooling2D = functools.partial(layers.AveragePooling2D, pool_size=2)
    keras.Layer.add_weight = _with_a_tuple(keras.Layer.add_weight)
    keras.Sequential.build = _once(keras.Sequential.build)
    keras.Model.save_weights = _named_for_keras_3(keras.Model.save_weights)
    keras.Model.load_weights = _named_for_keras_3(keras.Model.load_weights)
    checkpoint = keras.callbacks.ModelCheckpoint
    checkpoint.__init__ = _named_for_keras_3(checkpoint.__init__, "filepath")
    tf.train.latest_checkpoint = lambda folder: str(max(Path(folder).iterdir()))
    tf.identity = lambda x: keras.layers.Identity()(x)
    return keras_2


def _one_or_all(tensors):
    return tensors[0] if len(tensors) == 1 else tensors


def _once(build):
    """`build`, which a model that is built already ignores."""

    def call(model, input_shape=None):
        if not model.built:
            build(model, input_shape)

    return call


def _with_a_tuple(function):
    """`function`, whose argument `shape` may be an int."""

    def call(*args, **kwargs):
        if isinstance(kwargs.get("shape"), int):
            kwargs["shape"] = (kwargs["shape"],)
        return function(*args, **kwargs)

    return call


def _named_for_keras_3(function, argument=None):
    """`function`, whose file of weights may have another ending than `.weights.h5`."""

    def call(self, *args, **kwargs):
        path = kwargs.pop(argument) if argument else args[0]
        named = str(path).removesuffix(".weights.h5") + ".weights.h5"
        if argument:
            return function(self, *args, **kwargs, **{argument: named})
        return function(self, named, *args[1:], **kwargs)

    return call


if __name__ == "__main__":
    typer.run(main)
