"""Where a fresh run of a committed notebook shows something else."""

from __future__ import annotations

import re
from typing import Any


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
