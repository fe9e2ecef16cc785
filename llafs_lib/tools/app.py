"""`llafs app`: the way from an image and a word to a mask, and corrections, as a page in a browser.

What the page does is a `Desk`, which knows no browser; what it looks like is in `llafs_lib.tools.page`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from llafs_lib.errors import LlafsError
from llafs_lib.language.prompts import check_class_name
from llafs_lib.language.replay import ReplayMiss
from llafs_lib.records import Prediction, RelatedClasses
from llafs_lib.settings import Settings
from llafs_lib.threads import share_cores
from llafs_lib.tools.demo import BANK, QUERY, WORD, has_desktop, unpacked
from llafs_lib.tools.options import LLM, PARAMETERS, add_options, add_supports, asker_of, check_supports, examples, made

if TYPE_CHECKING:
    from llafs_lib.pipeline import LLaFS

HOST = "127.0.0.1"  # nobody but this machine
Rows = Sequence[Sequence[Any]]  # of the table of related classes: [name, score], as typed


@dataclass(frozen=True)
class Start:
    """With what the page begins."""

    image: str | None = None
    word: str = ""


class Desk:
    """What can be done on the page. Several pages may be open: one question at a time is answered.

    Args:
        model: that answers, and keeps what is accepted.
    """

    def __init__(self, model: LLaFS):
        self.model, self._lock = model, threading.Lock()

    def related(self, word: str) -> RelatedClasses:
        """Which annotated classes look like the word: by a recorded answer, or as the language model says.

        Raises:
            LlafsError: the word cannot be asked about, or nobody answers; the message says what to do on the page.
        """
        check_class_name(word)
        try:
            with self._lock:
                return self.model.related(word)
        except ReplayMiss:
            raise LlafsError(
                f"no recorded answer exists for {word!r}: type classes that look like it into the table, or start the "
                "app with --llm MODEL."
            ) from None

    def segment(self, image: str | None, word: str, rows: Rows) -> Prediction:
        """Find the word in an image file, with the related classes of the table; an empty table asks for them.

        Raises:
            LlafsError: there is no image, the file cannot be read, or word or table cannot be used.
        """
        if not image:
            raise LlafsError("there is no image: put one in first.")
        check_class_name(word)
        related = typed_classes(rows) or self.related(word)
        try:
            with self._lock:
                return self.model.segment(image, word, related=related)
        except LlafsError as error:  # what the user knows is the file's name, not where the browser has put it
            raise LlafsError(str(error).replace(image, Path(image).name)) from error

    def accept(self, found: Prediction, mask: np.ndarray) -> int:
        """Keep an image with its mask [H, W] bool as a support of the class that was looked for; returns its number.

        Raises:
            LlafsError: the mask is empty, or the bank cannot be written.
        """
        with self._lock:
            return self.model.add(found.source or found.image, mask, found.class_name)

    def remove(self, number: int | None) -> None:
        """Take an accepted support out again.

        Raises:
            LlafsError: none was chosen, or there is none of that number.
        """
        if number is None:
            raise LlafsError("no support is chosen: choose one from the list first.")
        with self._lock:
            self.model.remove(number)

    def added(self) -> list[tuple[str, int]]:
        """(what it is, its number) of each accepted support."""
        return [(str(replace(c, source=Path(c.source).name)), c.number) for c in self.model.added]


def typed_classes(rows: Rows) -> Mapping[str, float]:
    """The table of related classes as it was typed: name → score. Rows without a name are left out.

    Raises:
        LlafsError: a class stands twice, or a score is no number.
    """
    found: dict[str, float] = {}
    for name, score, *_ in rows:
        name = str(name or "").strip()
        if not name:
            continue
        if name in found:
            raise LlafsError(f"the related class {name!r} is given twice: name each once.")
        try:
            found[name] = 1.0 if score in (None, "") else float(score)
        except (TypeError, ValueError):
            raise LlafsError(f"the score of {name!r} must be a number above 0 and at most 1, not {score!r}.") from None
    return found


def corrected(mask: np.ndarray, layers: Sequence[np.ndarray] | None) -> np.ndarray:
    """A mask [H, W] bool with what was painted over it: blue pixels are put in, those of another colour taken out.

    Args:
        layers: of an image editor, each [h, w, 4] uint8; nothing was painted where a pixel is transparent.
    """
    size = mask.shape[1], mask.shape[0]
    for layer in layers or ():
        strokes = cv2.resize(layer, size, interpolation=cv2.INTER_NEAREST)  # [h, w, 4] → [H, W, 4]
        is_blue, is_painted = strokes[..., 2] > strokes[..., 0], strokes[..., 3] > 127
        mask = np.where(is_painted, is_blue, mask)
    return mask


# --- the command -----------------------------------------------------------------------------------------------------


def add_app(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Open a page in a browser: an image and a word go in, look-alikes, supports and a mask come out, which can be "
        "corrected and kept as a support. Without --supports or --run, it opens the bank of drawn scenes that comes "
        "with the package. It answers this machine only, and asks no other. Needs: pip install 'llafs-notebooks[app]'"
    )
    parser.epilog = examples(
        ("app", "with drawn scenes"),
        ("app --supports annotations.json --images images/", "with annotated images of your own"),
        ("app --run okapi-bank/ --llm MODEL", "with a bank; MODEL names the look-alikes"),
    )
    add_supports(parser.add_argument_group("supports"))
    page = parser.add_argument_group("page")
    page.add_argument("--host", default=HOST, help="whom it answers; 0.0.0.0: all who reach it (default: %(default)s)")
    page.add_argument("--port", type=int, help="1 to 65535 (default: the first free one from 7860 on)")
    page.add_argument("--no-open", action="store_true", help="do not open the browser, even where there is a desktop")
    add_options(parser, [PARAMETERS["images"], *LLM])
    parser.set_defaults(command=_app)


def _app(arguments: argparse.Namespace) -> None:
    _check(arguments)
    asker = asker_of(made(Settings, arguments, "images"))
    share_cores()  # before the next lines load PyTorch
    from llafs_lib.pipeline import LLaFS
    from llafs_lib.tools.page import serve

    with contextlib.ExitStack() as stack:
        start = Start()
        if arguments.supports:
            model = LLaFS.from_coco(arguments.supports, arguments.images or None, bank=arguments.bank, llm=asker)
        elif arguments.run:
            model = LLaFS.from_run(arguments.run, asker)
        else:
            folder = stack.enter_context(unpacked())
            model, start = LLaFS.from_run(folder / BANK, asker), Start(str(folder / QUERY), WORD)
            print("This is a bank of drawn scenes: what you accept into it is gone when the app ends.")
        serve(Desk(model), start, arguments.host, arguments.port, has_desktop() and not arguments.no_open)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded."""
    check_supports(arguments, "images", "bank")
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        raise LlafsError(f"--port must be a number from 1 to 65535, not {arguments.port}.")
    _check_address(arguments.host, arguments.port)
    _keep_gradio_to_itself()
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise LlafsError("the app needs Gradio: pip install 'llafs-notebooks[app]'.") from None


def _check_address(host: str, port: int | None) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port or 0), family=family).close()
    except (OSError, UnicodeError) as error:
        raise cannot_serve(host, port, getattr(error, "strerror", None) or error) from None


def cannot_serve(host: str, port: int | None, why: object) -> LlafsError:
    where = host if port is None else f"{host}, port {port}"
    return LlafsError(f"the page cannot be served at {where} ({why}): choose another --host or --port.")


def _keep_gradio_to_itself() -> None:
    """Set what Gradio reads when it is imported and when it starts."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it reports every start and looks for a newer version
    os.environ["GRADIO_RUN_HISTORY"] = "False"  # it keeps every question and image in the browser
    for name in ("no_proxy", "NO_PROXY"):  # it looks whether its own page answers, and may ask a proxy for it
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost", HOST]))
