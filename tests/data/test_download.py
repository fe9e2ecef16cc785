"""Downloads against a server that cuts, stalls, lies and changes its mind; archives that want out of their folder."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llafs_lib.data import download, official
from llafs_lib.data.download import DownloadError, Patience, Remote, fetch
from llafs_lib.data.official import unpack

QUICK = Patience(retries=3, backoff=0.001, connect=2, read=2)
BODY = bytes(range(256)) * 200  # 51,200 bytes


class Server(ThreadingHTTPServer):
    """A file server on the loopback with a fault for the next requests of a path.

    Faults, each taken by one request: an int is the status to answer with; `("cut", n)` closes the connection after
    n bytes of the body; `("stall", n)` keeps silent after n bytes, -1 for not even a header.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}  # headers that tell one version of a file from another
        self.faults: dict[str, list] = {}
        self.ranges, self.pause = True, 0.0
        self.seen: list[tuple[str, str | None, str | None]] = []  # path, Range, If-Range
        self.sent: list[list[int]] = []  # sizes of the blocks of each answer
        self.closing = threading.Event()

    @property
    def served(self) -> int:
        """How many bytes of files it has sent."""
        return sum(map(sum, self.sent))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, path = self.server, self.path
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        server.seen.append((path, wanted, condition))
        fault = server.faults[path].pop(0) if server.faults.get(path) else None
        if isinstance(fault, int) or path not in server.files:
            return self._answer(fault or 404, b"no", {})
        body, tags = server.files[path], server.tags.get(path, {})
        headers = {"Content-Type": server.types.get(path, "application/octet-stream"), **tags}
        if not wanted or not server.ranges or (condition and condition not in tags.values()):
            return self._answer(200, body, headers, fault)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return self._answer(206, body[start:], headers, fault)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], fault: tuple[str, int] | None = None):
        kind, most = fault or ("", len(body))
        blocks: list[int] = []
        self.server.sent.append(blocks)
        if most >= 0:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for i in range(0, min(most, len(body)), 16384):
                block = body[i : min(i + 16384, most)]
                blocks.append(len(block) if status in (200, 206) else 0)  # before it arrives
                self.wfile.write(block)
                time.sleep(self.server.pause)
        if kind == "stall":
            self.server.closing.wait(20)
        self.close_connection = bool(kind)


