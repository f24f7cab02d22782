"""Converters and runtimes print by the screenful: keep it from the user, but keep it."""

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import warnings

from kprune._system.workplace import LOCK

_CHATTER = re.compile(r"\s*$|[IW]\d{4} |WARNING: All log messages before absl|INFO:")


class Transcript:
    """What was printed inside `quiet()`; complete once the block has ended."""

    text = ""

    def tail(self, lines=20):
        """Return the last `lines` lines that were printed, without INFO and WARNING logs."""
        kept = [line for line in self.text.splitlines() if not _CHATTER.match(line)]
        return "\n".join(kept[-lines:])


@contextlib.contextmanager
def quiet():
    """Capture all output of Python and of C++ libraries, down to the file descriptors.

    TensorFlow's converter and the runtimes write to file descriptors 1 and 2 from C++, where
    `contextlib.redirect_stdout` does not reach; notebooks replace `sys.stdout`, where redirected
    descriptors do not reach. So both are redirected. Log records below CRITICAL and warnings are
    dropped. All that is the whole process's, so that what other threads print meanwhile is
    captured, too; and one block at a time: others wait.

    Yields:
        A `Transcript`, filled when the block ends, however it ends.
    """
    transcript = Transcript()
    with LOCK, contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+b"))
        stack.callback(_read_back, log, transcript)
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            _redirect_descriptor(stack, number, stream, log)
        file = stack.enter_context(open(log.fileno(), "wb", buffering=0, closefd=False))
        for redirect, stream in (
            (contextlib.redirect_stdout, sys.stdout),
            (contextlib.redirect_stderr, sys.stderr),
        ):
            captured = _Captured(file, stream)
            stack.callback(captured.end)
            stack.enter_context(redirect(captured))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.root.manager.disable)
        # onnxruntime.transformers appends to it when it is imported.
        stack.callback(sys.path.__setitem__, slice(None), list(sys.path))
        logging.disable(logging.ERROR)
        yield transcript


class _Captured(io.TextIOBase):
    """Takes the place of a stream, and writes to a file until told to go back to the stream.

    Whoever keeps it, as a log handler that is made inside the block does, can go on printing.
    """

    encoding = "utf-8"

    def __init__(self, file, stream):
        self._file, self._stream = file, stream

    def write(self, text):
        if self._file is not None:
            self._file.write(text.encode(errors="replace"))
        elif self._stream is not None:
            self._stream.write(text)
        return len(text)

    def flush(self):
        if self._file is None and self._stream is not None:
            self._stream.flush()

    @property
    def buffer(self):
        return self._stream.buffer if self._file is None else self._file

    def fileno(self):
        return (self._stream if self._file is None else self._file).fileno()

    def end(self):
        """Go back to the stream."""
        self._file = None


def _redirect_descriptor(stack, number, stream, log):
    with contextlib.suppress(AttributeError, OSError, ValueError):
        stream.flush()
    try:
        original = os.dup(number)
    except OSError:  # a process without that descriptor has nothing to silence
        return
    stack.callback(os.close, original)
    stack.callback(os.dup2, original, number)
    os.dup2(log.fileno(), number)


def _read_back(log, transcript):
    log.seek(0)
    transcript.text = log.read().decode(errors="replace")


@contextlib.contextmanager
def progress():
    """Show one transient status line on the terminal's stderr; elsewhere show nothing.

    The line is drawn on a duplicate of the descriptor, so that it outlives `quiet()`.

    Yields:
        A function that takes the line's new text.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w")
    with terminal, Console(file=terminal).status("") as status:
        yield status.update
