"""The notebooks as they are committed: executed on `toy`, small, without paths or times of the machine they ran on."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llafs_lib.artifacts import SERIES, replacing
from llafs_lib.tools.tutorial import execute, notebooks

_WIDGET = "application/vnd.jupyter.widget-view+json"
_WIDGET_STANDS_FOR = "(interactive: a menu and its figure appear here in a running notebook)"


def refresh_committed(only: Sequence[str] = ()) -> None:
    """Execute the committed notebooks in place with their own parameters, so that their outputs are current.

    `only`: numbers such as "03"; without any, all, in order.
    Papermill's times and paths are left out, so that the next refresh changes only what the code changed.
    """
    for path in notebooks(only, SERIES):
        with replacing(path) as partial:
            fresh = executed(path, partial)
            partial.write_text(json.dumps(fresh, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def executed(path: Path, output: Path) -> dict[str, Any]:
    """The content of a notebook after a fresh run with its own parameters, tidied; papermill writes to `output`."""
    print(path.stem, flush=True)
    execute(path, output, parameters={})
    return tidy(json.loads(output.read_text(encoding="utf-8")))


def tidy(notebook: dict[str, Any]) -> dict[str, Any]:
    """An executed notebook without its times and paths, and with figures of 256 colours: a third of the bytes."""
    for part in (notebook, *notebook["cells"]):
        for key in ("papermill", "execution", "widgets"):
            part["metadata"].pop(key, None)
        for output in part.get("outputs", []):
            data = output.get("data", {})
            if _WIDGET in data:
                output["data"] = {"text/plain": [_WIDGET_STANDS_FOR]}
            elif "image/png" in data:
                data["image/png"] = _with_256_colours(data["image/png"])
    notebook["metadata"]["language_info"].pop("version", None)
    return notebook


def _with_256_colours(png: str) -> str:
    """A base64 PNG with a palette of its own."""
    from PIL import Image

    small = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image.convert("RGB").quantize(256).save(small, format="PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode("ascii")
