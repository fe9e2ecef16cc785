"""One process at a time changes a folder; what the system refuses is one sentence."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from llafs_lib import sharing
from llafs_lib.artifacts import RunFolder, replacing, write_json
from llafs_lib.errors import LlafsError, Unwritable, refused, writing_to
from llafs_lib.retrieval import corrections
from llafs_lib.retrieval.corrections import Corrections
from llafs_lib.sharing import held
from llafs_lib.vision.checkpoints import read_model, save_model

HOLDER = """
import sys, time
from pathlib import Path
from llafs_lib.sharing import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `run`."""
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    yield other
    other.kill()
    other.wait()


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_who_holds_a_folder_and_since_when_is_said_and_a_dead_process_holds_none(holder, tmp_path):
    said = (
        rf"run is in use by `-c .*` \(process {holder.pid} on .+, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\): wait until"
    )
    with pytest.raises(LlafsError, match=said), held(tmp_path / "run"):
        pytest.fail("two hold it")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / ".holder").is_file(), "what a kill leaves"
    with held(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / ".holder").read_text()
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]


def test_who_may_wait_waits_and_says_for_whom(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/llafs", "tutorial", "--runs", "my runs"])
    begun, end, order = threading.Event(), threading.Event(), []

    def first():
        with held(tmp_path):
            begun.set()
            end.wait(60)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(60)
    threading.Timer(1.5, end.set).start()
    with held(tmp_path, wait=True):
        order.append("second")
    thread.join()
    said = capsys.readouterr().err
    assert order == ["first", "second"] and "in use by `llafs tutorial --runs 'my runs'` (process" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("left", [b"", b"\xff\xfe", b"x" * 9999])
def test_a_damaged_note_of_the_holder_harms_nobody(tmp_path, left):
    (tmp_path / ".holder").write_bytes(left)
    assert 0 < len(sharing._read(tmp_path / ".holder")) <= 300
    with held(tmp_path):
        pass


@pytest.mark.parametrize("place", ["a-file/run", "/dev/null/run", "x" * 300, "deep/" * 1000])
def test_a_folder_that_cannot_be_made_is_one_sentence(in_tmp, place):
    (in_tmp / "a-file").write_text("")
    with pytest.raises(LlafsError, match=r"cannot be written \(.*\): choose another place") as failed:
        with held(RunFolder(place, "toy", 0).path):
            pytest.fail("it was made")
    assert "\n" not in str(failed.value)


def test_supports_that_are_added_at_once_get_numbers_of_their_own(tmp_path, monkeypatch):
    write, errors, image = corrections.write_image, [], np.zeros((20, 20, 3), np.uint8)

    def slowly(path, pixels):
        time.sleep(0.05)
        write(path, pixels)

    monkeypatch.setattr(corrections, "write_image", slowly)

    def add(name):
        try:
            own = Corrections(tmp_path / "added", lambda image: torch.ones(4, 5, 5), {})
            for _ in range(3):
                own.add(image, np.ones((20, 20), bool), name)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=add, args=[f"class {n}"]) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Corrections(tmp_path / "added", lambda image: torch.ones(4, 5, 5), {})
    assert not errors and [c.number for c in found.listed] == [*range(1, 10)]
    assert all(len(found.of(f"class {n}")) == 3 for n in range(3))
    other = Corrections(tmp_path / "added", lambda image: torch.ones(4, 5, 5), {})
    found.remove(other.add(image, np.ones((20, 20), bool), "of another process"))
    assert not (tmp_path / "added" / "10").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_files_have_the_permissions_that_the_user_wants(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "model.safetensors") as partial:
            save_model(partial, nn.Linear(2, 2), "test", {})
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {mode}
    assert read_model(tmp_path / "model.safetensors", "test")[0]["weight"].shape == (2, 2)


# --- what the system refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "choose another place"),
        (errno.EACCES, "choose another place"),
        (errno.ENAMETOOLONG, "choose another place"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_every_artifact_that_cannot_be_written_is_named_with_a_remedy(tmp_path, number, remedy):
    run = RunFolder(tmp_path, "toy", 0)
    with pytest.raises(Unwritable, match=rf"folds.json cannot be written \(.*\): .*{remedy}") as failed:
        with run.writing("folds.json", {}):
            raise OSError(number, os.strerror(number))
    assert failed.value.errno == number and isinstance(failed.value, LlafsError) and "\n" not in str(failed.value)
    assert not list(run.path.iterdir())
    assert remedy in refused(OSError(number, os.strerror(number), "a file"))


def test_what_cannot_be_read_meanwhile_is_not_said_to_be_the_place(tmp_path):
    with pytest.raises(FileNotFoundError) as failed, writing_to(tmp_path / "here" / "a.json"):
        (tmp_path / "elsewhere" / "b.json").read_text()
    assert not isinstance(failed.value, LlafsError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nmore"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_short_memory_is_one_sentence(error):
    said = refused(error)
    assert said.startswith("the memory does not suffice") and "\n" not in said


@pytest.mark.parametrize("error", [ValueError("x"), KeyError(3), OSError("of a library"), RuntimeError("shapes")])
def test_a_bug_is_no_refusal_of_the_system(error):
    assert refused(error) is None
