"""Download files that may take hours and be cut off at any moment; every failure says what to do next.

The bytes of `name` go to `name.part` beside it, and a second run asks the server for the rest only. A file takes its
final name when it is whole and right, so what bears its final name can be trusted. `official.py` knows the addresses.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tqdm.auto import tqdm

from llafs_lib.data.labels import DataError
from llafs_lib.progress import SECONDS_BETWEEN_LINES, track

MAGIC = {".zip": b"PK", ".tgz": b"\x1f\x8b", ".gz": b"\x1f\x8b", ".jpg": b"\xff\xd8\xff"}  # how such a file begins
BLOCK = 2**20  # bytes
HEADWAY = 2**20  # bytes; a try that brought this much does not count as a failed one


class DownloadError(DataError):
    """A file that could not be fetched, stored or unpacked; the message says what to do next."""


class _TryAgain(Exception):
    """A failure that may be over in a moment."""


class _Stopped(Exception):
    """Another thread asked this one to end."""


@dataclass(frozen=True)
class Remote:
    """A file to fetch: from where, to where, and how to tell that it is right.

    Args:
        size: its published size in bytes.
        digest: its published hash, `"md5:…"` or `"sha256:…"`.
        check: looks at the fetched file and raises `ValueError` with what is wrong with it.
    """

    url: str
    path: Path
    size: int | None = None
    digest: str | None = None
    check: Callable[[Path], None] | None = None

    @property
    def part(self) -> Path:
        """Where the bytes lie until they are all there."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def have(self) -> int:
        """How many bytes lie in `part`."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def is_there(self) -> bool:
        """Is the whole, right file on disk?"""
        return self.path.is_file() and _problem(self, self.path) is None


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server: tries in a row that brought nothing, and seconds."""

    retries: int = 5
    backoff: float = 1.0  # before the first retry; doubles each time
    connect: float = 15.0
    read: float = 30.0  # without a single byte


class Meter:
    """What `progress.track` is to a loop, for amounts that several threads add to: bytes (unit `B`) or files."""

    def __init__(self, desc: str, unit: str, total: int, done: int = 0):
        style, scale = os.environ.get("LLAFS_PROGRESS", "bar"), unit == "B"
        self._show = gigabytes if scale else str
        self._bar = tqdm(desc=desc, unit=unit, total=total, initial=done, unit_scale=scale, disable=style != "bar")
        self._desc, self._total, self._done, self._lines = desc, total, done, style == "lines"
        self._last, self._lock = time.monotonic(), threading.Lock()

    def add(self, amount: int) -> None:
        with self._lock:
            self._bar.update(amount)
            self._done += amount
            if self._lines and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
                self._last = time.monotonic()
                print(f"{self._desc}: {self._show(self._done)} of {self._show(self._total)}", flush=True)

    def close(self) -> None:
        self._bar.close()


# ---------------------------------------------------------------------------------------- many files


def fetch(remotes: Sequence[Remote], desc: str, *, workers: int = 1, patience: Patience | None = None) -> None:
    """Fetch every file that is not there yet, `workers` at a time; what an earlier run began is gone on with.

    Raises:
        DownloadError: some could not be fetched; the others were. After a long run of nothing but failures the rest is
            not tried.
    """
    patience = patience or Patience()
    missing = [remote for remote in remotes if not remote.is_there()]
    if not missing:
        return
    if all(remote.size for remote in missing):
        meter = Meter(desc, "B", sum(r.size for r in missing), sum(r.have for r in missing))
        moved, finished = meter.add, lambda: None
    else:
        meter = Meter(desc, "file", len(missing))
        moved, finished = (lambda n_bytes: None), lambda: meter.add(1)
    timeout = httpx.Timeout(patience.read, connect=patience.connect)
    try:
        with httpx.Client(timeout=timeout, follow_redirects=True) as client:
            transfers = [_Transfer(remote, client, patience, moved, threading.Event()) for remote in missing]
            failures = _run_all(transfers, workers, finished)
    finally:
        meter.close()
    if failures:
        raise _summary(failures, len(missing))


