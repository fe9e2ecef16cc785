"""The outline of an object in all forms that tools write, made plain: lists of polygons, and run lengths that fit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

FARTHEST = 1e6  # px; a vertex beyond is a fault of the file
NO_PAIRS = "a polygon that is not a list of x, y pairs"
NO_AREA = "a polygon with fewer than three points"
OUTSIDE = "an outline outside of its image"
TINY = "an outline smaller than a pixel (are its coordinates shares of the image?)"
UNREADABLE = "unreadable run lengths"
OTHER_SIZE = "run lengths that do not fit the image's size"
EMPTY = "an empty mask"


def outlines_of(segmentation: Any, size: tuple[int, int]) -> tuple[list[list | dict], list[str]]:
    """The plain outlines of one object, and what is wrong with its other parts.

    Args:
        segmentation: polygons (nested as they should be, flat, nested too deep, or lists of points), run lengths
            (a list or COCO's compressed string), several of these, or the same as text.
        size: (height, width) of the image.

    Returns: outlines, each a list of polygons [x0, y0, x1, y1, …] or {"size": [H, W], "counts": …}; faults.
    """
    polygons: list[list[float]] = []
    masks: list[dict] = []
    faults: list[str] = []

    def read(part: Any) -> None:
        if isinstance(part, str):
            part = _from_text(part)
        if isinstance(part, dict):
            mask, fault = run_lengths(part, size)
            masks.extend([mask] if mask else [])
        elif (array := as_numbers(part)) is None or (array.ndim > 1 and not _is_points(array)):
            for inner in part if isinstance(part, list) else ():
                read(inner)
            fault = "" if isinstance(part, list) else NO_PAIRS
        else:
            polygon = array.ravel()  # [n, 2] or [2·n] → [2·n]
            fault = _fault_of(polygon, size)
            polygons.extend([] if fault else [polygon.tolist()])
        faults.extend([fault] if fault else [])

    read(segmentation)
    return [*([polygons] if polygons else []), *masks], faults


def _from_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def as_numbers(part: Any) -> np.ndarray | None:
    """A list of numbers, also of numbers in quotes, or nested lists of them as an array; None if it is none."""
    try:
        array = np.asarray(part, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.size else None


def _is_points(array: np.ndarray) -> bool:
    """Whether an array is one polygon as a list of points, not a list of polygons."""
    return array.ndim == 2 and array.shape[1] == 2 and len(array) > 2


def _fault_of(polygon: np.ndarray, size: tuple[int, int]) -> str:
    if polygon.size % 2 or not (np.abs(polygon) <= FARTHEST).all():  # NaN is not ≤ either
        return NO_PAIRS
    if polygon.size < 6:
        return NO_AREA
    low, high = polygon.reshape(-1, 2).min(axis=0), polygon.reshape(-1, 2).max(axis=0)  # x, y
    if (high < 0).any() or (low >= size[::-1]).any():
        return OUTSIDE
    return TINY if (high - low < 1).all() else ""


def run_lengths(part: dict, size: tuple[int, int]) -> tuple[dict | None, str]:
    """Run lengths in COCO's form and "", or None and what is wrong. Nothing is decoded before its length is known."""
    stated, counts = part.get("size", list(size)), part.get("counts")
    counts = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    sides = as_numbers(stated)
    lengths = _lengths_of(counts)
    if lengths is None or sides is None:
        return None, UNREADABLE
    if sides.tolist() != list(size) or lengths.sum() != size[0] * size[1]:
        return None, OTHER_SIZE
    if not lengths[1::2].any():
        return None, EMPTY
    return {"size": list(size), "counts": counts if isinstance(counts, str) else lengths.tolist()}, ""


def decode(plain: dict) -> np.ndarray:
    """Run lengths that `run_lengths` has looked at → [H, W] bool."""
    lengths = _lengths_of(plain["counts"])
    is_object = np.arange(lengths.size) % 2 == 1  # [n]: the first run is background
    return np.repeat(is_object, lengths).reshape(plain["size"][::-1]).T  # [W·H] → [W, H] → [H, W]


def _lengths_of(counts: Any) -> np.ndarray | None:
    """The lengths [n] int64 of the runs; None if `counts` is none."""
    if isinstance(counts, str):
        lengths = _uncompressed(counts)
    else:
        array = as_numbers(counts)
        whole = array is not None and array.ndim == 1 and (np.abs(array) < 2**53).all() and (array % 1 == 0).all()
        lengths = array.astype(np.int64) if whole else None
    return None if lengths is None or (lengths < 0).any() or (lengths >= 2**32).any() else lengths


def _uncompressed(text: str) -> np.ndarray | None:
    """COCO's compressed run lengths → [n] int64; None if they are none.

    A character holds five bits of a number, low ones first, and whether more follow. From the fourth number on, each is
    the difference to the last but one.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    ends = (codes & 32) == 0
    if not codes.size or (codes < 0).any() or (codes > 63).any() or not ends[-1]:
        return None
    last = np.flatnonzero(ends)
    first = np.concatenate(([0], last[:-1] + 1))
    length = last - first + 1
    if length.max() > 7:  # 35 bits: more than any image has pixels
        return None
    shift = 5 * (np.arange(codes.size) - np.repeat(first, length))
    numbers = np.add.reduceat((codes & 31) << shift, first)
    numbers -= np.where(codes[last] & 16, 1 << (5 * length), 0)  # the sign
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
