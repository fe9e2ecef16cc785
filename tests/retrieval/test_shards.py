import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llafs_lib.errors import LlafsError
from llafs_lib.retrieval.bank import COLUMNS, INDEX, build_bank
from llafs_lib.retrieval.shards import join_banks

CLASSES = ("horse", "zebra", "cow")


def read(image_id):
    rng = np.random.default_rng(image_id)
    return np.full((8, 12, 3), image_id, np.uint8), {name: rng.random((8, 12)) < 0.4 for name in CLASSES}


def describe(image):
    generator = torch.Generator().manual_seed(int(image[0, 0, 0]))
    return torch.nn.functional.normalize(torch.randn(6, 4, 6, generator=generator), dim=0)


def build(path, images, classes=CLASSES):
    return build_bank(path, images, classes, read, describe, {"data": "abc"})


shown = st.dictionaries(st.integers(0, 200), st.sets(st.sampled_from(CLASSES), min_size=1), min_size=1, max_size=12)


@settings(deadline=None, max_examples=30)
@given(shown, st.integers(1, 5))
def test_parts_joined_are_the_whole_bank_to_the_byte(images, per_part):
    ids = sorted(images)
    with tempfile.TemporaryDirectory() as folder:
        whole, joined = Path(folder) / "whole", Path(folder) / "joined"
        build(whole, images)
        slices = [ids[n : n + per_part] for n in range(0, len(ids), per_part)]
        parts = [build(Path(folder) / str(n), {i: images[i] for i in one}) for n, one in enumerate(slices)]
        join_banks(joined, parts, {"data": "abc"})
        for name in (INDEX, *(f"{column}.npy" for column in COLUMNS)):
            assert (joined / name).read_bytes() == (whole / name).read_bytes(), name


def test_parts_of_other_data_are_refused(tmp_path):
    parts = [build(tmp_path / "a", {1: ("cow",)}), build(tmp_path / "b", {2: ("cow",)}, ("cow", "horse", "zebra"))]
    with pytest.raises(LlafsError, match="same classes"):
        join_banks(tmp_path / "joined", parts, {})
    with pytest.raises(LlafsError, match="same classes"):
        join_banks(tmp_path / "joined", [], {})
