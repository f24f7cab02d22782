"""tfmot.clustering"""

from kprune.tfmot.clustering import keras

__all__ = ["keras"]
