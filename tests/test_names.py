"""The public names: those of the main line, those of the rooms, and all of 0.1's."""

import dataclasses
import enum
import importlib
import inspect
import warnings

import pytest

import kprune

# `kprune.__all__` as it was in 0.1, and the dotted names that its documentation had.
_OF_0_1 = """
NM Allocation BatchNormScale Block CentroidInitialization Channels CheckReport CompressReport
ConstantSparsity Criterion ErdosRenyiKernel ExportError ExportReport Global HoldZeros L2Norm
Magnitude Pattern PolynomialDecay PrunableLayer PruneForLatencyOnXNNPack PruneLowMagnitude Pruning
PruningOptimizer PruningPolicy PruningSchedule PruningSummaries QuantizationAware Random Slimming
Target Taylor Uniform Unstructured UpdatePruningStep WeightSharing after_pruning benchmark
channel_groups check cluster_scope cluster_weights compress compute_mask export_onnx export_tflite
flops for_target prepare prune_channels prune_low_magnitude prune_scope recalibrate_batchnorm
register_channel_rule shrink sparsity strip_clustering strip_pruning
clustering.ClusterableLayer measure.benchmark_web quantization.fake_quantize
quantization.remove_fake_quantization sharing.share_weights structured.Call
"""
OF_0_1 = _OF_0_1.split()
# TFMOT's, which stay here beside `kprune.tfmot`.
TFMOT = {*kprune.tfmot.sparsity.keras.__all__, *kprune.tfmot.clustering.keras.__all__}
TFMOT -= {"ClusterableLayer", "clusterable_layer", "experimental"}
ROOMS = [
    "compression", "export", "measure", "oneshot", "pruning", "search", "structured", "targets",
    "training",
]  # fmt: skip


def dotted(path):
    value = kprune
    for part in path.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("path", OF_0_1)
def test_every_name_of_0_1_works_or_warns_with_the_new_one(path):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        value = dotted(path)
    if path not in kprune._MOVED:
        assert warned == []
        return
    (warning,) = warned
    assert warning.category is DeprecationWarning
    assert warning.filename == __file__
    home, _, now = kprune._MOVED[path].rpartition(".")
    assert f"use {home}.{now}." in str(warning.message)
    assert value is getattr(importlib.import_module(home), now)
    assert path.split(".")[0] not in dir(kprune)


def test_about_thirty_names_make_the_main_line():
    assert len(kprune.__all__) == len(set(kprune.__all__)) <= 37
    assert not set(kprune.__all__) & set(kprune._MOVED)
    assert set(kprune.__all__) < set(dir(kprune))


@pytest.mark.parametrize("name", sorted(TFMOT))
def test_names_of_tfmot_stay_at_the_top(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = getattr(kprune, name)
    keras = kprune.tfmot.sparsity.keras, kprune.tfmot.clustering.keras
    assert any(getattr(namespace, name, None) is value for namespace in keras)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_lists_names_that_it_has(room):
    module = importlib.import_module(f"kprune.{room}")
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), name
        if isinstance(getattr(module, name), (type, type(dotted))):
            assert getattr(module, name).__doc__, name


@pytest.mark.parametrize("name", kprune.__all__)
def test_a_name_of_the_main_line_is_in_a_room(name):
    rooms = [importlib.import_module(f"kprune.{room}") for room in ROOMS]
    assert any(name in room.__all__ for room in rooms)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'kprune' has no attribute 'Prunning'"):
        kprune.Prunning  # noqa: B018


def _functions_of(value):
    """Yield the functions of a public class, its public methods and `__init__`, or the function."""
    if inspect.isfunction(value):
        yield value
    elif inspect.isclass(value) and not issubclass(value, enum.Enum):
        for kind in (k for k in value.__mro__ if k.__module__.startswith("kprune")):
            for name, member in vars(kind).items():
                generated = dataclasses.is_dataclass(kind) and name == "__init__"
                if generated or (name.startswith("_") and name not in ("__init__", "__call__")):
                    continue
                member = member.fget if isinstance(member, property) else member
                member = inspect.unwrap(getattr(member, "__func__", member))
                if inspect.isfunction(member):
                    yield member


@pytest.mark.parametrize("room", ROOMS)
def test_public_functions_have_types(room):
    module = importlib.import_module(f"kprune.{room}")
    for name in module.__all__:
        for function in _functions_of(getattr(module, name)):
            signature = inspect.signature(function)
            found = {p.name for p in signature.parameters.values() if p.annotation is p.empty}
            assert not found - {"self", "cls"}, f"{name}: {function.__qualname__}"
            assert signature.return_annotation is not signature.empty, function.__qualname__
