"""Label maps, painted once and then read from a cache.

Parsing the annotations of COCO train2014 takes half a minute and more than 2 GB of memory. Reading a label map from the
cache takes a fraction of a millisecond (`benchmarks/data.py`). A cache is a folder of three files:

    labels.bin   the label maps one after another, each as run lengths compressed with zlib
    index.npz    image ids, file names, sizes, where each map begins, how many pixels each class has in each image
    about.json   what the maps were made from, a hash of their content, what was left out, and what the files hold

A cache whose files are not as they were written is painted anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llafs_lib.artifacts import discard, replacing
from llafs_lib.errors import LlafsError, why
from llafs_lib.seals import described, digest_of, is_unchanged, read_sealed, size_and_time, write_sealed

CACHE = Path("data/cache")  # under the working directory, because the data itself may be read-only
RULE_VERSION = 2  # raise it when the rule of reading or painting changes, so that every cache is made again
VOID = 255  # label of pixels that are neither an object nor scored, such as PASCAL's object outlines; see `void_of`


def label_type(n_classes: int) -> np.dtype:
    """The type of the label maps of so many classes: uint8 up to 254 classes, uint16 beyond.

    Raises:
        LlafsError: more than 65,534 classes.
    """
    if n_classes > 65_534:
        raise LlafsError(f"{n_classes:,} classes are too many: a label map holds at most 65,534. Leave some out.")
    return np.dtype(np.uint8 if n_classes < VOID else np.uint16)


def void_of(labels: np.ndarray) -> int:
    """The value of void pixels in a label map: the greatest of its type, which is `VOID` for uint8."""
    return int(np.iinfo(labels.dtype).max)


@dataclass(frozen=True)
class Painted:
    """The label map of one image: `labels` [H, W] of `label_type` holds 0 for background, class index + 1, or void."""

    image_id: int
    file_name: str  # relative to the folder of the split's images
    labels: np.ndarray = field(repr=False)


class Skipped:
    """Counts what was left out while painting, by reason, and remembers the first case of each."""

    def __init__(self) -> None:
        self._cases: dict[str, list] = {}

    def add(self, reason: str, where: str) -> None:
        self._cases.setdefault(reason, [0, where])[0] += 1

    def include(self, other: Skipped) -> None:
        """Count what another count holds, too."""
        for reason, (count, where) in other._cases.items():
            self._cases.setdefault(reason, [0, where])[0] += count

    def sentences(self) -> list[str]:
        sentences = [f"{count:,} × {reason}, the first in {where}" for reason, (count, where) in self._cases.items()]
        return [s.encode("utf-8", "backslashreplace").decode() for s in sentences]  # a file may name what no text holds


class LabelStore:
    """The label maps of one split, read from a cache folder.

    `Split` says what `image_ids`, `pixels`, `skipped` and `fingerprint` hold; `files` is image id → file name, relative
    to the folder of the split's images.

    Raises:
        LlafsError: the cache is damaged, or not there.
    """

    def __init__(self, folder: Path):
        about = read_sealed(folder / "about.json")
        files = about.get("files", {})
        if files.keys() != {"labels.bin", "index.npz"} or not all(is_unchanged(folder / n, *files[n]) for n in files):
            raise LlafsError(f"{folder} is damaged: remove it, and its label maps are painted anew.")
        index = np.load(folder / "index.npz")
        self.image_ids: tuple[int, ...] = tuple(index["ids"].tolist())
        self.files: dict[int, str] = dict(zip(self.image_ids, index["files"].tolist(), strict=True))
        self.pixels: np.ndarray = index["pixels"]
        self.skipped: tuple[str, ...] = tuple(about["skipped"])
        self.fingerprint: str = about["fingerprint"]
        self._row = {image_id: row for row, image_id in enumerate(self.image_ids)}
        self._sizes, self._starts = index["sizes"], index["starts"]
        self._maps, self._type = np.memmap(folder / "labels.bin", np.uint8, "r"), label_type(self.pixels.shape[1])

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._row

    def size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image, px."""
        height, width = self._sizes[self._row[image_id]].tolist()
        return height, width

    def label_map(self, image_id: int) -> np.ndarray:
        """[H, W] of `label_type`: 0 for background, class index + 1, or void."""
        row = self._row[image_id]
        raw = zlib.decompress(self._maps[self._starts[row] : self._starts[row + 1]])
        n = len(raw) // (4 + self._type.itemsize)  # four bytes of length, and one or two of value, per run
        lengths, values = np.frombuffer(raw, np.uint32, n), np.frombuffer(raw, self._type, offset=4 * n)
        return np.repeat(values, lengths).reshape(self.size(image_id))  # [H·W] → [H, W]


