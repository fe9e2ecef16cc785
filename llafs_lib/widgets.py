"""Every widget of the series: a row of choices above a figure that follows them, and a mask that clicks correct.

They use nothing but ipywidgets, so that they work wherever those do: JupyterLab, Colab, VS Code.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from llafs_lib.errors import LlafsError
from llafs_lib.pipeline import LLaFS
from llafs_lib.plots import PREDICTION, TRUTH, draw_mask
from llafs_lib.records import Prediction
from llafs_lib.vision.clicks import Click

DRAWING = "drawing …"
SIDE = 480  # px, of the longer side of the image that is clicked on
CELLS = 20  # buttons along each of its sides


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


def _png(figure: Figure, **how: Any) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", **(how or {"dpi": 80, "bbox_inches": "tight"}))
    return data.getvalue()


# --- a mask, corrected by clicks --------------------------------------------------------------------------------------


class Correcting:
    """What `segment_and_correct` knows: what was found in an image, and the clicks on it. It needs no widget."""

    def __init__(self, model: LLaFS):
        self.model, self.found, self.clicks = model, None, []

    def find(self, image: Any, word: str, related: str = "") -> None:
        """Segment an image; `related` is as in `LLaFS.segment`, and empty asks for the related classes."""
        self.found, self.clicks = self.model.segment(image, word.strip(), related=related.strip() or None), []

    def click(self, row: float, column: float, is_object: bool) -> None:
        """Say of a place, in shares of the image's height and width, whether it is the object."""
        assert self.shown  # raises where there is nothing to click on
        self.clicks.append(Click(row, column, is_object))

    def undo(self) -> None:
        """Take the last click back."""
        self.clicks = self.clicks[:-1]

    @property
    def shown(self) -> Prediction:
        """What was found, with the clicks.

        Raises:
            LlafsError: nothing was looked for yet.
        """
        if self.found is None:
            raise LlafsError("there is no mask yet: choose an image, type a word, and press 'find'.")
        return self.model.correct(self.found, self.clicks) if self.clicks else self.found

    def accept(self) -> int:
        """Keep the image and its mask as a support; return the support's number."""
        return self.model.add(self.shown.image, self.shown.mask, self.shown.class_name)

    def figure(self) -> Figure:
        """The image without a margin, `SIDE` px on its longer side, with its mask and the clicks: ● object, ✖ not."""
        shown = self.shown
        height, width = shown.mask.shape
        figure = Figure(figsize=[max(SIDE * n / max(height, width), 1) / 100 for n in (width, height)], dpi=100)
        ax = figure.add_axes((0, 0, 1, 1))
        draw_mask(ax, shown.image, shown.mask, PREDICTION)
        ax.set_aspect("auto")
        for c in self.clicks:
            colour, mark = (TRUTH, "o") if c.is_object else ("#D55E00", "X")
            ax.plot(c.column * (width - 1), c.row * (height - 1), mark, ms=10, color=colour, mec="white")
        return figure


def segment_and_correct(
    model: LLaFS, photos: Mapping[str, Any] | None = None, word: str = "", related: str = ""
) -> ipw.VBox:
    """Choose or upload an image, type a word, see the mask, correct it by clicks, keep it as a support.

    The image lies under a grid of buttons that cannot be seen, which is how it knows where it was clicked on.

    Args:
        photos: name → image, to choose from; what was uploaded goes before.
        word, related: what stands in the two fields at the start.
    """
    state, pictures = Correcting(model), dict(photos or {})
    photo = _menu("photo", list(pictures))
    upload = ipw.FileUpload(
        accept="image/*", multiple=False, description="upload an image", layout=ipw.Layout(width="auto")
    )
    name, alike = _field("word", word), _field("looks like (or ask)", related)
    meaning = ipw.ToggleButtons(
        options=["object", "background"], description="a click is", layout=ipw.Layout(width="auto")
    )
    find, undo, accept = (ipw.Button(description=d) for d in ("find", "undo", "accept as support"))
    note, view = ipw.HTML(), ipw.Image(format="png", layout=ipw.Layout(grid_area="1 / 1 / 2 / 2", margin="0"))

    def act(what: Callable[..., str | None], *given: Any) -> None:
        """Do something, then show what came of it, in words if it failed."""
        note.value = DRAWING
        try:
            said = what(*given)
            figure = state.figure()
            view.value = _png(figure, dpi=100)
            width, height = (f"{round(inches * 100)}px" for inches in figure.get_size_inches())
            canvas.layout.width = canvas.layout.grid_template_columns = width
            canvas.layout.height = canvas.layout.grid_template_rows = height
            note.value = html.escape(said or str(state.shown)).replace("\n", "<br>")
        except LlafsError as error:
            note.value = html.escape(str(error))
        except Exception as error:
            note.value = html.escape(f"{type(error).__name__}: {error}")
            raise

    def find_it() -> None:
        own = _uploaded(upload.value)
        if own is None and photo.value is None:
            raise LlafsError("there is no image: upload one.")
        state.find(pictures[photo.value] if own is None else own, name.value, alike.value)

    def keep() -> str:
        return f"kept as support {state.accept()} of {state.shown.class_name!r}: the next images are compared with it."

    find.on_click(lambda _: act(find_it))
    undo.on_click(lambda _: act(state.undo))
    accept.on_click(lambda _: act(keep))
    grid = _clickable(lambda row, column: act(state.click, row, column, meaning.value == "object"))
    canvas = ipw.GridBox([view, grid], layout=ipw.Layout(width="0px"))
    wrap = ipw.Layout(flex_flow="row wrap")
    if pictures and word:
        act(find_it)
    rows = [[photo, upload], [name, alike, find], [meaning, undo, accept]]
    return ipw.VBox([*(ipw.HBox(row, layout=wrap) for row in rows), note, canvas])


def _field(label: str, value: str) -> ipw.Text:
    return ipw.Text(value, description=label, style={"description_width": "initial"})


def _clickable(clicked: Callable[[float, float], None]) -> ipw.GridBox:
    """`CELLS` × `CELLS` buttons that cannot be seen; each calls `clicked` with the shares of its middle."""
    layout = ipw.Layout(width="100%", height="100%", margin="0", padding="0", border="none", min_width="0")
    style = ipw.ButtonStyle(button_color="transparent")  # one of each for all: hundreds would take seconds to send
    buttons = []
    for n in range(CELLS**2):
        row, column = (n // CELLS + 0.5) / CELLS, (n % CELLS + 0.5) / CELLS
        button = ipw.Button(layout=layout, style=style, tooltip=f"{row:.0%} down, {column:.0%} across")
        button.on_click(lambda _, row=row, column=column: clicked(row, column))
        buttons.append(button)
    parts = f"repeat({CELLS}, minmax(0, 1fr))"  # 1fr alone is never lower than a button's own height
    whole = {"grid_template_columns": parts, "grid_template_rows": parts, "grid_gap": "0", "margin": "0"}
    return ipw.GridBox(buttons, layout=ipw.Layout(grid_area="1 / 1 / 2 / 2", width="100%", height="100%", **whole))


def _uploaded(value: Any) -> Image.Image | None:
    """The image that a `FileUpload` holds: of ipywidgets 7 a dict by name, of 8 a tuple."""
    files = list(value.values() if isinstance(value, dict) else value)
    if not files:
        return None
    try:
        return Image.open(io.BytesIO(bytes(files[-1]["content"])))
    except UnidentifiedImageError as error:
        raise LlafsError("what was uploaded is no image: choose a JPEG or PNG.") from error
