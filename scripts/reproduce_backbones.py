"""Backbones of KerasHub and models of custom layers, cut to a share of their FLOPs: a table.

    python scripts/reproduce_backbones.py --output docs/models.md
    python scripts/reproduce_backbones.py BERT Llama3 --share 0.5
    KERAS_BACKEND=torch python scripts/reproduce_backbones.py --no-files

The models are small, of full depth or nearly so, and have random weights. For each, the outputs of
the smaller model are compared with those of the model whose channels are set to zero; it is saved
and loaded, trained for an epoch on random data, and exported to TFLite and ONNX, which run
their files and compare. Needs `pip install keras-hub`.
"""

import platform
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _start import start

LENGTH = 32  # Of sequences.
SMALL = {"num_layers": 3, "num_heads": 4, "hidden_dim": 64, "intermediate_dim": 256}
GROUPED = {"num_layers": 3, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 64}
TOKENS = {"vocabulary_size": 200}
LONG = {"max_sequence_length": 64}
IMAGES = {"image_shape": (64, 64, 3)}
PATCHES = {"image_shape": (32, 32, 3), "patch_size": 8}
COLUMNS = (
    "model|FLOPs kept|layers that became others|error|loaded|trained|TFLite|ONNX|what must stay"
)


def backbones():
    """Return a dict from a name to a function that makes the model."""
    import keras_hub

    made = keras_hub.models
    plain = {
        "BERT": ("Bert", {**TOKENS, **SMALL, **LONG}),
        "DistilBERT": ("DistilBert", {**TOKENS, **SMALL, **LONG}),
        "RoBERTa": ("Roberta", {**TOKENS, **SMALL, **LONG}),
        "ALBERT": ("Albert", {**TOKENS, **SMALL, **LONG, "embedding_dim": 32}),
        "DeBERTaV3": ("DebertaV3", {**TOKENS, **SMALL, **LONG, "bucket_size": 16}),
        "ELECTRA": ("Electra", {"vocab_size": 200, **SMALL, **LONG, "embedding_dim": 64}),
        "GPT-2": ("GPT2", {**TOKENS, **SMALL, **LONG}),
        "OPT": ("OPT", {**TOKENS, **SMALL, **LONG}),
        "Gemma": ("Gemma", {**TOKENS, **GROUPED, "intermediate_dim": 512, "head_dim": 16}),
        "Gemma3": (
            "Gemma3",
            {
                **TOKENS, **GROUPED, "intermediate_dim": 512, "head_dim": 16, "image_size": 16,
                "sliding_window_size": 16, "use_sliding_window_attention": True,
                "vision_encoder": None,
            },
        ),
        "Llama3": ("Llama3", {**TOKENS, **GROUPED, "intermediate_dim": 256}),
        "Mistral": ("Mistral", {**TOKENS, **GROUPED, "intermediate_dim": 256}),
        "Qwen": ("Qwen", {**TOKENS, **GROUPED, "intermediate_dim": 256}),
        "Phi3": ("Phi3", {**TOKENS, **GROUPED, "intermediate_dim": 256}),
        "T5": ("T5", {**TOKENS, **SMALL, "num_layers": 2, "key_value_dim": 16}),
        "BART": ("Bart", {**TOKENS, **SMALL, **LONG, "num_layers": 2}),
        "Whisper": (
            "Whisper",
            {
                **TOKENS, **SMALL, "num_layers": 2, "num_mels": 16,
                "max_encoder_sequence_length": LENGTH, "max_decoder_sequence_length": LENGTH,
            },
        ),
        "ViT": (
            "ViT",
            {**PATCHES, "num_layers": 3, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 256},
        ),
        "DeiT": ("DeiT", {**PATCHES, **SMALL}),
        "ResNet": (
            "ResNet",
            {
                **IMAGES, "input_conv_filters": [64], "input_conv_kernel_sizes": [7],
                "stackwise_num_filters": [64, 128, 256], "stackwise_num_blocks": [2, 2, 2],
                "stackwise_num_strides": [1, 2, 2], "block_type": "bottleneck_block",
            },
        ),
        "MobileNet": ("MobileNet", {**IMAGES, **MOBILENET}),
        "EfficientNet": ("EfficientNet", {**IMAGES, **EFFICIENTNET}),
        "DenseNet": (
            "DenseNet",
            {
                **IMAGES, "stackwise_num_repeats": [3, 3, 3], "growth_rate": 16,
                "compression_ratio": 0.5,
            },
        ),
        "CSPNet": (
            "CSPNet",
            {
                **IMAGES, "stem_filters": 32, "stem_kernel_size": 3, "stem_strides": 1,
                "stackwise_depth": [1, 2, 2], "stackwise_strides": [1, 2, 2],
                "stackwise_num_filters": [32, 64, 128], "block_type": "dark_block",
                "stage_type": "dark",
            },
        ),
        "VGG": (
            "VGG",
            {**IMAGES, "stackwise_num_repeats": [1, 1, 2], "stackwise_num_filters": [16, 32, 64]},
        ),
        "Xception": (
            "Xception",
            {
                **IMAGES,
                "stackwise_conv_filters": [
                    [16, 32], [64, 64], [96, 96], [128, 128], [128, 128, 128], [128, 192],
                    [256, 320],
                ],
                "stackwise_pooling": [False, True, True, True, False, True, False],
            },
        ),
    }  # fmt: skip
    found = {
        name: lambda kind=kind, options=options: getattr(made, f"{kind}Backbone")(**options)
        for name, (kind, options) in plain.items()
    }

    def siglip():
        shared = {"hidden_dim": 64, "num_layers": 2, "num_heads": 4, "intermediate_dim": 256}
        image = made.SigLIPVisionEncoder(**PATCHES, **shared)
        text = {**TOKENS, **shared, "embedding_dim": 64, "max_sequence_length": LENGTH}
        return made.SigLIPBackbone(image, made.SigLIPTextEncoder(**text))

    def segformer():
        encoder = made.MiTBackbone(
            **IMAGES, layerwise_depths=[1] * 4, hidden_dims=[16, 32, 48, 64], num_layers=4,
            layerwise_num_heads=[1, 2, 3, 4], layerwise_sr_ratios=[8, 4, 2, 1],
            layerwise_patch_sizes=[7, 3, 3, 3], layerwise_strides=[4, 2, 2, 2],
            max_drop_path_rate=0.1,
        )  # fmt: skip
        return made.SegFormerBackbone(image_encoder=encoder, projection_filters=64)

    return {**found, "SigLIP": siglip, "SegFormer": segformer}


