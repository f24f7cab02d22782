"""Do `.tflite` files run in the browser, with the right outputs, and how fast?

    apt-get install chromium npm
    python scripts/benchmark_web.py dense.tflite pruned.tflite --install --json out.json
    python scripts/benchmark_web.py --serve

Runs the files in LiteRT.js (WebAssembly, one thread) in headless Chromium and compares their
outputs with LiteRT's on this machine's CPU; exit status 1 if one does not run or differs. With
`--serve`, makes a page at http://127.0.0.1:8000 where two files can be dropped and compared in a
browser of your choice.
"""

from pathlib import Path
from typing import Annotated

import typer
from _start import start
from rich.console import Console


def main(
    files: Annotated[list[Path] | None, typer.Argument(help=".tflite files.")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Visits to every file; 0: no timing.")] = 30,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first round.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the inputs and of the order of visits.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a run.")] = 1,
    tolerance: Annotated[float, typer.Option(help="Largest relative difference.")] = 1e-3,
    browser: Annotated[str | None, typer.Option(help="Chromium's program.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of the npm package.")] = None,
    install: Annotated[
        bool, typer.Option("--install", help="npm install what is missing.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds a step of a file may take.")] = 60.0,
    serve: Annotated[bool, typer.Option("--serve", help="Only serve the page for people.")] = False,
    port: Annotated[int, typer.Option(help="Of --serve.")] = 8000,
    json: Annotated[Path | None, typer.Option("--json", help="Also write a JSON here.")] = None,
):
    """Run .tflite files in LiteRT.js in headless Chromium: outputs, and latency side by side."""
    start()
    from kprune.cli.common import plain_errors, show

    with plain_errors():
        from kprune._system.files import destination
        from kprune.measure import web
        from kprune.runtimes.litertjs import browser as browsers

        if json:
            destination(json, ".json")
        if install:
            browsers.install(cache)
        if serve:
            return _serve(browsers, cache, port)
        report = web.benchmark_web(
            files or [], rounds, warmup, seed, batch_size, tolerance, browser, cache, timeout
        )
        show(report, json)
        for row in report.failures:
            stderr = Console(stderr=True)
            stderr.print(f"{row.path}: {row.reason}", style="red", markup=False, highlight=False)
        if report.failures:
            raise typer.Exit(1)


def _serve(browsers, cache, port):
    package, _ = browsers.find_package(cache)
    server = browsers.server(package, port=port)
    print(f"http://127.0.0.1:{server.server_port} (Ctrl+C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    typer.run(main)
