"""Converters and runtimes print by the screenful: keep it from the user, but keep it."""

import contextlib
import logging
import os
import re
import sys
import tempfile
import warnings

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
    dropped.

    Yields:
        A `Transcript`, filled when the block ends, however it ends.
    """
    transcript = Transcript()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+b"))
        stack.callback(_read_back, log, transcript)
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            _redirect_descriptor(stack, number, stream, log)
        text = stack.enter_context(
            open(log.fileno(), "w", errors="replace", closefd=False, buffering=1)
        )
        stack.enter_context(contextlib.redirect_stdout(text))
        stack.enter_context(contextlib.redirect_stderr(text))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.ERROR)
        yield transcript


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
