"""Pruning for Keras 3: prune during `fit`, strip, export, measure."""

__version__ = "0.1.0"
