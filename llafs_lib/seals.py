"""By what a cache or a bank is known again: damaged, edited or swapped files are not taken for what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llafs_lib.artifacts import file_hash, read_json, write_json


def digest_of(value: Any) -> str:
    """16 hexadecimal digits by which a JSON value is known: equal values have equal ones, others have others."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a hash of itself, by which `read_sealed` knows it again."""
    write_json(path, {**value, "seal": digest_of(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """The JSON object that `write_sealed` wrote; empty where there is none, or it is not as it was written."""
    found = read_json(path)
    return found if found.pop("seal", None) == digest_of(found) else {}


def size_and_time(path: Path) -> list[int]:
    """By what a file is known again without being read: its size in bytes, and when it was last written, in ns."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def described(path: Path) -> list[Any]:
    """Size, time and hash of a file, for `is_unchanged`."""
    return [*size_and_time(path), file_hash(path)]


def is_unchanged(path: Path, size: int, time_ns: int | None, sha256: str) -> bool:
    """Whether a file is what `described` it. It is read only if its size is right and its time is another, or None."""
    try:
        now = size_and_time(path)
        return path.is_file() and now[0] == size and (now[1] == time_ns or file_hash(path) == sha256)
    except OSError:
        return False
