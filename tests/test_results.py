"""The figures that pages and notebooks show are those of the results that are committed in docs/results/."""

import json
import re

import pytest

from llafs_lib.evaluation.report import findings
from llafs_lib.evaluation.tables import claims_table, markdown, null_table, overview, points, scored
from llafs_lib.tools.tutorial import project_root

DOCS = project_root() / "docs"
RESULTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (DOCS / "results").glob("*.json")}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("table", [overview, claims_table, null_table])
def test_the_page_of_results_has_their_tables(name, table):
    assert markdown(table(RESULTS[name])) in (DOCS / "results.md").read_text(encoding="utf-8")


def test_notebook_05_was_executed_with_the_same_answers():
    book = json.loads((project_root() / "notebooks" / "05_full_evaluation.ipynb").read_text(encoding="utf-8"))
    printed = "".join("".join(out.get("text", "")) for cell in book["cells"] for out in cell.get("outputs", ()))
    for sentence in findings(RESULTS["toy"]):
        assert sentence in printed


COCO = RESULTS["coco-mini"]
FIGURE = re.compile(r"[+-]?\d+\.\d \[[+-]?\d+\.\d, [+-]?\d+\.\d\]")


def part(path, begin, end):
    text = (project_root() / path).read_text(encoding="utf-8")
    return text[text.index(begin) : text.index(end)]


def figures(text):
    """All that stands with its interval, such as "+8.8 [+5.3, +12.3]", wherever a line is broken."""
    return set(FIGURE.findall(" ".join(text.replace("−", "-").split())))


def notebook_05_on_photographs():
    book = json.loads((project_root() / "notebooks" / "05_full_evaluation.ipynb").read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown")
    return text[text.index("## 9 ·") : text.index("## 10 ·")]


def test_the_readme_has_the_rows_with_five_supports_and_the_verdicts():
    rows, readme = overview(COCO), (project_root() / "README.md").read_text(encoding="utf-8")
    shown = [name for name in rows.index if (", 5" in name and "+" not in name) or "floor" in name]
    assert markdown(rows.loc[shown]) in readme and markdown(claims_table(COCO)) in readme


@pytest.mark.parametrize(
    "text",
    [
        part("README.md", "## Results", "## In your own code"),
        part("docs/results.md", "**Photographs**", "**Drawings**"),
        notebook_05_on_photographs(),
    ],
    ids=["README", "results.md", "notebook 05"],
)
def test_every_figure_that_is_said_of_photographs_is_one_of_the_result(text):
    found = {points(pair) for pair in COCO["paired"].values()}
    found |= {scored(arm) for arm in COCO["arms"].values()}
    said = figures(text)
    assert len(said) > 5
    assert said <= found | figures(part("docs/results.md", "## Which supports", "| 5 true + 20 llm"))
