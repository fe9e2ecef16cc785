import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from llafs_lib.data.images import read_rgb
from llafs_lib.errors import LlafsError
from llafs_lib.widgets import CELLS, DRAWING, Correcting, _uploaded, browse, segment_and_correct

PNG = b"\x89PNG"


def draw(class_name, policy):
    if class_name == "nothing":
        return "no image of <nothing>"
    if class_name == "broken":
        raise LlafsError("a clear message")
    figure, ax = plt.subplots()
    ax.set_title(f"{class_name}, {policy}")
    plt.close(figure)
    return figure


def parts(box):
    (first, second), note, view = box.children[0].children, box.children[1], box.children[2]
    return first, second, note, view


def test_the_figure_follows_the_menus():
    name, policy, note, view = parts(browse(draw, class_name=["zebra", "horse"], policy=["llm", "true"]))
    assert name.description == "class name" and bytes(view.value).startswith(PNG)
    before = bytes(view.value)
    name.value = "horse"
    assert bytes(view.value).startswith(PNG) and bytes(view.value) != before
    before = bytes(view.value)
    policy.value = "true"
    assert bytes(view.value) != before and note.value == ""


def test_words_take_the_figures_place():
    name, _, note, view = parts(browse(draw, class_name=["zebra", "nothing", "broken"], policy=["llm"]))
    name.value = "nothing"
    assert note.value == "no image of &lt;nothing&gt;" and not bytes(view.value)
    name.value = "broken"
    assert note.value == "a clear message"
    name.value = "zebra"
    assert note.value == "" and bytes(view.value).startswith(PNG)


def test_a_note_says_that_the_figure_is_being_drawn():
    box, seen = None, []

    def look(class_name):
        if box is not None:
            note, view = box.children[1:]
            seen.append((note.value, bytes(view.value)[:4]))
        return draw(class_name, "llm")

    box = browse(look, class_name=["zebra", "horse"])
    box.children[0].children[0].value = "horse"
    assert seen == [(DRAWING, PNG)] and box.children[1].value == "", "the last figure stays meanwhile"


def test_a_mistake_in_the_function_is_shown_and_not_swallowed():
    box = browse(lambda n: draw({1: "zebra"}[n], "llm"), n=[1, 2])
    (menu,), note, view = box.children[0].children, box.children[1], box.children[2]
    with pytest.raises(KeyError):
        menu.value = 2
    assert note.value == "KeyError: 2" and not bytes(view.value)


# --- a mask, corrected by clicks --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(own_scenes):
    """An image of the user's, [H, W, 3] uint8."""
    return read_rgb(min((own_scenes / "images").iterdir()))


def widgets_of(box):
    """The parts of `segment_and_correct` by what is written on them."""
    found, left = {}, [box]
    while left:
        one = left.pop()
        left += getattr(one, "children", ())
        found.setdefault(getattr(one, "description", "") or type(one).__name__, one)
    found["buttons"] = found["GridBox"].children[1].children
    return found


def press(parts, row, column):
    """Click on the image, at shares of its height and width."""
    parts["buttons"][int(row * CELLS) * CELLS + int(column * CELLS)].click()


def test_a_click_changes_the_mask_and_undo_takes_it_back(own_model, scene):
    parts = widgets_of(segment_and_correct(own_model, {"a scene": scene}, "bus", "truck,car"))
    first = bytes(parts["Image"].value)
    assert first.startswith(PNG) and "bus: " in parts["HTML"].value
    parts["a click is"].value = "background"
    press(parts, 0.5, 0.5)
    assert bytes(parts["Image"].value) != first and "corrected by 1 click" in parts["HTML"].value
    parts["undo"].click()
    assert bytes(parts["Image"].value) == first


def test_the_place_under_the_pointer_is_what_was_said(own_model, scene):
    state = Correcting(own_model)
    state.find(scene, "bus", "truck,car")
    height, width = state.shown.mask.shape
    for row, column, is_object in ((0.1, 0.2, True), (0.5, 0.5, False), (0.9, 0.9, True)):
        state.click(row, column, is_object)
        assert state.shown.mask[round(row * (height - 1)), round(column * (width - 1))] == is_object


def test_an_accepted_mask_is_a_support_of_the_word(own_model, scene):
    parts = widgets_of(segment_and_correct(own_model, {"a scene": scene}, "bus", "truck,car"))
    press(parts, 0.5, 0.5)
    parts["accept as support"].click()
    (added,) = own_model.added
    assert added.class_name == "bus" and f"support {added.number} of" in parts["HTML"].value
    assert "added: 1" in str(own_model.segment(scene, "bus", related="truck,car"))
    own_model.remove(added.number)


@pytest.mark.parametrize("wrap", [lambda f: {f["name"]: {"metadata": {}, "content": f["content"]}}, lambda f: (f,)])
def test_an_uploaded_image_goes_before(own_model, scene, wrap):
    """In the form of ipywidgets 7, and of 8."""
    buffer = io.BytesIO()
    Image.fromarray(scene[:, ::-1].copy()).save(buffer, "PNG")
    parts = widgets_of(segment_and_correct(own_model, {"a scene": scene}, "bus", "truck,car"))
    before = bytes(parts["Image"].value)
    assert _uploaded(()) is None and _uploaded({}) is None
    image = _uploaded(wrap({"name": "x.png", "content": memoryview(buffer.getvalue())}))
    assert np.array_equal(np.asarray(image), scene[:, ::-1])
    with pytest.raises(LlafsError, match="no image"):
        _uploaded(wrap({"name": "x.png", "content": b"no image"}))
    parts["looks like (or ask)"].value = "car"
    parts["find"].click()
    assert bytes(parts["Image"].value) != before


def test_what_cannot_be_done_is_said_and_the_image_stays(own_model, scene):
    parts = widgets_of(segment_and_correct(own_model))
    for button in ("find", "undo", "accept as support"):
        parts[button].click()
        assert "image" in parts["HTML"].value and not bytes(parts["Image"].value)
    press(parts, 0.5, 0.5)
    assert "there is no mask yet" in parts["HTML"].value
    parts = widgets_of(segment_and_correct(own_model, {"a scene": scene}, "bus", "truck,car"))
    before = bytes(parts["Image"].value)
    parts["looks like (or ask)"].value = "<b>okapi</b>"
    parts["find"].click()
    assert "&lt;b&gt;okapi" in parts["HTML"].value and bytes(parts["Image"].value) == before


def test_a_click_before_anything_was_looked_for_does_not_count(own_model, scene):
    state = Correcting(own_model)
    with pytest.raises(LlafsError, match="press 'find'"):
        state.click(0.5, 0.5, True)
    assert state.clicks == []
