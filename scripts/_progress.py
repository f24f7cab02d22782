"""How far a long training is, on standard error where that is a terminal."""

import contextlib


@contextlib.contextmanager
def progress(description, total):
    """Show a bar; yield a function that counts one more, whatever it is called with."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    terminal = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    shown = {"console": terminal, "transient": True, "disable": not terminal.is_terminal}
    with Progress(*columns, **shown) as bars:
        bar = bars.add_task(description, total=total)
        yield lambda *_: bars.advance(bar)
