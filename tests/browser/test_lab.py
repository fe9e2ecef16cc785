"""`make lab` as the README says it: the pages that it opens show every image that the notebooks begin with."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from lab import Book
from tiny_run import wait_for

from llafs_lib.tools.tutorial import project_root

pytestmark = pytest.mark.slow
BROKEN = """() => [...document.querySelectorAll('.jp-Notebook img')]
    .filter(image => !image.complete || !image.naturalWidth).map(image => image.getAttribute('src').slice(0, 80))"""
SHOWN = "() => document.querySelectorAll('.jp-Notebook .jp-RenderedMarkdown img').length"


@pytest.fixture
def lab(tmp_path):
    """The server that `make lab` starts, with a configuration of the test's own: any free port, and no browser."""
    root = project_root()
    if not (root / ".venv" / ".installed-lab").is_file() or not sys.prefix.startswith(str(root)):
        pytest.skip("`make lab` runs in .venv, and these tests do not")
    settings = {"ServerApp": {"open_browser": False, "port": 0, "ip": "127.0.0.1", "shutdown_no_activity_timeout": 300}}
    settings["LabApp"] = {"expose_app_in_browser": True}
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.json").write_text(json.dumps(settings))
    folders = {f"JUPYTER_{n}_DIR": str(tmp_path / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")}
    folders |= {f"JUPYTERLAB_{n}_DIR": str(tmp_path / n.lower()) for n in ("SETTINGS", "WORKSPACES")}
    log = tmp_path / "log"
    with log.open("w") as said:
        server = subprocess.Popen(
            ["make", "lab"], cwd=root, env=os.environ | folders, stdout=said, stderr=said, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: list((tmp_path / "runtime").glob("jpserver-*.json")) or server.poll() is not None, 60)
        assert server.poll() is None, log.read_text()
        wait_for(lambda: "is running at" in log.read_text(), 60)
        (facts,) = (tmp_path / "runtime").glob("jpserver-*.json")
        yield json.loads(facts.read_text())
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):  # a kernel that has just started can hold Jupyter up
            with suppress(ProcessLookupError):
                os.killpg(server.pid, how)
            with suppress(subprocess.TimeoutExpired):
                server.wait(10)


@pytest.mark.parametrize("name", ["00_start_here", "04_retrieval_scoring"])
def test_every_image_is_shown(browser, lab, name):
    book = Book(browser, lab, name)
    book.page.wait_for_function(f"() => ({SHOWN})() > 0", timeout=60_000)
    book.page.wait_for_function(f"() => ({BROKEN})().length === 0", timeout=30_000)
    assert not book.strangers
    book.close()


def test_it_begins_with_the_first_notebook(browser, lab):
    page = browser.new_page()
    page.goto(f"{lab['url']}?token={lab['token']}")
    page.wait_for_url("**/lab/tree/notebooks/00_start_here.ipynb*", timeout=60_000)
    page.close()
