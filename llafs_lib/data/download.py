"""Download files of many gigabytes; connections break, and servers lie. `unpacking.py` unpacks them.

The bytes of `name` are collected in `name.part` beside it. After an interruption the next run asks the server only for
the bytes that are missing. A file gets its final name when its size and its hash are right, so a file under its final
name can be trusted. `official.py` lists the official archives.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from llafs_lib.data.official import Archive
from llafs_lib.data.unpacking import unpack
from llafs_lib.errors import LlafsError, writing_to
from llafs_lib.progress import bar, track

MIRROR = "--mirror (PASCAL: --voc-mirror, --sbd-mirror)"  # the option that names another server
RETRIES = 5  # a download is given up after this many retries in a row that brought no new bytes, or fewer than RATE
BACKOFF = 0.5  # s between two tries; each failure in a row doubles the wait
TIMEOUT = httpx.Timeout(30.0, connect=15.0)  # s without a single byte; s until the server answers a connection
RATE, SPAN = 1_000, 30.0  # bytes/s; s over which a body must keep that rate, or the try has failed
UNSTATED = 2**26  # bytes, the most that a file may have whose size is not published
BLOCK = 2**20  # bytes


class _TryAgain(Exception):
    """A failure that may be over in a moment."""


@dataclass(frozen=True)
class Remote:
    """A file to download.

    Args:
        url: where it is.
        path: where it goes.
        size: its published size in bytes: no more are stored. Without one, at most `UNSTATED`.
        digest: its published hash, `"md5:…"` or `"sha256:…"`. Only a file with a hash is resumed.
        check: looks at the downloaded file and raises `ValueError` with what is wrong with it.
    """

    url: str
    path: Path
    size: int | None = None
    digest: str | None = None
    check: Callable[[Path], None] | None = None

    @property
    def part(self) -> Path:
        """The file that collects the bytes until all are there."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def have(self) -> int:
        """How many bytes of the file are on disk: all if the file has its final name, else those of the part."""
        return next((path.stat().st_size for path in (self.path, self.part) if path.is_file()), 0)


# ------------------------------------------------------------------------------------------ archives


def complete(archives: Iterable[Archive], folder: Path, keep_archives: bool = False) -> bool:
    """Download and unpack what `folder` lacks; files that were unpacked by hand are recognised.

    Returns: whether anything was missing.

    Raises:
        LlafsError: too little space, or an archive that could not be downloaded or unpacked. Another run continues.
    """
    todo = [archive for archive in archives if archive.lacking(folder)]
    remotes = [Remote(a.url, folder / Path(a.name).name, a.size, a.digest) for a in todo]
    for remote in remotes:
        if not remote.path.is_file():
            begun = f", {gigabytes(remote.have)} of it are already here" if remote.have else ""
            print(f"to download: {remote.url}, {gigabytes(remote.size)}{begun}", flush=True)
    if todo:  # unpacked images need about as much space as their archive
        sizes = [archive.size for archive in todo]
        room = sum(sizes) + (sum(sizes) if keep_archives else max(sizes)) - sum(remote.have for remote in remotes)
        require_space(folder, room, "the download together with what is unpacked from it")
    for archive, remote in zip(todo, remotes, strict=True):
        with connect() as client, bar(remote.size, remote.path.name, "B", done=remote.have) as shown:
            fetch(remote, client, shown.update)
        unpack(remote.path, folder, archive.wants)
        if lacking := archive.lacking(folder):
            raise LlafsError(
                f"{remote.path} is unpacked, but {folder} still lacks {', '.join(lacking)}. Delete the archive and run "
                f"again; if the same happens, name another server with {MIRROR}."
            )
        if not keep_archives:
            remote.path.unlink()
    return bool(todo)


# --------------------------------------------------------------------------------------------- files


def connect() -> httpx.Client:
    """A client for `fetch`; several threads may share it."""
    return httpx.Client(timeout=TIMEOUT, follow_redirects=True, headers={"Accept-Encoding": "identity"})


def fetch_all(remotes: Sequence[Remote], desc: str, workers: int = 8) -> None:
    """Download many small files, `workers` at a time.

    Raises:
        LlafsError: the first file that could not be downloaded; what has arrived is kept.
    """
    with connect() as client, ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(fetch, remote, client) for remote in remotes]
        try:
            for job in track(jobs, desc, "file"):
                job.result()
        finally:  # after an error or Ctrl-C no further file is begun
            pool.shutdown(cancel_futures=True)


def fetch(remote: Remote, client: httpx.Client, moved: Callable[[int], object] = lambda n_bytes: None) -> None:
    """Download one file, unless it is there and right.

    Args:
        moved: is told how many bytes came; a negative number if bytes that an earlier run left had to be dropped.

    Raises:
        LlafsError: no connection, a refusal, another file than the expected one, or no space.
    """
    if remote.path.is_file() and _problem(remote, remote.path) is None:
        return
    with writing_to(remote.path):
        remote.path.parent.mkdir(parents=True, exist_ok=True)
        if problem := _try_until_whole(remote, client, moved) or _problem(remote, remote.part):
            remote.part.unlink()  # else each later run would continue from it
            raise _unexpected(remote, problem)
        remote.part.replace(remote.path)  # `replacing` would delete the part of a download that was cut off


