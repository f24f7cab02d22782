"""Weights as `sparse_initializer`: smaller where that is so, and read back as they were."""

import gzip
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from kprune.export import ExportError, export_onnx
from kprune.export.onnx import ONNX
from kprune.formats.onnx.flops import onnx_flops
from kprune.formats.onnx.sparse_initializers import densified, saved, transform
from kprune.measure.size import size
from kprune.runtimes.onnxruntime import OnnxRuntime
from tests.helpers.runtimes import SKIP, needs_tensorflow, prune_by_hand, run_onnx
from tests.helpers.zoo import ZOO

on_tensorflow = pytest.mark.skipif(needs_tensorflow, reason=SKIP)


def file_with(*weights):
    """Return the bytes of a file that multiplies by each weight; its inputs fit the weights."""
    helper, nodes, inputs, outputs, tensors = onnx.helper, [], [], [], []
    for i, weight in enumerate(weights):
        float_weight = f"w{i}"
        tensors.append(onnx.numpy_helper.from_array(weight, f"s{i}"))
        nodes.append(helper.make_node("Cast", [f"s{i}"], [float_weight], to=1))
        nodes.append(helper.make_node("MatMul", [f"x{i}", float_weight], [f"y{i}"]))
        inputs.append(helper.make_tensor_value_info(f"x{i}", 1, ["n", len(weight)]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", 1, ["n", weight.shape[1]]))
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, ir_version=7, opset_imports=opset).SerializeToString()


def matrix(rows, columns, sparsity, dtype, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 100, (rows, columns))
    return (values * (rng.random((rows, columns)) >= sparsity)).astype(dtype)


@settings(max_examples=40)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0, 1),
    st.sampled_from(["float32", "float16", "int8"]),
)
def test_every_file_is_valid_no_larger_and_runs_alike(rows, columns, sparsity, dtype):
    weight = matrix(rows, columns, sparsity, dtype)
    dense = file_with(weight)
    blob = transform(dense)
    count, sparse_bytes, dense_bytes = saved(dense, blob)
    assert len(blob) <= len(dense)
    assert sparse_bytes < dense_bytes or (count == 0 and blob is dense)
    onnx.checker.check_model(blob)
    graph = onnx.ModelProto.FromString(blob).graph
    assert count == len(graph.sparse_initializer)
    for sparse in graph.sparse_initializer:
        np.testing.assert_array_equal(densified(sparse), weight)
    feeds = {"x0": np.eye(rows, dtype="float32")}
    (product,) = OnnxRuntime(blob)(feeds).values()
    np.testing.assert_array_equal(product, weight.astype("float32"))


@pytest.mark.parametrize(
    ("dtype", "from_share"), [("float32", 0.43), ("float16", 0.6), ("int8", 0.75)]
)
def test_where_it_starts_to_pay(dtype, from_share):
    below, above = (matrix(300, 400, from_share + d, dtype) for d in (-0.03, 0.03))
    blob = transform(file_with(below, above))
    (sparse,) = onnx.ModelProto.FromString(blob).graph.sparse_initializer
    assert sparse.values.name == "s1"


@pytest.fixture(scope="module")
def wide():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 8)),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(256, activation="relu"),
            layers.Dense(10),
        ]
    )
    prune_by_hand(model, 0.9)
    head = model.layers[-1].kernel  # a dense weight among sparse ones
    head.assign(np.random.default_rng(0).normal(size=head.shape))
    return model


@on_tensorflow
@pytest.mark.parametrize(
    ("quantize", "shrinks"), [(None, 0.35), ("float16", 0.5), ("dynamic", 0.5), ("int8", 0.9)]
)
def test_files_of_models(quantize, shrinks, wide, tmp_path):
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 8))
    arguments = {"quantize": quantize, "representative_data": x}
    dense = export_onnx(wide, tmp_path / "dense.onnx", **arguments)
    sparse = export_onnx(wide, tmp_path / "sparse.onnx", sparse="auto", **arguments)
    assert sparse.bytes < shrinks * dense.bytes
    onnx.checker.check_model(str(tmp_path / "sparse.onnx"))
    feed = {"input": x[:3].astype("float32")}
    for a, b in zip(run_onnx(dense.path, feed).values(), run_onnx(sparse.path, feed).values()):
        np.testing.assert_array_equal(a, b)
    encodings = {w.name.split("/")[-2]: w.encoding for w in sparse.weights}
    assert list(encodings.values()) == ["sparse", "sparse", "dense"]
    assert [w.sparsity for w in sparse.weights] == [w.sparsity for w in dense.weights]
    assert any("smaller, not faster" in note for note in sparse.notes)


