"""The figures that explain an idea; those that show data and results are in `plots`."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from llafs_lib.artifacts import MADE_BY, NOTEBOOKS, number_of
from llafs_lib.data.labels import void_of
from llafs_lib.plots import NEUTRAL, PREDICTION, SUPPORT, TRUTH, draw_mask, finish

# Where each notebook stands in the map of the series, and what it answers.
_PLACES = {
    **{"01": (0, 1), "02": (1, 1.7), "02b": (2, 1.7), "03": (1, 0.3), "04": (2, 0.3)},
    **{"05": (3, 1), "06": (4.2, 1)},
}
_ANSWERS = {
    "01": "which classes,\nwhich images?",
    "02": "how do some images\nhelp segment another?",
    "02b": "who else\ncan do that?",
    "03": "which classes\nlook alike?",
    "04": "which images\nto show?",
    "05": "does it help?",
    "06": "and in your\nown images?",
}


def series_map() -> Figure:
    """The notebooks, what each answers, and which needs which."""
    figure, ax = plt.subplots(figsize=(10.5, 3))
    for maker, reader in _steps():
        (x0, y0), (x1, y1) = _PLACES[maker], _PLACES[reader]
        arrow = {"arrowstyle": "-|>", "color": NEUTRAL}
        ax.annotate("", (x1 - 0.37, y1), (x0 + 0.37, y0), arrowprops=arrow)
    for number, (x, y) in _PLACES.items():
        box = FancyBboxPatch((x - 0.36, y - 0.28), 0.72, 0.56, "round,pad=0.01", fc="white", ec=PREDICTION, lw=1.5)
        ax.add_patch(box)
        ax.text(x, y + 0.14, number, ha="center", va="center", weight="bold", color=PREDICTION)
        ax.text(x, y - 0.08, _ANSWERS[number], ha="center", va="center", fontsize=8)
    ax.set(xlim=(-0.45, 4.65), ylim=(-0.1, 2.1))
    ax.axis("off")
    return finish(figure)


def _steps() -> list[tuple[str, str]]:
    """(maker, reader) of the artifacts that are read, without what follows from other steps."""
    needs = {number_of(book): {number_of(MADE_BY[name]) for name in reads} for book, (reads, _) in NOTEBOOKS.items()}
    return [(m, r) for r, makers in needs.items() for m in sorted(makers) if not any(m in needs[o] for o in makers)]


def fold_map(is_novel: np.ndarray, classes: Sequence[str]) -> Figure:
    """Which classes are novel in which fold.

    Args:
        is_novel: [folds, classes] bool.
    """
    figure, ax = plt.subplots(figsize=(max(6, 0.16 * len(classes) + 1), 2.2))
    _squares(ax, is_novel)
    ax.set_yticks(range(len(is_novel)), [f"fold {f}" for f in range(len(is_novel))])
    ax.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
    ax.set_title("orange: novel, asked about; blue: base, trained on", fontsize=9, loc="left")
    ax.spines[:].set_visible(False)
    return finish(figure)


def label_map(image: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """An image [H, W, 3] beside its label map [H, W]: one shade for each value, listed with the class that it means."""
    names = {0: "background", void_of(labels): "void", **{i + 1: name for i, name in enumerate(classes)}}
    values, places = np.unique(labels, return_inverse=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(1, 1.3))
    draw_mask(left, image, title="image")
    shades = plt.get_cmap("cividis", len(values))
    shown = right.imshow(
        places.reshape(labels.shape), shades, vmin=-0.5, vmax=len(values) - 0.5, interpolation="nearest"
    )
    right.set_title("label map", fontsize=9)
    right.axis("off")
    bar = figure.colorbar(shown, ax=right, ticks=range(len(values)))
    bar.ax.set_yticklabels([f"{value} = {names[value]}" for value in values.tolist()], fontsize=8)
    return finish(figure)


def correspondence(
    query: np.ndarray,
    place: tuple[float, float],
    support: np.ndarray,
    mask: np.ndarray,
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
) -> Figure:
    """One place of the query, and how much each place of the support looks like it.

    Args:
        query, support: [H, W, 3]; mask: [H, W] of the support.
        place: (row, column) in shares of the query's height and width.
        maps: [h, w] correlations over the support, one per level.
    """
    figure, axes = plt.subplots(1, 2 + len(maps), figsize=(2.2 * (2 + len(maps)), 2.4))
    draw_mask(axes[0], query, title="query, one place of it")
    height, width = query.shape[:2]
    axes[0].plot(place[1] * width, place[0] * height, "o", ms=10, mfc="none", mec=SUPPORT, mew=2.5)
    draw_mask(axes[1], support, mask, SUPPORT, "support")
    for ax, values, title in zip(axes[2:], maps, titles, strict=True):
        ax.imshow(values, cmap="cividis", vmin=0, vmax=1, extent=(0, support.shape[1], support.shape[0], 0))
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    return finish(figure)


def hsnet(taps: Sequence[Sequence[int]], levels: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Figure:
    """HSNet as boxes, each with the shape of the tensor that it leaves; what is trained is tinted.

    Args:
        taps: of strides 8, 16 and 32: the shape of the taps of one image, [taps, C, h, w].
        levels: of the same strides: correlations [taps, h, w, h', w'], what the encoder leaves of them, and at strides
            8 and 16 what mixing leaves; nine shapes without the last, column by column.
        ends: the shapes of the mean over the support plane, the logits and the mask.
    """
    figure, ax = plt.subplots(figsize=(10, 5.4))
    headings = ("two feature pyramids", "4-D correlations", "squeeze", "merge, coarse into fine", "2-D decoder")
    for column, heading in enumerate(headings):
        ax.text(column, 0.52, heading, ha="center", va="center", fontsize=9, weight="bold")
    titles = ("correlation", "encoder: three\ncentre-pivot layers", "add the level below,\nthree more layers")
    places = {}
    for row, (stride, shape) in enumerate(zip((8, 16, 32), taps, strict=True)):
        ax.text(-0.58, -row, f"stride {stride}", rotation=90, ha="center", va="center", fontsize=9)
        for lift, name, colour in ((0.21, "query", "black"), (-0.21, "support × mask", SUPPORT)):
            _box(ax, (0, lift - row), f"{name}\n{list(shape)}", colour, 0.34)
            places[name, row] = (0, lift - row)
    for number, shape in enumerate(levels):
        column, row = divmod(number, 3)
        places[column + 1, row] = (column + 1, -row)
        _box(ax, (column + 1, -row), f"{titles[column]}\n{list(shape)}", PREDICTION if column else "black")
    steps = ("mean over the\nsupport plane", "decoder: four\n2-D convolutions", "resize; the larger\nlogit: the mask")
    for row, (step, shape) in enumerate(zip(steps, ends, strict=True)):
        places[4, row] = (4, -row)
        _box(ax, (4, -row), f"{step}\n{list(shape)}", PREDICTION if row == 1 else "black")
    arrows = [((name, row), (1, row)) for name in ("query", "support × mask") for row in range(3)]
    arrows += [((1, row), (2, row)) for row in range(3)] + [((2, 0), (3, 0)), ((2, 1), (3, 1)), ((2, 2), (3, 1))]
    for start, end in [*arrows, ((3, 1), (3, 0)), ((3, 0), (4, 0)), ((4, 0), (4, 1)), ((4, 1), (4, 2))]:
        (x0, y0), (x1, y1) = places[start], places[end]
        right, up = (0.43, 0) if x1 > x0 else (0, 0.34 if y1 > y0 else -0.34)  # from the box's centre to its side
        arrow = {"arrowstyle": "-|>", "color": "#555555"}
        ax.annotate("", (x1 - right, y1 - up), (x0 + right, y0 + up), arrowprops=arrow)
    ax.set(xlim=(-0.66, 4.46), ylim=(-2.4, 0.62))
    ax.axis("off")
    return finish(figure)


def _box(ax: Axes, centre: tuple[float, float], text: str, colour: str, height: float = 0.64) -> None:
    (x, y), trained = centre, colour == PREDICTION
    side = {"fc": "#D6E6F2" if trained else "white", "ec": colour, "lw": 2 if trained else 1.5}
    side["ls"] = "--" if colour == SUPPORT else "-"  # told apart in grey, too
    ax.add_patch(FancyBboxPatch((x - 0.41, y - height / 2), 0.82, height, "round,pad=0.01", **side))
    ax.text(x, y, text, ha="center", va="center", fontsize=9)


def kernel_taps(kept: np.ndarray) -> Figure:
    """The weights of a 4-D kernel of side 3 as a square, one row per place of the query plane.

    Args:
        kept: [9, 9] bool, those that are there: place in the query's 3 × 3 plane, place in the support's.
    """
    figure, ax = plt.subplots(figsize=(3.4, 3.2))
    _squares(ax, kept, ("#DDDDDD", "black"))
    ax.set_aspect("equal")
    offsets = [f"{i:+d},{j:+d}".replace("+0", "0") for i in (-1, 0, 1) for j in (-1, 0, 1)]
    ax.set_xticks(range(9), offsets, rotation=90, fontsize=7)
    ax.set_yticks(range(9), offsets, fontsize=7)
    ax.set(xlabel="offset in the support", ylabel="offset in the query")
    ax.set_title(f"{int(kept.sum())} of {kept.size} weights (black)", fontsize=9)
    return finish(figure)


def _squares(ax: Axes, values: np.ndarray, colours: tuple[str, str] = (PREDICTION, SUPPORT)) -> None:
    """A matrix [rows, columns] bool as squares with white lines between them, in the colours of False and True."""
    ax.imshow(values, cmap=ListedColormap(colours), vmin=0, vmax=1, aspect="auto")
    rows, columns = values.shape
    ax.set_xticks(np.arange(columns) - 0.5, minor=True)
    ax.set_yticks(np.arange(rows) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="both", length=0)


def embedding_map(points: np.ndarray, names: Sequence[str], shown: Sequence[str]) -> Figure:
    """Embeddings in the plane, some classes in a colour and with a mark of their own.

    Args:
        points: [N, 2]; names: the class of each; shown: those to tell apart, seven at most.
    """
    figure, ax = plt.subplots(figsize=(6, 4))
    ax.scatter(*points.T, s=8, color=NEUTRAL, alpha=0.3, label="other classes")
    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")  # Okabe and Ito
    for name, colour, marker in zip(shown, colours, "osD^vP*", strict=False):
        ax.scatter(*points[np.array(names) == name].T, s=22, color=colour, marker=marker, label=name, linewidths=0)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set(xticks=[], yticks=[])
    return finish(figure)


def score_histogram(present: Sequence[float], absent: Sequence[float]) -> Figure:
    """How the confidences of images that show a class, and of images that do not, are spread."""
    figure, ax = plt.subplots(figsize=(6, 2.6))
    bins = np.linspace(min(*present, *absent), max(*present, *absent), 30)
    ax.hist(absent, bins, color=NEUTRAL, alpha=0.6, label="the class is absent")
    ax.hist(present, bins, color=TRUTH, alpha=0.6, label="the class is in the image")
    ax.set(xlabel="confidence", ylabel="questions")
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return finish(figure)


def bootstrap_histogram(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> Figure:
    """mIoU of two arms over the same resamples, and of their difference beside them.

    Args:
        first, second: [resamples].
    """
    figure, (both, paired) = plt.subplots(1, 2, figsize=(9, 2.6))
    for values, name, colour in zip((first, second), names, (PREDICTION, SUPPORT), strict=True):
        both.hist(values, 40, color=colour, alpha=0.7, label=name)
    both.legend(frameon=False, fontsize=8)
    both.set(xlabel="mIoU of a resample (%)", yticks=[])
    difference = first - second
    paired.hist(difference, 40, color=NEUTRAL)
    for bound in np.percentile(difference, [2.5, 97.5]):
        paired.axvline(bound, color="black", linestyle="--", linewidth=1)
    paired.axvline(0, color="black", linewidth=1)
    paired.set(xlabel="paired difference (points); dashed: the middle 95%", yticks=[])
    for ax in (both, paired):
        ax.spines[["top", "right", "left"]].set_visible(False)
    return finish(figure)


def threshold_curves(curves: np.ndarray, name: str, shown: int, threshold: float) -> Figure:
    """The IoU of each class at every threshold, one of them by `name`, their mean, and the threshold that was chosen.

    Args:
        curves: [classes, thresholds], percent; the thresholds are spread evenly over [0, 1].
        shown: the number of the class in colour.
    """
    figure, ax = plt.subplots(figsize=(6, 3))
    x = np.linspace(0, 1, curves.shape[1])
    ax.plot(x, curves.T, color=NEUTRAL, linewidth=0.8, alpha=0.5)
    ax.plot(x, curves[shown], color=PREDICTION, label=name)
    ax.plot(x, curves.mean(axis=0), color="black", linewidth=2, label="mean of all classes")
    ax.axvline(threshold, color="black", linestyle="--", linewidth=1)
    ax.set(xlabel="threshold (dashed: chosen)", ylabel="IoU (%)", ylim=(0, None))
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(figure)