def _try_until_whole(remote: Remote, client: httpx.Client, moved: Callable[[int], object]) -> str | None:
    """Ask for the file until all its bytes are in the part; returns what is wrong with them, if that shows already.

    Only tries in a row that bring less than `RATE`, waits included, are counted: one byte is no progress.
    """
    failures, most, begun = 0, _size(remote.part), time.monotonic()
    while True:
        try:
            return _try(remote, client, moved)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise LlafsError(
                f"{remote.url} is not a usable address ({error}). Check the address given as mirror, if any."
            ) from error
        except (_TryAgain, httpx.TransportError) as error:
            have, now = _size(remote.part), time.monotonic()
            failures = 0 if have - most > RATE * (now - begun) else failures + 1
            most, begun = max(have, most), now
            if failures > RETRIES:
                reason = str(error) or type(error).__name__
                raise LlafsError(
                    f"{remote.url} could not be downloaded ({reason}). Check the connection and run again: the "
                    f"download continues where it stopped. If the server stays silent, name another one with {MIRROR}."
                ) from error
        time.sleep(BACKOFF * 2**failures)


def _try(remote: Remote, client: httpx.Client, moved: Callable[[int], object]) -> str | None:
    """Ask once for the bytes that are missing, and append them to the part; returns what is wrong with them."""
    have, most = _size(remote.part) if remote.digest else 0, remote.size or UNSTATED
    if have and have == remote.size:
        return None  # the last run was cut off between the last byte and the renaming
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", remote.url, headers=headers) as response:
        start = _first_byte(response, remote, have)
        ends = _ends(response, remote, start)
        moved(start - have)
        with open(remote.part, "ab" if start else "wb") as file:
            for block in _steady(response.iter_raw()):
                if file.tell() + len(block) > most:
                    return f"has more than {most:,} bytes"
                file.write(block)
                file.flush()  # a kill loses no byte that has arrived
                moved(len(block))
            if not ends and file.tell() < (remote.size or 0):
                raise _TryAgain(f"the server stopped after {file.tell():,} of {remote.size:,} bytes")
    return None


def _ends(response: httpx.Response, remote: Remote, start: int) -> bool:
    """Whether the server says where the body ends, so that httpx reports one that was cut off.

    Raises:
        LlafsError: it announces another size than the published one, or nothing would tell a part from the whole.
    """
    if "chunked" in response.headers.get("Transfer-Encoding", "").lower():
        return True
    if length := response.headers.get("Content-Length"):
        if remote.size not in (None, start + int(length)):
            raise _unexpected(remote, f"has {start + int(length):,} bytes instead of {remote.size:,}")
        return True
    if not (remote.size or remote.digest):
        raise LlafsError(
            f"the server of {remote.url} does not say where the file ends, so a cut would pass unnoticed. Name another "
            f"server with {MIRROR}."
        )
    return False


def _steady(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same blocks, as long as each `SPAN` of seconds brings `RATE` bytes per second."""
    begun, came = time.monotonic(), 0
    for block in blocks:
        yield block
        came, lasted = came + len(block), time.monotonic() - begun
        if lasted > SPAN:
            if came < RATE * lasted:
                raise _TryAgain(f"it sent {came:,} bytes in {lasted:.0f} s, less than {RATE:,} bytes per second")
            begun, came = time.monotonic(), 0


def _first_byte(response: httpx.Response, remote: Remote, have: int) -> int:
    """The position in the file of the first byte that the server sends: `have`, or 0 if it sends the whole file."""
    code, status = response.status_code, f"{response.status_code} {response.reason_phrase}".strip()
    if code == 200:
        return 0
    if code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return have
    if code in (206, 416):
        remote.part.unlink(missing_ok=True)
        raise _TryAgain("the server sent other bytes than those asked for")
    if code in (408, 429) or code >= 500:
        raise _TryAgain(f"the server answered {status}")
    raise LlafsError(f"{remote.url} answered {status}. Check the address, or name another server with {MIRROR}.")


def _unexpected(remote: Remote, problem: str) -> LlafsError:
    return LlafsError(
        f"{remote.url} is not the expected file: it {problem}. Run again, or name another server with {MIRROR}."
    )


def _problem(remote: Remote, path: Path) -> str | None:
    """What is wrong with a file that has arrived, as the end of a sentence."""
    size = path.stat().st_size
    if remote.size not in (None, size):
        return f"has {size:,} bytes instead of {remote.size:,}"
    if remote.digest and not _has_digest(path, size, remote.digest):
        return f"has another hash than the published one, {remote.digest}"
    try:
        return remote.check(path) if remote.check else None
    except ValueError as error:
        return str(error)


def _has_digest(path: Path, size: int, digest: str) -> bool:
    algorithm, published = digest.split(":")
    found = hashlib.new(algorithm)
    with open(path, "rb") as file:
        for _ in track(range(0, size, BLOCK), f"checking {path.name}", "MB"):
            found.update(file.read(BLOCK))
    return found.hexdigest() == published


# ---------------------------------------------------------------------------------------------- disk


def gigabytes(n_bytes: int) -> str:
    """A size in words: `13.5 GB`, `253 MB`."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def require_space(folder: Path, n_bytes: int, what: str) -> None:
    """Check that `n_bytes` are free on the disk of `folder`, which need not exist yet.

    Raises:
        LlafsError: they are not.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise LlafsError(
            f"{what} needs {gigabytes(n_bytes)}, but only {gigabytes(free)} are free at {folder}. Free "
            f"{gigabytes(n_bytes - free)} more or choose another folder, then run again. What is there is kept."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