@on_tensorflow
def test_the_rest_of_kprune_reads_sparse_files(wide, tmp_path):
    dense = export_onnx(wide, tmp_path / "dense.onnx")
    sparse = export_onnx(wide, tmp_path / "sparse.onnx", sparse=True)
    sizes = [size(report.path) for report in (dense, sparse)]
    assert sizes[0].parameters == sizes[1].parameters
    assert sizes[0].nonzeros == sizes[1].nonzeros
    flops = {onnx_flops((tmp_path / f"{n}.onnx").read_bytes()) for n in ("dense", "sparse")}
    assert len(flops) == 1
    assert flops != {None}


@on_tensorflow
def test_true_is_an_error_where_nothing_gets_smaller(tmp_path):
    with pytest.raises(ExportError, match="no weight would take fewer bytes"):
        export_onnx(ZOO["mlp"](), tmp_path / "m.onnx", sparse=True)
    assert list(tmp_path.iterdir()) == []
    report = export_onnx(ZOO["mlp"](), tmp_path / "m.onnx", sparse="auto")
    assert any("stored dense: no weight" in note for note in report.notes)


@on_tensorflow
def test_auto_falls_back_where_onnxruntime_does_not_load(wide, tmp_path, monkeypatch):
    class BuiltWithoutSparseTensors(OnnxRuntime):
        def __init__(self, file):
            blob = file if isinstance(file, bytes) else Path(file).read_bytes()
            if onnx.ModelProto.FromString(blob).graph.sparse_initializer:
                raise RuntimeError("sparse tensors are not supported in this build")
            super().__init__(file)

    monkeypatch.setattr(ONNX, "runtime", BuiltWithoutSparseTensors)
    report = export_onnx(wide, tmp_path / "m.onnx", sparse="auto")
    assert {weight.encoding for weight in report.weights} == {"dense"}
    assert any("not supported in this build" in note for note in report.notes)
    with pytest.raises(ExportError, match="not supported in this build"):
        export_onnx(wide, tmp_path / "n.onnx", sparse=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.fast_for("separable")
@on_tensorflow
@pytest.mark.parametrize("kind", ["bidirectional", "gru", "separable"])
def test_other_layers(kind, tmp_path):
    model = ZOO[kind]()
    shares = prune_by_hand(model, 0.9)
    report = export_onnx(model, tmp_path / "m.onnx", sparse="auto", opset=13)
    assert {weight.name: weight.sparsity for weight in report.weights} == pytest.approx(shares)
    assert "sparse" in {weight.encoding for weight in report.weights}


@on_tensorflow
def test_zero_points_stay_dense(tmp_path):
    model = ZOO["lstm"]()
    shares = prune_by_hand(model, 0.9)
    report = export_onnx(model, tmp_path / "m.onnx", quantize="dynamic", sparse="auto")
    assert {weight.name for weight in report.weights} == set(shares)
    assert {weight.dtype for weight in report.weights} == {"int8"}
    stored = onnx.load(report.path).graph.sparse_initializer
    assert stored
    assert not [t.values.name for t in stored if t.values.name.endswith("_zero_point")]


@on_tensorflow
def test_the_oldest_opset_of_the_format(tmp_path):
    model = ZOO["cnn"]()
    prune_by_hand(model, 0.9)
    report = export_onnx(model, tmp_path / "m.onnx", sparse=True, opset=8)
    assert "sparse" in {weight.encoding for weight in report.weights}
    assert onnx.load(report.path).ir_version >= 6


@pytest.mark.parametrize(("sparsity", "smaller"), [(0.6, "dense"), (0.95, "sparse")])
def test_which_file_is_smaller_when_compressed(sparsity, smaller):
    """What the documentation of `sparse` says."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(300, 400)) * (rng.random((300, 400)) >= sparsity)
    dense = file_with(weight.astype("float32"))
    sizes = {"dense": len(gzip.compress(dense)), "sparse": len(gzip.compress(transform(dense)))}
    assert min(sizes, key=sizes.get) == smaller


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dims", "indices"), [([2**40, 2**20], [0]), ([4, 4], [99]), ([4, 4], [-1]), ([-4, 4], [0])]
)
def test_hostile_sparse_weights_are_refused_in_bounded_memory(dims, indices, tmp_path):
    model = onnx.ModelProto.FromString(transform(file_with(matrix(40, 40, 0.9, "float32"))))
    (sparse,) = model.graph.sparse_initializer
    sparse.dims[:] = dims
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, "float32"), "s0"))
    sparse.indices.int64_data[:] = indices
    sparse.indices.dims[:] = [1]
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="damaged"):
        size(path)
