"""Figures with names that matplotlib would take for equations: each is drawn as it is written."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from llafs_lib import diagrams, plots
from llafs_lib.artifacts import NOTEBOOKS, number_of
from llafs_lib.evaluation.arms import Arm
from llafs_lib.records import Prediction, RelatedClass, RelatedClasses, Support

IMAGE = np.zeros((20, 30, 3), np.uint8)
MASK = np.pad(np.ones((10, 10), bool), ((5, 5), (10, 10)))
FIGURES = {
    "explanation": lambda name: plots.explanation(IMAGE, prediction(name)),
    "prediction": lambda name: plots.prediction(IMAGE, prediction(name), MASK),
    "contact_sheet": lambda name: plots.contact_sheet([IMAGE], [prediction(name)], [50.0]),
    "related_bars": lambda name: plots.related_bars(prediction(name).related),
    "relation_heatmap": lambda name: plots.relation_heatmap(np.eye(2), [name, "a"], ["b", name]),
    "relations_map": lambda name: plots.relations_map(np.eye(2), {name: ["a"], "others": ["b"]}),
    "class_counts": lambda name: plots.class_counts({name: 2, "a": 1}, [name], name),
    "supports_row": lambda name: plots.supports_row(IMAGE, prediction(name).supports, name),
    "fold_map": lambda name: diagrams.fold_map(np.eye(2, dtype=bool), [name, "a"]),
    "label_map": lambda name: diagrams.label_map(IMAGE, MASK.astype(np.uint8), [name, "a"]),
    "embedding_map": lambda name: diagrams.embedding_map(np.eye(2), [name, "a"], [name]),
}


def prediction(name):
    related = RelatedClasses(name, (RelatedClass(name, 0.5), RelatedClass("a", 0.4)), "given", "the user")
    support = Support(1, name, 1.0, IMAGE, MASK)
    return Prediction(name, MASK, MASK.astype(np.float32), (support,), related)


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("name", ["a$b$", "$\\frac{$"])
def test_a_name_is_drawn_as_it_is_written(figure, name):
    drawn = FIGURES[figure](name)
    drawn.canvas.draw()
    texts = [text for text in drawn.findobj(Text) if name in text.get_text()]
    assert texts and not any(text.get_parse_math() for text in texts)


def texts_of(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_hsnet_is_drawn_with_every_shape():
    taps, ends = [(2, 8, n, n) for n in (20, 10, 5)], [(128, 20, 20), (2, 40, 40), (70, 90)]
    levels = [(c, n, n, m, m) for c, m in ((2, 7), (128, 2)) for n in (20, 10, 5)] + [
        (64, n, n, 2, 2) for n in (20, 10)
    ]
    figure = diagrams.hsnet(taps, levels, ends)
    assert all(str(list(shape)) in texts_of(figure) for shape in (*taps, *levels, *ends))
    width, height = figure.get_size_inches() * figure.dpi
    assert width <= 800 and height < 900
    figure.canvas.draw()
    box = figure.axes[0].get_window_extent()
    assert all(box.contains(*corner) for t in figure.axes[0].texts for corner in t.get_window_extent().corners())


def test_what_hsnet_trains_is_told_apart_without_colours():
    figure = diagrams.hsnet([(2, 8, 9, 9)] * 3, [(2, 9, 9, 9, 9)] * 8, [(2, 9, 9)] * 3)
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    tinted = [box for box in boxes if to_rgb(box.get_facecolor()) != (1, 1, 1)]
    dashed = [box for box in boxes if box.get_linestyle() == "--"]
    assert (len(boxes), len(tinted), len(dashed)) == (17, 6, 3)  # three encoders, two mixings, the decoder; supports


def test_the_map_of_the_series_has_every_notebook():
    assert set(map(number_of, NOTEBOOKS)) <= set(texts_of(diagrams.series_map()).split("\n"))


@given(st.text("ab$\\{}_^%&# ", min_size=1))
@settings(max_examples=20, deadline=None)
def test_no_name_ends_in_an_error(name):
    plots.related_bars(prediction(name).related).canvas.draw()


@pytest.mark.parametrize("areas", [(0.001, 0.5), (0.04, 0.3)])
def test_the_numbers_of_a_logarithmic_axis_are_numbers(areas):
    arm, rng = Arm("HSNet", "llm", 5), np.random.default_rng(0)
    asked = [SimpleNamespace(area=a, answers={arm: SimpleNamespace(iou=50)}) for a in rng.uniform(*areas, 40)]
    figure = plots.iou_by_area(asked, [arm])
    figure.canvas.draw()
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels(which="both") if t.get_text()]
    assert labels and all(float(label) > 0 for label in labels), labels
