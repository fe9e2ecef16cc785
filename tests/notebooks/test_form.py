"""The form of a committed notebook: how much it explains, how long its cells are, what stands below a table or figure.

`pytest tests/notebooks/test_form.py -s` prints the measures of each notebook.
"""

import base64
import io
import json
import re
import statistics

import pytest
from PIL import Image

from llafs_lib.artifacts import SERIES
from llafs_lib.tools.tutorial import project_root

ROOT = project_root()
PLUMBING = {"setup", "imports", "parameters"}  # the tags of cells that need no explanation
NOT_PROSE = r"```.*?```|<details.*?</details>|\$\$.*?\$\$|^[ |:-]+$|</?\w[^>]*>|(?<=\])\([^)\s]+\)"


def book_of(name):
    return json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))


@pytest.fixture(params=SERIES, scope="module")
def book(request):
    return book_of(request.param)


def source_of(cell):
    return "".join(cell["source"])


def code_cells(book, aside=PLUMBING):
    return [c for c in book["cells"] if c["cell_type"] == "code" and not aside & set(c["metadata"].get("tags", []))]


def prose(text):
    """The words of a markdown cell: what has a letter or a digit in it and stands between white space.

    Code blocks, folded solutions, displayed equations, the rules of tables, HTML and the addresses of links are no
    prose. Headings, captions, the cells of tables, terms in backticks and inline equations are.
    """
    text = re.sub(NOT_PROSE, " ", text, flags=re.DOTALL | re.MULTILINE)
    return [word for word in text.split() if re.search(r"\w", word)]


def measures(book):
    """Words of prose, lines of code (no blank ones, no plumbing), words per line, median and longest cell."""
    words = sum(len(prose(source_of(c))) for c in book["cells"] if c["cell_type"] == "markdown")
    lines = sum(bool(line.strip()) for c in code_cells(book) for line in source_of(c).splitlines())
    cells = [len(source_of(c).splitlines()) for c in code_cells(book, aside={"setup", "imports"})]
    return {
        "words": words, "lines": lines, "words per line": words / lines, "median cell": statistics.median(cells),
        "longest cell": max(cells), "highest figure": max(height for _, height in figures(book)),
    }  # fmt: skip


def figures(book):
    """The source and the height in px of each figure that a cell shows."""
    for cell in code_cells(book):
        for output in cell["outputs"]:
            if png := output.get("data", {}).get("image/png"):
                with Image.open(io.BytesIO(base64.b64decode("".join(png)))) as image:
                    yield source_of(cell), image.height


def left_alone(book):
    """The sources of the cells that show a table or a figure below which no sentence stands before the next heading."""
    for cell, following in zip(book["cells"], [*book["cells"][1:], {"cell_type": "none", "source": []}], strict=True):
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        below = re.split(r"^#+ ", source_of(following), flags=re.MULTILINE)[0]  # "" where it begins with a heading
        if kinds & {"text/html", "image/png"} and (following["cell_type"] != "markdown" or len(prose(below)) < 5):
            yield source_of(cell)


def test_measures_of_all_notebooks():
    table = {name: measures(book_of(name)) for name in SERIES}
    print()
    for name, found in table.items():
        print(f"{name:22}", ", ".join(f"{what} {value:.4g}" for what, value in found.items()))
    assert len(table) == len(SERIES)


def test_there_is_more_to_read_than_code(book):
    found = measures(book)
    assert found["words per line"] >= 7, found


def test_cells_are_short(book):
    found = measures(book)
    assert found["median cell"] <= 8 and found["longest cell"] <= 30, found


def test_a_sentence_stands_below_every_table_and_figure(book):
    assert list(left_alone(book)) == []


def test_every_figure_has_a_text_for_who_does_not_see_it(book):
    for cell in code_cells(book):
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            assert len(cell["metadata"].get("alt", "")) > 20, source_of(cell)
    assert "![](" not in "".join(source_of(c) for c in book["cells"])


def test_no_figure_is_higher_than_a_screen(book):
    assert [(source, height) for source, height in figures(book) if height > 900] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("## Two words", 2),
        ("one `two` $K$ — three, [four](../docs/very/long.png) x.", 6),
        ("before\n```python\nprint('no prose')\n```\nafter", 2),
        ("| a | b |\n|---|:--|\n| c | 4.5 |", 4),
        ("Try it.\n<details><summary>Solution</summary>\n\n```python\nx = 1\n```\nso\n</details>", 2),
        ("$$\na = b\n$$", 0),
    ],
)
def test_what_counts_as_prose(text, words):
    assert len(prose(text)) == words


def shows(kind):
    return {"cell_type": "code", "source": ["x"], "metadata": {}, "outputs": [{"data": {kind: "…", "text/plain": ""}}]}


def says(text):
    return {"cell_type": "markdown", "source": [text], "metadata": {}}


@pytest.mark.parametrize(
    ("cells", "alone"),
    [
        ([shows("text/html"), says("The second row is higher than the first.")], 0),
        ([shows("text/html"), says("## 3 · The next section\n\nIt begins with other things than the table.")], 1),
        ([shows("image/png"), says("*Look.*")], 1),
        ([shows("image/png"), shows("text/plain"), says("Of the two cells, the first is left alone.")], 1),
        ([shows("text/plain")], 0),
        ([shows("image/png")], 1),
    ],
)
def test_what_counts_as_left_alone(cells, alone):
    assert len(list(left_alone({"cells": cells}))) == alone