MOBILENET = {
    "stackwise_expansion": [[40, 56], [64, 144, 144], [72, 72], [144, 288, 288]],
    "stackwise_num_blocks": [2, 3, 2, 3],
    "stackwise_num_filters": [[16, 16], [24, 24, 24], [24, 24], [48, 48, 48]],
    "stackwise_kernel_size": [[3, 3], [5, 5, 5], [5, 5], [5, 5, 5]],
    "stackwise_num_strides": [[2, 1], [2, 1, 1], [1, 1], [2, 1, 1]],
    "stackwise_se_ratio": [[None, None], [0.25] * 3, [0.3, 0.3], [0.3, 0.25, 0.25]],
    "stackwise_activation": [["relu"] * 2, *(["hard_swish"] * n for n in (3, 2, 3))],
    "stackwise_padding": [[1, 1], [2, 2, 2], [2, 2], [2, 2, 2]],
    "output_num_filters": 128,
    "input_activation": "hard_swish",
    "output_activation": "hard_swish",
    "input_num_filters": 16,
    "depthwise_filters": 8,
    "depthwise_stride": 2,
    "depthwise_residual": False,
    "squeeze_and_excite": 0.5,
    "last_layer_filter": 128,
}
EFFICIENTNET = {
    "stackwise_width_coefficients": [1.0] * 4,
    "stackwise_depth_coefficients": [1.0] * 4,
    "stackwise_kernel_sizes": [3, 3, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 2],
    "stackwise_input_filters": [32, 16, 24, 40],
    "stackwise_output_filters": [16, 24, 40, 80],
    "stackwise_expansion_ratios": [1, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 4,
    "stackwise_block_types": ["v1"] * 4,
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Of the table's models.")] = None,
    share: Annotated[float, typer.Option(help="Share of the FLOPs to keep.")] = 0.6,
    files: Annotated[bool, typer.Option(help="Export, where TensorFlow is the backend.")] = True,
    output: Annotated[Path | None, typer.Option(help="A .md file for the table.")] = None,
):
    """Cut backbones of KerasHub to a share of their FLOPs."""
    start()
    import keras

    made = backbones()
    rows = []
    for name in names or made:
        typer.echo(f"{name} ...", err=True)
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        begin = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows.append([name, *_row(made[name](), share, files)])
        typer.echo(f"  {' | '.join(rows[-1])} ({time.process_time() - begin:.0f} s)", err=True)
        if output:
            output.write_text(_page(rows, share, names))
    typer.echo(_page(rows, share, names))


def _row(model, share, files):
    import keras

    import kprune
    from kprune.structured import prune

    cuts, own = [], prune.cut
    prune.cut = lambda graph, gone: cuts.append((graph, gone, own(graph, gone))) or cuts[-1][2]
    try:
        small = kprune.prune_channels(model, flops=share, round_to=4, free_dim=_free(model))
    except ValueError as error:
        return ["-"] * 7 + [str(error).split(". See")[0][:160]]
    finally:
        prune.cut = own
    free_dim = _free(model)
    reached = kprune.flops(small, free_dim=free_dim).total
    reached /= kprune.flops(model, free_dim=free_dim).total
    inputs = _inputs(model)
    graph, gone, _ = next(one for one in cuts if one[2] is small)
    error = _error(model, small, graph, gone, inputs)
    kinds = {type(graph.openings[key].layer).__name__ for key in graph.openings}
    kept = {type(layer).__name__ for layer in small._flatten_layers()}
    with tempfile.TemporaryDirectory() as folder:
        loaded = _tried(lambda: _loads(small, inputs, Path(folder) / "small.keras"))
        if (
            loaded != "yes"
            and _tried(lambda: _loads(model, inputs, Path(folder) / "m.keras")) != "yes"
        ):
            loaded = "no, nor the whole model"
        exports = [kprune.export_tflite, kprune.export_onnx]
        if not files or keras.backend.backend() != "tensorflow":
            exports = []
        done = [
            _tried(
                lambda f=f, end=end: f(_sized(small), Path(folder) / f"model.{end}", inputs=inputs)
            )
            for f, end in zip(exports, ("tflite", "onnx"))
        ]
    trained = _tried(lambda: _train(small, inputs))
    done += ["-"] * (2 - len(done))
    expanded = f"{len(kinds - kept)} of {len(kinds)}" if kinds else "-"
    return [f"{reached:.3f}", expanded, f"{error:.0e}", loaded, trained, *done, _stays(model)]


def _free(model):
    """The length of sequences, for a model that leaves it open."""
    return LENGTH if any(None in tensor.shape[1:] for tensor in model.inputs) else None


def _sized(model):
    """The model with sequences of a fixed length, whose FLOPs and files depend on it."""
    import keras

    if not any(None in tensor.shape[1:] for tensor in model.inputs):
        return model
    inputs = keras.tree.map_structure(
        lambda t: keras.Input([n or LENGTH for n in t.shape[1:]], dtype=t.dtype, name=t.name),
        model.input,
    )
    return keras.Model(inputs, model(inputs), name=model.name)


def _inputs(model, batch=2):
    import keras

    random = np.random.default_rng(0)

    def one(tensor):
        shape = (batch, *(n or LENGTH for n in tensor.shape[1:]))
        if "mask" in tensor.name:
            return np.ones(shape, tensor.dtype)
        if "int" in tensor.dtype:
            high = 2 if "segment" in tensor.name else 100
            return random.integers(0, high, shape).astype(tensor.dtype)
        return random.normal(size=shape).astype("float32")

    return keras.tree.map_structure(one, model.input)


def _outputs(model, inputs):
    import keras

    found = keras.tree.flatten(model(inputs, training=False))
    return [np.asarray(keras.ops.convert_to_numpy(one), "float32") for one in found]


def _error(model, small, graph, gone, inputs):
    """The largest difference to the model with zeros for the channels that went."""
    import keras

    before = model.get_weights()
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable)
        for axis, kept in enumerate(graph.kept(variable, gone)):
            value = value * kept.reshape([-1 if i == axis else 1 for i in range(value.ndim)])
        variable.assign(value)
    masked = _outputs(model, inputs)
    model.set_weights(before)
    pairs = zip(masked, _outputs(small, inputs))
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-9)) for a, b in pairs)


