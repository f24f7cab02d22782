"""Keras models as graphs: one walk, one rebuild, what goes in, which weights, how many FLOPs."""
