"""Layers that act on the layer they wrap, as those of TFMOT do."""
