"""What can happen to a file or a folder that a run, a cache or a bank left."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


def file_of(path: Path) -> Path:
    """The file itself, or the largest one in a folder."""
    return max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size) if path.is_dir() else path


def half(path: Path) -> None:
    file_of(path).write_bytes(file_of(path).read_bytes()[: file_of(path).stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit of a byte in the middle; of a text, it stays a text."""
    data = bytearray(file_of(path).read_bytes())
    data[len(data) // 2] ^= 1
    file_of(path).write_bytes(data)


def holding(content: bytes) -> Callable[[Path], None]:
    return lambda path: file_of(path).write_bytes(content)


def delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def turn(path: Path) -> None:
    """A folder where a file was, or a file where a folder was."""
    was_folder = path.is_dir()
    delete(path)
    path.write_bytes(b"a file") if was_folder else path.mkdir()


def fill(path: Path) -> None:
    turn(path)
    if path.is_dir():
        (path / "something.txt").write_text("else")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "half": half,
    "empty": holding(b""),
    "flip": flip,
    "garbage": holding(bytes(range(256)) * 8),
    "list": holding(b"[]"),
    "null": holding(b"null"),
    "braces": holding(b"{}"),
    "deep": holding(b"[" * 100_000),
    "deleted": delete,
    "folder": turn,
    "full folder": fill,
}


@contextlib.contextmanager
def restored(*paths: Path) -> Iterator[None]:
    """Put back what stands at some paths now, whatever happens to it meanwhile."""
    kept = [
        {p: p.read_bytes() for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()} for path in paths
    ]
    try:
        yield
    finally:
        for path, files in zip(paths, kept, strict=True):
            if path.exists():
                delete(path)
            for file, content in files.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
