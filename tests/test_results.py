"""The figures that pages and notebooks show are those of the results that are committed in docs/results/."""

import json

import pytest

from llafs_lib.evaluation.report import findings
from llafs_lib.evaluation.tables import claims_table, markdown, null_table, overview
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
