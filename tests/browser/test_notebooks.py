"""The menus of the notebooks as a reader uses them: JupyterLab, "Run All Cells", another choice, another figure."""

import json
import shutil

import numpy as np
import papermill
import pytest
import torch
from lab import Book, Widget, served
from PIL import Image
from tiny_run import QUERIES

from llafs_lib.artifacts import RunFolder
from llafs_lib.classes import COCO_CLASSES
from llafs_lib.data.folds import load_fold, open_dataset
from llafs_lib.data.splits import SupportReader
from llafs_lib.records import Support
from llafs_lib.tools.committed import SERIES
from llafs_lib.tools.tutorial import notebook_parameters, project_root
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.segmenter import HSNetSegmenter
from llafs_lib.widgets import DRAWING

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(browser, finished_run, tmp_path_factory):
    """JupyterLab in a folder with the library, the data, copies of a finished run, and fresh notebooks for it."""
    root, source = tmp_path_factory.mktemp("project"), project_root()
    for name in ("llafs_lib", "data"):
        (root / name).symlink_to(source / name)
    shutil.copytree(source / "docs", root / "docs")  # images that notebooks begin with; no link out of it is served
    _, run, _ = finished_run
    for runs in ("runs", "outspoken"):
        shutil.copytree(run.path, root / runs / run.dataset / run.path.name)
    speak_out(RunFolder(root / "outspoken", run.dataset, run.fold))
    (root / "notebooks").mkdir()
    for name in SERIES:
        fresh(source / "notebooks" / f"{name}.ipynb", root / "notebooks")
    with served(root, tmp_path_factory.mktemp("jupyter")) as lab:
        yield lab


def speak_out(run):
    """Give a run an HSNet whose masks follow its supports: the tiny budget has taught it to mark nothing, whatever.

    It knows nothing, its learner being as drawn, but its logits for an image are spread about zero.
    """
    trained, header = HSNet.load(run.path / "hsnet.safetensors")
    torch.manual_seed(0)
    model = HSNet(trained.backbone).eval()
    read = SupportReader(open_dataset("toy").train)
    query, support = load_fold(run, open_dataset("toy")).train_images["zebra"][:2]
    shown = Support(support, "zebra", 1.0, *read(support, "zebra"))
    answer = HSNetSegmenter(model, header["size"]).segment(read(query, "zebra")[0], [shown]).probability
    logits = torch.from_numpy(answer).logit()
    last = model.learner.decoder2[-1]
    with torch.no_grad():
        last.bias[1] -= logits.median()
        for parameter in last.parameters():
            parameter *= 2 / logits.std()
    parameters = run.manifest("hsnet.safetensors")["parameters"]
    with run.writing("hsnet.safetensors", parameters) as path:
        model.save(path, size=header["size"])


def fresh(source, folder):
    """Copy a notebook, without its outputs and with the parameters of the tiny run."""
    book = papermill.iorw.load_notebook_node(str(source))
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    given = {"budget": "tiny", "queries": QUERIES, "runs": "outspoken" if source.name.startswith("04") else "runs"}
    known = {name: value for name, value in given.items() if name in notebook_parameters(source)}
    book = papermill.parameterize.parameterize_notebook(book, known)
    del book.metadata["papermill"]
    (folder / source.name).write_text(json.dumps(book), encoding="utf-8")


@pytest.fixture
def opened(browser, lab):
    """A function that opens a notebook, runs all of it, and returns its widget."""
    books = []

    def open_and_run(name):
        books.append(book := Book(browser, lab, name))
        done = book.run_all()
        assert done["failed"] == [] and done["left"] == 0
        return Widget(book)

    yield open_and_run
    for book in books:
        book.close()
    assert [book.complaints + book.strangers for book in books] == [[]]


def panels(figure, rows):
    """The images of a figure that is rows of them, each as 32 × 32 grey values: they are parted by white."""
    found = []
    for band in np.array_split(figure, rows):
        middle = band[int(0.55 * len(band)) : int(0.75 * len(band))]
        ink = np.concatenate([[False], (middle < 250).any(axis=(0, 2)), [False]])
        edges = np.flatnonzero(np.diff(ink.astype(int))).reshape(-1, 2)
        cut = [Image.fromarray(middle[:, a:b]).convert("L") for a, b in edges if b - a > 40]
        found += [np.asarray(image.resize((32, 32)), float) for image in cut]
    return found


def differ(one, other, rows=1):
    """Which panels of two figures show another image."""
    pairs = zip(panels(one, rows), panels(other, rows), strict=True)
    return [bool((np.abs(a - b) > 15).mean() > 0.02) for a, b in pairs]


def test_eighty_classes_can_be_reached_by_typing(opened, tmp_path):
    widget = opened("03_llm_prompting")
    menu = widget.menu("class name")
    assert menu.locator("option").count() == len(COCO_CLASSES) == 80
    menu.focus()
    with widget.another_figure():
        widget.page.keyboard.type("gir")
    assert menu.input_value() == "giraffe"
    of_model = widget.figure()
    of_words = widget.choose(relation="words")
    widget.screenshot(tmp_path / "03.png")
    assert of_model.shape != of_words.shape or (of_model != of_words).any()


def test_another_policy_shows_other_supports_and_another_mask(opened, tmp_path):
    widget = opened("04_retrieval_scoring")
    supports, query, probability, mask, truth = slice(0, 5), 5, 6, 7, 8
    llm = widget.choose(class_name="bus")
    random = widget.choose(policy="random")
    widget.screenshot(tmp_path / "04.png")
    changed = differ(llm, random, rows=2)
    assert all(changed[supports]) and changed[probability] and changed[mask]
    assert not changed[query] and not changed[truth]
    second = widget.choose(query="2")
    assert all(differ(random, second, rows=2)[i] for i in (query, mask, truth))
    assert DRAWING in widget.said()


def test_another_model_shows_another_mask_of_the_same_supports(opened, tmp_path):
    widget = opened("05_full_evaluation")
    supports, mask, truth = slice(0, 5), 5, 6
    before = widget.figure()
    other_model = widget.choose(model="Prototype")
    widget.screenshot(tmp_path / "05 Prototype.png")
    changed = differ(before, other_model)
    assert changed[mask] and not any(changed[supports]) and not changed[truth]
    true = widget.choose(policy="true")
    widget.screenshot(tmp_path / "05 true.png")
    changed = differ(other_model, true)
    assert all(changed[supports]) and not changed[truth]
