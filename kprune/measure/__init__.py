"""What a model or a file weighs, computes and costs: sparsity, FLOPs, size, latency."""

from kprune.graphs.flops import FlopsReport, flops
from kprune.measure.benchmark import BenchmarkReport, FileBenchmark, benchmark
from kprune.measure.size import FileSize, size
from kprune.measure.sparsity import SparsityReport, sparsity
from kprune.measure.web import WebFile, WebReport, benchmark_web

__all__ = [
    "BenchmarkReport",
    "FileBenchmark",
    "FileSize",
    "FlopsReport",
    "SparsityReport",
    "WebFile",
    "WebReport",
    "benchmark",
    "benchmark_web",
    "flops",
    "size",
    "sparsity",
]
