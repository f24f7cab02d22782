"""Which shapes of zeros are allowed.

A pattern turns the scores of a weight's entries into scores of *units*, the things
that are kept or pruned as one, says how many units a sparsity means, and spreads a
mask over units back over the entries. Patterns with a direction see the weight in
the layout (..., input channels, output channels); `axes` says where those two axes
lie in the weight as it is stored.
"""

from kprune.pruning.patterns.block import Block
from kprune.pruning.patterns.nm import NM
from kprune.pruning.patterns.pattern import Pattern, check_pattern
from kprune.pruning.patterns.unstructured import Unstructured

__all__ = ["NM", "Block", "Pattern", "Unstructured", "check_pattern"]
