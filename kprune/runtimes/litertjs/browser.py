"""Files in LiteRT.js, in headless Chromium: a server for one page, and what that page reports.

The page does a job that it fetches (`page/run.js`), and posts each thing that happens. Everything
that can go wrong in a browser ends in one of three ways here: the page says so, the connection
that it holds open breaks (it crashed), or it is silent for too long.
"""

import json
import mimetypes
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from kprune._system.children import child
from kprune._system.files import scratch

PACKAGE = "@litertjs/core"
VERSION = "2.5.3"  # the release whose API page/frame.js calls
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAGE = Path(__file__).parent / "page"

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What the page may post in one piece: more than any output of a model is, less than memory.
_LARGEST_POST = 1 << 30
# Of a temporary folder: Chromium makes a socket in it, whose path has at most 108 bytes.
_LONGEST_FOLDER = 60
_ARRAYS = {"Float32Array": "float32", "Int32Array": "int32", "Uint8Array": "uint8"}


class BrowserMissing(ImportError):
    """The browser or LiteRT.js is not on this machine; the message says how to get it."""


class BrowserError(OSError):
    """The browser did not do its job, and no file is to blame for it."""


@dataclass
class Outcome:
    """What the page reported of one file.

    Attributes:
        reason: why the file did not run; None if it did.
        outputs: name -> array (flat), of its first run.
        times: seconds a run, the mean of each visit.
    """

    reason: str | None = None
    outputs: dict = field(default_factory=dict)
    times: list = field(default_factory=list)


