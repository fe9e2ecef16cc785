"""What the pages of the project promise: citations lead to a section, links to a file, the layout to what is there."""

import re
import tomllib

import pytest
import yaml

import llafs_lib
from llafs_lib.tools.tutorial import project_root

ROOT = project_root()
LIBRARY = ROOT / "llafs_lib"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
CITING = [*PAGES, *sorted(ROOT.glob("notebooks/*.ipynb"))]
CITING += sorted(p for folder in ("llafs_lib", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))


def text_of(path):
    return path.read_text(encoding="utf-8")


def citations(text):
    """The section numbers of "spec §1.2, §1.3", "spec §1.5–1.8" and the like."""
    cited = re.findall(r"spec\s+(§\d[\d.]*(?:(?:–|,\s+§)\d[\d.]*)*)", text)
    return {number for group in cited for number in re.findall(r"\d+(?:\.\d+)?", group)}


def links(text):
    """Relative targets of links and images, in Markdown and HTML, without their anchors; code is left out."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    targets = {target.partition("#")[0] for target in found if "://" not in target}
    return targets - {""}


def layout():
    """The block of README's section "Layout"."""
    return re.search(r"## Layout\n.*?```\n(.*?)```", text_of(ROOT / "README.md"), re.DOTALL)[1]


def in_library():
    """Its lines about llafs_lib: each indented by two spaces."""
    return re.search(r"^llafs_lib/.*\n((?:  .*\n)+)", layout(), re.MULTILINE)[1]


def test_every_citation_leads_to_a_section():
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?) ", text_of(ROOT / "docs" / "spec.md"), re.MULTILINE))
    cited = {path: citations(text_of(path)) for path in CITING}
    assert not {path.name: found - sections for path, found in cited.items() if found - sections}
    assert len(set().union(*cited.values())) > 15  # the pattern still finds them


def test_citations_are_read_in_every_form():
    assert citations("(spec §1.2, §1.3) spec §1.5–1.8.\nspec §2; spec\n  §3.3.") == set("1.2 1.3 1.5 1.8 2 3.3".split())


def test_the_spec_stays_short():
    assert len(text_of(ROOT / "docs" / "spec.md").splitlines()) <= 300


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page):
    assert not {target for target in links(text_of(page)) if not (page.parent / target).exists()}


def test_the_layout_is_the_library():
    """Every file and folder of the library's top level is named, and none that does not exist."""
    listed = re.findall(r"^  ([\w./]+(?:, [\w./]+)*)", in_library(), re.MULTILINE)
    named = {name.rstrip("/") for group in listed for name in group.split(", ")}
    there = {p.name for p in LIBRARY.iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.glob("*.py")))}
    assert named == there - {"__init__.py", "__main__.py"}


def test_the_layout_names_no_file_that_is_not_there():
    folders = ("llafs_lib", "docs", "data_scripts", "benchmarks")
    there = {p.name for folder in folders for p in (ROOT / folder).rglob("*")}
    assert not set(re.findall(r"\w+\.(?:py|md)\b", layout())) - there


def test_the_version_is_said_once_everywhere():
    declared = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["version"]
    citation = yaml.safe_load(text_of(ROOT / "CITATION.cff"))
    assert llafs_lib.__version__ == declared == citation["version"]
    assert f"## [{declared}]" in text_of(ROOT / "CHANGELOG.md")
