"""`kprune demo`: dense, pruned and optimized, exported and measured side by side."""

from kprune.demo.report import DemoReport, DemoRow
from kprune.demo.run import demo

__all__ = ["DemoReport", "DemoRow", "demo"]
