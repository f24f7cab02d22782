"""The browser that some tests need."""

import os

import pytest

from kprune.runtimes.litertjs import browser


def require_browser():
    """Skip where Chromium or LiteRT.js is missing, or fail if KPRUNE_REQUIRE_WEB is set."""
    pytest.importorskip("ai_edge_litert")
    try:
        browser.find_browser()
        browser.find_package()
    except browser.BrowserMissing as missing:
        if os.environ.get("KPRUNE_REQUIRE_WEB"):
            raise
        pytest.skip(str(missing))