def _loads(small, inputs, path):
    import keras

    small.save(path)
    loaded = keras.models.load_model(path, safe_mode=False)
    for one, other in zip(_outputs(small, inputs), _outputs(loaded, inputs)):
        np.testing.assert_allclose(one, other, 1e-5, 1e-5)


def _train(small, inputs):
    import keras

    targets = [np.zeros_like(one) for one in _outputs(small, inputs)]
    targets = keras.tree.pack_sequence_as(small.output, targets)
    small.compile("sgd", keras.tree.map_structure(lambda _: "mse", targets))
    history = small.fit(inputs, targets, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def _tried(function):
    try:
        function()
    except Exception as error:
        return f"no: {str(error).strip().splitlines()[0][:80]}"
    return "yes"


def _stays(model):
    """Why channels stay, most common reason first, without names."""
    import collections

    import kprune

    reasons = collections.Counter(
        group.frozen[0].split(": ", 1)[-1][:80]
        for group in kprune.channel_groups(model, free_dim=_free(model))
        if group.frozen
    )
    return "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(2)).replace("|", "/")


def _page(rows, share, names):
    import keras
    import keras_hub

    lines = [" | ".join(COLUMNS.split("|")), " | ".join(["---"] * len(COLUMNS.split("|")))]
    lines += [" | ".join(row) for row in rows]
    command = " ".join(["python scripts/reproduce_backbones.py", *(names or [])])
    return "\n".join(
        [
            "# Backbones of KerasHub with fewer channels",
            "",
            f"Small configurations with random weights, cut to {share:.0%} of their FLOPs by "
            f"`kprune.prune_channels(model, flops={share:g}, round_to=4)`; sequences of {LENGTH} "
            "tokens. Layers that became others: of the classes of custom layers, how many are "
            "plain Keras layers in the smaller model; the others are of the same class. The error "
            "is the largest difference to the model with zeros for the channels, as a share of "
            "the largest output. Trained for one epoch, saved, loaded, and exported at the fixed "
            "length, each file run and compared with Keras.",
            "",
            *(f"| {line} |" for line in lines),
            "",
            "Made with:",
            "",
            f"    {command}",
            "",
            f"Keras {keras.__version__}, KerasHub {keras_hub.__version__}, "
            f"{keras.backend.backend()}, Python {platform.python_version()}.",
            "",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
