"""The gallery as people open it: pages from the disk, whose every link leads somewhere and which ask nobody."""

import ast
import runpy
import subprocess
import sys
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from axe import serious

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
# What scrolls sideways and can't be reached by the keyboard.
OUT_OF_REACH = """async () => {
  for (const frame of [1, 2, 3]) await new Promise(requestAnimationFrame)  // the page has seen its new width
  return [...document.querySelectorAll('main *')].filter(e =>
    ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth && e.tabIndex < 0
  ).map(e => e.outerHTML.slice(0, 80))
}"""
PACKAGES = sorted(path.parent.name for path in (project_root() / "llafs_lib").glob("*/__init__.py"))
PAGES = ["index.html", "CONTRIBUTING.html", "CHANGELOG.html", *(f"notebooks/{name}.html" for name in SERIES)]
PAGES += [f"docs/{page.stem}.html" for page in (project_root() / "docs").glob("*.md")]
PAGES += [f"api/{name}.html" for name in ("llafs_lib", *PACKAGES)]


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
        for cell in map(copy, soup.select(".jp-MarkdownCell")):  # the others look at the page as it is
            for code in cell.select("code, pre"):
                code.decompose()
            assert "$" not in cell.get_text() and "\\" not in cell.get_text(), path.name


def public(path):
    """The public classes and functions of a module that have a docstring, by their full names."""
    module = ".".join(path.relative_to(project_root()).with_suffix("").parts)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_" and ast.get_docstring(node):
            yield f"{module}.{node.name}"


@pytest.mark.parametrize("name", ["llafs_lib", *PACKAGES])
def test_a_package_has_a_page_of_all_that_has_a_docstring(site, soups, name):
    folder = project_root() / "llafs_lib"
    modules = folder.glob("[!_]*.py") if name == "llafs_lib" else (folder / name).rglob("[!_]*.py")
    wanted = {member for path in modules for member in public(path)}
    there = {element["id"] for element in soups[site / "api" / f"{name}.html"].select("[id]")}
    assert len(wanted) > 5 and wanted - there == set()


def test_the_api_says_what_the_docstring_says(site, soups):
    text = " ".join(soups[site / "api" / "llafs_lib.html"].get_text().split())
    assert "LLaFS" in text and "Raises" in text and "Args:" not in text


def test_no_header_of_a_table_is_empty(soups):
    assert [path.name for path, soup in soups.items() for th in soup("th") if not th.get_text(strip=True)] == []


def test_a_stamped_notebook_asks_nobody_for_its_images():
    raw = "https://raw.githubusercontent.com/owner/name/main/docs/"
    badge = '<a href="https://colab.example"><img alt="Open in Colab" src="https://colab.example/badge.svg"></a>'
    page = SimpleNamespace(file=SimpleNamespace(src_uri="notebooks/00_start_here.ipynb"))
    made = runpy.run_path(str(project_root() / "docs" / "gallery.py"))["on_page_content"](
        f'<div class="jp-MarkdownCell">{badge}<img alt="a" src="{raw}giraffe.png"></div>', page, None, None
    )
    assert "../docs/giraffe.png" in made and ">Open in Colab</a>" in made and 'src="http' not in made


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
        assert page.evaluate(OUT_OF_REACH) == []
        assert page.evaluate("[...document.querySelectorAll('math')].every(m => m.getBoundingClientRect().height > 5)")
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []
    page.close()


@pytest.fixture
def opened(browser, site):
    """Opens a page in a browser whose reader likes light or dark pages; those opened before share its memory."""
    contexts = {}

    def open_page(path, scheme="light", width=1200):
        context = contexts.setdefault(scheme, browser.new_context(color_scheme=scheme))
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((site / path).as_uri())
        return page

    yield open_page
    for context in contexts.values():
        context.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "word", "found"),
    [
        ("notebooks/00_start_here.html", "bootstrap", "/notebooks/05_full_evaluation.html"),
        ("index.html", "build_bank", "/api/retrieval.html#llafs_lib.retrieval.bank.build_bank"),
    ],
)
def test_the_search_finds_without_a_server(opened, where, word, found):
    page = opened(where)
    page.locator(".md-search__input").click()
    page.keyboard.type(word)
    results = page.locator(".md-search-result__link")
    results.first.wait_for(timeout=120_000)
    links = results.evaluate_all("all => all.map(a => a.href)")
    assert any(found in link for link in links), links
    results.first.click()
    page.wait_for_url(links[0])


BACKGROUND = """place => {  // of the first ancestor that has one, from 0 (black) to 255
  for (let e = document.querySelector(place); e; e = e.parentElement) {
    const [r, g, b, alpha = 1] = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number)
    if (alpha > 0.5) return (r + g + b) / 3
  }
  return 255
}"""


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_pages_are_as_dark_as_the_reader_likes(opened, scheme, other):
    def look(page):
        page.wait_for_timeout(500)  # colours fade over
        places = ["article", ".jp-CodeCell pre", ".jp-CodeCell td"]
        return {"dark" if page.evaluate(BACKGROUND, place) < 100 else "light" for place in places}

    page = opened("notebooks/05_full_evaluation.html", scheme)
    assert look(page) == {scheme}
    page.locator("form[data-md-component=palette] label:visible").click()
    assert look(page) == {other}
    assert look(opened("notebooks/04_retrieval_scoring.html", scheme)) == {other}, "the choice holds on the next page"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["index.html", "api/retrieval.html", *(f"notebooks/{name}.html" for name in SERIES)])
def test_axe_finds_nothing_serious(opened, path):
    page = opened(path)
    assert serious(page) == []
    page.locator("form[data-md-component=palette] label:visible").click()
    page.wait_for_timeout(500)
    assert page.evaluate(BACKGROUND, "article") < 100
    assert serious(page, ["color-contrast", "link-in-text-block"]) == []


@pytest.mark.slow
def test_the_first_idea_is_on_the_first_screen(opened):
    """Title, three sentences, an image and its caption, and the setup: all before one has to scroll."""
    page = opened("notebooks/00_start_here.html")
    top = page.locator(".jp-MarkdownCell").first
    image, setup = top.locator("img").first.bounding_box(), page.locator(".jp-CodeCell").first.bounding_box()
    caption = top.locator("p:has(img) + p > em:only-child, figcaption, p > img + em").first
    assert caption.count() and len(caption.inner_text().split()) >= 5, "a caption in italics stands below the image"
    assert image["y"] + image["height"] <= caption.bounding_box()["y"] + 1
    assert setup["y"] + setup["height"] <= 900, f"the setup cell ends at {setup['y'] + setup['height']:.0f} px"