def _run_all(transfers: list[_Transfer], workers: int, finished: Callable[[], None]) -> dict[Path, DownloadError]:
    failures: dict[Path, DownloadError] = {}
    in_a_row = 0
    with ThreadPoolExecutor(min(workers, len(transfers))) as pool:
        jobs = {pool.submit(transfer.run): transfer.remote.path for transfer in transfers}
        try:
            for job in as_completed(jobs):
                try:
                    job.result()
                    in_a_row = 0
                    finished()
                except DownloadError as error:
                    failures[jobs[job]] = error
                    in_a_row += 1
                if in_a_row > 2 * workers:  # a dead server or a full disk: each of 400 files would wait in vain
                    break
        finally:  # on Ctrl-C, too
            for transfer in transfers:
                transfer.stop.set()
            pool.shutdown(cancel_futures=True)
    return failures


def _summary(failures: dict[Path, DownloadError], n_files: int) -> DownloadError:
    paths = sorted(failures)
    if n_files == 1:
        return failures[paths[0]]
    names = ", ".join(path.name for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    return DownloadError(
        f"{len(paths)} of {n_files} files could not be downloaded: {names}. The first: {failures[paths[0]]} "
        "What is there is kept; running again fetches the rest."
    )


# ------------------------------------------------------------------------------------------ one file


@dataclass
class _Transfer:
    """One file on its way."""

    remote: Remote
    client: httpx.Client
    patience: Patience
    moved: Callable[[int], None]  # told of bytes that came, and of bytes that had to be thrown away
    stop: threading.Event

    @property
    def note(self) -> Path:
        """Where the bytes of the part came from: address and ETag, a line each."""
        return self.remote.part.with_name(f"{self.remote.part.name}.from")

    def run(self) -> None:
        remote = self.remote
        with writing(remote.path):
            remote.path.parent.mkdir(parents=True, exist_ok=True)
            self._try_until_whole()
            if problem := _problem(remote, remote.part):
                raise self._wrong(problem)
            os.replace(remote.part, remote.path)
            self.note.unlink(missing_ok=True)

    def _try_until_whole(self) -> None:
        failures, most = 0, self.remote.have
        while not self.stop.is_set():
            try:
                return self._try()
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                raise DownloadError(f"{self.remote.url} is not a usable address ({error}); check --mirror.") from error
            except (_TryAgain, httpx.TransportError) as error:
                failures = 0 if self.remote.have >= most + HEADWAY else failures + 1
                most = max(most, self.remote.have)
                if failures > self.patience.retries:
                    raise DownloadError(
                        f"{self.remote.url} could not be downloaded ({self._reason(error)}). Check the connection and "
                        "run again: it goes on where it stopped. If the server stays silent, try --mirror."
                    ) from error
            self.stop.wait(self.patience.backoff * 2 ** max(failures - 1, 0))
        raise _Stopped

    def _reason(self, error: Exception) -> str:
        if isinstance(error, httpx.ReadTimeout):
            return f"nothing came for {self.patience.read:g} s"
        if isinstance(error, httpx.TimeoutException):
            return f"no connection within {self.patience.connect:g} s"
        return str(error) or type(error).__name__

    def _try(self) -> None:
        headers = {"Accept-Encoding": "identity", **self._range_headers()}
        have = self.remote.have
        if have and have == self.remote.size:
            return  # an earlier run was cut off between the last byte and the renaming
        with self.client.stream("GET", self.remote.url, headers=headers) as response:
            if response.status_code == 416 and _content_range(response) == (None, have):
                return  # nothing lies behind what we have
            start = self._start(response, have)
            total = _total(response, start)
            if self.remote.size is not None and total not in (None, self.remote.size):
                page = " (it is a web page)" if "text/html" in response.headers.get("Content-Type", "") else ""
                raise self._wrong(f"has {total} bytes{page} instead of {self.remote.size}")
            require_space(self.remote.path.parent, (total or 0) - start, self.remote.path.name)
            if start == 0:
                self._discard()
                self._remember(response)
            self._receive(response, start)
        if total is not None and self.remote.have < total:
            raise _TryAgain(f"the connection ended after {self.remote.have} of {total} bytes")

    def _range_headers(self) -> dict[str, str]:
        """Ask for the rest of what is there, unless it is of another file."""
        remote = self.remote
        text = self.note.read_text(encoding="utf-8") if self.note.is_file() else ""
        url, validator = (*text.split("\n"), "")[:2]
        foreign = url != remote.url and not remote.digest  # with a hash, the bytes of another mirror will do
        if remote.have and (foreign or remote.have > (remote.size or remote.have)):
            self._discard()
        if not remote.have:
            return {}
        condition = {"If-Range": validator} if validator and url == remote.url else {}
        return {"Range": f"bytes={remote.have}-", **condition}

    def _start(self, response: httpx.Response, have: int) -> int:
        """Which byte of the file the body begins with: `have`, or 0 if the server sends all of it."""
        code, status = response.status_code, f"{response.status_code} {response.reason_phrase}".strip()
        if code == 200:
            return 0
        if code == 206 and _content_range(response)[0] == have:
            return have
        if code in (206, 416):
            self._discard()
            raise _TryAgain("the server sent another range of bytes than was asked for")
        if code in (408, 429) or code >= 500:
            raise _TryAgain(f"the server answered {status}")
        raise DownloadError(
            f"{self.remote.url} answered {status}. Check the address, or name another server with --mirror."
        )

    def _remember(self, response: httpx.Response) -> None:
        tag = response.headers.get("ETag", "")
        weak = not tag or tag.startswith("W/")  # If-Range compares strictly (RFC 9110, 13.1.5)
        validator = response.headers.get("Last-Modified", "") if weak else tag
        self.note.write_text(f"{self.remote.url}\n{validator}\n", encoding="utf-8")

    def _receive(self, response: httpx.Response, start: int) -> None:
        with open(self.remote.part, "ab" if start else "wb") as file:
            for block in response.iter_raw():
                if self.stop.is_set():
                    raise _Stopped
                file.write(block)
                file.flush()  # a kill costs no byte that has arrived
                self.moved(len(block))

    def _wrong(self, problem: str) -> DownloadError:
        self._discard()  # or every later try would go on from it
        return DownloadError(
            f"{self.remote.url} is not the expected {self.remote.path.name}: it {problem}. Nothing of it was kept; "
            "run again, or name another server with --mirror."
        )

    def _discard(self) -> None:
        self.moved(-self.remote.have)
        self.remote.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _problem(remote: Remote, path: Path) -> str | None:
    """What is wrong with a file that is all there, as the end of a sentence; the cheap questions come first."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page"
    if remote.size not in (None, size):
        return f"has {size} bytes instead of {remote.size}"
    if not head.startswith(MAGIC.get(remote.path.suffix, b"")):
        return f"does not begin as a {remote.path.suffix} file does"
    if remote.digest and not _has_digest(path, size, remote.digest):
        return f"has another hash than was published ({remote.digest})"
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


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole file, from `bytes 100-199/200` or `bytes */200`."""
    found = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    first, total = found.groups() if found else (None, None)
    return (int(first) if first else None), (int(total) if total and total != "*" else None)


def _total(response: httpx.Response, start: int) -> int | None:
    """Size of the whole file, if the server says it."""
    length = response.headers.get("Content-Length", "")
    return _content_range(response)[1] or (start + int(length) if length.isdigit() else None)


# ---------------------------------------------------------------------------------------------- disk


def gigabytes(n_bytes: int) -> str:
    """A size to read: `13.5 GB`, `253 MB`."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def require_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raise `DownloadError` if the disk of `folder`, which need not exist yet, has less than `n_bytes` left."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if n_bytes > free:
        raise DownloadError(
            f"{what} needs {gigabytes(n_bytes)}, but only {gigabytes(free)} are free at {folder}. Free "
            f"{gigabytes(n_bytes - free)} more or choose another folder, then run again; what is there is kept."
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing `path` into a `DownloadError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):  # the disk, or one's share of it
            raise DownloadError(
                f"no space is left for {path}. Free some and run again: it goes on from here."
            ) from error
        raise DownloadError(
            f"{path} cannot be written ({error.strerror or error}). Choose a folder that you may write to."
        ) from error
