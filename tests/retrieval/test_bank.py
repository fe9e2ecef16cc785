import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from llafs_lib.retrieval.bank import BankError, SupportBank, bounding_box, build_bank, index_of
from llafs_lib.retrieval.mapped import create, open_mapped
from llafs_lib.vision.prototype import combine, prototypes

ROOT = Path(__file__).parents[2]
CLASSES = ("horse", "zebra", "cow")
IMAGES = {4: ("horse", "zebra"), 7: ("horse",), 9: ("zebra",)}  # nobody shows a cow
MADE_FROM = {"fold": 0, "weights": "abc", "size": 97}


def random_image(image_id):
    """An image whose bytes say who it is, and its masks."""
    rng = np.random.default_rng(image_id)
    masks = {name: rng.random((8, 12)) < 0.4 for name in IMAGES[image_id]}
    return np.full((8, 12, 3), image_id, np.uint8), masks


def describe(image):
    generator = torch.Generator().manual_seed(int(image[0, 0, 0]))
    return torch.nn.functional.normalize(torch.randn(6, 4, 6, generator=generator), dim=0)


def build(path, **changes):
    given = {"images": IMAGES, "classes": CLASSES, "read": random_image, "describe": describe, "made_from": MADE_FROM}
    return build_bank(path, **{**given, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "support_bank.safetensors"


def test_rows_lie_together_by_class(path):
    bank = build(path, files={4: "a.jpg", 7: "b.jpg", 9: "c.jpg"})
    assert bank.counts() == {"horse": 2, "zebra": 2, "cow": 0} and len(bank) == 4
    assert (
        bank.image_ids.tolist() == [4, 7, 4, 9]
        and [bank.class_of(r) for r in range(4)] == ["horse"] * 2 + ["zebra"] * 2
    )
    assert (
        bank.rows_of("zebra").tolist() == [2, 3] and not len(bank.rows_of("cow")) and not len(bank.rows_of("giraffe"))
    )
    assert bank.files[7] == "b.jpg" and bank.made_from == MADE_FROM


def test_a_row_is_the_mean_inside_and_outside_the_mask(path):
    bank = build(path)
    features, mask = describe(random_image(9)[0]), torch.from_numpy(random_image(9)[1]["zebra"]).float()
    share = torch.nn.functional.adaptive_avg_pool2d(mask[None], (4, 6))[0]
    np.testing.assert_allclose(bank.foreground[3], (features * share).sum((1, 2)) / share.sum(), atol=1e-6)
    np.testing.assert_allclose(bank.background[3], (features * (1 - share)).sum((1, 2)) / (1 - share).sum(), atol=1e-6)
    assert bank.area[3] == pytest.approx(share.mean())
    np.testing.assert_allclose(bank.whole(np.array([3]))[0], features.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("plain", [False, True])
def test_prototypes_of_rows_equal_prototypes_of_images(path, plain):
    bank, weights = build(path), np.array([1.0, 0.5, 0.2, 0.7])
    pairs = [(int(bank.image_ids[r]), bank.class_of(r)) for r in range(4)]
    maps = torch.stack([describe(random_image(i)[0]) for i, _ in pairs])
    masks = torch.stack([torch.from_numpy(random_image(i)[1][c]).float() for i, c in pairs])
    expected = prototypes(maps, masks, torch.from_numpy(weights), plain)
    for found, wanted in zip(
        combine(bank.foreground, bank.background, bank.area, weights, plain), expected, strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_file_is_a_safetensors_file(path):
    bank = build(path)
    stored = load_file(path)
    np.testing.assert_array_equal(stored["foreground"], bank.foreground)
    assert stored["box"].shape == (4, 4) and isinstance(bank.foreground, np.memmap)


def test_only_some_classes(path):
    bank = build(path).only(("cow", "zebra"))
    assert bank.counts() == {"cow": 0, "zebra": 2} and bank.image_ids.tolist() == [4, 9]
    assert bank.class_of(1) == "zebra" and bank.rows_of("zebra").tolist() == [0, 1]
    assert not len(bank.only(()))


def test_parts_make_the_same_bank(tmp_path):
    whole = build(tmp_path / "whole.safetensors")
    assert build(tmp_path / "parts.safetensors", part=(1, 2)) is None
    parts = build(tmp_path / "parts.safetensors", part=(0, 2))
    np.testing.assert_array_equal(parts.foreground, whole.foreground)
    assert not [p for p in tmp_path.iterdir() if p.name.endswith((".partial", ".done"))]


def test_a_build_that_broke_off_goes_on(path):
    seen = []

    def broken(image_id):
        if image_id == 9:
            raise RuntimeError("no more")
        return random_image(image_id)

    with pytest.raises(RuntimeError):
        build(path, read=broken)
    assert not path.exists()

    def noted(image_id):
        seen.append(image_id)
        return random_image(image_id)

    assert len(build(path, read=noted)) == 4 and seen == [9]


def test_a_bank_of_something_else_is_begun_anew(path):
    with pytest.raises(RuntimeError):
        build(path, read=lambda i: (_ for _ in ()).throw(RuntimeError) if i == 9 else random_image(i))
    seen = []
    build(path, made_from={**MADE_FROM, "weights": "other"}, read=lambda i: seen.append(i) or random_image(i))
    assert seen == [4, 7, 9]


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_bank
def slow(i):
    print(i, flush=True)
    time.sleep(0.3)
    return test_bank.random_image(i)
test_bank.build(Path(sys.argv[1]), read=slow)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_kill_loses_at_most_one_image(path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAFS_PROGRESS": "none"}
    code = KILLED.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.strip() == "9":
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    time.sleep(0.1)
    seen = []
    bank = build(path, read=lambda i: seen.append(i) or random_image(i))
    assert seen == [9] and len(bank) == 4


def test_a_stale_bank_is_refused_with_the_reason(path):
    build(path)
    SupportBank.load(path, fold=0, weights="abc")
    with pytest.raises(BankError, match="stale: made with weights='abc', not 'xyz'. Run notebook 04 again"):
        SupportBank.load(path, fold=0, weights="xyz")


@pytest.mark.parametrize("cut", [1, 10, 200, 10_000])
def test_a_cut_off_bank(path, cut):
    build(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(BankError, match="run notebook 04 again"):
        SupportBank.load(path)


@pytest.mark.parametrize("text", [b"", b"not a bank at all", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_bank(path, text):
    build(path)
    path.write_bytes(text)
    with pytest.raises(BankError, match="not a readable support bank"):
        SupportBank.load(path)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"classes": ["horse"], "files": {}, "made_from": {}}'])
def test_an_index_that_does_not_fit(path, index):
    build(path)
    index_of(path).write_text(index)
    with pytest.raises(BankError, match="not a readable support bank"):
        SupportBank.load(path)


def test_a_missing_bank(path):
    with pytest.raises(BankError, match="run notebook 04 again"):
        SupportBank.load(path)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_a_box_holds_its_mask(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.1
    top, left, bottom, right = bounding_box(mask)
    inside = np.zeros_like(mask)
    inside[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
    assert not (mask & ~inside).any()
    if mask.any():
        assert 0 <= top < bottom <= 1 and 0 <= left < right <= 1


def test_mapped_arrays_are_what_was_written(tmp_path):
    create(tmp_path / "a", {"x": ((3, 2), np.float32), "none": ((0, 2), np.float32), "n": ((2,), np.int64)})
    arrays = open_mapped(tmp_path / "a", "r+")
    arrays["x"][1], arrays["n"][:] = 7, [1, 2]
    again = open_mapped(tmp_path / "a")
    np.testing.assert_array_equal(again["x"], [[0, 0], [7, 7], [0, 0]])
    assert again["n"].tolist() == [1, 2] and again["none"].shape == (0, 2)
    assert json.loads((tmp_path / "a").read_bytes()[8:].split(b"}}")[0] + b"}}")["n"]["dtype"] == "I64"
