"""Channels and blocks that leave the model: graph, groups, surgery."""

from kprune.structured.blocks import BlockReport, RemovableBlock
from kprune.structured.call import Call
from kprune.structured.channels import Channels
from kprune.structured.depth import find_blocks, remove_blocks
from kprune.structured.groups import ChannelGroup, ChannelReport
from kprune.structured.importance import APoZ, BatchNormScale, GeometricMedian, MeanActivation
from kprune.structured.prune import channel_groups, prune_channels
from kprune.structured.recalibrate import recalibrate_batchnorm
from kprune.structured.rules import register_channel_rule
from kprune.structured.shrink import shrink
from kprune.structured.slimming import Slimming

__all__ = [
    "APoZ",
    "BatchNormScale",
    "BlockReport",
    "Call",
    "ChannelGroup",
    "ChannelReport",
    "Channels",
    "GeometricMedian",
    "MeanActivation",
    "RemovableBlock",
    "Slimming",
    "channel_groups",
    "find_blocks",
    "prune_channels",
    "recalibrate_batchnorm",
    "register_channel_rule",
    "remove_blocks",
    "shrink",
]
