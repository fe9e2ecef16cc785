"""Reading an annotation file: COCO's JSON in any encoding, and a word on what it is if it is not COCO's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llafs_lib.errors import LlafsError

LISTS = ("images", "annotations", "categories")
DATUMARO = "convert it with Datumaro (`pip install datumaro`; `datum convert -i FOLDER -if {0} -f coco -o coco`)"


def read_coco_json(path: Path) -> dict:
    """A parsed COCO annotation file.

    Raises:
        LlafsError: it cannot be read, is no JSON, or is of another format; the message says which, and how to convert.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LlafsError(f"{path} cannot be read ({error}).") from error
    known = _by_ending(path, data[:200].lstrip())
    if known:
        raise LlafsError(f"{path} is not a COCO file but {known}.")
    try:
        content = json.loads(_text(data))
    except (ValueError, RecursionError) as error:
        raise LlafsError(
            f"{path} is not readable JSON ({error}): it was cut off, or is of another format. Export it again as COCO."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in LISTS[:2]):
        raise LlafsError(f"{path} is not a COCO file but {_kind_of(content)}.")
    return content


def _text(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, with or without a byte order mark."""
    return data.decode(json.detect_encoding(data)).lstrip("\ufeff")


def _by_ending(path: Path, head: bytes) -> str:
    return ""


def _kind_of(content: Any) -> str:
    return "another format"
