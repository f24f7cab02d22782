"""The `kprune` command, a verb a module: benchmark, sparsity, flops, check,
prune, optimize, demo."""

import typer

from kprune.cli.benchmark import benchmark
from kprune.cli.check import check
from kprune.cli.demo import demo
from kprune.cli.flops import flops
from kprune.cli.optimize import optimize
from kprune.cli.prune import prune
from kprune.cli.sparsity import sparsity

app = typer.Typer(
    help="Pruning for Keras 3: smaller and faster files, measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
for _verb in (benchmark, sparsity, flops, check, prune, optimize, demo):
    app.command()(_verb)