@contextmanager
def serving():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No proxy between the tests and the loopback, no bars."""
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLAFS_PROGRESS", "none")


@pytest.fixture
def remote(server, tmp_path) -> Remote:
    server.files["/a.bin"] = BODY
    return Remote(f"{server.url}/a.bin", tmp_path / "folder" / "a.bin")


def get(*remotes: Remote, **settings) -> None:
    fetch(remotes, "test", patience=settings.pop("patience", QUICK), **settings)


def begin(remote: Remote, have: bytes, url: str | None = None, validator: str = "") -> None:
    """Leave what an interrupted run leaves."""
    remote.part.parent.mkdir(parents=True, exist_ok=True)
    remote.part.write_bytes(have)
    remote.part.with_name(f"{remote.part.name}.from").write_text(f"{url or remote.url}\n{validator}\n")


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# ------------------------------------------------------------------------------------------ one file


def test_a_file_arrives_whole_and_a_second_run_asks_for_nothing(server, remote):
    get(remote)
    assert remote.path.read_bytes() == BODY and names(remote.path.parent) == ["a.bin"]
    get(remote)
    assert len(server.seen) == 1


def test_a_cut_body_is_resumed_with_the_bytes_it_had(server, remote):
    server.faults["/a.bin"] = [("cut", 20_000), ("cut", 1_000)]
    get(remote)
    assert remote.path.read_bytes() == BODY
    assert [r for _, r, _ in server.seen] == [None, "bytes=20000-", "bytes=21000-"]
    assert server.served == len(BODY)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), size=st.integers(0, 100_000))
def test_any_run_of_faults_ends_with_the_same_bytes_and_none_sent_twice(data, size):
    faults = data.draw(
        st.lists(
            st.one_of(st.sampled_from([500, 502, 429]), st.tuples(st.just("cut"), st.integers(0, size))), max_size=3
        )
    )
    body = hashlib.shake_128(bytes([size % 256])).digest(size)
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        server.files["/a.bin"], server.faults["/a.bin"] = body, list(faults)
        remote = Remote(f"{server.url}/a.bin", Path(folder) / "a.bin")
        get(remote)
        assert remote.path.read_bytes() == body and server.served == size


def test_a_server_without_ranges_begins_again(server, remote):
    server.ranges, server.faults["/a.bin"] = False, [("cut", 20_000)]
    get(remote)
    assert remote.path.read_bytes() == BODY and len(server.seen) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final_and_named(server, remote, status):
    server.faults["/a.bin"] = [status]
    with pytest.raises(DownloadError, match=rf"/a\.bin answered {status} .*--mirror"):
        get(remote)
    assert len(server.seen) == 1 and not names(remote.path.parent)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server, remote, status):
    server.faults["/a.bin"] = [status]
    get(remote)
    assert remote.path.read_bytes() == BODY and len(server.seen) == 2


def test_a_server_that_stays_in_trouble_ends_in_an_error(server, remote):
    server.faults["/a.bin"] = [("cut", 5_000), *[500] * 9]
    with pytest.raises(DownloadError, match="answered 500.*run again"):
        get(remote)
    assert len(server.seen) == 1 + QUICK.retries and remote.have == 5_000
    server.faults.clear()
    get(remote)
    assert server.seen[-1][1] == "bytes=5000-" and remote.path.read_bytes() == BODY


@pytest.mark.parametrize("after", [-1, 0, 20_000])
def test_a_silent_server_ends_in_an_error_in_time(server, remote, after):
    server.faults["/a.bin"] = [("stall", after)] * 2
    begun = time.monotonic()
    with pytest.raises(DownloadError, match=r"nothing came for 0\.2 s"):
        get(remote, patience=Patience(retries=1, backoff=0.01, read=0.2))
    assert time.monotonic() - begun < 3


def test_a_server_that_is_silent_once_costs_no_bytes(server, remote):
    server.faults["/a.bin"] = [("stall", 20_000)]
    get(remote, patience=Patience(retries=1, backoff=0.01, read=0.3))
    assert server.seen[1][1] == "bytes=20000-" and server.served == len(BODY)


def test_headway_makes_patience_last(server, remote, monkeypatch):
    monkeypatch.setattr(download, "HEADWAY", 5_000)
    server.faults["/a.bin"] = [("cut", 5_000)] * 10
    get(remote, patience=Patience(retries=1, backoff=0.001))
    assert remote.path.read_bytes() == BODY and server.served == len(BODY)


def test_no_server_at_all_and_no_address_at_all(tmp_path):
    with serving() as server:
        url = server.url
    for address, words in ((url, "could not be downloaded.*refused.*run again"), ("nonsense", "not a usable address")):
        with pytest.raises(DownloadError, match=words):
            get(Remote(f"{address}/a.bin", tmp_path / "a.bin"))


# ------------------------------------------------------------------------------- what was begun before


@pytest.mark.parametrize(
    "tags, validator",
    [
        ({"ETag": '"1"'}, '"1"'),
        ({"ETag": 'W/"1"', "Last-Modified": "Thu, 01 Jan 2015 00:00:00 GMT"}, "Thu, 01 Jan 2015 00:00:00 GMT"),
        ({"ETag": 'W/"1"'}, None),
        ({}, None),
    ],
)
def test_the_rest_is_asked_for_on_condition_that_nothing_changed(server, remote, tags, validator):
    server.tags["/a.bin"], server.faults["/a.bin"] = tags, [("cut", 20_000)]
    get(remote)
    assert server.seen[1] == ("/a.bin", "bytes=20000-", validator) and server.served == len(BODY)


def test_a_file_that_changed_between_two_tries_is_not_glued_together(server, remote):
    server.tags["/a.bin"], server.faults["/a.bin"] = {"ETag": '"old"'}, [("cut", 20_000), 404]
    with pytest.raises(DownloadError):
        get(remote)
    assert remote.have == 20_000
    server.files["/a.bin"], server.tags["/a.bin"] = BODY[::-1], {"ETag": '"new"'}
    get(remote)
    assert server.seen[-1][1:] == ("bytes=20000-", '"old"') and remote.path.read_bytes() == BODY[::-1]


def test_a_whole_part_needs_no_byte(server, remote):
    begin(remote, BODY)
    get(remote)
    assert remote.path.read_bytes() == BODY and server.served == 0
    sized = Remote(remote.url, remote.path.with_name("b.bin"), len(BODY))
    begin(sized, BODY)
    get(sized)
    assert sized.path.read_bytes() == BODY and len(server.seen) == 1


@pytest.mark.parametrize("size", [None, len(BODY)])
def test_a_part_that_is_too_long_is_begun_again(server, remote, size):
    remote = Remote(remote.url, remote.path, size)
    begin(remote, BODY + b"more")
    get(remote)
    assert remote.path.read_bytes() == BODY


def test_a_part_of_another_mirror_is_used_only_where_a_hash_will_tell(server, remote):
    begin(remote, BODY[:500], "http://elsewhere/a.bin", '"tag"')
    get(remote)
    assert server.seen == [("/a.bin", None, None)]
    known = Remote(remote.url, remote.path.with_name("b"), len(BODY), f"md5:{hashlib.md5(BODY).hexdigest()}")
    begin(known, BODY[:500], "http://elsewhere/a.bin", '"tag"')
    get(known)
    assert server.seen[1] == ("/a.bin", "bytes=500-", None) and known.path.read_bytes() == BODY


# -------------------------------------------------------------------------------------- a wrong file


@pytest.mark.parametrize(
    "body, wrong, words",
    [
        (b"PK" + BODY, b"\n<!DOCTYPE html><html>moved</html>", "is a web page"),
        (b"PK" + BODY, b"junk" + BODY, r"does not begin as a \.zip file"),
        (b"PK" + BODY, b"PK" + BODY[::-1], "has another hash than was published"),
    ],
)
def test_a_wrong_file_is_refused_and_does_not_poison_the_next_try(server, tmp_path, body, wrong, words):
    digest = f"md5:{hashlib.md5(body).hexdigest()}"
    remote = Remote(f"{server.url}/a.zip", tmp_path / "a.zip", digest=digest)
    server.files["/a.zip"] = wrong
    with pytest.raises(DownloadError, match=rf"/a\.zip is not the expected a\.zip: it {words}.*--mirror"):
        get(remote)
    assert not names(tmp_path)
    server.files["/a.zip"] = body
    get(remote)
    assert remote.path.read_bytes() == body and names(tmp_path) == ["a.zip"]


def test_another_size_is_refused_before_anything_is_stored(server, tmp_path):
    server.files["/a.zip"], server.types["/a.zip"] = b"<html>" + BODY, "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match=r"has 51206 bytes \(it is a web page\) instead of 999"):
        get(Remote(f"{server.url}/a.zip", tmp_path / "a.zip", 999))
    assert not names(tmp_path)


def test_a_sha256_and_a_check_of_ones_own(server, remote):
    good = Remote(remote.url, remote.path, len(BODY), f"sha256:{hashlib.sha256(BODY).hexdigest()}")
    get(good)

    def check(path: Path) -> None:
        if not path.read_bytes().startswith(b"ok"):
            raise ValueError("does not say ok")

    with pytest.raises(DownloadError, match="it does not say ok"):
        get(Remote(remote.url, remote.path, check=check))  # what is there fails the check and is fetched again
    assert len(server.seen) == 2


# --------------------------------------------------------------------------------------------- disk


def test_a_full_disk_is_seen_before_the_download(server, remote, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1_000))
    with pytest.raises(DownloadError, match=r"a\.bin needs 0 MB, but only 0 MB are free at .*run again"):
        get(remote)
    assert server.served <= len(BODY) and not names(remote.path.parent)


def test_a_disk_that_fills_up_costs_nothing_that_was_stored(server, remote, monkeypatch):
    def narrow(path, mode="r", *rest, **more):
        file = open(path, mode, *rest, **more)
        if "b" in mode and "r" not in mode:
            room = iter([True])

            class Narrow(io.BufferedWriter):
                def write(self, block):
                    if not next(room, False):
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return super().write(block)

            return Narrow(file.detach())
        return file

    server.pause = 0.01
    with monkeypatch.context() as patch:
        patch.setattr(download, "open", narrow, raising=False)
        with pytest.raises(DownloadError, match=r"no space is left for .*a\.bin.*run again"):
            get(remote)
    stored = remote.have
    assert 0 < stored < len(BODY)
    get(remote)
    assert server.seen[-1][1] == f"bytes={stored}-" and remote.path.read_bytes() == BODY


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"a\.bin cannot be written.*Choose a folder"):
        get(Remote(f"{server.url}/a.bin", tmp_path / "file" / "a.bin"))


# --------------------------------------------------------------------------------------- many files


def test_all_failures_are_told_at_once_and_running_again_fetches_the_rest(server, tmp_path):
    many = [Remote(f"{server.url}/{i:02}", tmp_path / f"{i:02}.bin") for i in range(12)]
    server.files = {f"/{i:02}": BODY + bytes([i]) for i in range(12)}
    lost = {path: server.files.pop(path) for path in ("/01", "/04", "/06", "/09")}
    with pytest.raises(DownloadError, match=r"4 of 12 .*: 01\.bin, 04\.bin, 06\.bin and 1 more\..*/01 answered 404"):
        get(*many, workers=4)
    assert len(names(tmp_path)) == 8
    server.files |= lost
    server.seen.clear()
    get(*many, workers=4)
    assert {path for path, _, _ in server.seen} == set(lost)
    assert all(remote.path.read_bytes() == BODY + bytes([i]) for i, remote in enumerate(many))


def test_a_dead_server_is_not_asked_for_every_file(server, tmp_path):
    with pytest.raises(DownloadError, match="of 200 files"):
        get(*[Remote(f"{server.url}/{i}", tmp_path / str(i)) for i in range(200)], workers=2)
    assert len(server.seen) < 100


@pytest.mark.parametrize("sized", [True, False])
def test_progress_is_told_in_lines_of_bytes_or_files(server, tmp_path, monkeypatch, capsys, sized):
    monkeypatch.setenv("LLAFS_PROGRESS", "lines")
    monkeypatch.setattr(download, "SECONDS_BETWEEN_LINES", 0)
    server.files = {f"/{i}": BODY * 20 for i in range(3)}
    get(*[Remote(f"{server.url}/{i}", tmp_path / f"{i}", len(BODY) * 20 if sized else None) for i in range(3)])
    assert capsys.readouterr().out.splitlines()[-1] == f"test: {'3 MB of 3 MB' if sized else '3 of 3'}"


# ------------------------------------------------------------------------------------------ archives


def make_zip(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.filename = name  # ZipInfo would turn what it takes for this system's separators
            info.external_attr = (0o120777 if name == link else 0o100644) << 16
            file.writestr(info, content)
    return path


def make_tar(path: Path, members: dict[str, bytes | tuple[bytes, str]], mode: str = "w:gz") -> Path:
    """Files, or (type, link target) for what is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("make, archive", [(make_zip, "a.zip"), (make_tar, "a.tgz"), (make_tar, "a.tar")])
