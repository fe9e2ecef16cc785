"""Progress of anything that takes more than two seconds: a bar to watch, or lines for a transcript.

`LLAFS_PROGRESS` chooses: `bar` (the default; a widget in Jupyter), `lines` (one every few seconds, for runs whose
output is read in a terminal or a log) or `none`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_LOGGED = 30.0


def track(items: Iterable[T], desc: str, unit: str) -> Iterator[T]:
    """Iterate over `items` and show how far it is; `desc` says what is done, `unit` what the bar counts."""
    style = os.environ.get("LLAFS_PROGRESS", "bar")
    if style == "lines":
        return _with_lines(items, desc)
    return iter(tqdm(items, desc=desc, unit=unit, leave=False, disable=style == "none"))


def bar(total: int, desc: str, unit: str, done: int = 0, bar_format: str | None = None) -> tqdm:
    """A bar to be moved by hand, for work that does not come in order: `update()`, and `total` may grow.

    It begins at `done`; bytes (unit `B`) are shown as kB, MB or GB. It follows every update in a terminal, and is
    written every half minute where nobody watches, as in a log.
    """
    watched = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=desc,
        unit=unit,
        initial=done,
        unit_scale=unit == "B",
        bar_format=bar_format,
        leave=False,
        ncols=shutil.get_terminal_size().columns - 1 if watched else None,
        nrows=20,  # tqdm itself shows nothing in a terminal that says its size is 0 × 0, as some do
        miniters=0,
        mininterval=0.1 if watched else SECONDS_BETWEEN_LOGGED,
        disable=os.environ.get("LLAFS_PROGRESS") == "none",
    )


def _with_lines(items: Iterable[T], desc: str) -> Iterator[T]:
    total = len(items) if isinstance(items, Sized) else "?"
    started = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            print(f"{desc}: {done} of {total}, {now - started:.0f} s", flush=True)
            last = now
        yield item
