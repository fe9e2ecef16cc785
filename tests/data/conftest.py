import os

import pytest
from file_server import serving


@pytest.fixture
def server(monkeypatch):
    """A file server, with no proxy between it and the tests, and no bars."""
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLAFS_PROGRESS", "none")
    with serving() as server:
        yield server
