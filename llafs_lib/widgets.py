"""Every widget of the series: a row of choices above a figure that follows them."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure

from llafs_lib.errors import LlafsError


def browse(draw: Callable[..., Figure | str], **choices: Sequence[Any]) -> ipw.VBox:
    """Show `draw(**chosen)` below one dropdown per keyword, and again whenever a choice changes.

    The figure is sent as a picture rather than through an `Output` widget, which hangs when a notebook is executed
    without a browser.

    Args:
        draw: returns a figure, or a sentence where there is nothing to draw.
        choices: name → what can be chosen; the first is shown at the start.
    """
    menus = {n: ipw.Dropdown(options=list(o), description=n.replace("_", " ")) for n, o in choices.items()}
    view = ipw.Image(format="png")
    note = ipw.HTML()

    def update(change: Any = None) -> None:
        try:
            shown = draw(**{name: menu.value for name, menu in menus.items()})
        except LlafsError as error:
            shown = str(error)
        is_figure = isinstance(shown, Figure)
        view.value = _png(shown) if is_figure else b""
        note.value = "" if is_figure else html.escape(shown)

    for menu in menus.values():
        menu.observe(update, names="value")
    update()
    return ipw.VBox([ipw.HBox(list(menus.values())), note, view])


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=80, bbox_inches="tight")
    return data.getvalue()
