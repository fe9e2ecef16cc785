"""The gallery as people open it: pages from the disk, whose every link leads somewhere and which ask nobody."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from llafs_lib.tools.committed import SERIES
from llafs_lib.tools.tutorial import project_root

pytest.importorskip("mkdocs_jupyter", reason="the gallery needs mkdocs: pip install -e .[gallery]")
bs4 = pytest.importorskip("bs4")

# What is cut off at the side by an element that does not scroll.
CUT_OFF = """[...document.querySelectorAll('pre, table, img, math, .jp-OutputArea-output')].filter(e => {
  for (let a = e.parentElement; a; a = a.parentElement) {
    const overflow = getComputedStyle(a).overflowX
    if (overflow == 'auto' || overflow == 'scroll') return false
    if (overflow != 'visible') return e.getBoundingClientRect().right > a.getBoundingClientRect().right + 1
  }
}).map(e => e.outerHTML.slice(0, 80))"""
PAGES = ["index.html", "CONTRIBUTING.html", "CHANGELOG.html", *(f"notebooks/{name}.html" for name in SERIES)]
PAGES += [f"docs/{page.stem}.html" for page in (project_root() / "docs").glob("*.md")]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The gallery, built as `make gallery` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def soups(site):
    return {path: bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.rglob("*.html")}


def test_a_page_for_each_text_and_notebook(site, soups):
    assert {path.relative_to(site).as_posix() for path in soups} == set(PAGES)
    for name in SERIES:
        images = soups[site / "notebooks" / f"{name}.html"].select(".jp-OutputArea img")
        assert images, f"{name} shows the figures it was committed with"


def test_every_link_leads_somewhere(soups):
    dead = []
    for path, soup in soups.items():
        for element in soup.select("[href], [src]"):
            url = urlsplit(element.get("href", element.get("src")))
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.is_file():
                dead.append((path.name, url.geturl()))
            elif url.fragment and not soups[target].find(id=unquote(url.fragment)):
                dead.append((path.name, url.geturl()))
    assert dead == []


def test_notebooks_lead_to_each_other(site, soups):
    for name, following in zip(SERIES, SERIES[1:], strict=False):
        cells = soups[site / "notebooks" / f"{name}.html"].select(".jp-MarkdownCell a")
        assert f"{following}.html" in [a["href"] for a in cells]
    assert {f"notebooks/{name}.html" for name in SERIES} <= {a["href"] for a in soups[site / "index.html"].select("a")}


def test_equations_are_set(soups):
    assert sum(len(soup.select("math")) for soup in soups.values()) >= 10
    for path, soup in soups.items():
        for cell in soup.select(".jp-MarkdownCell"):
            for code in cell.select("code, pre"):
                code.decompose()
            assert "$" not in cell.get_text() and "\\" not in cell.get_text(), path.name


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_readable_and_asks_nobody(browser, site, path):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / path).as_uri())
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
        assert page.evaluate(CUT_OFF) == []
        assert page.evaluate("[...document.querySelectorAll('math')].every(m => m.getBoundingClientRect().height > 5)")
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []
    page.close()


def test_the_first_idea_is_on_the_first_screen(browser, site):
    """Title, image, caption and the cell of setup, before anybody scrolls."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto((site / f"notebooks/{SERIES[0]}.html").as_uri())
    image, setup = page.locator(".jp-MarkdownCell img").first, page.locator(".jp-CodeCell").first.bounding_box()
    assert image.evaluate("image => image.naturalWidth") >= 800 and image.bounding_box()["y"] < setup["y"]
    assert setup["y"] + setup["height"] <= 900
    page.close()
