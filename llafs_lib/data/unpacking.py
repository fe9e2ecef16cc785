"""Unpack archives, which may be damaged or unsafe."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import IO

from llafs_lib.artifacts import replacing
from llafs_lib.errors import LlafsError
from llafs_lib.progress import track

DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)


def unpack(archive: Path, folder: Path, wants: Callable[[str], bool] = lambda member: True) -> None:
    """Unpack the wanted files of a zip or tar archive into `folder`. Files that are there already are left alone.

    Each file appears when it is whole. Nothing is written outside `folder`: a name that leads out of it, a link and a
    device are refused. In a zip all names are checked before the first file is written.

    Raises:
        LlafsError: the archive is damaged or unsafe, or there is no space.
    """
    members = _zip_members if archive.suffix == ".zip" else _tar_members
    try:
        for name, size, source in members(archive, wants):
            target = folder / name
            if target.is_file() and target.stat().st_size == size:
                continue
            with replacing(target) as partial, open(partial, "wb") as file:
                shutil.copyfileobj(source, file, 2**20)
    except DAMAGED as error:
        reason = str(error).partition(":\n")[0] or type(error).__name__  # tarfile lists every format that it tried
        raise LlafsError(
            f"{archive} is damaged ({reason}). Delete it and run again; what was unpacked is kept."
        ) from error


def _zip_members(archive: Path, wants: Callable[[str], bool]) -> Iterator[tuple[Path, int, IO[bytes]]]:
    """Path below the folder, size in bytes and content of each wanted file."""
    with zipfile.ZipFile(archive) as file:
        wanted = [m for m in file.infolist() if not m.is_dir() and wants(m.filename)]
        names = [_safe(archive, m.filename, stat.S_IFMT(m.external_attr >> 16) in (0, stat.S_IFREG)) for m in wanted]
        for name, member in zip(names, track(wanted, f"unpacking {archive.name}", "file"), strict=True):
            with file.open(member) as source:
                yield name, member.file_size, source


def _tar_members(archive: Path, wants: Callable[[str], bool]) -> Iterator[tuple[Path, int, IO[bytes]]]:
    """Path below the folder, size in bytes and content of each wanted file."""
    with tarfile.open(archive) as file:
        for member in track(file, f"unpacking {archive.name}", "file"):
            if not member.isdir() and wants(member.name):
                yield _safe(archive, member.name, member.isreg()), member.size, file.extractfile(member)


def _safe(archive: Path, name: str, is_file: bool = True) -> Path:
    """The relative path that a member's name means, on any system.

    Raises:
        LlafsError: it leads out of the folder, or the member is no plain file. (The "data" filter of `tarfile` is
            not used, because `zipfile` has none.)
    """
    path = PureWindowsPath(name)  # understands / and \, drives and network paths
    if path.anchor or ".." in path.parts or not path.name or not is_file:
        raise LlafsError(
            f"{archive} holds {name!r}, which would lead out of the folder or is no plain file, so it is not the "
            "official archive. Delete it and download it from another server."
        )
    return Path(*path.parts)
