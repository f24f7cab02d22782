import pytest

from kprune.export import export_onnx
from kprune.formats.onnx.flops import onnx_flops
from kprune.measure import flops
from tests.helpers.zoo import ZOO

pytest.importorskip("onnx")


def test_recurrent_layers_count_in_onnx_where_they_stay_one_operator(tmp_path):
    model = ZOO["lstm"]()
    export_onnx(model, tmp_path / "model.onnx")
    assert onnx_flops((tmp_path / "model.onnx").read_bytes()) == flops(model).total


def test_an_onnx_einsum_counts(tmp_path):
    onnx = pytest.importorskip("onnx")
    parser = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,4,5] x, float[5,6] w) => '
        '(float[N,4,6] y) { y = Einsum<equation="...j,jk->...k">(x, w) }'
    )
    assert onnx_flops(parser.SerializeToString(), batch_size=2) == 2 * 2 * 4 * 5 * 6
