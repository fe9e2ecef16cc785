"""Where results go: `plan_output` says before any work what is written where, and refuses what cannot be.

`llafs_lib.writing` does it then.
"""

from __future__ import annotations

import colorsys
import json
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llafs_lib.artifacts import partial_of
from llafs_lib.errors import LlafsError, told
from llafs_lib.settings import unknown

# format → the endings that its files may have, the usual one first
FORMATS: dict[str, tuple[str, ...]] = {
    "mask": (".png",),
    "labelmap": (".png",),
    "overlay": (".jpg", ".jpeg", ".png"),
    "sheet": (".png", ".jpg", ".jpeg", ".pdf", ".svg"),
    "figure": (".png", ".jpg", ".jpeg", ".pdf", ".svg"),
    "coco": (".json",),
    "yolo": (".txt",),
}
COLLECTED = {"coco": "predictions.json", "sheet": "sheet.png"}  # one file for all images, and its name in a folder
DRAWN = ("sheet", "figure")  # by matplotlib, which this floor must not import: the caller says how
BY_CLASS = ("mask", "figure")  # one file for each class
LISTS = {"labelmap": "classes.json", "overlay": "colours.json", "yolo": "classes.txt"}  # what numbers and colours mean
# Okabe and Ito's palette, which the colour-blind can tell apart
COLOURS = ("0072b2", "e69f00", "009e73", "cc79a7", "56b4e9", "d55e00", "f0e442")
MOST_ON_A_SHEET = 500  # images
LONGEST_NAME = 120  # bytes of a file's name without its ending: file systems take 255, a temporary name is longer
_WINDOWS_KEEPS = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


@dataclass(frozen=True)
class Output:
    """What is written where.

    `path` is a file or a folder. `images` has each image's path below the folder that all share, `names` the same as
    the name of a result, without an ending: no two are equal, and none leaves the folder.
    """

    path: Path
    is_folder: bool
    format: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def collected(self) -> Path:
        """The one file of all images, for the formats that have one."""
        return self.path / COLLECTED[self.format] if self.is_folder else self.path

    @property
    def companion(self) -> Path | None:
        """The file beside: what numbers or colours mean (`labelmap`, `overlay`, `yolo`), or COCO's plain results."""
        if self.format == "coco":
            return self.collected.with_suffix(".results.json")
        if self.format not in LISTS or (self.format == "overlay" and len(self.classes) == 1):
            return None
        name = LISTS[self.format]
        if self.is_folder:
            return self.path / name
        return self.path.with_name(name) if self.format == "yolo" else self.path.with_suffix(f".{name}")

    def files(self, number: int) -> list[Path]:
        """The files of one image, in the order of the classes where each class has its own."""
        if self.format in COLLECTED:
            return [self.collected]
        if not self.is_folder:
            return [self.path]
        name = self.names[number] + FORMATS[self.format][0]
        if self.format in BY_CLASS and len(self.classes) > 1:
            return [self.path / folder / name for folder in _unlike([safe_name(c) for c in self.classes])]
        return [self.path / name]

    def class_list(self) -> bytes:
        """The text of `classes.txt` (a name a line), `classes.json` (number → name), `colours.json` (name → colour)."""
        if self.format == "yolo":
            return "".join(f"{' '.join(name.split())}\n" for name in self.classes).encode()
        if self.format == "labelmap":
            listed = {str(number): name for number, name in enumerate(("background", *self.classes))}
        else:
            colours = class_colours(len(self.classes))[1:]
            listed = {name: f"#{bytes(colour).hex()}" for name, colour in zip(self.classes, colours, strict=True)}
        return json.dumps(listed, indent=2, ensure_ascii=False).encode() + b"\n"


def class_colours(n: int) -> np.ndarray:
    """[n + 1, 3] uint8 RGB: black for the background, then a colour for each class."""
    known = [tuple(bytes.fromhex(colour)) for colour in COLOURS[:n]]
    hues = [(0.11 + 0.618 * i) % 1 for i in range(n - len(known))]  # the golden ratio spreads any number of hues
    more = [[round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.75, 0.95)] for hue in hues]
    return np.array([(0, 0, 0), *known, *more], np.uint8)