def test_wanted_files_come_out_and_a_second_time_nothing_is_written(tmp_path, make, archive):
    path = make(tmp_path / archive, {"a/1.txt": b"one", "a/b/2.txt": b"two", "c.txt": b"three"})
    unpack(path, tmp_path / "out", lambda name: name.startswith("a/"))
    assert names(tmp_path / "out") == ["a/1.txt", "a/b/2.txt"]
    assert (tmp_path / "out" / "a" / "b" / "2.txt").read_bytes() == b"two"
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    unpack(path, tmp_path / "out", lambda name: name.startswith("a/"))
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/{tmp}/evil", "..\\evil", "C:\\evil", "C:evil", "\\\\x\\y\\z"]
)
@pytest.mark.parametrize("make, archive", [(make_zip, "a.zip"), (make_tar, "a.tgz")])
def test_a_name_that_leads_out_is_refused(tmp_path, make, archive, name):
    name = name.replace("/{tmp}", str(tmp_path))
    path = make(tmp_path / archive, {"good": b"1", name: b"2"})
    with pytest.raises(DownloadError, match="would lead out of the folder"):
        unpack(path, tmp_path / "out" / "in")
    assert names(tmp_path) in ([archive], [archive, "out/in/good"])


@pytest.mark.parametrize(
    "member",
    [
        (tarfile.SYMTYPE, "../.."),
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.LNKTYPE, "../secret"),
        (tarfile.CHRTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, member):
    (tmp_path / "secret").write_bytes(b"mine")
    path = make_tar(tmp_path / "a.tgz", {"way": member, "way/evil": b"2"})
    with pytest.raises(DownloadError, match="no plain file"):
        unpack(path, tmp_path / "out" / "in")
    assert names(tmp_path) == ["a.tgz", "secret"] and (tmp_path / "secret").read_bytes() == b"mine"


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"good": b"1", "way": b"../..", "way/evil": b"2"}, link="way")
    with pytest.raises(DownloadError, match="no plain file"):
        unpack(path, tmp_path / "out" / "in")
    assert names(tmp_path) == ["a.zip"]


