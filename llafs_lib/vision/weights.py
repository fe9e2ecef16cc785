"""Which file a backbone's weights are from: files of one network hold different weights, and results belong to one."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from llafs_lib.artifacts import file_hash
from llafs_lib.errors import LlafsError

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


class Provenance(TypedDict):
    """Where weights are from: a file's name, its SHA-256 and its licence; `note` says what is not as it should be."""

    file: str
    sha256: str
    licence: str
    note: str


def find_weights(folder: str | Path, name: str, stems: Sequence[str], official: Sequence[str]) -> Path | None:
    """The file in `folder` that holds the weights of backbone `name`, or None.

    Args:
        stems: what the file's name begins with, before a hyphen or a dot.
        official: names that files with the official weights have, best first: the first one that is there is taken.

    Raises:
        LlafsError: there are several files, and none is official.
    """
    folder, start = Path(folder), re.compile(rf"({'|'.join(map(re.escape, stems))})[-.]")
    for file in official:
        if (folder / file).is_file():
            return folder / file
    found = sorted(p for p in folder.glob("*") if p.suffix in SUFFIXES and start.match(p.name) and p.is_file())
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise LlafsError(
            f"{folder} holds several files for {name} ({names}), and none is called {' or '.join(official)} as the "
            "official one: move all but one away."
        )
    return found[0] if found else None


def provenance(path: Path, official: Sequence[str], licence: str) -> Provenance:
    """What a run records about the file that was taken; what is not as it should be is printed as well."""
    digest = file_hash(path)
    named, notes = re.search(r"-([0-9a-f]{8,64})\.", path.name), []
    if path.name not in official and path.name != "model.safetensors" and official:
        notes.append(f"{path.name} holds other weights than {official[0]}, so results are this file's")
        licence = f"unknown (that of {official[0]} is {licence})"
    if named and not digest.startswith(named[1]):
        notes.append(f"{path.name} does not hold what its name says: its SHA-256 begins with {digest[:8]}")
    note = "; ".join(notes)
    if note:
        _say(path, note)
    return Provenance(file=path.name, sha256=digest, licence=licence, note=note)


@functools.cache
def _say(path: Path, note: str) -> None:
    """Print a note once for each file, however many models read it."""
    print(f"note: {note}", file=sys.stderr)
