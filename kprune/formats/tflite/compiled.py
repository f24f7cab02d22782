"""`.tflite` files that Vela has compiled."""

from kprune.formats.tflite.file import view

_CUSTOM_CODE = b"ethos-u"  # of the operator that holds what the Ethos-U runs


def is_compiled(blob):
    """Whether a TFLite file with these bytes was compiled for an Ethos-U."""
    model = view(blob)
    codes = (model.OperatorCodes(i) for i in range(model.OperatorCodesLength()))
    return any(code.CustomCode() == _CUSTOM_CODE for code in codes)
