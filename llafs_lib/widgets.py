"""Every widget of the series: a row of choices above a figure that follows them."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure

from llafs_lib.errors import LlafsError

DRAWING = "drawing …"


def browse(draw: Callable[..., Figure | str], **choices: Sequence[Any]) -> ipw.VBox:
    """Show `draw(**chosen)` below one dropdown per keyword, and again whenever a choice changes.

    The figure is sent as an image rather than through an `Output` widget, which hangs when a notebook is executed
    without a browser. While it is drawn, a note says so and the last one stays.

    Args:
        draw: returns a figure, or a sentence where there is nothing to draw.
        choices: name → what can be chosen; the first is shown at the start.
    """
    menus = {name: _menu(name, options) for name, options in choices.items()}
    view = ipw.Image(format="png", layout=ipw.Layout(align_self="flex-start"))  # in its own size, not stretched
    note = ipw.HTML()

    def show(image: bytes, words: str) -> None:
        view.value, note.value = image, html.escape(words)

    def update(change: Any = None) -> None:
        note.value = DRAWING
        try:
            shown = draw(**{name: menu.value for name, menu in menus.items()})
        except LlafsError as error:
            shown = str(error)
        except Exception as error:  # Jupyter hides what goes wrong behind a menu: say it before it is lost in a log
            show(b"", f"{type(error).__name__}: {error}")
            raise
        if isinstance(shown, Figure):
            show(_png(shown), "")
        else:
            show(b"", shown)

    for menu in menus.values():
        menu.observe(update, names="value")
    update()
    rows = ipw.HBox(list(menus.values()), layout=ipw.Layout(flex_flow="row wrap"))  # or a narrow window cuts menus off
    return ipw.VBox([rows, note, view])


def _menu(name: str, options: Sequence[Any]) -> ipw.Dropdown:
    return ipw.Dropdown(
        options=list(options),
        description=name.replace("_", " "),
        style={"description_width": "initial"},  # or a long name is cut off
        layout=ipw.Layout(width="250px"),  # three fit beside JupyterLab's list of files
    )


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=80, bbox_inches="tight")
    return data.getvalue()
