import matplotlib.pyplot as plt
import pytest

from llafs_lib.errors import LlafsError
from llafs_lib.widgets import DRAWING, browse

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