def plan_output(
    path: str | Path,
    format: str | None,
    sources: Sequence[str],
    classes: Sequence[str],
    drawn: bool = False,
    inputs: Sequence[str | Path] = (),
) -> Output:
    """Decide what to write where. Nothing is written yet.

    A name with an ending is a file, any other a folder, as is one that ends with a slash. Without `format`, the ending
    decides: `.png` is a mask (a label map for several classes), `.jpg` an overlay, `.json` COCO; a folder gets masks.
    In a folder every image keeps its name, and its subfolder below the folder that all images share. Names that would
    be equal keep their old ending as well (`x.jpg.png`) or are numbered (`x-2.png`). Several classes get a folder each
    where a format has one file for each class.

    Args:
        path: a file or a folder, which need not exist.
        format: one of `FORMATS`, or None.
        sources: the names of the images, usually their files.
        classes: what is looked for.
        drawn: whether the caller can draw, which `sheet` and `figure` need.
        inputs: other files that must not be overwritten, such as annotations.

    Raises:
        LlafsError: it cannot be done; the message says what can.
    """
    if not isinstance(path, str | os.PathLike):
        raise LlafsError(
            f"a result is written to a file such as mask.png or a folder such as masks/, not to {told(path)}."
        )
    text, sources, classes = os.fspath(path), [str(source) for source in sources], tuple(classes)
    if not text.strip() or "\0" in text:
        raise LlafsError(f"{text!r} is no name for a result: name a file such as mask.png, or a folder such as masks/.")
    path = Path(os.path.expanduser(text))
    is_folder = text.endswith(("/", os.sep)) or not path.suffix or os.path.isdir(path)
    format = _format(path, is_folder, format, len(classes))
    if format in DRAWN and not drawn:
        raise LlafsError(f"format {format!r} is drawn by `llafs segment --format {format}`; here, choose overlay.")
    if not is_folder:
        _check_file(path, format, len(sources), len(classes))
    if format == "sheet" and len(sources) > MOST_ON_A_SHEET:
        raise LlafsError(
            f"{len(sources):,} images do not fit onto one sheet of at most {MOST_ON_A_SHEET}: choose fewer images, or "
            "format overlay and a folder."
        )
    check_folder(path if is_folder else path.parent)
    reserved = [Path(LISTS[format]).stem] if format == "yolo" else []
    files = _below_shared(sources)
    images = tuple("/".join(file) for file in files)
    output = Output(path, is_folder, format, classes, images, _names(files, reserved))
    _check_targets(output, (*inputs, *sources))
    return output


def _format(path: Path, is_folder: bool, given: str | None, n_classes: int) -> str:
    if given is not None:
        if given not in FORMATS:
            raise LlafsError(f"format {unknown(given, FORMATS)}")
        return given
    by_ending = {".json": "coco", ".jpg": "overlay", ".jpeg": "overlay"}
    by_ending[".png"] = "mask" if n_classes == 1 else "labelmap"
    ending = path.suffix.lower()
    if not is_folder and ending not in by_ending:
        hint = "for a .txt, choose format yolo (--format yolo)" if ending == ".txt" else "a folder's name ends with /"
        raise LlafsError(
            f"{path}: a result is not written as {ending}. End the name with .png (mask), .jpg (overlay) or .json "
            f"(COCO); {hint}."
        )
    return "mask" if is_folder else by_ending[ending]


