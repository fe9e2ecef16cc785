"""The notebooks as they are committed: executed on `toy`, small, without paths or times of the machine they ran on.

`refresh_committed` executes them again in place; `check_committed` looks whether a fresh run still shows the same. Each
notebook says which state of the library executed it.
"""

from __future__ import annotations

import base64
import io
import json
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llafs_lib.artifacts import ROOMS, SERIES, library_digest, package_versions, replacing
from llafs_lib.errors import LlafsError
from llafs_lib.tools.execution import execute
from llafs_lib.tools.tutorial import notebooks

MADE_WITH = "made_with"  # where a notebook's metadata hold the `state` that executed it
_WIDGET = "application/vnd.jupyter.widget-view+json"
_WIDGET_STANDS_FOR = "(interactive: a menu and its figure appear here in a running notebook)"


def refresh_committed(only: Sequence[str] = ()) -> None:
    """Execute the committed notebooks in place with their own parameters, so that their outputs are current.

    `only`: numbers such as "03"; without any, all, in order.
    Papermill's times and paths are left out, so that the next refresh changes only what the code changed.
    """
    for path in notebooks(only, SERIES):
        with replacing(path) as partial:
            fresh = _executed(path, partial)
            partial.write_text(json.dumps(fresh, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_committed(only: Sequence[str] = ()) -> None:
    """Execute copies of the committed notebooks, and compare what they show with what is committed.

    Raises:
        LlafsError: lists what differs (`differences`), by notebook and cell.
    """
    found = []
    for path in notebooks(only, SERIES):
        with TemporaryDirectory() as folder:
            fresh = _executed(path, Path(folder) / path.name)
        committed = json.loads(path.read_text(encoding="utf-8"))
        found += [f"{path.name}, {difference}" for difference in differences(committed, fresh)]
    if found:
        raise LlafsError("committed outputs are stale (`make notebooks` renews them):\n  " + "\n  ".join(found))


def _executed(path: Path, output: Path) -> dict[str, Any]:
    print(path.stem, flush=True)
    made_with = state()  # before the run: an edit that is made meanwhile is not in its outputs
    execute(path, output, parameters={})
    fresh = tidy(json.loads(output.read_text(encoding="utf-8")))
    fresh["metadata"][MADE_WITH] = made_with
    return fresh


def state() -> dict[str, str]:
    """What the outputs of a notebook depend on beside its cells: the library's code, and the versions of all else.

    The library's hash is one of syntax trees, which differ between versions of Python.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    return {"library": library_digest(ROOMS[SERIES[-1]]), "python": python, **package_versions()}


def differences(committed: dict[str, Any], fresh: dict[str, Any], rtol: float = 0.02) -> list[str]:
    """Where a fresh run shows something else, one sentence each; none if they agree.

    The cells must be the same, and so must the kinds of output that each has, and the printed words. A number may
    differ by `rtol`, one with decimals also by one in its last place: other processors round differently. A figure
    need only be there. A cell tagged `volatile` shows what a training found, or the machine: only its kinds count.
    """
    pairs = list(zip(committed["cells"], fresh["cells"], strict=False))
    if len(committed["cells"]) != len(fresh["cells"]):
        return [f"{len(committed['cells'])} cells are committed, {len(fresh['cells'])} were run"]
    found = []
    for number, (old, new) in enumerate(pairs):
        if _kinds(old) != _kinds(new):
            found.append(f"cell {number}: shows {_kinds(new)}, committed are {_kinds(old)}")
        elif "volatile" not in old["metadata"].get("tags", []):
            texts = zip(_texts(old), _texts(new), strict=True)
            found += [f"cell {number}: {d}" for a, b in texts if (d := _difference(a, b, rtol))]
    return found


def _kinds(cell: dict[str, Any]) -> list[str]:
    """What a cell shows, in order: `stdout`, `stderr` or MIME types. A stream may come in pieces."""
    kinds = [", ".join(sorted(o["data"])) if "data" in o else o.get("name", "error") for o in cell.get("outputs", [])]
    return [kind for before, kind in zip([None, *kinds], kinds, strict=False) if kind != before or kind != "stdout"]


def _texts(cell: dict[str, Any]) -> list[str]:
    outputs = cell.get("outputs", [])
    printed = "".join("".join(o["text"]) for o in outputs if "text" in o)
    return [printed, *("".join(o["data"].get("text/plain", [])) for o in outputs if "data" in o)]


_NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")


def _difference(old: str, new: str, rtol: float) -> str:
    words, new_words = (" ".join(_NUMBER.sub("#", text).split()) for text in (old, new))
    if words != new_words:
        return f"prints {_first(new, old)!r}, committed is {_first(old, new)!r}"
    for a, b in zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True):
        last_place = 10.0 ** -len(a.partition(".")[2]) if "e" not in a else 0.0
        x, y = (float(n.replace(",", "")) for n in (a, b))
        if abs(x - y) > max(rtol * abs(x), last_place if "." in a else 0.0) * (1 + 1e-9):
            return f"prints {b}, committed is {a}"
    return ""


def _first(text: str, other: str) -> str:
    """The first line that the other text does not have."""
    return next((line for line in text.splitlines() if line not in other.splitlines()), text)[:80]


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
