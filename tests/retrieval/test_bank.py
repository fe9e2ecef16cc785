import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import DAMAGES
from numpy.lib.format import open_memmap

from llafs_lib.errors import LlafsError
from llafs_lib.retrieval import bank as bank_module
from llafs_lib.retrieval.bank import COLUMNS, INDEX, SupportBank, build_bank, described_by, states_of
from llafs_lib.vision.backbone import Backbone
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


def broken(image_id):
    if image_id == 9:
        raise RuntimeError("no more")
    return random_image(image_id)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "support_bank"


def test_rows_lie_together_by_class(path):
    bank = build(path)
    assert bank.counts() == {"horse": 2, "zebra": 2, "cow": 0} and len(bank) == 4
    assert bank.image_ids.tolist() == [4, 7, 4, 9]
    assert [bank.class_of(r) for r in range(4)] == ["horse", "horse", "zebra", "zebra"]
    assert bank.rows_of("zebra").tolist() == [2, 3]
    assert not len(bank.rows_of("cow")) and not len(bank.rows_of("giraffe"))
    assert bank.made_from == MADE_FROM


def test_a_row_is_the_mean_inside_and_outside_the_mask(path):
    bank = build(path)
    features, mask = describe(random_image(9)[0]), torch.from_numpy(random_image(9)[1]["zebra"]).float()
    share = torch.nn.functional.adaptive_avg_pool2d(mask[None], (4, 6))[0]
    np.testing.assert_allclose(bank.foreground[3], (features * share).sum((1, 2)) / share.sum(), atol=1e-6)
    np.testing.assert_allclose(bank.background[3], (features * (1 - share)).sum((1, 2)) / (1 - share).sum(), atol=1e-6)
    assert bank.area[3] == pytest.approx(share.mean())


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


def test_the_columns_are_plain_npy_files_mapped_into_memory(path):
    bank = build(path)
    assert isinstance(bank.foreground, np.memmap)
    np.testing.assert_array_equal(np.load(path / "foreground.npy", allow_pickle=False), bank.foreground)


def test_only_some_classes(path):
    bank = build(path).only(("cow", "zebra"))
    assert bank.counts() == {"cow": 0, "zebra": 2} and bank.image_ids.tolist() == [4, 9]
    assert bank.class_of(1) == "zebra" and bank.rows_of("zebra").tolist() == [0, 1]
    assert not len(bank.only(()))


def test_a_bank_without_rows(path):
    bank = build(path, images={})
    assert len(bank) == 0 and bank.counts() == {"horse": 0, "zebra": 0, "cow": 0} and bank.foreground.shape == (0, 6)


