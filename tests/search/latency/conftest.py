"""No test reads or writes the user's times."""

import pytest


@pytest.fixture(autouse=True)
def latency_cache(tmp_path, monkeypatch):
    folder = tmp_path / "latency-cache"
    monkeypatch.setenv("KPRUNE_LATENCY_CACHE", str(folder))
    return folder
