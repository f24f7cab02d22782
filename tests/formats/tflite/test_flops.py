import pytest

from kprune.export import export_onnx, export_tflite
from kprune.formats.onnx.flops import onnx_flops
from kprune.formats.tflite.flops import tflite_flops
from kprune.measure import flops
from tests.helpers.zoo import ZOO

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnx")


@pytest.mark.fast_for("separable", "dict_io")
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


def test_what_cannot_be_counted_is_not_guessed(tmp_path):
    model = ZOO["gru"]()
    export_tflite(model, tmp_path / "model.tflite")
    assert tflite_flops((tmp_path / "model.tflite").read_bytes()) is None
    export_tflite(ZOO["mlp"](), tmp_path / "free.tflite", batch_size=None)
    assert tflite_flops((tmp_path / "free.tflite").read_bytes()) is None