def _check_file(path: Path, format: str, n_images: int, n_classes: int) -> None:
    endings = FORMATS[format]
    if path.suffix.lower() not in endings:
        why = " (JPEG blurs its values)" if format in ("mask", "labelmap") and path.suffix.lower() == ".jpg" else ""
        raise LlafsError(f"{path}: format {format} is written as {' or '.join(endings)}, not {path.suffix}{why}.")
    if format not in COLLECTED and n_images > 1:
        raise LlafsError(
            f"{n_images} images do not fit into the one {format} {path}: name a folder, such as {path.stem}/, or "
            "choose format coco or sheet."
        )
    if format in BY_CLASS and n_classes > 1:
        raise LlafsError(
            f"{n_classes} classes do not fit into the one {format} {path}: name a folder, such as {path.stem}/, or "
            "choose format labelmap or coco."
        )
    if format == "yolo" and path.name == LISTS[format]:
        raise LlafsError(f"{path} is where the names of the classes go: choose another name.")


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, by trying it where the first existing folder above it lies."""
    try:
        there = folder
        while not _is_there(there):
            there = there.parent
        if not there.is_dir():
            raise LlafsError(f"{there} is a file, not a folder: choose another place for the result.")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise LlafsError(
            f"{told(str(folder))} cannot be written to ({error.strerror}): choose another folder."
        ) from error


def _is_there(path: Path) -> bool:
    """Whether anything is, be it a dead link. Raises: OSError, nothing can be, for instance as the name is too long."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _check_targets(output: Output, inputs: Sequence[str | Path]) -> None:
    """Refuse to write over an input, onto a folder, or beside results with other classes."""
    kept = {found: text for text in inputs if (found := _identity(text))}
    listed = output.companion
    files = {target: None for number in range(len(output.names)) for target in output.files(number)}
    targets = (*files, *([listed] if listed else []))
    for folder in {target.parent for target in targets}:
        check_folder(folder)
    for target in targets:
        try:
            _is_there(partial_of(target))
        except OSError as error:
            raise LlafsError(
                f"{told(str(target))} cannot be written ({error.strerror}): choose another name."
            ) from error
        found = _identity(target)
        if found in kept:
            raise LlafsError(f"{target} would overwrite the input {kept[found]}: choose another name or folder.")
        if found and not target.is_file():
            kind = "a folder" if target.is_dir() else "a pipe or a device"
            raise LlafsError(f"{target} is {kind}, where a file is to be written: choose another name.")
    if output.format in ("labelmap", "yolo") and listed.is_file() and listed.read_bytes() != output.class_list():
        raise LlafsError(
            f"{listed} lists other classes, so the numbers of the results beside it mean something else: choose "
            "another folder, or delete the file."
        )


def _identity(path: str | Path) -> tuple[int, int] | None:
    """What is the same for two names of one file; None where there is none."""
    try:
        state = os.stat(path)
        return state.st_dev, state.st_ino
    except (OSError, ValueError):
        return None


# --- names -----------------------------------------------------------------------------------------------------------


def safe_name(text: str) -> str:
    """A text as the name of a file or folder on any system: `a/b: "c"?` → `a_b_ _c__`; never empty, `.` or `..`."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())  # names on Linux may be no UTF-8
    text = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", text).strip().rstrip(". ")
    text = text.encode()[:LONGEST_NAME].decode("utf-8", "ignore").rstrip(". ")
    if not text or text.startswith(".") or text.split(".")[0].casefold() in _WINDOWS_KEEPS:
        return f"_{text}"
    return text


def _names(files: Sequence[Sequence[str]], reserved: Sequence[str] = ()) -> tuple[str, ...]:
    """A name without an ending for each image, from the parts of its path; no two are equal."""
    stems = ["/".join(safe_name(part) for part in (*file[:-1], Path(file[-1]).stem)) for file in files]
    times = Counter(name.casefold() for name in (*reserved, *stems))
    with_ending = ["/".join(safe_name(part) for part in file) for file in files]
    chosen = [s if times[s.casefold()] == 1 else full for s, full in zip(stems, with_ending, strict=True)]
    return tuple(_unlike(chosen, reserved))


def _below_shared(sources: Sequence[str]) -> list[tuple[str, ...]]:
    """The parts of each path below the deepest folder that holds all of them."""
    whole = [os.path.abspath(source.replace("\0", "_")) for source in sources]
    try:
        shared = os.path.commonpath([os.path.dirname(path) for path in whole])
        return [Path(os.path.relpath(path, shared)).parts or ("image",) for path in whole]
    except ValueError:  # different drives of Windows
        return [(Path(path).name,) for path in whole]


def _unlike(names: Sequence[str], reserved: Sequence[str] = ()) -> list[str]:
    """The names; one that is taken, also in other case, gets a number: `x`, `X-2`."""
    taken, unlike = {name.casefold() for name in reserved}, []
    for name in names:
        free, number = name, 1
        while free.casefold() in taken:
            number += 1
            free = f"{name}-{number}"
        taken.add(free.casefold())
        unlike.append(free)
    return unlike
