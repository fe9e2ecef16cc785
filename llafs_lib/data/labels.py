"""Label maps, painted once and then read from a cache.

Parsing the annotations of COCO train2014 takes half a minute and more than 2 GB; reading a label map back from here
takes a fraction of a millisecond (`benchmarks/data.py`). A cache is a folder that is written whole or not at all:

    labels.bin   the label maps, each as run lengths compressed with zlib, one after another
    index.npz    image ids, file names, sizes, where each map lies, pixels of each class in each image
    about.json   what it was made from, the hash of its contents, what was skipped on the way
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llafs_lib.errors import LlafsError

CACHE = Path("data/cache")  # under the working directory: the data themselves may be read-only
RULE_VERSION = 1  # of how label maps are painted; raise it when they change, and every cache is made anew
VOID = 255  # label of pixels that belong to nothing and are not scored either (PASCAL's object outlines)


class DataError(LlafsError):
    """A data set, image or annotation that cannot be used; the message names the file."""


@dataclass(frozen=True)
class Painted:
    """One image's label map: `labels` [H, W] uint8, 0 background, class index + 1, or `VOID`."""

    image_id: int
    file_name: str  # below the split's image folder
    labels: np.ndarray = field(repr=False)


class Skipped:
    """What was left out while painting, counted by reason, with the first case of each."""

    def __init__(self) -> None:
        self._cases: dict[str, list] = {}

    def add(self, reason: str, where: str) -> None:
        self._cases.setdefault(reason, [0, where])[0] += 1

    def sentences(self) -> list[str]:
        return [f"{count:,} × {reason}, the first in {where}" for reason, (count, where) in self._cases.items()]


class LabelStore:
    """The label maps of one split, read from a cache folder.

    Attributes:
        image_ids: ascending.
        files: image id → its file, below the split's image folder.
        pixels: [images, classes] uint32: pixels of each class in each image, in the order of `image_ids`.
        skipped: one sentence per reason for which something was left out.
        fingerprint: a short hash of names and label maps: two splits with the same one are the same.
    """

    def __init__(self, folder: Path):
        index = np.load(folder / "index.npz")
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.image_ids: tuple[int, ...] = tuple(index["ids"].tolist())
        self.files: dict[int, str] = dict(zip(self.image_ids, index["files"].tolist(), strict=True))
        self.pixels: np.ndarray = index["pixels"]
        self.skipped: tuple[str, ...] = tuple(about["skipped"])
        self.fingerprint: str = about["fingerprint"]
        self._row = {image_id: row for row, image_id in enumerate(self.image_ids)}
        self._sizes, self._starts = index["sizes"], index["starts"]
        self._maps = np.memmap(folder / "labels.bin", np.uint8, "r")

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._row

    def size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image, px."""
        height, width = self._sizes[self._row[image_id]].tolist()
        return height, width

    def label_map(self, image_id: int) -> np.ndarray:
        """[H, W] uint8."""
        row = self._row[image_id]
        packed = self._maps[self._starts[row] : self._starts[row + 1]]
        values, lengths = _unpack(packed)
        return np.repeat(values, lengths).reshape(self.size(image_id))  # [H·W] → [H, W]


def open_labels(
    name: str,
    sources: Iterable[Path],
    classes: tuple[str, ...],
    paint: Callable[[Skipped], Iterable[Painted]],
    cache: Path | None = None,
) -> LabelStore:
    """The label maps of a split: from the cache if nothing they were made from has changed, else painted now.

    Args:
        name: of the split; the cache folder's name begins with it.
        sources: the files and folders that decide the label maps. The cache is keyed by their paths, sizes and
            modification times, by `classes` and by `RULE_VERSION`.
        paint: called if there is no cache; gives all images in ascending order of id and counts what it leaves out.

    Raises:
        DataError: no image was painted, or the cache cannot be written.
    """
    cache = CACHE if cache is None else cache
    key = [RULE_VERSION, list(classes), [_state(path) for path in sources]]
    where = _digest([str(Path(path).resolve()) for path in sources])[:8]
    folder = cache / f"{name}-{where}-{_digest(key)[:8]}"
    if not folder.is_dir():
        _write(folder, len(classes), paint, {"rule_version": RULE_VERSION, "sources": [p.name for p in sources]})
        for outdated in cache.glob(f"{name}-{where}-*"):
            if outdated != folder:
                shutil.rmtree(outdated, ignore_errors=True)
    return LabelStore(folder)


def _state(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path.resolve()), stat.st_size if path.is_file() else 0, stat.st_mtime_ns


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _write(
    folder: Path, n_classes: int, paint: Callable[[Skipped], Iterable[Painted]], about: Mapping[str, list[str] | int]
) -> None:
    """Paint everything into a folder that takes its name when it is whole."""
    skipped = Skipped()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workshop:
            fresh = Path(workshop) / "new"
            fresh.mkdir()
            index, fingerprint = _write_maps(fresh / "labels.bin", n_classes, paint(skipped))
            if not len(index["ids"]):
                raise DataError(f"no image is listed in {' or '.join(about['sources'])}.")
            np.savez(fresh / "index.npz", **index)
            about = {**about, "fingerprint": fingerprint, "skipped": skipped.sentences()}
            (fresh / "about.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
            _take_place(fresh, folder)
    except OSError as error:
        raise DataError(f"the cache of label maps, {folder}, cannot be written ({error}).") from error


def _write_maps(path: Path, n_classes: int, painted: Iterable[Painted]) -> tuple[dict[str, np.ndarray], str]:
    """The index of what was written, and a short hash of it."""
    ids, files, sizes, pixels, starts, content = [], [], [], [], [0], hashlib.sha256()
    with path.open("wb") as file:
        for one in painted:
            values, lengths = _runs(one.labels)
            packed = _pack(values, lengths)
            file.write(packed)
            ids.append(one.image_id)
            files.append(one.file_name)
            sizes.append(one.labels.shape)
            starts.append(starts[-1] + len(packed))
            pixels.append(np.bincount(values, lengths, minlength=256)[1 : n_classes + 1])
            content.update(f"{one.image_id} {one.file_name} {one.labels.shape}".encode())
            content.update(lengths.tobytes() + values.tobytes())
    index = {
        "ids": np.array(ids, np.int64),
        "files": np.array(files),
        "sizes": np.array(sizes, np.int32),  # [images, 2] height, width
        "starts": np.array(starts, np.int64),
        "pixels": np.array(pixels, np.uint32),
    }
    return index, content.hexdigest()[:16]


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[H, W] → the values [n] uint8 of its runs, row by row, and their lengths [n] uint32."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    return flat[starts], np.diff(starts, append=flat.size).astype(np.uint32)


def _pack(values: np.ndarray, lengths: np.ndarray) -> bytes:
    return zlib.compress(lengths.tobytes() + values.tobytes(), 1)


def _unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    raw = zlib.decompress(packed)
    n = len(raw) // 5  # four bytes of length and one of value per run
    return np.frombuffer(raw, np.uint8, offset=4 * n), np.frombuffer(raw, np.uint32, n)


def _take_place(fresh: Path, folder: Path) -> None:
    try:
        os.rename(fresh, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same contents
            raise
