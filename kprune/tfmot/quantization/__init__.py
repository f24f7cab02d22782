"""tfmot.quantization"""

from kprune.tfmot.quantization import keras

__all__ = ["keras"]
