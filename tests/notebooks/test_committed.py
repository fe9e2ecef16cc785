"""What a reader of the committed notebooks meets: run, free of errors, tidy."""

import ast
import json
import re
import statistics

import pytest

from llafs_lib.artifacts import NOTEBOOKS
from llafs_lib.tutorial import project_root

BOOKS = {name: project_root() / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS}


@pytest.fixture(params=BOOKS, scope="module")
def book(request):
    return json.loads(BOOKS[request.param].read_text(encoding="utf-8"))


def code_cells(book):
    return [c for c in book["cells"] if c["cell_type"] == "code"]


def test_executed_in_order_without_errors(book):
    assert [c["execution_count"] for c in code_cells(book)] == list(range(1, len(code_cells(book)) + 1))
    assert not [o for c in code_cells(book) for o in c["outputs"] if o["output_type"] == "error"]


def test_no_path_of_a_machine(book):
    outputs = json.dumps([c["outputs"] for c in code_cells(book)]) + json.dumps(book["metadata"])
    assert not re.search(r"/(home|root|tmp|work|Users|content)/", outputs)
    assert "papermill" not in book["metadata"] and "widgets" not in book["metadata"]


def test_small_enough_to_be_shown(book):
    assert len(json.dumps(book)) < 2_000_000


def test_carries_figures(book):
    kinds = [kind for c in code_cells(book) for o in c["outputs"] for kind in o.get("data", {})]
    assert "image/png" in kinds


def test_parameters_are_literals(book):
    (cell,) = [c for c in code_cells(book) if "parameters" in c["metadata"].get("tags", [])]
    for node in ast.parse("".join(cell["source"])).body:
        assert isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)


def test_cells_are_short(book):
    lengths = [len("".join(c["source"]).splitlines()) for c in code_cells(book)]
    assert statistics.median(lengths) <= 11 and max(lengths) <= 60


def test_ends_with_a_recap(book):
    assert "## Recap" in "".join(book["cells"][-1]["source"])


def test_times_and_memory_are_filled_in(book):
    assert "@" not in "".join(book["cells"][0]["source"])
