import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llafs_lib import artifacts
from llafs_lib.artifacts import (
    MADE_BY,
    METHOD,
    MODELS,
    NOTEBOOKS,
    ROOMS,
    RunFolder,
    _remove_abandoned,
    file_hash,
    library_digest,
    replacing,
)
from llafs_lib.errors import LlafsError
from llafs_lib.tools.tutorial import notebooks
from llafs_lib.vision.hsnet import TOY_HSNET


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path, "toy", 0)


def write(run, text="content", **parameters):
    with run.writing("folds.json", parameters) as path:
        path.write_text(text)


def test_written_with_a_manifest(run):
    write(run, seed=3)
    assert run.require("folds.json", seed=3).read_text() == "content"
    manifest = run.manifest("folds.json")
    assert manifest["parameters"] == {"seed": 3}
    assert {"packages", "git_commit", "sha256", "peak_rss_mb", "seconds_since_notebook_start"} <= set(manifest)


@pytest.mark.parametrize("name", MADE_BY)
def test_a_missing_artifact_names_the_notebook_to_run(run, name):
    with pytest.raises(LlafsError, match=f"run notebook {MADE_BY[name]}"):
        run.require(name)


def test_other_parameters_are_refused(run):
    write(run, seed=3)
    with pytest.raises(LlafsError, match="seed=3, not seed=4"):
        run.require("folds.json", seed=4)


def test_a_failing_write_leaves_nothing(run):
    with pytest.raises(RuntimeError), run.writing("folds.json", {}) as path:
        path.write_text("half")
        raise RuntimeError
    assert not list(run.path.iterdir())


def test_a_failing_rewrite_keeps_the_old_one(run):
    write(run)
    with pytest.raises(RuntimeError), run.writing("folds.json", {}) as path:
        path.write_text("half")
        raise RuntimeError
    assert run.require("folds.json").read_text() == "content"


def test_a_cut_off_artifact_is_refused(run):
    write(run)
    (run.path / "folds.json").write_text("cont")
    with pytest.raises(LlafsError, match="run notebook 01_data_folds"):
        run.require("folds.json")


def test_an_artifact_may_be_a_folder(run):
    with run.writing("support_bank", {"seed": 3}) as path:
        path.mkdir()
        (path / "area.npy").write_bytes(b"0123")
    assert (run.require("support_bank", seed=3) / "area.npy").is_file()
    (run.path / "support_bank" / "area.npy").write_bytes(b"012")
    with pytest.raises(LlafsError, match="run notebook 04_retrieval_scoring"):
        run.require("support_bank")


def test_an_artifact_without_its_manifest_is_refused(run):
    write(run)
    (run.path / "folds.json.manifest.json").write_text("{")
    with pytest.raises(LlafsError):
        run.require("folds.json")


def test_open_by_path(run):
    write(run)
    again = RunFolder.at(run.path)
    assert (again.dataset, again.fold, again.path) == ("toy", 0, run.path)


@pytest.mark.parametrize("name", ["moved", "fold3", "elsewhere/toy/fold1"])
def test_a_folder_that_was_moved_or_renamed_knows_its_run(run, in_tmp, monkeypatch, name):
    with run.writing("folds.json", {"dataset": "coco-mini", "fold": 2}) as path:
        path.write_text("{}")
    moved = in_tmp / "new place" / name
    moved.parent.mkdir(parents=True)
    run.path.rename(moved)
    monkeypatch.chdir(moved)
    for path in (moved, "."):
        again = RunFolder.at(path)
        assert (again.dataset, again.fold) == ("coco-mini", 2) and again.require("folds.json").is_file()


@pytest.mark.parametrize("name", ["nowhere/toy/fold0", "."])
def test_not_a_run_folder(in_tmp, name):
    with pytest.raises(LlafsError, match="llafs tutorial"):
        RunFolder.at(in_tmp / name)


def test_manifest_is_readable_json(run):
    write(run)
    json.loads((run.path / "folds.json.manifest.json").read_text())


