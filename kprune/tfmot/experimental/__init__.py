"""tfmot.experimental: what to use instead."""

from kprune.tfmot._missing import not_here

__getattr__ = not_here(
    __name__,
    {
        "combine": "add kprune.Pruning(...) and kprune.QuantizationAware(), or "
        "kprune.WeightClustering(...), to the callbacks of one `fit`."
    },
)
