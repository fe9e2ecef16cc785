"""One process at a time changes a folder; the others wait, or say who holds it. Reading needs no lock.

runs/toy/fold0/.lock       locked while the folder is changed; the system lets go when its process ends, however
runs/toy/fold0/.holder     who holds it, for the message
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from llafs_lib.errors import LlafsError, writing_to


@contextlib.contextmanager
def held(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes, and other threads, from changing `folder`, which is made if it is not there.

    Args:
        wait: until whoever holds it is done; after a second, a line says who that is. Else it is an error.

    Raises:
        LlafsError: somebody else holds it, or it cannot be written.
    """
    holder = folder / ".holder"
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=1 if wait else 0)
        except Timeout:
            said = f"{folder} is in use by {_read(holder)}"
            if not wait:
                raise LlafsError(f"{said}: wait until that has ended, or choose another folder (--runs).") from None
            print(f"{said}: waiting until that has ended", file=sys.stderr, flush=True)
            lock.acquire()
    try:
        with writing_to(folder):
            holder.write_text(_facts(), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()


def _facts() -> str:
    name = Path(sys.argv[0]).name.replace("__main__.py", "llafs")
    command = shlex.join([name, *sys.argv[1:]])[:120].encode("utf-8", "backslashreplace").decode()
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"`{command}` (process {os.getpid()} on {platform.node()}, since {since})"


def _read(holder: Path) -> str:
    try:
        return " ".join(holder.read_text(encoding="utf-8").split())[:300] or "another process"
    except (OSError, ValueError):  # it has just begun, or just ended
        return "another process"
