"""Weights in 4 bits: those of dense layers, two in a byte, as LiteRT's kernels read them.

A scale for each output, symmetric, so that zeros stay zeros. Activations are quantized to 8 bits as
the file runs ("dynamic range"): LiteRT has integer kernels for that, and turns weights that are to
be computed with in float into floats again at every run, which is slower than a float file. Other
weights that there are such kernels for (convolutions) take 8 bits; the rest stay float.
"""

from kprune._system.quiet import quiet
from kprune.formats.tflite.file import packed, parsed

INT4 = "int4"


def require():
    """Raise ImportError, naming the extra to install, where the quantizer is missing."""
    try:
        import ai_edge_quantizer  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"quantize='int4' needs ai-edge-quantizer, not installed here ({error}): "
            'pip install "kprune[int4]"'
        ) from error


def transform(blob):
    """Store the weights of a file in 4 bits where that can be, and in 8 where it cannot.

    Args:
        blob: the bytes of a TFLite file in float32, stored dense.

    Returns:
        The bytes of the changed file; `blob` where there is nothing to change.
    """
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    recipe, names = recipe_manager.RecipeManager(), qtyping.TFLOperationName
    recipe.add_dynamic_config(".*", names.ALL_SUPPORTED, 8)
    for name in (names.FULLY_CONNECTED, names.EMBEDDING_LOOKUP):
        recipe.add_dynamic_config(".*", name, 4)
    with quiet():
        work = quantizer.Quantizer(blob, recipe.get_quantization_recipe())
        made = bytes(work.quantize(enable_progress_report=False).quantized_model)
    file = parsed(made)
    # It may append what is large after the graph, where only LiteRT looks for it.
    for buffer in file.buffers:
        if buffer.offset:
            buffer.data = made[buffer.offset : buffer.offset + buffer.size]
            buffer.offset = buffer.size = 0
    return packed(file)
