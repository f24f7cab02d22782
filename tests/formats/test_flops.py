import pytest

from kprune.export import export_onnx, export_tflite
from kprune.formats.flops import onnx_flops, tflite_flops
from kprune.graphs import flops
from tests.helpers.zoo import ZOO

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnx")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["separable", "grouped_conv", "conv1d", "conv3d", "dict_io"])
def test_three_counters_agree(name, tmp_path):
    model = ZOO[name]()
    export_tflite(model, tmp_path / "model.tflite", batch_size=3)
    export_onnx(model, tmp_path / "model.onnx")
    expected = flops(model, batch_size=3).total
    assert tflite_flops((tmp_path / "model.tflite").read_bytes()) == expected
    assert onnx_flops((tmp_path / "model.onnx").read_bytes(), batch_size=3) == expected


def test_attention_in_tflite(tmp_path):
    model = ZOO["attention"]()
    export_tflite(model, tmp_path / "model.tflite")
    assert tflite_flops((tmp_path / "model.tflite").read_bytes()) == flops(model).total


def test_recurrent_layers_count_in_onnx_where_they_stay_one_operator(tmp_path):
    model = ZOO["lstm"]()
    export_onnx(model, tmp_path / "model.onnx")
    assert onnx_flops((tmp_path / "model.onnx").read_bytes()) == flops(model).total


def test_what_cannot_be_counted_is_not_guessed(tmp_path):
    model = ZOO["gru"]()
    export_tflite(model, tmp_path / "model.tflite")
    assert tflite_flops((tmp_path / "model.tflite").read_bytes()) is None
    export_tflite(ZOO["mlp"](), tmp_path / "free.tflite", batch_size=None)
    assert tflite_flops((tmp_path / "free.tflite").read_bytes()) is None


def test_an_onnx_einsum_counts(tmp_path):
    onnx = pytest.importorskip("onnx")
    parser = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N,4,5] x, float[5,6] w) => '
        '(float[N,4,6] y) { y = Einsum<equation="...j,jk->...k">(x, w) }'
    )
    assert onnx_flops(parser.SerializeToString(), batch_size=2) == 2 * 2 * 4 * 5 * 6
