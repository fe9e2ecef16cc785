"""A bank that is made in parts, on one machine or many, and then joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llafs_lib.artifacts import replacing
from llafs_lib.errors import LlafsError
from llafs_lib.retrieval.bank import COLUMNS, SupportBank, new_column, write_index


def join_banks(path: Path, parts: Sequence[SupportBank], made_from: Mapping[str, Any]) -> SupportBank:
    """Write the banks of disjoint images as one bank to the folder `path`, where nothing stands yet.

    If the parts are in the order of their image ids, the result is the bank that would have been made in one go, byte
    for byte. Rows are copied class by class, so memory does not grow with their number.

    Raises:
        LlafsError: no part, or parts with different classes.
    """
    if len({part.classes for part in parts}) != 1:
        raise LlafsError("the parts of a bank must have the same classes: make them all from the same data.")
    rows = sum(map(len, parts))
    with replacing(path) as new:
        new.mkdir()
        for column in COLUMNS:
            with new_column(new, column, (rows, *getattr(parts[0], column).shape[1:])) as file:
                for block in _by_class(parts, column):
                    file.write(block.tobytes())
        write_index(new, parts[0].classes, made_from)
    return SupportBank.load(path)


def _by_class(parts: Sequence[SupportBank], column: str) -> Iterator[np.ndarray]:
    for name in parts[0].classes:
        for part in parts:
            own = part.rows_of(name)  # rows of one class lie together
            if len(own):
                yield getattr(part, column)[own[0] : own[-1] + 1]
