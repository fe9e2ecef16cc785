"""Shared fixtures. What needs files that not everybody has skips with the reason."""

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_run
import torch
from groups import pytest_collection_modifyitems  # noqa: F401

from llafs_lib import LLaFS
from llafs_lib.data import labels
from llafs_lib.data.toy.dataset import make_toy
from llafs_lib.tools import tutorial
from llafs_lib.vision import training

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """Label maps that tests paint are cached outside the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "CACHE", tmp_path_factory.mktemp("cache"))
        yield labels.CACHE


@pytest.fixture(scope="session")
def own_scenes(tmp_path_factory) -> Path:
    """Drawn scenes as a user's own images: a COCO file without a bus, and images, some of which show one."""
    folder = tmp_path_factory.mktemp("own")
    make_toy(folder, n_train=30, n_val=1)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    (bus,) = [c["id"] for c in content["categories"] if c["name"] == "bus"]
    for part, key in (("categories", "id"), ("annotations", "category_id")):
        content[part] = [one for one in content[part] if one[key] != bus]
    (folder / "train").rename(folder / "images")
    (folder / "mine.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def own_model(own_scenes):
    """A bank of them. A test that adds a support removes it again."""
    return LLaFS.from_coco(own_scenes / "mine.json", backbone="small", size=161)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Tensors computed by independent implementations; they lie beside a development checkout."""
    folder = Path(os.environ.get("LLAFS_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"no reference tensors at {folder} (LLAFS_REFERENCE)")
    return folder


@pytest.fixture(scope="session")
def photographs() -> Path:
    """A data root with `coco/` and `weights/`."""
    for root in (os.environ.get("LLAFS_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"):
        if root and (Path(root) / "coco" / "annotations" / "instances_val2017.json").is_file():
            return Path(root)
    pytest.skip("no COCO images: set LLAFS_DATA to a folder that holds coco/")


@pytest.fixture
def in_tmp(tmp_path, monkeypatch) -> Path:
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def edit_library(tmp_path, monkeypatch) -> Callable[[str, str, str], None]:
    """(file, old text, new text): edit a copy of the library, whose state decides in this test what is reused."""
    copy = tmp_path / "copy" / "llafs_lib"
    shutil.copytree(ROOT / "llafs_lib", copy, ignore=shutil.ignore_patterns("__pycache__", "recorded"))
    spec = importlib.util.spec_from_file_location("artifacts_of_the_copy", copy / "artifacts.py")
    artifacts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(artifacts)
    for user in (training, tutorial):
        monkeypatch.setattr(user, "library_digest", artifacts.library_digest)

    def edit(file: str, old: str, new: str) -> None:
        text = (copy / file).read_text(encoding="utf-8")
        assert old in text, f"{file} does not hold {old!r} any more"
        (copy / file).write_text(text.replace(old, new), encoding="utf-8")
        artifacts.library_digest.cache_clear()

    return edit


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory):
    """A run that was killed while it trained: the folder of all runs, its own, and what lay in it."""
    if os.name == "nt":
        pytest.skip("no SIGKILL on Windows")
    runs = tiny_run.workplace(tmp_path_factory.mktemp("project"))
    folder = tiny_run.kill_while_training(runs)
    return runs, folder, sorted(p.name for p in folder.path.iterdir())


@pytest.fixture(scope="session")
def finished_run(killed_run):
    """The same run, finished by a second call, and what that gave. Several rooms read it: copy it to change it."""
    runs, folder, _ = killed_run
    return runs, folder, tiny_run.tutorial(runs)