@given(st.text(st.sampled_from("ab./\\:~ C\0é"), max_size=12))
def test_no_name_leads_out(name):
    try:
        inside = official._safe(Path("a.zip"), name)
    except DownloadError:
        return
    folder = Path("/data/out")
    assert folder in Path(os.path.normpath(folder / inside)).parents


def test_damaged_archives_are_named(tmp_path):
    whole = make_zip(tmp_path / "crc.zip", {"1": b"\1" * 999, "2": b"\2" * 999}).read_bytes()
    (tmp_path / "crc.zip").write_bytes(whole.replace(b"\2" * 999, b"\3" * 999))
    (tmp_path / "cut.zip").write_bytes(whole[:700])
    (tmp_path / "page.zip").write_bytes(b"<html></html>")
    packed = make_tar(tmp_path / "cut.tgz", {"1": b"one", "2": os.urandom(99_999)}).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(packed[:50_000])
    (tmp_path / "page.tar").write_bytes(gzip.compress(b"<html></html>"))
    for name in ("crc.zip", "cut.zip", "page.zip", "cut.tgz", "page.tar"):
        out = tmp_path / "out" / name
        with pytest.raises(DownloadError, match=rf"{name} is damaged .*Delete it and run again"):
            unpack(tmp_path / name, out)
        assert names(out) in ([], ["1"], ["1", "2"]) and not list(out.glob(".*"))


def test_unpacking_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    path, written = make_zip(tmp_path / "a.zip", {f"{i}": bytes([i]) * 99 for i in range(6)}), []
    write = official.write

    def fail_at_the_third(target, source):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(target.name)
        write(target, source)

    with monkeypatch.context() as patch:
        patch.setattr(official, "write", fail_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            unpack(path, tmp_path / "out")
    monkeypatch.setattr(official, "write", lambda target, source: (written.append(target.name), write(target, source)))
    unpack(path, tmp_path / "out")
    assert written == ["0", "1", "2", "3", "4", "5"]


def test_a_file_that_was_cut_short_is_written_again(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"a/1": b"whole"})
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "1").write_bytes(b"wh")
    unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "a" / "1").read_bytes() == b"whole"
