"""tfmot.sparsity"""

from kprune.tfmot.sparsity import keras

__all__ = ["keras"]
