"""Shared fixtures. What needs files that not everybody has skips with the reason."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llafs_lib.data import labels

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """Label maps that tests paint are cached outside the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "CACHE", tmp_path_factory.mktemp("cache"))
        yield labels.CACHE


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
    pytest.skip("no COCO pictures: set LLAFS_DATA to a folder that holds coco/")


@pytest.fixture
def in_tmp(tmp_path, monkeypatch) -> Path:
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
