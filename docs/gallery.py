"""What mkdocs is told by `mkdocs.yml` to do for the gallery: lay the pages as the repository lays its files.

The site has the folders of the repository, so that a link of a notebook (`03_llm_prompting.ipynb`, `../docs/x.png`) or
of the README leads to the same thing in both.
"""

from __future__ import annotations

import re
from pathlib import Path

import latex2mathml.converter
from bs4 import BeautifulSoup, Tag
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from llafs_lib.tools.committed import SERIES

ROOT = Path(__file__).resolve().parent.parent
_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$", re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """No page for missing addresses: only a server shows it, and its links start from a server's root."""
    config.theme.static_templates.discard("404.html")
    return config


@event_priority(100)  # before mkdocs-jupyter, which looks for the notebooks among these files
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The README as the start page, every notebook of the series, and what these link to."""
    notebooks = [f"notebooks/{name}.ipynb" for name in SERIES]
    own = [file for file in files if file.src_dir == config.docs_dir]
    linked = [f"docs/{file.src_uri}" for file in own if file.src_uri.endswith((".png", ".css", ".js", ".md", ".json"))]
    pages = [path for path in linked if path.endswith(".md")]
    api = {f"api/{name}.md": text for name, text in api_pages().items()}
    config.nav = ["README.md", {"Notebooks": notebooks}, {"The library": [*api]}, {"Docs": pages}]
    config.nav += ["CONTRIBUTING.md", "CHANGELOG.md"]
    paths = ["README.md", *notebooks, "CONTRIBUTING.md", "CHANGELOG.md", *linked]
    site = [File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in paths]
    # A browser shows a file with this suffix; one without any it saves.
    site.append(File("LICENSE", str(ROOT), config.site_dir, config.use_directory_urls, dest_uri="LICENSE.txt"))
    site += [File.generated(config, path, content=text) for path, text in api.items()]
    return Files([*(file for file in files if file not in own), *site])  # the rest are the theme's


def api_pages() -> dict[str, str]:
    """One page for each package of the library, and one for the modules above them; mkdocstrings fills them in."""
    modules = sorted(path.stem for path in ROOT.glob("llafs_lib/[!_]*.py"))
    above = [f"::: llafs_lib.{name}\n" for name in modules]
    packages = sorted(path.parent.name for path in ROOT.glob("llafs_lib/*/__init__.py"))
    inside = "    options:\n      show_root_heading: false\n"
    pages = {name: f"# llafs_lib.{name}\n\n::: llafs_lib.{name}\n{inside}" for name in packages}
    return {"llafs_lib": "\n".join(["# llafs_lib\n", *above]), **pages}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Python-Markdown reads what stands in an HTML element only if told to."""
    return markdown.replace("<details>", '<details markdown="1">')


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The theme's search with a name for who hears the page."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page without empty headers in its tables and images from elsewhere; a notebook's with what `_as_page` does."""
    soup = BeautifulSoup(html, "html.parser")
    for image in soup.select('img[src^="http"]'):  # `llafs stamp` has given the notebooks' own ones such addresses
        if "raw.githubusercontent.com" in image["src"]:
            image["src"] = "../docs/" + image["src"].rpartition("/docs/")[2]
        else:  # a badge
            image.replace_with(image["alt"])
    for header in soup("th"):
        if not header.get_text(strip=True):
            header.name = "td"
    if page.file.src_uri.endswith(".ipynb"):
        _as_page(soup)
    return str(soup)


def _as_page(soup: BeautifulSoup) -> None:
    """Set a notebook's equations as MathML, lead its links to pages, and keep the search to what it says."""
    for script in soup("script"):  # nbconvert's loaders of MathJax and Mermaid, which ask a server for them
        if "MathJax" in script.text or "mermaid" in script.text:
            script.decompose()
    for link in soup.select('a[href*=".ipynb"], a[href*=".md"]'):
        if "://" not in link["href"]:
            link["href"] = re.sub(r"\.(ipynb|md)(?=#|$)", ".html", link["href"])
    for cell in soup.select(".jp-MarkdownCell"):
        _set_equations(cell)
    for plumbing in soup.select(".jp-InputPrompt, .jp-OutputPrompt, .celltoolbar, .zeroclipboard-container"):
        plumbing["data-search-exclude"] = ""


def _set_equations(cell: Tag) -> None:
    """Replace `$…$` and `$$…$$` in a cell's text, not in its code, by MathML, which browsers draw without a script."""
    for text in cell.find_all(string=_MATH):
        if not text.find_parent(("code", "pre")):
            text.replace_with(BeautifulSoup(_MATH.sub(_mathml, text), "html.parser"))


def _mathml(found: re.Match) -> str:
    latex, display = (found[1], "block") if found[1] else (found[2], "inline")
    return latex2mathml.converter.convert(latex.strip(), display=display)
