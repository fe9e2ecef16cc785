import os

import pytest
from file_server import serving
from own_files import plain, seen_in, write

from llafs_lib.data.coco import CocoSplit


@pytest.fixture
def server(monkeypatch):
    """A file server, with no proxy between it and the tests, and no bars."""
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLAFS_PROGRESS", "none")
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What COCO's own reader sees in the small annotation file."""
    folder = tmp_path_factory.mktemp("plain")
    write(folder, plain())
    return seen_in(CocoSplit(folder / "images", folder / "a.json", ("zebra", "horse")))
