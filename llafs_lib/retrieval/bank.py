"""The support bank: one row for every annotated (image, base class) pair of a fold, on disk, mapped into memory.

    support_bank/foreground.npy …   one array for each column; the rows of one class lie together
    support_bank/index.json         the classes, what the bank was made from, and a hash of each array

A bank opens at once whatever its size, because its arrays are read only where they are looked at. It is filled image
by image, so memory does not grow with the number of images, and filling goes on after a kill.
"""

from __future__ import annotations

import functools
import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.lib.format import dtype_to_descr, open_memmap, write_array_header_1_0
from torch import Tensor

from llafs_lib.artifacts import discard, file_hash, replacing
from llafs_lib.errors import LlafsError, writing_to
from llafs_lib.progress import track
from llafs_lib.seals import digest_of, read_sealed, size_and_time, write_sealed
from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.features import masked_means
from llafs_lib.vision.prototype import combine

T = TypeVar("T")
INDEX = "index.json"
SUMS = "sums"  # of the rows, while a bank is filled
DESCRIBED = ("foreground", "background", "area")  # in the order in which a row is written
COLUMNS = {  # name of a file → kind of its numbers
    **dict.fromkeys(("image_ids", "class_index"), np.int64),
    **dict.fromkeys(DESCRIBED, np.float32),
}


class DamagedBank(LlafsError):
    """A bank is not as it was written. It can be made anew from the data."""