def test_what_is_written_takes_its_place_whole(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with replacing(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and [p.name for p in target.parent.iterdir()] == ["file.txt"]
    with pytest.raises(OSError), replacing(target) as partial:
        partial.write_text("half")
        raise OSError("no space left")
    assert target.read_text() == "whole" and [p.name for p in target.parent.iterdir()] == ["file.txt"]


MAKER = """
import sys, time
from pathlib import Path
from llafs_lib.artifacts import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.mkdir()
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path):
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKER, str(tmp_path / name)], stdout=subprocess.PIPE)
        for name in ("killed", "alive")
    ]
    for maker in makers:
        maker.stdout.readline()
    assert len(list(tmp_path.iterdir())) == 2
    makers[0].kill()
    makers[0].wait()
    _remove_abandoned.cache_clear()
    with replacing(tmp_path / "mine") as partial:
        partial.write_text("")
    makers[1].kill()
    makers[1].wait()
    assert [p.name.rpartition(".")[2] for p in sorted(tmp_path.iterdir())] == ["alive", "mine"]


@pytest.mark.parametrize("name", ["folds.json", "folds.json.manifest.json"])
def test_a_folder_where_a_file_belongs_is_removed_if_it_is_empty_and_else_named(run, name):
    (run.path / name).mkdir(parents=True)
    write(run)
    run.require("folds.json")
    (run.path / name).unlink()
    (run.path / name).mkdir()
    (run.path / name / "thesis.txt").write_text("years of work")
    with pytest.raises(LlafsError, match=f"{name} is a folder, where a file belongs: move it away"):
        write(run)
    assert (run.path / name / "thesis.txt").is_file()


def test_a_file_is_read_once_in_a_process_to_be_hashed(tmp_path, monkeypatch):
    (tmp_path / "bank").write_bytes(b"0123")
    monkeypatch.setattr(artifacts.time, "time", lambda: 2e9)  # it was not written just now
    first = file_hash(tmp_path / "bank")
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "_hash_of", lambda path: pytest.fail("read again"))
        assert file_hash(tmp_path / "bank") == first
    (tmp_path / "bank").write_bytes(b"01234")
    assert file_hash(tmp_path / "bank") != first


def test_a_folder_is_written_whole_too(tmp_path):
    with replacing(tmp_path / "cache") as partial:
        partial.mkdir()
        (partial / "index").write_text("1")
    assert (tmp_path / "cache" / "index").read_text() == "1"
    with pytest.raises(RuntimeError), replacing(tmp_path / "other") as partial:
        partial.mkdir()
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


WRITTEN = """
import os, sys
from pathlib import Path
from llafs_lib.artifacts import replacing
for n in range(10**9):
    with replacing(Path(sys.argv[1])) as partial:
        partial.write_text(str(n) * 10**6)
    if n == 0:
        print("begun", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_kill_leaves_a_whole_file(tmp_path):
    target = tmp_path / "file.txt"
    for wait in (0.0, 0.01, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", WRITTEN, str(target)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(wait)
        writer.kill()
        writer.wait()
        text = target.read_text()
        number = text[: len(text) // 10**6]
        assert number.isdigit() and text == number * 10**6


# --- what invalidates a run ------------------------------------------------------------------------------------------

LIBRARY = Path(__file__).resolve().parent.parent / "llafs_lib"


@pytest.fixture
def copied(tmp_path):
    """A copy of the library's source."""
    return shutil.copytree(LIBRARY, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__"))


def digest(root, rooms=METHOD):
    return library_digest.__wrapped__(rooms, root)


def replace_in(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_texts_and_tools_invalidate_nothing(copied):
    before = digest(copied)
    assert before == library_digest(METHOD)
    losses = copied / "vision" / "losses.py"
    replace_in(losses, '"""', '"""Another first sentence. ')
    replace_in(losses, "\ndef ", "\n\n# a comment\ndef ")
    for other in ("tools/colab.py", "plots.py", "settings.py", "data/toy/dataset.py"):
        (copied / other).write_text("NEW = 1\n", encoding="utf-8")
    (copied / "vision" / TOY_HSNET.name).write_bytes(b"another model for notebook 00")
    assert digest(copied) == before


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("vision/losses.py", "IGNORE = ", "IGNORE = 1 + "),
        ("language/prompts.py", "Prompt(", "Prompt(*(), "),
        ("language/prices.json", "1", "2"),
    ],
)
def test_code_and_data_of_the_method_invalidate(copied, path, old, new):
    before, models = digest(copied), digest(copied, MODELS)
    replace_in(copied / path, old, new)
    assert digest(copied) != before
    assert (digest(copied, MODELS) != models) == path.startswith("vision"), "models do not depend on the language room"


def test_every_notebook_has_its_rooms():
    assert set(ROOMS) == set(NOTEBOOKS)
    rooms = {p.stem for p in LIBRARY.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert {room for of_one in ROOMS.values() for room in of_one} <= rooms


@pytest.mark.parametrize("name", MADE_BY)
def test_a_missing_artifact_names_the_notebook_by_a_number_that_there_is(run, name):
    with pytest.raises(LlafsError, match="is missing: run notebook") as error:
        run.require(name)
    (number,) = re.findall(r"`llafs tutorial --only (\w+)` with", str(error.value))
    (path,) = notebooks([number])
    assert path.stem == MADE_BY[name]


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "3"])
def test_a_manifest_that_is_no_object_is_refused(run, text):
    with run.writing("folds.json", {"seed": 3}) as path:
        path.write_text("{}")
    (run.path / "folds.json.manifest.json").write_text(text)
    with pytest.raises(LlafsError, match="folds.json does not match its manifest"):
        run.require("folds.json", seed=3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["folds.json", "folds.json.manifest.json"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(run, name):
    write(run)
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    with pytest.raises(LlafsError, match="folds.json .*run notebook 01_data_folds"):
        run.require("folds.json")
    write(run)
    assert run.require("folds.json").read_text() == "content"
