"""Clicks in a browser, driven through JupyterLab's kernel: the mask under the pointer changes, and can be kept."""

import json

import numpy as np
import pytest
from lab import Book, Widget, served

from llafs_lib.data.images import find_images
from llafs_lib.tools.tutorial import project_root

pytestmark = pytest.mark.slow
CODE = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from llafs_lib import LLaFS
from llafs_lib.widgets import segment_and_correct
model = LLaFS.from_run({bank!r})
segment_and_correct(model, {{"a photo": {photo!r}}}, "bus", "truck=.8,car=.5")
"""


@pytest.fixture
def opened(browser, own_model, own_scenes, tmp_path):
    """A notebook in JupyterLab that shows the widget over one image."""
    photo = str(next(iter(find_images(own_scenes / "images"))))
    bank = own_model.save(tmp_path / "bank")
    source = CODE.format(root=str(project_root()), bank=str(bank), photo=photo)
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source, "id": "a"}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (tmp_path / "root" / "notebooks").mkdir(parents=True)
    file = tmp_path / "root" / "notebooks" / "clicks.ipynb"
    file.write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    (tmp_path / "state").mkdir()
    with served(tmp_path / "root", tmp_path / "state") as lab:
        book = Book(browser, lab, "clicks")
        done = book.run_all()
        assert done["failed"] == [] and done["left"] == 0
        yield book, bank
        book.close()
        assert book.complaints + book.strangers == []


class Clicked(Widget):
    """The widget whose image is clicked on."""

    def __init__(self, book):
        self.page = book.page
        self.box = self.page.locator(".jp-OutputArea-output > .widget-vbox, .jp-OutputArea-output .widget-vbox").first
        self.image, self.note = self.box.locator("img"), self.box.locator(".widget-html-content")
        self.image.scroll_into_view_if_needed()

    def press(self, name):
        self.box.get_by_role("button", name=name, exact=True).click()

    def click_on(self, row, column):
        """Click with the mouse on a place of the image, given in shares of its sides; the figure that follows."""
        before, area = self.image.get_attribute("src"), self.image.bounding_box()
        self.page.mouse.click(area["x"] + column * area["width"], area["y"] + row * area["height"])
        self.page.wait_for_function(
            "([image, before]) => image.src !== before && image.naturalWidth > 0",
            arg=[self.image.element_handle(), before],
            timeout=30_000,
        )
        return self.figure()


def test_a_click_changes_the_mask_where_it_was_made_and_accepting_keeps_it(opened, tmp_path):
    book, bank = opened
    widget = Clicked(book)
    before = widget.figure().astype(int)
    widget.press("background")
    size = np.array(before.shape[:2])
    for row, column in ((0.88, 0.12), (0.12, 0.88)):
        after = widget.click_on(row, column).astype(int)
        changed = np.argwhere(np.abs(after - before).max(axis=2) > 60)
        distances = np.abs(changed - size * (row, column)).max(axis=1)
        assert len(changed) and distances.min() < 15, "the mark is where the mouse was"
        before = after
    widget.press("accept as support")
    widget.page.wait_for_function(
        "note => note.textContent.includes('kept as support 1')", arg=widget.note.element_handle()
    )
    widget.page.screenshot(path=tmp_path / "clicks.png")
    assert (bank / "added" / "1" / "mask.png").is_file()