@dataclass(frozen=True)
class SupportBank:
    """What may serve as a support, and how it looks to the backbone.

    Rows are sorted by class. `image_ids` [N] and `class_index` [N] (into `classes`) say which pair a row is.
    `foreground` and `background` [N, C] are the mean unit features inside and outside its mask. They keep their length
    of at most 1, because a prototype is a sum of them. `area` [N] in [0, 1] is the share of the feature map that the
    mask covers.
    """

    classes: tuple[str, ...]
    image_ids: np.ndarray
    class_index: np.ndarray
    foreground: np.ndarray = field(repr=False)
    background: np.ndarray = field(repr=False)
    area: np.ndarray = field(repr=False)
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image_ids)

    def class_of(self, row: int) -> str:
        """The class that a row's mask shows."""
        return self.classes[self.class_index[row]]

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.searchsorted(self.class_index, np.arange(len(self.classes) + 1))

    def rows_of(self, class_name: str) -> np.ndarray:
        """The rows of one class; empty if the bank has none."""
        if class_name not in self.classes:
            return np.empty(0, int)
        i = self.classes.index(class_name)
        return np.arange(self._starts[i], self._starts[i + 1])

    def counts(self) -> dict[str, int]:
        """How many supports each class has."""
        return dict(zip(self.classes, np.diff(self._starts).tolist(), strict=True))

    def prototypes(self, rows: np.ndarray, weights: np.ndarray, plain: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Foreground and background prototype, each [C], of some rows with their weights [M]; see `combine`."""
        return combine(self.foreground[rows], self.background[rows], self.area[rows], weights, plain)

    def only(self, classes: Sequence[str]) -> SupportBank:
        """The bank of these classes alone, in their order (a copy in memory)."""
        rows = np.concatenate([self.rows_of(c) for c in classes] or [np.empty(0, int)])
        index = np.repeat(np.arange(len(classes)), [len(self.rows_of(c)) for c in classes])
        taken = {name: getattr(self, name)[rows] for name in ("image_ids", "foreground", "background", "area")}
        return SupportBank(tuple(classes), class_index=index, made_from=self.made_from, **taken)

    @classmethod
    def load(cls, path: str | Path, seen: Mapping[str, list[int]] | None = None, **expected: Any) -> SupportBank:
        """Open a finished bank, mapped into memory.

        Args:
            path: the folder that `build_bank` wrote.
            seen: `states_of` the bank when it was made. A file that has the same state is not read to see whether it
                is damaged, so that a large bank opens at once.
            expected: what the bank must have been made from, for instance `fold=0`.

        Raises:
            DamagedBank: a file is missing, cut off, edited or foreign.
            LlafsError: the bank was made from something else.
        """
        path, seen = Path(path), seen or {}
        index = read_sealed(path / INDEX)
        if not index:
            raise _unreadable(path / INDEX)
        columns = _open(path)
        for name, sha256 in index["columns"].items():
            file = path / f"{name}.npy"
            if seen.get(file.name) != size_and_time(file) and file_hash(file) != sha256:
                raise _unreadable(file)
        bank = cls(tuple(index["classes"]), made_from=index["made_from"], **columns)
        bank.check(**expected)
        return bank

    def check(self, **expected: Any) -> None:
        """Compare what the bank was made from with what it must have been made from.

        Raises:
            LlafsError: they differ; the message names the first difference.
        """
        for name, value in expected.items():
            made = self.made_from.get(name)
            if made != value:
                raise LlafsError(
                    f"stale bank: it was made with {name}={made!r}, not {value!r}. Run notebook 04 again, or "
                    "`llafs bank` for your own images."
                )


def described_by(backbone: Backbone, size: int) -> dict[str, Any]:
    """What the features of a bank depend on, for its `made_from`: the backbone, its weights, and the images' size.

    Args:
        backbone: the original one, not its `optimised` copy.
        size: side of the square that images are squashed to, px.
    """
    digest = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy())
    return {"backbone": backbone.name, "size": size, "weights": digest.hexdigest()}


# --- filling ---------------------------------------------------------------------------------------------------------


def build_bank(
    path: str | Path,
    images: Mapping[int, Sequence[str]],
    classes: Sequence[str],
    read: Callable[[int], tuple[np.ndarray, Mapping[str, np.ndarray]]],
    describe: Callable[[np.ndarray], Tensor],
    made_from: Mapping[str, Any],
) -> SupportBank:
    """Describe every (image, class) pair and write the bank to the folder `path`, in place of an older bank there.

    An earlier call for the same bank that was cut off is continued.

    Args:
        images: image id → the classes that it is a support of.
        read: image id → (image [H, W, 3] uint8, class → mask [H, W] bool).
        describe: image → unit features [C, h, w] (`vision.features.unit_features`).
        made_from: all that decides the rows: the data, the fold, and `described_by`.

    Raises:
        LlafsError: there is something else at `path`, or it cannot be written.
    """
    path = Path(path)
    if not _is_ours(path):
        raise LlafsError(
            f"{path} exists and is no support bank, so it is not replaced: move it away, or choose another place."
        )
    pairs = [(i, c) for c in classes for i in sorted(images) if c in images[i]]
    with writing_to(path):
        begun = _begin(path, {"classes": list(classes), "made_from": dict(made_from)}, pairs, describe)
        if not (begun / INDEX).exists():
            _fill(begun, pairs, read, describe)
            write_index(begun, classes, made_from)
        (begun / f"{SUMS}.npy").unlink(missing_ok=True)
        discard(path)
        os.replace(begun, path)
    return SupportBank.load(path)


def write_index(folder: Path, classes: Sequence[str], made_from: Mapping[str, Any]) -> None:
    """Write the index of a bank whose arrays are complete."""
    hashes = {name: file_hash(folder / f"{name}.npy") for name in COLUMNS}
    write_sealed(folder / INDEX, {"classes": list(classes), "made_from": dict(made_from), "columns": hashes})


def states_of(path: Path) -> dict[str, list[int]]:
    """By what the arrays of a bank are known again without being read (`SupportBank.load`)."""
    return {f"{name}.npy": size_and_time(path / f"{name}.npy") for name in COLUMNS}


def _is_ours(path: Path) -> bool:
    """Whether nothing is at `path` but a bank, or parts of one."""
    parts = {INDEX, *(f"{name}.npy" for name in COLUMNS)}
    return not path.exists() or (path / INDEX).is_file() or (path.is_dir() and set(os.listdir(path)) <= parts)


def _begin(path: Path, index: Mapping, pairs: Sequence[tuple[int, str]], describe: Callable) -> Path:
    """The folder to fill: an earlier call's for the same bank, or a new one.

    Its name holds a hash of what the bank is made from, so that the rows of another bank are not taken for its own.
    """
    folder = path.with_name(f".{path.name}.{digest_of([index, pairs])}.partial")
    known = {
        "image_ids": np.array([image_id for image_id, _ in pairs], np.int64),
        "class_index": np.array([index["classes"].index(name) for _, name in pairs], np.int64),
    }
    if not _can_go_on(folder, known):
        for other in path.parent.glob(f".{path.name}.*.partial"):
            discard(other)  # begun for another bank at this place, or damaged
        width = len(describe(np.zeros((64, 64, 3), np.uint8)))
        with replacing(folder) as new:
            _create(new, known, width)
    return folder


def _create(folder: Path, known: Mapping[str, np.ndarray], width: int) -> None:
    folder.mkdir()
    rows = len(known["image_ids"])
    for name, values in known.items():
        with new_column(folder, name, values.shape) as file:
            file.write(values.tobytes())
    with new_column(folder, "area", (rows,)) as file:
        file.write(np.full(rows, np.nan, np.float32).tobytes())  # until the row is described
    for name in ("foreground", "background"):
        with new_column(folder, name, (rows, width)) as file:
            file.truncate(file.tell() + 4 * rows * width)  # zeros take no room until they are overwritten
    with new_column(folder, SUMS, (rows,)) as file:
        file.write(bytes(4 * rows))


@contextmanager
def new_column(folder: Path, name: str, shape: tuple[int, ...]) -> Iterator[BinaryIO]:
    """A new array file of a bank, to which its numbers are written in order.

    It is not mapped into memory: where the disk is full, writing to a map ends the process without a word.
    """
    with (folder / f"{name}.npy").open("wb") as file:
        descr = dtype_to_descr(np.dtype(COLUMNS.get(name, np.uint32)))
        write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        yield file


def _can_go_on(folder: Path, known: Mapping[str, np.ndarray]) -> bool:
    """Whether an earlier call left a folder to be filled that is not damaged. Its rows are looked at later."""
    try:
        if (folder / INDEX).exists():  # it was complete, but for its name
            SupportBank.load(folder)
            return True
        columns = _open(folder)
        alike = all(np.array_equal(columns[name], values) for name, values in known.items())
        return alike and len(open_memmap(folder / f"{SUMS}.npy", "r")) == len(columns["area"])
    except (DamagedBank, OSError, ValueError, EOFError):
        return False


def _fill(folder: Path, pairs: Sequence[tuple[int, str]], read: Callable, describe: Callable) -> None:
    """Describe the pairs whose rows have no area yet, or are not what was written."""
    columns = _open(folder) | {SUMS: open_memmap(folder / f"{SUMS}.npy", "r")}
    rows_of: dict[int, list[int]] = {}
    for row, (image_id, _) in enumerate(pairs):
        if np.isnan(columns["area"][row]) or columns[SUMS][row] != _sum(columns[name][row] for name in DESCRIBED):
            rows_of.setdefault(image_id, []).append(row)
    ids, last = sorted(rows_of), None
    with ExitStack() as stack:
        files = {n: stack.enter_context((folder / f"{n}.npy").open("r+b")) for n in (*DESCRIBED, SUMS)}
        writer = stack.enter_context(ThreadPoolExecutor(1))  # writes while the next image goes through the backbone
        for image_id, (image, masks) in zip(track(ids, "support bank", "image"), _read_ahead(ids, read), strict=True):
            features = describe(image).cpu()  # [C, h, w]; on a GPU, means would only hold up the next image
            if last is not None:
                last.result()
            named = {row: masks[pairs[row][1]] for row in rows_of[image_id]}
            last = writer.submit(_write_rows, columns, files, named, features)
        if last is not None:
            last.result()


def _sum(row: Iterable[np.ndarray]) -> int:
    return zlib.crc32(b"".join(np.asarray(value, np.float32).tobytes() for value in row))


def _write_rows(
    columns: Mapping[str, np.memmap],
    files: Mapping[str, BinaryIO],
    masks: Mapping[int, np.ndarray],
    features: Tensor,
) -> None:
    for row, mask in masks.items():
        found = masked_means(features, mask)
        for (name, file), value in zip(files.items(), (*found, _sum(found)), strict=True):
            column = columns[name]
            file.seek(column.offset + row * column.strides[0])
            file.write(np.asarray(value, column.dtype).tobytes())
            file.flush()  # the sum last: if a kill comes before it, the row is described again


def _read_ahead(ids: Sequence[int], read: Callable[[int], T], ahead: int = 4) -> Iterator[T]:
    """`read(i)` for each id, in order, a few of them in advance on a thread: files are read while features are made."""
    with ThreadPoolExecutor(1) as pool:
        coming: deque[Future[T]] = deque()
        for image_id in ids:
            coming.append(pool.submit(read, image_id))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _open(folder: Path) -> dict[str, np.memmap]:
    """The arrays of a bank by name, mapped into memory.

    Raises:
        LlafsError: a file is missing, cut off or foreign.
    """
    arrays = {}
    for name in COLUMNS:
        file = folder / f"{name}.npy"
        try:
            arrays[name] = open_memmap(file, "r")
        except Exception as error:  # numpy raises half a dozen types for a file that is cut off or foreign
            raise _unreadable(file) from error
        if arrays[name].dtype != COLUMNS[name] or len(arrays[name]) != len(arrays["image_ids"]):
            raise _unreadable(file)
    return arrays


def _unreadable(file: Path) -> LlafsError:
    reason = "it is cut off, edited, or of another bank" if file.exists() else "it is missing"
    return DamagedBank(
        f"{file} is not readable as part of a support bank ({reason}): run notebook 04 again, or `llafs bank` for your "
        "own images."
    )
