"""What a model or a file weighs, computes and costs: sparsity, FLOPs, size, latency."""

from kprune.measure.benchmark import BenchmarkReport, benchmark
from kprune.measure.flops import FlopsReport, flops
from kprune.measure.size import FileSize, size
from kprune.measure.sparsity import SparsityReport, sparsity

__all__ = [
    "BenchmarkReport",
    "FileSize",
    "FlopsReport",
    "SparsityReport",
    "benchmark",
    "flops",
    "size",
    "sparsity",
]