def default_cache():
    """Return the folder that LiteRT.js is installed in unless another is named."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KPRUNE_WEB_CACHE") or Path(base) / "kprune" / "web")


def find_browser(browser=None):
    """Return the path of Chromium.

    Raises:
        BrowserMissing: it is not installed, or not at `browser`.
    """
    names = [str(browser)] if browser else [os.environ.get("KPRUNE_BROWSER", ""), *BROWSERS]
    for name in filter(None, names):
        if path := shutil.which(name):
            return path
    received = f" Received: browser='{browser}'" if browser else ""
    raise BrowserMissing(
        "Chromium is not installed. Install it with: apt-get install chromium, or name the program "
        f"of another Chromium-based browser.{received}"
    )


def find_package(cache=None):
    """Return the npm scope's folder that holds LiteRT.js, and the version found.

    Raises:
        BrowserMissing: it is not in `cache`.
    """
    cache = Path(cache or default_cache())
    core = cache / "node_modules" / PACKAGE
    try:
        version = json.loads((core / "package.json").read_text())["version"]
        whole = (core / "dist" / "index.js").is_file() and any((core / "wasm").glob("*.wasm"))
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        raise BrowserMissing(
            f"LiteRT.js is not in '{cache}'. Install it there with: {' '.join(_install(cache))}"
        )
    return core.parent, version


def install(cache=None):
    """Install LiteRT.js from npm into `cache`, if it is not there yet; returns the folder.

    Raises:
        BrowserMissing: npm is not installed, or fails.
    """
    cache = Path(cache or default_cache())
    try:
        find_package(cache)
        return cache
    except BrowserMissing:
        pass
    if not shutil.which("npm"):
        raise BrowserMissing(
            "npm is not installed, and LiteRT.js comes from there. Install it with: apt-get "
            f"install npm, then run: {' '.join(_install(cache))}"
        )
    cache.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(_install(cache), capture_output=True, text=True)
    if done.returncode:
        raise BrowserMissing(f"{' '.join(_install(cache))} failed: {done.stderr.strip()}")
    find_package(cache)
    return cache


def _install(cache):
    return ["npm", "install", "--prefix", str(cache), "--no-save", f"{PACKAGE}@{VERSION}"]


@dataclass
class Job:
    """What the page should do.

    Attributes:
        paths: the `.tflite` files.
        feeds: for each file, input name -> array.
        orders: for each round, the files' numbers in the order of visits; empty: one run only.
        warmup: runs of each file before the first round.
    """

    paths: list
    feeds: list
    orders: list = field(default_factory=list)
    warmup: int = 0

    def to_dict(self):
        """Return what the page is told; it fetches files and inputs by number."""
        inputs = [
            [
                {"name": name, "dtype": value.dtype.name, "shape": list(value.shape)}
                for name, value in feeds.items()
            ]
            for feeds in self.feeds
        ]
        files = [{"inputs": each} for each in inputs]
        return {"files": files, "orders": self.orders, "warmup": self.warmup}

    def without(self, files):
        """Return the same job with some files left out, and the numbers of those that stay."""
        stay = [i for i in range(len(self.paths)) if i not in files]
        new = {old: i for i, old in enumerate(stay)}
        orders = [[new[i] for i in order if i in new] for order in self.orders]
        paths, feeds = [self.paths[i] for i in stay], [self.feeds[i] for i in stay]
        return Job(paths, feeds, orders, self.warmup), stay


def run(job, browser=None, cache=None, timeout=60.0, on_event=lambda event: None):
    """Do a job in LiteRT.js and return an `Outcome` for each file.

    A file that crashes the page, or keeps it silent for `timeout` seconds, is left out and the
    others are run again.

    Args:
        job: a `Job`.
        browser: Chromium's program; searched for by default.
        cache: the folder that LiteRT.js is installed in.
        timeout: seconds without a word from the page, after which it is given up.
        on_event: called with each event the page posts.

    Raises:
        BrowserMissing: Chromium or LiteRT.js is not installed.
        BrowserError: the browser does not start, or fails before it has a file in hand.
    """
    browser, (package, _) = find_browser(browser), find_package(cache)
    outcomes, failed = {}, set()
    while len(failed) < len(job.paths):
        rest, numbers = job.without(failed)
        page = _Page(rest, timeout, on_event)
        with _serve(package, page) as url, _chromium(browser, url) as (process, log):
            blamed = page.follow(process, log)
        results = {numbers[i]: outcome for i, outcome in enumerate(page.outcomes)}
        if blamed is None:
            outcomes |= results
            break
        failed.add(numbers[blamed])
        outcomes[numbers[blamed]] = results[numbers[blamed]]
    return [outcomes[i] for i in range(len(job.paths))]


class _Page:
    """The job as the page sees it, and what the page has said so far."""

    def __init__(self, job, timeout, on_event):
        self.job, self.timeout, self.on_event = job, timeout, on_event
        self.outcomes = [Outcome() for _ in job.paths]
        self.events = queue.Queue()

    def follow(self, process, log):
        """Take in events until the job is done; returns the file that ended it early, if any.

        Args:
            process, log: the browser, and the file that holds what it prints.
        """
        current, heard = None, time.monotonic()
        while True:
            try:
                event = self.events.get(timeout=0.2)
            except queue.Empty:
                event, silence = None, time.monotonic() - heard
                if process.poll() is not None:
                    log.seek(0)
                    last = log.read().strip().rsplit("\n", 1)[-1]
                    reason = f"the browser ended (exit status {process.returncode}). {last}".strip()
                    event = {"stage": "gone", "reason": reason}
                elif silence > self.timeout:
                    event = {
                        "stage": "gone",
                        "reason": f"it kept the page silent for {self.timeout:g} seconds",
                    }
                if event is None:
                    continue
            heard = time.monotonic()
            stage, current = event["stage"], event.get("file", current)
            if stage == "done":
                return None
            if stage == "broken" or (stage == "gone" and current is None):
                raise BrowserError(f"The page for LiteRT.js failed: {event['reason']}")
            if stage in ("failed", "gone"):
                self.outcomes[current].reason = event["reason"]
            if stage == "gone":
                return current
            if stage == "timed":
                self.outcomes[current].times.append(event["ms"] / 1000)
            self.on_event(event)


def _handler(package, page=None):
    """Make the class that serves PAGE, LiteRT.js and, if there is one, the page's job."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def send(self, data=b"", kind="application/octet-stream", status=200):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            # Cross-origin isolation: without it the page's clock has steps of 0.1 ms.
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            match parts:
                case ["job"] if page:
                    self.send(json.dumps(page.job.to_dict()).encode(), "application/json")
                case ["file", i] if page:
                    self.send(Path(page.job.paths[int(i)]).read_bytes())
                case ["input", i, j] if page:
                    value = list(page.job.feeds[int(i)].values())[int(j)]
                    self.send(np.ascontiguousarray(value).tobytes())
                case ["alive"] if page:
                    self.wait_for_the_end()
                case ["litert", *rest]:
                    self.send_file(package, rest)
                case _:
                    self.send_file(PAGE, parts if parts != [""] else ["index.html"])

        def send_file(self, folder, parts):
            path = folder.joinpath(*parts).resolve()
            if not (path.is_relative_to(folder.resolve()) and path.is_file()):
                return self.send(b"Not found", "text/plain", 404)
            kinds = {".js": "text/javascript", ".wasm": "application/wasm"}
            kind = kinds.get(path.suffix) or mimetypes.guess_type(path)[0]
            self.send(path.read_bytes(), kind or "application/octet-stream")

        def wait_for_the_end(self):
            self.connection.recv(1)
            page.events.put({"stage": "gone", "reason": "it crashed the page"})
            self.close_connection = True

        def do_POST(self):
            length = int(self.headers["Content-Length"] or 0)
            if not page or length > _LARGEST_POST:
                self.close_connection = True
                return self.send(status=413)
            data = self.rfile.read(length)
            match [unquote(part) for part in self.path.strip("/").split("/")]:
                case ["event"]:
                    page.events.put(json.loads(data))
                case ["output", i, name, kind]:
                    page.outcomes[int(i)].outputs[name] = np.frombuffer(data, _ARRAYS[kind])
            self.send(status=204)

    return Handler


def server(package, page=None, port=0):
    """Make a server, on this machine's own address only, of the page and LiteRT.js."""
    made = ThreadingHTTPServer(("127.0.0.1", port), _handler(package, page))
    made.daemon_threads = True
    made.block_on_close = False
    made.handle_error = lambda *_: None  # a page that goes away in mid-answer is no error
    return made


@contextmanager
def _serve(package, page):
    made = server(package, page)
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/run.html"
    finally:
        made.shutdown()
        made.server_close()


@contextmanager
def _chromium(program, url):
    with scratch() as profile, tempfile.TemporaryFile("w+", errors="replace") as log:
        command = [program, *_FLAGS, f"--user-data-dir={profile}", url]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": log}
        temporary = profile / "tmp"
        temporary.mkdir()
        if len(os.fsencode(temporary)) <= _LONGEST_FOLDER:  # What it leaves there is removed.
            options["env"] = os.environ | {"TMPDIR": str(temporary)}
        with child(command, folder=profile, **options) as process:
            yield process, log
