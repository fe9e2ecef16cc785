"""Names of image files: what may be read, what a folder or a pattern stands for, how a message names it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from llafs_lib.data.formats import SUFFIXES
from llafs_lib.errors import LlafsError, told


def find_images(what: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    """Image files, one after the other, each once.

    Args:
        what: a file, a folder, a pattern such as `photos/**/*.jpg`, or several of these in their order. A folder stands
            for the images right in it, without hidden ones; those of a folder or a pattern come sorted by name. Other
            files than images are left out, unless they are named themselves. An endless iterator is taken, too.

    Raises:
        LlafsError: nothing is there, or no image is. It is raised by the call itself, unless `what` is an iterator: its
            entries are looked at as they come.
    """
    several = [what] if isinstance(what, str | os.PathLike) else what
    if not isinstance(several, Iterable) or isinstance(several, bytes):
        raise LlafsError(f"images are named by a file, a folder or a pattern, not by {told(what)}.")
    if isinstance(several, list | tuple):
        if not several:
            raise LlafsError("no image is named: give files, folders or patterns.")
        for one in several:
            next(_images_of(one))
    return _each_once(several)


def _each_once(several: Iterable[str | Path]) -> Iterator[Path]:
    seen = set()
    for one in several:
        for path in _images_of(one):
            if (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                yield path


def _images_of(one: str | Path) -> Iterator[Path]:
    """The images that a file, a folder or a pattern stands for."""
    if not isinstance(one, str | os.PathLike):
        raise LlafsError(f"an image is named by a path, not by {told(one)}.")
    name = os.fsdecode(one)
    if _is_pattern(name):
        found, where = sorted(glob.iglob(name, recursive=True)), f"nothing that fits {shown(name)} is an image"
    elif os.path.isdir(name):
        found, where = _listed(name), f"there is no image in the folder {shown(name)}"
    else:
        yield plain_file(name)
        return
    images = [path for path in found if Path(path).suffix.lower() in SUFFIXES and os.path.isfile(path)]
    if not images:
        raise LlafsError(f'{where}: name the images themselves, or use a pattern such as "photos/**/*.jpg".')
    yield from map(Path, images)


def _is_pattern(name: str) -> bool:
    """A file may be called "photo[1].jpg"."""
    try:
        return glob.has_magic(name) and not os.path.lexists(name)
    except ValueError:  # a zero byte; `plain_file` says so
        return False


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.path.join(folder, name) for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise LlafsError(f"the folder {shown(folder)} cannot be read: correct its permissions.") from error


def shown(path: str | Path) -> str:
    """A file's name for a message: on one line, printable, of at most 120 characters."""
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else repr(path)
    name = os.fsdecode(name).encode("utf-8", "backslashreplace").decode()
    name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return name if len(name) <= 120 else f"{name[:50]}…{name[-69:]}"


def path_of(value: str | Path, name: str) -> Path:
    """The path that a caller gave as the argument `name`; `~` is the home folder.

    Raises:
        LlafsError: no path, an empty one, an address, or a name that no file can have.
    """
    if not isinstance(value, str | os.PathLike) or not os.fsdecode(value).strip():
        raise LlafsError(f"{name}={told(value)} is no path: give the name of a file or folder.")
    if "://" in os.fsdecode(value)[:12]:
        raise LlafsError(f"{name}: {shown(value)} is an address. Download it first, and give the file.")
    if "\0" in os.fsdecode(value):
        raise LlafsError(f"{name}: {shown(value)} holds a zero byte, so it names no file. Correct the name.")
    try:
        return Path(value).expanduser()
    except RuntimeError:  # "~nobody/a.json"
        return Path(value)


def plain_file(path: str | Path) -> Path:
    """The path of a file that can be read to its end.

    Raises:
        LlafsError: a URL, nothing there, a folder, a pipe or a device, or a file that may not be read.
    """
    if "://" in str(path)[:12]:
        raise LlafsError(f"{shown(path)} is an address: download the image first, and give the file.")
    path = Path(os.fsdecode(path))
    try:
        if path.is_file():
            if not path.stat().st_size:
                raise LlafsError(f"{shown(path)} is not a readable image: it is empty. Replace or download it again.")
            path.open("rb").close()
            return path
        if path.is_dir():
            raise LlafsError(f"{shown(path)} is a folder: name an image in it.")
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise LlafsError(f"{shown(path)} does not exist: correct the path, or download the image again.") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = (getattr(error, "strerror", None) or "no possible file name").lower()
        raise LlafsError(f"{shown(path)} cannot be read ({reason}): correct its name or permissions.") from error
    raise LlafsError(f"{shown(path)} is a pipe, a device or a dead link: give a plain image file.")
