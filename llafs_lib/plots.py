"""The figures that show data and results; those that explain an idea are in `diagrams`.

Each function returns a matplotlib figure. Its colours can be told apart by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from llafs_lib.evaluation.arms import FLOORS, Arm
from llafs_lib.evaluation.tables import FEW, arms_in, label
from llafs_lib.records import Prediction, RelatedClasses, Support

if TYPE_CHECKING:  # importing these takes a second, as they train and evaluate models
    from llafs_lib.evaluation.log import Asked
    from llafs_lib.vision.training import History

plt.rcParams["figure.dpi"] = 80  # a notebook with its figures stays well below 2 MB

# Okabe and Ito's palette
TRUTH, SUPPORT, PREDICTION, NEUTRAL = "#009E73", "#E69F00", "#0072B2", "#999999"
ARM_COLOURS = {
    "everything": NEUTRAL, "centre prior": NEUTRAL, "random": SUPPORT, "llm": PREDICTION, "true": TRUTH,
    "shuffled": "#CC79A7", "all": "#56B4E9", "supercategory": "#D55E00", "text": "#8C6D31",
}  # fmt: skip
MARKERS = "osD^"  # of the models, in their order


def draw_mask(
    ax: Axes, image: np.ndarray, mask: np.ndarray | None = None, colour: str = TRUTH, title: str = ""
) -> None:
    """Show an image [H, W, 3], or a map [H, W], with a mask [H, W] as a tint and an outline."""
    ax.imshow(image, cmap="cividis")
    if mask is not None and mask.any():
        tint = np.zeros((*mask.shape, 4), np.uint8)  # bytes: a sheet of photographs in floats takes a gigabyte
        tint[mask] = (*(int(colour[i : i + 2], 16) for i in (1, 3, 5)), 89)  # 35% opaque
        ax.imshow(tint)
        if not mask.all():
            ax.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)
    ax.set_title(title, fontsize=9)
    ax.axis("off")


def image_grid(
    cells: Sequence[tuple[np.ndarray, np.ndarray | None, str, str]], columns: int, cell: float = 2.2
) -> Figure:
    """A grid of (image, mask or None, colour, title)."""
    rows = -(-len(cells) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(cell * columns, cell * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (image, mask, colour, title) in zip(axes.flat, cells, strict=False):
        draw_mask(ax, image, mask, colour, title)
    return finish(figure)


def class_counts(counts: Mapping[str, int], novel: Sequence[str], title: str) -> Figure:
    """How many images each class has; novel classes in their own colour."""
    figure, ax = plt.subplots(figsize=(max(6, 0.22 * len(counts)), 3))
    colours = [SUPPORT if c in novel else PREDICTION for c in counts]
    ax.bar(range(len(counts)), list(counts.values()), color=colours)
    ax.set_xticks(range(len(counts)), list(counts), rotation=90, fontsize=8)
    ax.set_ylabel("images")
    if novel:
        handles = [plt.Rectangle((0, 0), 1, 1, color=c) for c in (PREDICTION, SUPPORT)]
        ax.legend(handles, ["base", "novel"], frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    ax.set_title(title, fontsize=10, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    return finish(figure)


def training_curves(histories: Mapping[str, History]) -> Figure:
    """One panel per model: its mean loss per epoch and, where there is one, its validation score; the epoch kept."""
    figure, axes = plt.subplots(1, len(histories), figsize=(5 * len(histories), 2.8), squeeze=False)
    for ax, (name, history) in zip(axes.flat, histories.items(), strict=True):
        ax.plot(range(1, len(history.losses) + 1), history.losses, marker="o", color=PREDICTION)
        ax.set(xlabel="epoch", title=name)
        ax.locator_params(axis="x", integer=True)
        ax.set_ylabel("mean loss", color=PREDICTION)
        ax.spines[["top"]].set_visible(False)
        if history.scores:
            other = ax.twinx()
            other.plot(range(1, len(history.scores) + 1), history.scores, marker="s", color="black")
            other.set_ylabel("validation mIoU (%)")
            other.axvline(history.best, color=NEUTRAL, linestyle="--", linewidth=1)
            other.spines[["top"]].set_visible(False)
    return finish(figure)


def related_bars(related: RelatedClasses) -> Figure:
    """The related classes of one answer and their scores, and what kind of answer it is."""
    figure, ax = plt.subplots(figsize=(5, 0.35 * max(len(related.ranked), 1) + 0.8))
    _bars(ax, related, related.query_class)
    ax.set_xlabel("relation")
    return finish(figure)


def _bars(ax: Axes, related: RelatedClasses | None, class_name: str) -> None:
    if related is not None and related.ranked:
        ax.barh(related.names, [r.score for r in related.ranked], color=PREDICTION)
        ax.invert_yaxis()
    source = "" if related is None else f" [{related.source}]"
    ax.set(xlim=(0, 1), title=f"what looks like '{class_name}'?{source}")
    ax.spines[["top", "right"]].set_visible(False)


def relation_heatmap(matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """[rows, columns] relation scores in [0, 1]: asked class down, answered class across."""
    figure, ax = plt.subplots(figsize=(0.28 * len(columns) + 2.2, 0.28 * len(rows) + 1.8))
    shown = ax.imshow(matrix, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.set(xlabel="base class in the answer", ylabel="novel class asked about")
    figure.colorbar(shown, ax=ax, label="relation", shrink=0.8)
    return finish(figure)


def relations_map(matrix: np.ndarray, groups: Mapping[str, Sequence[str]]) -> Figure:
    """[n, n] relation scores in [0, 1] of all classes, in the order of `groups`, whose borders are drawn."""
    figure, ax = plt.subplots(figsize=(8, 7))
    shown = ax.imshow(matrix, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    ends = np.cumsum([len(names) for names in groups.values()])
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color="white", linewidth=0.4)
        ax.axvline(end - 0.5, color="white", linewidth=0.4)
    middles = ends - np.array([len(names) for names in groups.values()]) / 2 - 0.5
    ax.set_xticks(middles, groups, rotation=60, ha="right", fontsize=8)
    ax.set_yticks(middles, groups, fontsize=8)
    ax.set(xlabel="named in the answer", ylabel="asked about")
    figure.colorbar(shown, ax=ax, label="relation", shrink=0.8)
    return finish(figure)


def supports_row(query: np.ndarray, supports: Sequence[Support], class_name: str) -> Figure:
    """A query beside the supports that were chosen for it, with their scores."""
    cells = [(s.image, s.mask, SUPPORT, f"{s.class_name}\nscore {s.score:.2f}") for s in supports]
    return image_grid([(query, None, TRUTH, f"query:\nwhere is the {class_name}?"), *cells], len(cells) + 1)


def prediction(image: np.ndarray, prediction: Prediction, truth: np.ndarray | None = None) -> Figure:
    """Query, supports, heat map, mask and, where it is known, the truth; several supports stand in a row above."""
    supports = [f"support {i}" for i in range(len(prediction.supports))]
    answer = ["heat", "mask"] + ["truth"] * (truth is not None)
    rows = [["query", *supports, *answer]] if len(supports) < 2 else [supports, ["query", *answer]]
    columns = max(map(len, rows))
    mosaic = [row + ["."] * (columns - len(row)) for row in rows]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(2.2 * columns, 2.3 * len(rows)))
    draw_mask(axes["query"], image, title=f"where is the {prediction.class_name}?")
    for name, s in zip(supports, prediction.supports, strict=True):
        draw_mask(axes[name], s.image, s.mask, SUPPORT, f"support: {s.class_name}")
    _heat_map(axes["heat"], prediction)
    draw_mask(axes["mask"], image, prediction.mask, PREDICTION, "mask")
    if truth is not None:
        draw_mask(axes["truth"], image, truth, TRUTH, "truth")
    return finish(figure)


def _heat_map(ax: Axes, prediction: Prediction) -> None:
    ax.imshow(prediction.probability, cmap="cividis", vmin=0, vmax=1)
    ax.set_title("probability", fontsize=9)
    ax.axis("off")


def explanation(image: np.ndarray, prediction: Prediction, truth: np.ndarray | None = None) -> Figure:
    """The whole chain from left to right: the question, what looks like it, the supports in two rows, and the mask.

    The truth, where it is known, is a line in the colour of truths.
    """
    columns = max(-(-len(prediction.supports) // 2), 1)
    figure = plt.figure(figsize=(5.8 + 0.95 * columns, 2.2), layout="constrained")
    parts = figure.subfigures(1, 4, width_ratios=(2.1, 1.5, 0.95 * columns, 2.1))
    asked, answered, found = (parts[i].subplots(1, 1) for i in (0, 1, 3))
    draw_mask(asked, image, title=f"where is the {prediction.class_name}?")
    _bars(answered, prediction.related, prediction.class_name)
    answered.set_title(answered.get_title().replace("like ", "like\n", 1), fontsize=9)
    for ax, s in zip_longest(parts[2].subplots(2, columns, squeeze=False).flat, prediction.supports):
        draw_mask(ax, s.image, s.mask, SUPPORT, s.class_name) if s else ax.axis("off")
    sure = "" if prediction.confidence is None else f", confidence {prediction.confidence:.2f}"
    line = "" if truth is None else " (blue), truth (green)"
    draw_mask(found, image, prediction.mask, PREDICTION, f"mask{line}{sure}")
    if truth is not None and truth.any() and not truth.all():
        found.contour(truth, levels=[0.5], colors=[TRUTH], linewidths=1.5)
    return finish(figure)


def contact_sheet(images: Sequence[np.ndarray], predictions: Sequence[Prediction], ious: Sequence[float]) -> Figure:
    """Queries with their predicted masks, the IoU of each above it; failures stay in."""
    cells = [
        (image, p.mask, PREDICTION, f"{p.class_name}: IoU {iou:.0f}")
        for image, p, iou in zip(images, predictions, ious, strict=True)
    ]
    return image_grid(cells, 5)


def arm_intervals(results: Mapping[str, Any]) -> Figure:
    """mIoU of every arm with its interval, a marker for each model; the floors that need no model as dashed lines."""
    arms = arms_in(results)
    floors, rows = [floor for floor in FLOORS if floor in arms], {}
    for arm, found in arms.items():
        if arm.model:
            of_models = rows.setdefault(label(arm, results), {})
            of_models[arm.model] = Value(found["miou"], found["ci95"], _colour(arm))
    figure, ax = _forest(rows, "mIoU, novel classes (%); dashed: " + ", ".join(floor.name for floor in floors))
    for floor in floors:
        ax.axvline(arms[floor]["miou"], color=NEUTRAL, linestyle="--", linewidth=1)
    ax.set_xlim(0, None)
    return finish(figure)


def claims(results: Mapping[str, Any]) -> Figure:
    """The differences that decide the six claims, a marker for each model; grey where nothing can be told."""
    rows: dict[str, dict[str, Value]] = {}
    for claim in results["claims"]:
        found = results["paired"][f"{claim['a']}-{claim['b']}"]
        colour = {"holds": PREDICTION, "contradicted": SUPPORT}.get(claim["verdict"], NEUTRAL)
        rows.setdefault(claim["says"], {})[claim["model"]] = Value(found["diff"], found["ci95"], colour)
    said = "blue: the claim holds, orange: contradicted, grey: cannot tell"
    figure, ax = _forest(rows, f"difference of mIoU (points), 95% interval; {said}")
    ax.axvline(0, color="black", linewidth=0.8)
    return finish(figure)


class Value(NamedTuple):
    """A value with its interval, if it has one, and its colour."""

    value: float
    interval: Sequence[float] | None
    colour: str


def _forest(rows: Mapping[str, Mapping[str, Value]], unit: str) -> tuple[Figure, Axes]:
    """Label → model → value: one row for each label, in which every model has its own marker."""
    models = list(dict.fromkeys(model for row in rows.values() for model in row))
    height = min(len(rows) * (0.2 + 0.12 * len(models)), 10) + 0.9  # at most the height of a screen
    figure, ax = plt.subplots(figsize=(8, height))
    for y, row in enumerate(rows.values()):
        for model, found in row.items():
            n = models.index(model)
            where = y + 0.7 * (n - (len(models) - 1) / 2) / len(models)
            ax.plot(found.interval or [found.value] * 2, [where, where], color=found.colour, linewidth=2, alpha=0.6)
            ax.plot(found.value, where, MARKERS[n % len(MARKERS)], color=found.colour, markersize=5)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=unit)
    handles = [Line2D([], [], color="black", marker=m, linestyle="") for m in MARKERS[: len(models)]]
    ax.legend(handles, models, frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def _colour(arm: Arm) -> str:
    return ARM_COLOURS.get(arm.policy, PREDICTION)


def per_class(results: Mapping[str, Any], arms: Sequence[Arm]) -> Figure:
    """IoU of each novel class under some arms, its number of queries behind its name; fewer than 8 are greyed."""
    found = arms_in(results)
    first = found[arms[0]]
    classes = sorted(first["per_class"], key=lambda c: -first["per_class"][c])
    asked = first["queries_of"]
    figure, ax = plt.subplots(figsize=(7, 0.11 * (len(arms) + 1) * len(classes) + 1.2))
    height = 0.8 / len(arms)
    for i, arm in enumerate(arms):
        for y, c in enumerate(classes):
            faint = 0.25 if asked[c] < FEW else 1.0
            where = y + (i - (len(arms) - 1) / 2) * height
            ax.barh(where, found[arm]["per_class"][c], height, color=_colour(arm), alpha=faint)
    ax.set_yticks(range(len(classes)), [f"{c} ({asked[c]})" for c in classes], fontsize=8)
    for tick, c in zip(ax.get_yticklabels(), classes, strict=True):
        tick.set_color(NEUTRAL if asked[c] < FEW else "black")
    ax.set_ylim(len(classes) - 0.5, -0.5)
    ax.set_xlabel(f"IoU (%); in brackets: queries, grey: fewer than {FEW}")
    handles = [plt.Rectangle((0, 0), 1, 1, color=_colour(arm)) for arm in arms]
    names = [arm.name for arm in arms]
    ax.legend(handles, names, frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    ax.spines[["top", "right"]].set_visible(False)
    return finish(figure)


def iou_by_area(asked: Sequence[Asked], arms: Sequence[Arm]) -> Figure:
    """Mean IoU of single queries by the share of the image that the object covers, in five equally filled bins."""
    areas = np.array([a.area for a in asked])
    parts = np.array_split(np.argsort(areas, kind="stable"), min(5, len(areas)))
    figure, ax = plt.subplots(figsize=(6, 3))
    for arm in arms:
        ious = np.array([a.answers[arm].iou for a in asked])
        means = [ious[p].mean() for p in parts]
        errors = [ious[p].std() / max(len(p), 1) ** 0.5 for p in parts]
        x = [100 * float(np.median(areas[p])) for p in parts]
        style = "--" if arm in FLOORS else "-"
        ax.errorbar(x, means, errors, marker="o", capsize=2, label=arm.name, linestyle=style, color=_colour(arm))
    ax.set_xscale("log", subs=(2, 5))
    for write in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        write("{x:g}")  # the usual form of a power is mathematics, which is off
    ax.set(xlabel="object, share of the image (%, median of the bin)", ylabel="IoU (%, mean ± s.e.)", ylim=(0, None))
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(figure)


def finish(figure: Figure) -> Figure:
    """A figure with its parts laid out, to be returned from a cell.

    Its texts are drawn as they are: a class may be called "a$b$", which matplotlib would set as an equation.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    plt.close(figure)  # a notebook shows the returned figure once, not twice
    return figure
