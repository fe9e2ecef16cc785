"""Downloads from a server that cuts, stalls and lies; archives that want out of their folder."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from file_server import make_tar, make_zip, names, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from llafs_lib.data import download
from llafs_lib.data.download import Remote, connect, fetch, fetch_all
from llafs_lib.data.unpacking import _safe, unpack
from llafs_lib.errors import LlafsError

BODY = bytes(range(256)) * 200  # 51,200 bytes


def sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 3)
    monkeypatch.setattr(download, "BACKOFF", 0.001)


@pytest.fixture
def remote(server, tmp_path) -> Remote:
    server.files["/a.bin"] = BODY
    return Remote(f"{server.url}/a.bin", tmp_path / "folder" / "a.bin", len(BODY), sha256(BODY))


def get(remote: Remote) -> None:
    with connect() as client:
        fetch(remote, client)


def begin(remote: Remote, have: bytes) -> None:
    """Leave what an interrupted run leaves."""
    remote.part.parent.mkdir(parents=True, exist_ok=True)
    remote.part.write_bytes(have)


# ------------------------------------------------------------------------------------------ one file


def test_a_file_arrives_whole_and_a_second_run_asks_for_nothing(server, remote):
    get(remote)
    assert remote.path.read_bytes() == BODY and names(remote.path.parent) == ["a.bin"]
    get(remote)
    assert len(server.seen) == 1


def test_a_cut_body_is_resumed_with_the_bytes_it_had(server, remote):
    server.faults["/a.bin"] = [("cut", 20_000), ("cut", 1_000)]
    get(remote)
    assert remote.path.read_bytes() == BODY and server.served == len(BODY)
    assert [wanted for _, wanted in server.seen] == [None, "bytes=20000-", "bytes=21000-"]


@settings(max_examples=15, deadline=None)
@given(data=st.data(), size=st.integers(0, 100_000))
def test_any_run_of_faults_ends_with_the_same_bytes_and_none_sent_twice(data, size):
    cut = st.tuples(st.just("cut"), st.integers(0, size))
    faults = data.draw(st.lists(st.one_of(st.sampled_from([500, 502, 429]), cut), max_size=3))
    body = hashlib.shake_128(bytes([size % 256])).digest(size)
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        server.files["/a.bin"], server.faults["/a.bin"] = body, list(faults)
        remote = Remote(f"{server.url}/a.bin", Path(folder) / "a.bin", digest=sha256(body))
        get(remote)
        assert remote.path.read_bytes() == body and server.served == size


def test_a_file_without_a_published_hash_is_begun_again(server, remote):
    remote = replace(remote, digest=None)
    begin(remote, b"bytes of an older file")
    get(remote)
    assert remote.path.read_bytes() == BODY and server.seen == [("/a.bin", None)]


def test_a_server_without_ranges_sends_all_again(server, remote):
    server.ranges, server.faults["/a.bin"] = False, [("cut", 20_000)]
    get(remote)
    assert remote.path.read_bytes() == BODY and len(server.seen) == 2


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final_and_named(server, remote, status):
    server.faults["/a.bin"] = [status]
    with pytest.raises(LlafsError, match=rf"/a\.bin answered {status} .*--mirror"):
        get(remote)
    assert len(server.seen) == 1 and not names(remote.path.parent)


def test_a_server_that_stays_in_trouble_ends_in_an_error_and_the_next_run_continues(server, remote):
    server.faults["/a.bin"] = [("cut", 5_000), *[500] * 9]
    with pytest.raises(LlafsError, match="answered 500.*run again"):
        get(remote)
    assert len(server.seen) == 2 + download.RETRIES and remote.have == 5_000
    server.faults.clear()
    get(remote)
    assert server.seen[-1] == ("/a.bin", "bytes=5000-") and remote.path.read_bytes() == BODY


def test_a_long_row_of_cuts_is_no_failure_as_long_as_bytes_come(server, remote):
    server.faults["/a.bin"] = [("cut", 5_000)] * 10
    get(remote)
    assert remote.path.read_bytes() == BODY and server.served == len(BODY)


@pytest.mark.parametrize("after", [-1, 20_000])
def test_a_silent_server_is_given_up_in_time(server, remote, monkeypatch, after):
    monkeypatch.setattr(download, "TIMEOUT", httpx.Timeout(0.1))
    server.faults["/a.bin"] = [("stall", after)] * 9
    begun = time.monotonic()
    with pytest.raises(LlafsError, match="timed out.*If the server stays silent"):
        get(replace(remote, digest=None))
    assert time.monotonic() - begun < 3


def test_no_server_at_all_and_no_address_at_all(tmp_path):
    with serving() as server:
        url = server.url
    for address, words in ((url, "could not be downloaded.*refused.*run again"), ("nonsense", "not a usable address")):
        with pytest.raises(LlafsError, match=words):
            get(Remote(f"{address}/a.bin", tmp_path / "a.bin"))


@pytest.mark.parametrize("ends", ["length", "chunk", "closed"])
def test_a_server_that_drips_is_given_up_and_the_next_run_continues(server, remote, monkeypatch, ends):
    monkeypatch.setattr(download, "SPAN", 0.1)
    server.ends, server.pause, server.faults["/a.bin"] = ends, 0.02, [("drip", 20_000), *[("drip", 0)] * 9]
    with pytest.raises(LlafsError, match=r"it sent \d+ bytes in 0 s, less than 1,000 bytes per second\).*continues"):
        get(remote)
    assert len(server.seen) <= 2 + download.RETRIES and 20_000 < (stored := remote.have) < 21_000
    server.pause, server.faults = 0.0, {}
    get(remote)
    assert server.seen[-1] == ("/a.bin", f"bytes={stored}-") and remote.path.read_bytes() == BODY


def test_a_byte_for_each_connection_is_no_progress(server, remote, monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    server.faults["/a.bin"] = [("cut", 1)] * 99
    with pytest.raises(LlafsError, match="could not be downloaded"):
        get(remote)
    assert remote.have == len(server.seen) == 1 + download.RETRIES


# --------------------------------------------------------------------------------------- where it ends


@pytest.mark.parametrize("ends", ["length", "chunk"])
def test_without_size_and_hash_a_body_counts_once_its_end_was_seen(server, remote, ends):
    server.ends, server.faults["/a.bin"] = ends, [("cut", 20_000), ("cut", 50_000)]
    get(replace(remote, size=None, digest=None))
    assert remote.path.read_bytes() == BODY and len(server.seen) == 3


@pytest.mark.parametrize("faults", [[], [("cut", 20_000)]])
def test_without_any_sign_of_its_end_a_body_is_refused(server, remote, faults):
    server.ends, server.faults["/a.bin"] = "closed", faults
    with pytest.raises(LlafsError, match=r"/a\.bin does not say where the file ends.*--mirror"):
        get(replace(remote, size=None, digest=None))
    assert not names(remote.path.parent) and len(server.seen) == 1


@pytest.mark.parametrize("known", [{"digest": None}, {"size": None}, {}])
def test_a_published_size_or_hash_shows_the_end_of_a_body_that_has_none(server, remote, known):
    server.ends = "closed"
    get(replace(remote, **known))
    assert remote.path.read_bytes() == BODY


def test_a_body_that_only_stops_is_resumed(server, remote):
    server.ends, server.faults["/a.bin"] = "closed", [("cut", 20_000)]
    get(remote)
    assert remote.path.read_bytes() == BODY and server.served == len(BODY)


@pytest.mark.parametrize("ends", ["chunk", "closed"])
@pytest.mark.parametrize("begun", [0, 20_000])
def test_never_more_than_the_published_size_is_stored(server, remote, monkeypatch, ends, begun):
    begin(remote, BODY[:begun])
    server.ends, server.files["/a.bin"] = ends, BODY + bytes(10**6)
    most = []
    with connect() as client, pytest.raises(LlafsError, match="it has more than 51,200 bytes"):
        fetch(remote, client, lambda n_bytes: most.append(remote.part.stat().st_size))
    assert max(most) <= len(BODY) and not names(remote.path.parent)


def test_a_file_without_a_published_size_has_a_limit(server, remote, monkeypatch):
    monkeypatch.setattr(download, "UNSTATED", 40_000)
    server.ends = "chunk"
    with pytest.raises(LlafsError, match="it has more than 40,000 bytes"):
        get(replace(remote, size=None, digest=None))
    assert not names(remote.path.parent)


# ------------------------------------------------------------------------------------ the right file


def test_a_whole_part_needs_no_request(server, remote):
    begin(remote, BODY)
    get(remote)
    assert remote.path.read_bytes() == BODY and not server.seen


def test_a_part_that_is_too_long_is_begun_again(server, remote):
    begin(remote, BODY + b"more")
    get(remote)
    assert remote.path.read_bytes() == BODY


def test_another_hash_is_refused_and_does_not_poison_the_next_run(server, remote):
    server.files["/a.bin"] = BODY[::-1]
    with pytest.raises(LlafsError, match=r"/a\.bin is not the expected file: it has another hash.*--mirror"):
        get(remote)
    assert not names(remote.path.parent)
    server.files["/a.bin"] = BODY
    begin(remote, b"wrong" * 1_000)  # the rest of the right file, glued to this
    with pytest.raises(LlafsError, match="another hash"):
        get(remote)
    get(remote)
    assert remote.path.read_bytes() == BODY and names(remote.path.parent) == ["a.bin"]


def test_another_size_is_refused_before_anything_is_stored_or_lost(server, remote):
    begin(remote, BODY[:20_000])
    server.files["/a.bin"], server.ranges = b"<html>the page of a hotel's network</html>", False
    with pytest.raises(LlafsError, match="it has 42 bytes instead of 51,200.*--mirror"):
        get(remote)
    assert remote.part.read_bytes() == BODY[:20_000] and not remote.path.exists()


def test_a_file_that_fails_a_check_is_fetched_again(server, remote):
    def check(path: Path) -> None:
        if not path.read_bytes().startswith(b"ok"):
            raise ValueError("does not say ok")

    get(remote)
    with pytest.raises(LlafsError, match="it does not say ok"):
        get(Remote(remote.url, remote.path, check=check))
    assert len(server.seen) == 2


# ---------------------------------------------------------------------------------------------- disk


def test_a_full_disk_is_named_and_costs_nothing_that_was_stored(server, remote, monkeypatch):
    class Full(io.BufferedWriter):
        def write(self, block):
            if self.tell():
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block)

    server.pause = 0.01  # so that the bytes come in several blocks
    with monkeypatch.context() as patch:
        patch.setattr(download, "open", lambda path, mode: Full(open(path, mode).detach()), raising=False)
        with pytest.raises(LlafsError, match=r"a\.bin cannot be written .*free some space, then run again"):
            get(replace(remote, digest=None))
    stored = remote.have
    assert 0 < stored < len(BODY)
    get(remote)
    assert server.seen[-1] == ("/a.bin", f"bytes={stored}-") and remote.path.read_bytes() == BODY


def test_too_little_room_is_said_with_both_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 10**10, 2 * 10**6))
    with pytest.raises(LlafsError, match=r"all needs 3\.5 GB, but only 2 MB are free at .*run again"):
        download.require_space(tmp_path / "not yet", 3_500_000_000, "all")


def test_a_folder_that_cannot_be_made_is_named(server, remote, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LlafsError, match=r"a\.bin cannot be written .*choose another place"):
        get(replace(remote, path=tmp_path / "file" / "a.bin"))


# ---------------------------------------------------------------------------------------- many files


def test_many_files_end_at_the_first_failure_and_the_next_run_fetches_the_rest(server, tmp_path):
    many = [Remote(f"{server.url}/{i:02}", tmp_path / f"{i:02}.bin") for i in range(20)]
    server.files = {f"/{i:02}": BODY + bytes([i]) for i in range(20)}
    lost = server.files.pop("/03")
    with pytest.raises(LlafsError, match="/03 answered 404"):
        fetch_all(many, "test", workers=2)
    assert 3 <= len(there := names(tmp_path)) < 19
    server.files["/03"] = lost
    server.seen.clear()
    fetch_all(many, "test", workers=2)
    assert len(server.seen) == 20 - len(there)
    assert all(remote.path.read_bytes() == BODY + bytes([i]) for i, remote in enumerate(many))


# ------------------------------------------------------------------------------------------ archives


@pytest.mark.parametrize("make, archive", [(make_zip, "a.zip"), (make_tar, "a.tgz"), (make_tar, "a.tar")])
def test_wanted_files_come_out_and_a_second_time_nothing_is_written(tmp_path, make, archive):
    path, out = make(tmp_path / archive, {"a/1.txt": b"one", "a/b/2.txt": b"two", "c.txt": b"three"}), tmp_path / "out"
    unpack(path, out, lambda name: name.startswith("a/"))
    assert names(out) == ["a/1.txt", "a/b/2.txt"] and (out / "a/b/2.txt").read_bytes() == b"two"
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    unpack(path, out, lambda name: name.startswith("a/"))
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}


def test_unpacking_that_was_cut_off_continues(tmp_path, monkeypatch):
    path, copy, copied = (
        make_zip(tmp_path / "a.zip", {f"{i}": bytes([i]) * 99 for i in range(6)}),
        shutil.copyfileobj,
        [],
    )

    def stop_at_the_third(source, file, length):
        if len(copied) == 2:
            file.write(b"half")
            raise KeyboardInterrupt
        copied.append(source.name)
        copy(source, file, length)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", stop_at_the_third)
        unpack(path, tmp_path / "out")
    assert names(tmp_path / "out") == ["0", "1"]
    (tmp_path / "out" / "1").write_bytes(b"cut short by hand")
    unpack(path, tmp_path / "out")
    assert all((tmp_path / "out" / f"{i}").read_bytes() == bytes([i]) * 99 for i in range(6))


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/{tmp}/evil", "..\\evil", "C:\\evil", "C:evil", "\\\\x\\y"]
)
@pytest.mark.parametrize("make, archive", [(make_zip, "a.zip"), (make_tar, "a.tgz")])
def test_a_name_that_leads_out_is_refused(tmp_path, make, archive, name):
    name = name.replace("/{tmp}", str(tmp_path))
    path = make(tmp_path / archive, {"good": b"1", name: b"2"})
    with pytest.raises(LlafsError, match="would lead out of the folder"):
        unpack(path, tmp_path / "out" / "in")
    assert names(tmp_path) in ([archive], [archive, "out/in/good"])


@pytest.mark.parametrize(
    "member",
    [(tarfile.SYMTYPE, "../.."), (tarfile.LNKTYPE, "../secret"), (tarfile.CHRTYPE, ""), (tarfile.FIFOTYPE, "")],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, member):
    (tmp_path / "secret").write_bytes(b"mine")
    path = make_tar(tmp_path / "a.tgz", {"way": member, "way/evil": b"2"})
    with pytest.raises(LlafsError, match="no plain file"):
        unpack(path, tmp_path / "out" / "in")
    assert names(tmp_path) == ["a.tgz", "secret"] and (tmp_path / "secret").read_bytes() == b"mine"


def test_a_link_in_a_zip_is_refused_before_anything_is_written(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"good": b"1", "way": b"../..", "way/evil": b"2"}, link="way")
    with pytest.raises(LlafsError, match="no plain file"):
        unpack(path, tmp_path / "out" / "in")
    assert names(tmp_path) == ["a.zip"]


@given(st.text(st.sampled_from("ab./\\:~ C\0é"), max_size=12))
def test_no_name_leads_out(name):
    try:
        inside = _safe(Path("a.zip"), name)
    except LlafsError:
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
        with pytest.raises(LlafsError, match=rf"{name} is damaged .*Delete it and run again"):
            unpack(tmp_path / name, out)
        assert names(out) in ([], ["1"], ["1", "2"])
