"""What is done behind the page of `llafs app`, and what the command refuses. tests/browser opens the page."""

import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from llafs_lib import LLaFS
from llafs_lib.errors import LlafsError
from llafs_lib.tools import app
from llafs_lib.tools.app import Desk, corrected, typed_classes
from llafs_lib.tools.cli import main
from llafs_lib.tools.demo import BANK, QUERY, WORD, unpacked

BLUE, ORANGE, NOTHING = (0, 114, 178, 255), (230, 159, 0, 255), (0, 0, 0, 0)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the command sets for Gradio is gone after the test."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture
def desk():
    with unpacked() as folder:
        yield Desk(LLaFS.from_run(folder / BANK))


@pytest.fixture
def image(desk):
    return str(desk.model.folder.parent / QUERY)


# --- the desk --------------------------------------------------------------------------------------------------------


def test_an_empty_table_asks_and_a_typed_one_is_taken(desk, image):
    asked = desk.segment(image, WORD, [["", None]])
    assert asked.related.source == "recorded" and asked.related == desk.related(WORD)
    typed = desk.segment(image, WORD, [["Zebra ", 0.9], ["cow", ""], [None, None]])
    assert typed.related.source == "given" and typed.related.scores == {"cow": 1.0, "zebra": 0.9}
    assert (asked.mask != typed.mask).any()


def test_a_word_that_no_recording_knows(desk, image):
    for attempt in (lambda: desk.related("okapi"), lambda: desk.segment(image, "okapi", [])):
        with pytest.raises(LlafsError, match=r"'okapi': type classes .* into the table, or start .* --llm MODEL"):
            attempt()
    assert desk.segment(image, "okapi", [["zebra", 1]]).mask.any(), "the advice works"


def test_what_is_accepted_is_shown_next_and_can_be_taken_out(desk, image):
    before = desk.segment(image, WORD, [])
    number = desk.accept(before, before.mask)
    assert desk.added() == [(f"{number}: {WORD}, from {QUERY}", number)]
    after = desk.segment(image, WORD, [])
    assert WORD in {s.class_name for s in after.supports} and (after.probability != before.probability).any()
    desk.remove(number)
    assert desk.added() == [] and (desk.segment(image, WORD, []).mask == before.mask).all()


def test_what_the_desk_refuses(desk, image, tmp_path):
    found = desk.segment(image, WORD, [])
    broken = tmp_path / "deep" / "broken.png"
    broken.parent.mkdir()
    broken.write_text("no image")
    for attempt, message in {
        lambda: desk.segment(None, WORD, []): "no image: put one in first",
        lambda: desk.segment(str(broken), WORD, []): "^broken.png is not a readable image",
        lambda: desk.segment(image, " ", []): "must not be empty",
        lambda: desk.segment(image, "a\nb", []): "line break",
        lambda: desk.segment(image, WORD, [["zebar", 1]]): "'zebar' is not annotated here. Did you mean 'zebra'",
        lambda: desk.segment(image, WORD, [["zebra", 1], ["zebra", 1]]): "'zebra' is given twice",
        lambda: desk.segment(image, WORD, [["zebra", 2]]): "above 0 and at most 1",
        lambda: desk.segment(image, WORD, [["zebra", float("nan")]]): "above 0 and at most 1",
        lambda: desk.segment(image, WORD, [["zebra", "much"]]): "must be a number",
        lambda: desk.accept(found, np.zeros_like(found.mask)): "is empty",
        lambda: desk.remove(None): "no support is chosen",
        lambda: desk.remove(7): "no added support has the number 7",
    }.items():
        with pytest.raises(LlafsError, match=message):
            attempt()


@given(st.lists(st.tuples(st.none() | st.text(max_size=3), st.none() | st.floats() | st.integers() | st.text())))
def test_a_table_of_anything_is_read_or_refused(rows):
    try:
        typed = typed_classes(rows)
    except LlafsError:
        return
    assert list(typed) == [name.strip() for name, _ in rows if name and name.strip()]
    assert all(isinstance(score, float) for score in typed.values())


# --- painting --------------------------------------------------------------------------------------------------------


