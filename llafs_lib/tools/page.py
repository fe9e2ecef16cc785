"""The page of `llafs app`, made with Gradio, which only the extra `[app]` installs.

Whatever a user, a file or a language model has named is shown by parts of Gradio that show text as text: boxes, tables,
captions. None of it goes into Markdown, HTML or the messages that pop up, which would run it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llafs_lib.errors import LlafsError
from llafs_lib.outputs import safe_name
from llafs_lib.records import Prediction, RelatedClasses, Support
from llafs_lib.retrieval.thumbnails import within, write_image
from llafs_lib.tools.app import Desk, Rows, Start, cannot_serve, corrected
from llafs_lib.writing import overlay_of

ABOUT = """\
# LLaFS
Name a class that nobody annotated. Annotated classes that look like it show a model where it is."""
BRUSHES = ["#0072b2", "#e69f00"]  # blue puts pixels into the mask, orange takes them out (`app.corrected`)
EDITED = 1024  # px of the longer side: what is painted on; the mask keeps its size
COLUMNS = ["class", "score"]


def serve(desk: Desk, start: Start, host: str, port: int | None, browse: bool) -> None:
    """Show the page until Ctrl-C.

    Raises:
        LlafsError: the port is taken, or the host is not this machine's.
    """
    with tempfile.TemporaryDirectory(prefix="llafs-app-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # where uploaded images go: none is left behind
        page, look = build(desk, start, Path(folder))
        logging.getLogger("uvicorn.error").addFilter(_is_worth_telling)
        try:
            _, url, _ = page.launch(
                server_name=host, server_port=port, inbrowser=browse, share=False, ssr_mode=False, quiet=True,
                prevent_thread_lock=True, enable_monitoring=False, footer_links=[], **look,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise cannot_serve(host, port, error) from error
        print(f"the app is at {url} (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
        finally:
            page.close(verbose=False)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Anything but the trace of a browser tab that was closed while it sent an image: nothing is wrong then."""
    from starlette.requests import ClientDisconnect  # comes with Gradio

    return not (record.exc_info and isinstance(record.exc_info[1], ClientDisconnect))


