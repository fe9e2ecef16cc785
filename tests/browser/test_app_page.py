"""`llafs app` as people use it: a server of its own, a page, an image, a word, a brush."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from odd_names import FIRST, IMAGE, Watch, odd_names
from PIL import Image
from tiny_run import wait_for

from llafs_lib import LLaFS
from llafs_lib.tools.demo import QUERY, unpacked
from llafs_lib.tools.page import _is_worth_telling

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="the app needs Gradio: pip install -e .[dev]")


@contextmanager
def served(folder, *arguments):
    """Yield the address of the app, started in a folder, and end it afterwards as Ctrl-C does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, proxy = folder / "app.log", {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}  # one that does not answer
    command = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); " + (
        "from llafs_lib.tools.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    with log.open("w") as said:
        server = subprocess.Popen(
            [sys.executable, "-c", command, "app", "--no-open", "--port", str(port), *arguments],
            cwd=folder, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=os.environ | proxy,
        )  # fmt: skip
    try:
        wait_for(lambda: "the app is at" in log.read_text() or server.poll() is not None, 120)
        assert server.poll() is None, log.read_text()
        yield re.search(r"the app is at (\S+)", log.read_text())[1]
        server.send_signal(2)
        assert server.wait(60) == 0
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        server.kill()


class App:
    """The page, opened."""

    def __init__(self, browser, url):
        self.page = browser.new_page(viewport={"width": 1280, "height": 1000})
        self.watch = Watch(self.page, url, url.replace("http", "ws"))
        self.page.goto(url)
        self.button("Segment").wait_for(timeout=60_000)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def press(self, name):
        """Press a button; what is said then."""
        return self.after(self.button(name).click)

    def after(self, act):
        self.page.evaluate("() => { const box = document.querySelector('#said textarea'); box.value = ''; }")
        act()
        self.page.wait_for_function("() => document.querySelector('#said textarea').value", timeout=60_000)
        self.page.wait_for_function("() => !document.querySelector('.generating, .progress-text')", timeout=60_000)
        return self.said()

    def said(self):
        return self.page.locator("#said textarea").input_value()

    def look_for(self, word):
        self.page.get_by_label("what to look for").fill(word)

    def rows(self):
        """What is in the table, cell by cell."""
        return [cell.strip() for cell in self.page.locator("[role=gridcell]").all_inner_texts()]

    def shows(self, name):
        """Whether the table and the caption of the first support come to hold a name, letter by letter."""
        first = [self.page.locator(where).first for where in ("[role=gridcell]", ".caption-label")]
        deadline = time.monotonic() + 30
        while True:
            cell, caption = (" ".join((f.text_content() or "").split()) for f in first)
            if cell == " ".join(name.split()) and caption.startswith(cell):
                return True
            assert time.monotonic() < deadline, (name, cell, caption)
            time.sleep(0.2)

    def mask(self, folder):
        """What the download button gives, [H, W]."""
        with self.page.expect_download() as waiting:
            self.button("Download the mask").click()
        waiting.value.save_as(folder / waiting.value.suggested_filename)
        with Image.open(folder / waiting.value.suggested_filename) as image:
            return np.asarray(image)

    def close(self):
        assert self.watch.made() == 0 and self.watch.alarms == []
        self.page.close()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The app with the bank that comes with the package."""
    with served(tmp_path_factory.mktemp("drawn")) as url:
        yield url


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The app with a bank whose classes have odd names."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "images").mkdir()
    names, rng = odd_names(), np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(names, 1)]}
    for i in range(1, len(names) + 1):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(folder / "images" / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 60})
        square = [10, 10, 40, 10, 40, 40, 10, 40]
        content["annotations"].append(
            {"id": i, "image_id": i, "category_id": i, "segmentation": [square], "iscrowd": 0}
        )
    (folder / "a.json").write_text(json.dumps(content))
    model = LLaFS.from_coco(folder / "a.json", backbone="small", size=64, bank=folder / "bank")
    assert set(model.bank.classes) == set(names)
    Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(folder / IMAGE)
    with served(folder, "--run", "bank") as url:
        yield url, folder


def test_from_an_image_and_a_word_to_a_mask(browser, drawn, tmp_path):
    app = App(browser, drawn)
    assert app.press("Find look-alikes").startswith("giraffe looks like: zebra")
    app.page.wait_for_function("document.querySelectorAll('[role=gridcell]').length === 6")
    assert app.rows() == ["zebra", "0.7", "horse", "0.6", "cow", "0.5"]
    said = app.press("Segment")
    assert re.search(r"^giraffe: \d+\.\d% of the image.*\nexpected: IoU about", said)
    app.page.wait_for_function("document.querySelectorAll('.grid-wrap img').length === 5")
    captions = [c.inner_text() for c in app.page.locator(".caption-label").all()]
    assert [c.split()[0] for c in captions] == ["zebra", "zebra", "horse", "horse", "cow"]
    mask = app.mask(tmp_path)
    with unpacked() as folder, Image.open(folder / QUERY) as query:
        assert set(np.unique(mask)) == {0, 255} and mask.shape == query.size[::-1]
    app.page.screenshot(path=tmp_path / "app.png", full_page=True)
    app.look_for("cup")
    assert "wine glass" in app.press("Segment"), "what stood in for a giraffe does not stand in for a cup"
    app.close()


def test_a_stroke_of_the_brush_changes_the_mask_and_the_mask_is_kept(browser, drawn, tmp_path):
    app = App(browser, drawn)
    app.press("Segment")
    before = app.mask(tmp_path)
    height, width = before.shape
    place = painted_place(app.page, width, height)
    x, y = 0.3, 0.35  # of the image: sand, where no giraffe is
    assert before[int(y * height), int(x * width)] == 0
    app.page.mouse.move(*place(x - 0.05, y))
    app.page.mouse.down()
    for step in range(11):
        app.page.mouse.move(*place(x - 0.05 + 0.01 * step, y))
    app.page.mouse.up()
    deadline = time.monotonic() + 30
    while (after := app.mask(tmp_path))[int(y * height), int(x * width)] == 0:
        assert time.monotonic() < deadline, "the stroke is not in the mask"
        time.sleep(0.5)
    changed = before != after
    assert after.shape == before.shape and 0 < changed.mean() < 0.05 and (after[changed] == 255).all()
    said = app.press("Accept as a support")
    number = int(re.search(r"Kept as support (\d+) of giraffe", said)[1])
    app.press("Segment")
    app.page.wait_for_function(
        "[...document.querySelectorAll('.caption-label')].some(c => c.innerText.startsWith('giraffe'))"
    )
    assert f"{number}: giraffe, from query.jpg" in app.page.get_by_label("accepted supports").input_value()
    assert app.press("Remove") == f"Support {number} is taken out again."
    app.close()


def painted_place(page, width, height):
    """(x, y) in shares of the image → on the page. The editor shows the image as large as fits, in the middle."""
    box = page.locator("canvas").first.bounding_box()
    zoom = float(page.get_by_text(re.compile(r"^\d+%$")).first.inner_text().rstrip("%")) / 100
    left = box["x"] + (box["width"] - zoom * width) / 2
    top = box["y"] + (box["height"] - zoom * height) / 2
    return lambda x, y: (left + x * zoom * width, top + y * zoom * height)


def hang_up_while_sending(url):
    """Upload an image as the page does, and close the connection in the middle of it."""
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
        '--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nhalf an image'
    )
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=30) as connection:
        connection.sendall(head.encode())
        time.sleep(1)  # the server has begun to read


def test_a_tab_closed_while_it_sends_an_image_is_no_error(tmp_path):
    with served(tmp_path) as url:
        hang_up_while_sending(url)


def test_any_other_error_of_the_server_is_told():
    from starlette.requests import ClientDisconnect  # comes with Gradio

    def record(error):
        return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "", None, error and (type(error), error, None))

    told = [_is_worth_telling(record(error)) for error in (None, ValueError(), ConnectionError(), ClientDisconnect())]
    assert told == [True, True, True, False]


def test_what_goes_wrong_is_one_sentence(browser, drawn, tmp_path):
    app = App(browser, drawn)
    app.look_for("okapi")
    assert app.press("Segment").startswith("no recorded answer exists for 'okapi': type classes")
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    app.page.get_by_label("Remove Image").click()
    app.look_for("giraffe")
    assert app.press("Segment") == "there is no image: put one in first."
    app.page.locator("input[type=file]").first.set_input_files(broken)
    app.page.wait_for_timeout(1000)
    assert app.press("Segment").startswith("broken.png is not a readable image")
    app.close()


def test_no_name_runs(browser, odd, tmp_path):
    url, folder = odd
    app = App(browser, url)
    app.page.locator("input[type=file]").first.set_input_files(folder / IMAGE)
    app.page.wait_for_timeout(1000)
    app.page.get_by_role("button", name=re.compile("^the annotated classes")).click()
    for name in odd_names():
        app.look_for(name)
        said = app.press("Segment")
        assert said.startswith(name) and app.watch.made() == 0, said
        assert app.shows(name)
        app.page.wait_for_function(
            "name => document.querySelector('.caption-label')?.innerText.startsWith(name)", arg=name
        )
    app.look_for(f"{FIRST}2")
    assert f"{FIRST}2" in app.press("Find look-alikes")
    app.look_for(FIRST)
    app.press("Segment")
    assert FIRST in app.press("Accept as a support")
    assert "img src=x" in app.page.get_by_label("accepted supports").input_value()
    app.page.get_by_label("accepted supports").click()
    app.page.mouse.move(400, 400)
    app.page.screenshot(path=tmp_path / "odd.png", full_page=True)
    app.close()
