"""A real browser: Debian's chromium, or the one that Playwright has downloaded. Without either the tests skip."""

import os
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need Playwright: pip install -e .[dev]")


@pytest.fixture(scope="module")  # it keeps an event loop running, in which other tests could not start theirs
def browser():
    with playwright.sync_playwright() as p:
        own = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        try:
            found = p.chromium.launch(executable_path=own, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        except playwright.Error as error:
            pytest.skip(f"no chromium here: apt-get install chromium ({str(error).splitlines()[0]})")
        yield found
        found.close()