class LabelView:
    """Some label maps of a store, under ids and in an order of classes of one's own. It is read like a `LabelStore`.

    Args:
        store: whose label maps are shown.
        ids: id in the view → id in the store, ascending.
        values: class index in the view → class index in the store, or −1 for a class that the store lacks.
    """

    def __init__(self, store: LabelStore, ids: Mapping[int, int], values: Sequence[int]):
        self._store, self._ids = store, dict(ids)
        row_of = {old: row for row, old in enumerate(store.image_ids)}
        rows = [row_of[old] for old in self._ids.values()]
        self.image_ids = tuple(self._ids)
        self.files = {new: store.files[old] for new, old in self._ids.items()}
        lacking = np.zeros((len(store.pixels), 1), store.pixels.dtype)
        self.pixels = np.hstack([store.pixels, lacking])[rows][:, list(values)]
        self.skipped = store.skipped
        self.fingerprint = digest_of([store.fingerprint, list(self._ids.items()), list(values)])
        ours, theirs = label_type(len(values)), label_type(store.pixels.shape[1])
        self._table = np.zeros(np.iinfo(theirs).max + 1, ours)
        self._table[-1] = np.iinfo(ours).max  # void
        for new, old in enumerate(values, start=1):
            if old >= 0:
                self._table[old + 1] = new

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._ids

    def size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image, px."""
        return self._store.size(self._ids[image_id])

    def label_map(self, image_id: int) -> np.ndarray:
        """[H, W] as `LabelStore.label_map` has it, in the classes of the view."""
        return self._table[self._store.label_map(self._ids[image_id])]


def open_labels(
    name: str,
    sources: Sequence[Path],
    classes: tuple[str, ...],
    paint: Callable[[Skipped], Iterable[Painted]],
    cache: Path | None = None,
    also: object = None,
) -> LabelStore:
    """The label maps of a split. They are painted when the cache lacks them or their sources have changed.

    Args:
        name: the name of the split, with which the name of the cache folder begins.
        sources: the files and folders that decide the label maps. A cache belongs to their paths, sizes and
            modification times, to `classes` and to `RULE_VERSION`.
        classes: the class names in index order.
        paint: yields all images in ascending order of id, and counts what it leaves out.
        cache: the folder of all caches; None means `CACHE`.
        also: what else decides the label maps, as a value that JSON can hold; None for nothing.

    Raises:
        LlafsError: there is no image, or the cache cannot be written.
    """
    cache = CACHE if cache is None else cache
    states = [[str(path.resolve()), *size_and_time(path)] for path in sources]
    key = [RULE_VERSION, list(classes), states, *([] if also is None else [also])]
    where = digest_of([str(Path(path).resolve()) for path in sources])[:8]
    folder = cache / f"{name}-{where}-{digest_of(key)[:8]}"
    with contextlib.suppress(LlafsError):
        return LabelStore(folder)
    discard(folder)  # what is damaged; another process may be just as far, and then one of them is faster below
    _write(folder, len(classes), paint, {"rule_version": RULE_VERSION, "sources": [p.name for p in sources]})
    for outdated in cache.glob(f"{name}-{where}-*"):
        if outdated != folder:
            discard(outdated)
    return LabelStore(folder)


def _write(
    folder: Path, n_classes: int, paint: Callable[[Skipped], Iterable[Painted]], about: Mapping[str, list[str] | int]
) -> None:
    """Paint all label maps into the cache folder `folder`."""
    skipped = Skipped()
    try:
        with replacing(folder) as fresh:
            fresh.mkdir()
            index, fingerprint = _write_maps(fresh / "labels.bin", n_classes, paint(skipped))
            if not len(index["ids"]):
                raise LlafsError(f"no image is listed in {' or '.join(about['sources'])}: is it the right file?")
            np.savez(fresh / "index.npz", **index)
            files = {name: described(fresh / name) for name in ("labels.bin", "index.npz")}
            about = {**about, "fingerprint": fingerprint, "skipped": skipped.sentences(), "files": files}
            write_sealed(fresh / "about.json", about)
    except OSError as error:
        if not folder.is_dir():  # otherwise another process was faster, and its label maps are the same
            raise LlafsError(
                f"the cache of label maps, {folder}, cannot be written ({why(error)}). Start from a folder that "
                "you may write to, with some space left."
            ) from error


def _write_maps(path: Path, n_classes: int, painted: Iterable[Painted]) -> tuple[dict[str, np.ndarray], str]:
    """Write label maps one after another; return their index and a short hash of them."""
    ids, files, sizes, pixels, starts, content = [], [], [], [], [0], hashlib.sha256()
    with path.open("wb") as file:
        for one in painted:
            values, lengths = _runs(one.labels)
            raw = lengths.tobytes() + values.tobytes()
            packed = zlib.compress(raw, 1)
            file.write(packed)
            ids.append(one.image_id)
            files.append(one.file_name)
            sizes.append(one.labels.shape)
            starts.append(starts[-1] + len(packed))
            pixels.append(np.bincount(values, lengths, minlength=n_classes + 1)[1 : n_classes + 1])
            content.update(f"{one.image_id} {one.file_name} {one.labels.shape}".encode("utf-8", "surrogatepass"))
            content.update(raw)
    index = {
        "ids": np.array(ids, np.int64),
        "files": np.array(files),
        "sizes": np.array(sizes, np.int32),  # [images, 2] height, width
        "starts": np.array(starts, np.int64),
        "pixels": np.array(pixels, np.uint32),
    }
    return index, content.hexdigest()[:16]


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[H, W] → values [n] of its type and lengths [n] uint32 of its runs of equal labels, row by row."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    return flat[starts], np.diff(starts, append=flat.size).astype(np.uint32)
