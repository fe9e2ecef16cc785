"""Arrays in a safetensors file, mapped into memory: opened at once whatever their size, and filled in place."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

_KINDS: dict[str, type[np.generic]] = {"I64": np.int64, "F32": np.float32}
_NAMES = {np.dtype(kind): name for name, kind in _KINDS.items()}
Shapes = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]  # name → (shape, kind)


def create(path: Path, shapes: Shapes) -> None:
    """Write a safetensors file of zeros; the zeros take no room on disk until they are overwritten."""
    header, end = {}, 0
    for name, (shape, kind) in shapes.items():
        size = math.prod(shape) * np.dtype(kind).itemsize
        header[name] = {"dtype": _NAMES[np.dtype(kind)], "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays begin at a multiple of 8
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def open_mapped(path: Path, mode: Literal["r", "r+"] = "r") -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name; "r+" writes what is assigned to them into the file.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is missing, cut off, or no file of this kind.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if length > path.stat().st_size:
            raise ValueError("its header is cut off")
        header = json.loads(file.read(length))
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind, shape = np.dtype(_KINDS[entry["dtype"]]), tuple(entry["shape"])
            if end - begin != math.prod(shape) * kind.itemsize or 8 + length + end > path.stat().st_size:
                raise ValueError(f"the array {name} is cut off")
            empty = not end - begin  # which cannot be mapped
            place = {"offset": 8 + length + begin, "shape": shape, "mode": mode}
            arrays[name] = np.zeros(shape, kind) if empty else np.memmap(path, kind, **place)
    return arrays