def test_blue_is_put_in_and_orange_taken_out():
    mask = np.array([[True, True, False, False]])
    layer = np.array([[NOTHING, ORANGE, BLUE, NOTHING]], np.uint8)
    assert corrected(mask, [layer]).tolist() == [[True, False, True, False]]
    assert corrected(mask, None) is mask and corrected(mask, []) is mask


@given(
    arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    st.integers(1, 5),
    st.sampled_from([BLUE, ORANGE, NOTHING]),
)
def test_a_layer_of_another_size_is_stretched_over_the_mask(mask, larger, colour):
    layer = np.full((mask.shape[0] * larger, mask.shape[1] * larger, 4), colour, np.uint8)
    after = corrected(mask, [layer])
    assert after.shape == mask.shape and after.dtype == bool
    assert (after == {BLUE: True, ORANGE: False, NOTHING: mask}[colour]).all()


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--supports a.json --run bank", "--supports and --run do not go together"),
        ("--images photos", "--images goes with --supports"),
        ("--bank here --run bank", "--bank goes with --supports"),
        ("--port 0", "--port must be a number from 1 to 65535, not 0"),
        ("--port 65536", "--port must be a number from 1 to 65535"),
        ("--host 203.0.113.5", "cannot be served at 203.0.113.5 .*: choose another --host or --port"),
        ("--host no.such.host.invalid", "cannot be served at no.such.host.invalid"),
        ("--port x", "--port: .*'x'"),
        ("--supports nowhere.json", "nowhere.json does not exist"),
        ("--run nowhere", "nowhere"),
        ("--prot 80", "Did you mean '--port'"),
    ],
)
def test_a_mistake_is_named_in_one_line(in_tmp, capsys, arguments, message):
    pytest.importorskip("gradio")
    assert main(["app", *arguments.split()]) == 2
    said = capsys.readouterr()
    assert re.match(f"llafs: .*{message}", said.err) and len(said.err.splitlines()) == 1 and not said.out


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["app", "--port", str(taken.getsockname()[1])]) == 2
    assert re.match("llafs: the page cannot be served at 127.0.0.1, port .*: choose another", capsys.readouterr().err)


def test_without_gradio_it_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 2
    assert capsys.readouterr().err == "llafs: the app needs Gradio: pip install 'llafs-notebooks[app]'.\n"


def test_it_answers_nobody_but_this_machine_and_opens_what_was_asked_for(monkeypatch, capsys, tmp_path):
    pytest.importorskip("gradio")
    from llafs_lib.tools import page

    served = []
    monkeypatch.setattr(page, "serve", lambda *given: served.append(given))
    monkeypatch.setattr(app, "has_desktop", lambda: False)
    assert main(["app"]) == 0
    desk, start, host, port, browse = served.pop()
    assert (host, port, browse, start.word) == ("127.0.0.1", None, False, WORD)
    assert "gone when the app ends" in capsys.readouterr().out
    with unpacked() as folder:
        LLaFS.from_run(folder / BANK).save(tmp_path / "bank")
    assert main(["app", "--run", str(tmp_path / "bank"), "--port", "7999"]) == 0
    desk, start, host, port, _ = served.pop()
    assert desk.model.folder == tmp_path / "bank" and (start.image, start.word, port) == (None, "", 7999)


def test_the_page_says_what_goes_wrong_in_one_sentence(desk, capsys):
    pytest.importorskip("gradio")
    from llafs_lib.tools import page

    wired = []
    said = object()
    for error in (LlafsError("a sentence."), ZeroDivisionError("of ours")):

        def act(error=error):
            raise error

        page._wire(lambda act, *_, **__: wired.append(act), act, [], [], said)
    assert [act() for act in wired] == [
        {said: "a sentence."},
        {said: "Something went wrong (ZeroDivisionError); the terminal shows what."},
    ]
    assert "ZeroDivisionError: of ours" in capsys.readouterr().err


def test_supports_are_small_files_of_any_name(desk, tmp_path):
    """A name is only ever shown: no folder and no file is made of it."""
    path = tmp_path / '"><img src=x>.png'
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(path)
    found = desk.segment(str(path), "a/../b", [["zebra", 1]])
    number = desk.accept(found, np.ones((40, 50), bool))
    assert desk.added() == [(f"{number}: a/../b, from {path.name}", number)]
    assert Path(desk.model.folder / "added" / str(number)).is_dir()
