"""What the tests of this room share: a clean environment."""

import pytest

from llafs_lib.language import client


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No setting of the machine reaches a test, no request leaves it, nothing learned of a server outlives a test."""
    monkeypatch.chdir(tmp_path)  # where the default cache lies
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(client, "_HABITS", {})
    monkeypatch.setenv("LLAFS_PROGRESS", "none")