def test_a_build_that_broke_off_goes_on_and_replaces_the_old_bank(path):
    build(path, images={4: ("horse",)})
    with pytest.raises(RuntimeError):
        build(path, read=broken)
    assert len(SupportBank.load(path)) == 1
    seen = []
    assert len(build(path, read=lambda i: seen.append(i) or random_image(i))) == 4 and seen == [9]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_bank_of_something_else_is_begun_anew(path):
    with pytest.raises(RuntimeError):
        build(path, read=broken)
    seen = []
    build(path, made_from={**MADE_FROM, "weights": "other"}, read=lambda i: seen.append(i) or random_image(i))
    assert seen == [4, 7, 9] and [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("column", ["foreground", "background", "area"])
def test_a_row_that_was_damaged_meanwhile_is_described_again(path, column):
    whole = build(path.with_name("whole"))
    with pytest.raises(RuntimeError):
        build(path, read=broken)
    (begun,) = path.parent.glob(".*.partial")
    rows = open_memmap(begun / f"{column}.npy", "r+")
    rows[0] = rows[0] / 2
    del rows
    seen = []
    bank = build(path, read=lambda i: seen.append(i) or random_image(i))
    assert seen == [4, 9]
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(bank, name), getattr(whole, name))


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d not in ("flip", "full folder")])
@pytest.mark.parametrize("name", ["image_ids.npy", "foreground.npy", "sums.npy", ""])
def test_a_damaged_folder_to_go_on_with_is_begun_anew(path, name, damage):
    with pytest.raises(RuntimeError):
        build(path, read=broken)
    (begun,) = path.parent.glob(".*.partial")
    DAMAGES[damage](begun / name)
    assert len(build(path)) == 4 and [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_kill_before_the_last_move_loses_nothing(path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bank_module, "discard", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        build(path)
    assert len(build(path, read=lambda i: pytest.fail("described again"))) == 4


def test_a_bank_that_lost_a_part_is_replaced(path):
    build(path)
    (path / INDEX).unlink()
    assert len(build(path)) == 4


def test_a_large_bank_opens_without_being_read(path, monkeypatch):
    build(path)
    states = states_of(path)
    monkeypatch.setattr(bank_module, "file_hash", lambda file: pytest.fail("read"))
    assert len(SupportBank.load(path, states)) == 4


def test_a_folder_that_is_no_bank_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(LlafsError, match="no support bank, so it is not replaced"):
        build(tmp_path)
    assert (tmp_path / "thesis.txt").is_file()


KILLED = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
import test_bank
def slow(image):
    print(image[0, 0, 0], flush=True)
    if image[0, 0, 0] == 9:
        time.sleep(60)
    return test_bank.describe(image)
test_bank.build(Path(sys.argv[1]), describe=slow)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_kill_loses_the_image_in_the_backbone_and_at_most_the_one_being_written(path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLAFS_PROGRESS": "none"}
    code = KILLED.format(tests=str(Path(__file__).parent), root=str(Path(__file__).parents[1]))
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert "9\n" in process.stdout
        process.send_signal(signal.SIGKILL)
    seen = []
    bank = build(path, read=lambda i: seen.append(i) or random_image(i))
    assert seen in ([9], [7, 9])
    np.testing.assert_array_equal(bank.foreground, build(path.with_name("whole")).foreground)


def test_a_stale_bank_is_refused_with_the_reason(path):
    build(path)
    SupportBank.load(path, fold=0, weights="abc")
    with pytest.raises(LlafsError, match="stale bank: .* weights='abc', not 'xyz'. Run notebook 04 again, or `llafs"):
        SupportBank.load(path, fold=0, weights="xyz")


def test_another_backbone_other_weights_and_another_size_describe_otherwise():
    backbone = Backbone("small")
    first = described_by(backbone, 97)
    assert first == described_by(backbone, 97) and json.loads(json.dumps(first)) == first
    assert first["size"] != described_by(backbone, 129)["size"]
    with torch.no_grad():
        next(backbone.parameters())[0] += 1
    assert first["weights"] != described_by(backbone, 97)["weights"]


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def flipped(file):
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def with_a_broken_header(file):
    content = file.read_bytes()
    file.write_bytes(content[:10] + b"(" * 118 + content[128:])


def emptied(file):
    file.write_bytes(b"")


def of_another_kind(file):
    np.save(file, np.load(file).astype(np.float16))


def of_other_length(file):
    np.save(file, np.load(file)[1:])


@pytest.mark.parametrize(
    "damage", [cut, flipped, of_another_kind, of_other_length, with_a_broken_header, emptied, Path.unlink]
)
@pytest.mark.parametrize("name", ["foreground", "area"])
def test_a_damaged_file_is_named_with_the_remedy(path, damage, name):
    build(path)
    damage(path / f"{name}.npy")
    with pytest.raises(LlafsError, match=r"\.npy is not readable as part of a support bank .*: run notebook 04 again"):
        SupportBank.load(path)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"classes": ["horse"], "made_from": {}}'])
def test_an_index_that_does_not_fit_is_named_with_the_remedy(path, index):
    build(path)
    (path / INDEX).write_text(index)
    with pytest.raises(LlafsError, match=r"index\.json is not readable .*: run notebook 04 again"):
        SupportBank.load(path)


def test_a_missing_bank(path):
    with pytest.raises(LlafsError, match="run notebook 04 again"):
        SupportBank.load(path)