def build(desk: Desk, start: Start, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The page as Gradio's `Blocks`, and the arguments of `launch` that say how it looks.

    Args:
        folder: for the masks to download.
    """
    import gradio as gr

    with gr.Blocks(title="LLaFS", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(ABOUT)
        found, filled, files = gr.State(), gr.State(), itertools.count()
        with gr.Row():
            with gr.Column(scale=2):
                image = gr.Image(
                    start.image, type="filepath", image_mode=None, sources=["upload", "clipboard"], label="image",
                    height=300, buttons=[],
                )  # fmt: skip
                image.preprocess = lambda file: file and file.path  # or Gradio opens it, and hides why it cannot
                word = gr.Textbox(start.word, label="what to look for", max_lines=1)
                table = gr.Dataframe(
                    headers=COLUMNS, datatype=["str", "number"], column_count=2, type="array", interactive=True,
                    label="look-alikes among the annotated classes, and how alike (0 to 1); empty: asks for them",
                    value=[["", None]],
                )  # fmt: skip
                with gr.Row():
                    ask = gr.Button("Find look-alikes")
                    segment = gr.Button("Segment", variant="primary")
                said = gr.Textbox(label="what happened", interactive=False, lines=3, elem_id="said")
                with gr.Accordion("the annotated classes", open=False):
                    gr.Textbox(", ".join(desk.model.bank.classes), show_label=False, interactive=False)
            with gr.Column(scale=3):
                brush = gr.Brush(colors=BRUSHES, default_color=BRUSHES[0], color_mode="fixed", default_size=12)
                editor = gr.ImageEditor(
                    label="mask: paint blue to add, orange to take out", type="numpy",
                    image_mode="RGBA", format="png", sources=(), transforms=(), layers=False, brush=brush, height=460,
                    buttons=[],
                )  # fmt: skip
                with gr.Row():
                    download = gr.DownloadButton("Download the mask", interactive=False)
                    accept = gr.Button("Accept as a support", interactive=False)
                supports = gr.Gallery(label="supports", columns=5, height=180, buttons=[], object_fit="contain")
                with gr.Row():
                    added = gr.Dropdown(desk.added(), label="accepted supports", scale=4)
                    remove = gr.Button("Remove", scale=1)

        def to_download(prediction: Prediction, mask: np.ndarray) -> Any:
            path = folder / str(next(files)) / f"{safe_name(prediction.class_name)}.png"
            path.parent.mkdir()
            write_image(path, mask.astype(np.uint8) * 255)
            return gr.DownloadButton(value=str(path), interactive=True)

        def asked(word: str) -> dict:
            related = desk.related(word)
            return {**fill(word, related), said: str(related)}

        def fill(word: str, related: RelatedClasses | None) -> dict:
            rows = _rows(related)
            return {table: rows, filled: (word, rows)}

        def segmented(image: str | None, word: str, rows: Rows, before: tuple[str, Rows] | None) -> dict:
            if before and before[0] != word and before[1] == rows:
                rows = []  # they were filled in for another word
            prediction = desk.segment(image, word, rows)
            return {
                **fill(word, prediction.related),
                found: prediction,
                editor: within(overlay_of(prediction), EDITED),
                download: to_download(prediction, prediction.mask),
                accept: gr.Button(interactive=True),
                supports: [(_marked(s), f"{s.class_name} {s.score:.2f}") for s in prediction.supports],
                said: _summary(desk, prediction),
            }

        def repainted(drawn: dict | None, prediction: Prediction | None) -> dict:
            mask = _mask_of(drawn, prediction)
            return {download: to_download(prediction, mask)}

        def accepted(drawn: dict | None, prediction: Prediction | None) -> dict:
            mask = _mask_of(drawn, prediction)
            number = desk.accept(prediction, mask)
            kept = f"Kept as support {number} of {prediction.class_name}: the next images are compared with it, too."
            return {added: gr.Dropdown(desk.added(), value=number), said: kept}

        def removed(number: int | None) -> dict:
            desk.remove(number)
            return {added: gr.Dropdown(desk.added(), value=None), said: f"Support {number} is taken out again."}

        results = [found, table, filled, editor, download, accept, supports, said]
        _wire(ask.click, asked, [word], [table, filled, said], said)
        for event in (segment.click, word.submit):
            _wire(event, segmented, [image, word, table, filled], results, said)
        word.input(lambda: [["", None]], None, table, show_progress="hidden", api_visibility="private")
        _wire(editor.input, repainted, [editor, found], [download, said], said, show_progress="hidden")
        _wire(accept.click, accepted, [editor, found], [added, said], said)
        _wire(remove.click, removed, [added], [added, said], said)
        page.load(lambda: gr.Dropdown(desk.added()), None, added, show_progress="hidden", api_visibility="private")
    plain = ["system-ui", "sans-serif"]
    look = {"theme": gr.themes.Default(font=plain, font_mono=["ui-monospace", "monospace"])}  # no font from elsewhere
    return page, look


def _wire(event: Callable, act: Callable[..., dict], inputs: list, outputs: list, said: Any, **how: Any) -> None:
    """Let an event act. What goes wrong is said in one sentence in the box for it, and nothing else changes."""

    @functools.wraps(act)
    def safely(*given: Any) -> dict:
        try:
            return act(*given)
        except LlafsError as error:
            return {said: str(error)}
        except Exception as error:  # a fault of the program: its trace belongs in the terminal
            traceback.print_exc()
            return {said: f"Something went wrong ({type(error).__name__}); the terminal shows what."}

    event(safely, inputs, outputs, api_visibility="private", **how)


def _rows(related: RelatedClasses | None) -> list[list]:
    return [[r.name, round(r.score, 3)] for r in related.ranked] if related and related.ranked else [["", None]]


def _summary(desk: Desk, prediction: Prediction) -> str:
    lines = [str(prediction)]
    if desk.model.expected is not None and prediction.related is not None:
        lines.append(f"expected: {desk.model.expected.of(prediction.related)}")
    return "\n".join(lines)


def _mask_of(drawn: dict | None, prediction: Prediction | None) -> np.ndarray:
    if prediction is None:
        raise LlafsError("there is no mask yet: segment an image first.")
    return corrected(prediction.mask, (drawn or {}).get("layers"))


def _marked(support: Support) -> np.ndarray:
    """A support's image with its mask in colour."""
    return overlay_of(
        Prediction(support.class_name, support.mask, support.mask.astype(np.float32), image=support.image)
    )
