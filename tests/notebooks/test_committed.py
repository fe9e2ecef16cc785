"""What a reader of the committed notebooks meets: run, free of errors, tidy."""

import ast
import base64
import io
import json
import re

import pytest

from llafs_lib.artifacts import SERIES
from llafs_lib.tools.committed import MADE_WITH, check_committed, differences, state, tidy
from llafs_lib.tools.tutorial import project_root

ROOT = project_root()
BOOKS = {name: ROOT / "notebooks" / f"{name}.ipynb" for name in SERIES}


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


def test_what_is_trained_begins_the_same_in_each_run_and_in_a_resumed_one(book):
    """A training that is finished draws nothing any more, so what is built after it must not go by what it drew."""
    builds, before = r"= (vision\.Backbone|HSNet|pspnet\.base_network)\(", ""
    for cell in code_cells(book):
        source = "".join(cell["source"])
        if re.search(builds, source) and ("fit(" in before or not re.search(builds, before)):
            assert re.search(rf"torch\.manual_seed\(seed\)[\s\S]*{builds}", source), source
        before += source


def test_ends_with_a_recap(book):
    assert "## Recap" in "".join(book["cells"][-1]["source"])


def test_times_and_memory_are_filled_in(book):
    assert "@" not in "".join(book["cells"][0]["source"])


def test_a_tidied_notebook_keeps_its_figures_and_loses_the_rest():
    from matplotlib.figure import Figure

    data = io.BytesIO()
    Figure().savefig(data, format="png")
    figure = {"data": {"image/png": base64.b64encode(data.getvalue()).decode()}}
    menu = {"data": {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "VBox()"}}
    cell = {"metadata": {"papermill": {"duration": 1}, "tags": ["parameters"]}, "outputs": [figure, menu]}
    book = {"metadata": {"papermill": {}, "widgets": {}, "language_info": {"version": "3.11.7"}}, "cells": [cell]}
    tidied = tidy(book)
    assert tidied["metadata"] == {"language_info": {}} and tidied["cells"][0]["metadata"] == {"tags": ["parameters"]}
    assert base64.b64decode(figure["data"]["image/png"]).startswith(b"\x89PNG")
    assert menu["data"] == {"text/plain": ["(interactive: a menu and its figure appear here in a running notebook)"]}


def shown(text, kind="stdout", tags=()):
    output = {"name": kind, "text": [text]} if kind == "stdout" else {"data": {kind: "…", "text/plain": [text]}}
    return {"cells": [{"metadata": {"tags": list(tags)}, "outputs": [output]}]}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (shown("mIoU 41.8 [37.6, 46.2]"), shown("mIoU 41.9 [37.7, 46.1]")),  # one in the last place
        (shown("of 560 pairs, 1,234 px"), shown("of 555 pairs, 1,240 px")),  # within 2%
        (shown("IoU 41 of one training", tags=["volatile"]), shown("IoU 12 of another")),
        (shown("<Figure size 640x480>", "image/png"), shown("<Figure  size 640x480>", "image/png")),
    ],
)
def test_outputs_that_agree(old, new):
    assert differences(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (shown("mIoU 41.8"), shown("mIoU 39.8"), "prints 39.8, committed is 41.8"),
        (shown("3 classes"), shown("4 classes"), "prints 4, committed is 3"),
        (shown("novel: giraffe"), shown("novel: okapi"), "prints 'novel: okapi', committed is 'novel: giraffe'"),
        (shown("fold 1", tags=["volatile"]), shown("fold 1", "text/html"), "shows"),
        (shown("a"), {"cells": []}, "1 cells are committed, 0 were run"),
    ],
)
def test_outputs_that_are_stale(old, new, said):
    (found,) = differences(old, new)
    assert said in found


@pytest.mark.slow
def test_a_fresh_run_shows_what_is_committed(in_tmp):
    for name in ("notebooks", "llafs_lib", "docs"):
        (in_tmp / name).symlink_to(ROOT / name)
    check_committed(["00", "01", "03"])  # those that train nothing


def test_all_were_executed_by_this_state_of_the_library_and_in_one_environment():
    books = [json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")) for name in SERIES]
    made_with = [book["metadata"].get(MADE_WITH, {}) for book in books]
    assert all(one == made_with[0] for one in made_with), "run `make notebooks`, which executes all of them"
    if made_with[0]["python"] == state()["python"]:
        assert made_with[0]["library"] == state()["library"], "the library has changed since: run `make notebooks`"
