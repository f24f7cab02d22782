"""Small models of every topology whose channels must be found: `TOPOLOGIES[name]()`.

A builder says which groups of channels must stay, by the first layer that makes them: the
model's outputs, and what its operations mix.
"""

from tests.helpers.topologies import custom, images, operations, sequences
from tests.helpers.topologies.registry import FROZEN, TOPOLOGIES, VOCABULARY

__all__ = ["FROZEN", "TOPOLOGIES", "VOCABULARY", "custom", "images", "operations", "sequences"]
