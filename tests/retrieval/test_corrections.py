import os
import shutil

import numpy as np
import pytest
import torch
from damage import DAMAGES
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.errors import LlafsError
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import build_bank
from llafs_lib.retrieval.corrections import Corrections
from llafs_lib.retrieval.evidence import OWN, class_prototypes, shown_supports
from llafs_lib.retrieval.policies import Request, choose_rows
from llafs_lib.retrieval.thumbnails import Thumbnails, shrunk
from llafs_lib.vision.prototype import combine

BY = {"backbone": "colours", "size": 8}


def describe(image):
    x = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1) - 127.0  # [H, W, 3] → [3, H, W]
    return torch.nn.functional.normalize(x + 1e-3, dim=0)


def an_image(seed=0, size=(20, 30)):
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, bool)
    mask[4:12, 5:20] = True
    return rng.integers(0, 256, (*size, 3), np.uint8), mask


@pytest.fixture
def added(tmp_path):
    return Corrections(tmp_path / "added", describe, BY)


def test_what_was_added_is_there_in_the_next_session(added):
    first, second = added.add(*an_image(0), "okapi", "a.jpg"), added.add(*an_image(1), "lion")
    again = Corrections(added.folder, describe, BY)
    assert [(c.number, c.class_name, c.source) for c in again.listed] == [(1, "okapi", "a.jpg"), (2, "lion", "")]
    assert [c.number for c in again.of("okapi")] == [first] and str(again.listed[1]) == "2: lion, from an array"
    support = again.of("lion")[0].support()
    assert np.array_equal(support.mask, an_image(1)[1]) and support.key == (-1 - second, "lion")
    again.remove(first)
    assert [c.number for c in Corrections(added.folder, describe, BY).listed] == [second]
    with pytest.raises(LlafsError, match="no added support has the number 1; there are: 2"):
        again.remove(first)


def test_an_empty_mask_is_no_support(added):
    with pytest.raises(LlafsError, match="'okapi' is empty"):
        added.add(an_image()[0], np.zeros((20, 30), bool), "okapi")
    assert not added.folder.exists()


def test_a_row_that_other_weights_described_is_described_anew(added):
    added.add(*an_image(), "okapi")
    other = Corrections(added.folder, lambda image: describe(255 - image), {**BY, "size": 9}).listed[0]
    assert not np.allclose(other.inside, added.listed[0].inside)
    stored = added.folder / "1" / "features.npz"
    stored.write_bytes(stored.read_bytes()[:50])  # cut off: it is only a cache
    again = Corrections(added.folder, describe, BY).listed[0]
    assert np.allclose(again.inside, added.listed[0].inside) and again.area == pytest.approx(added.listed[0].area)


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("name", ["about.json", "image.jpg", "mask.png"])
def test_a_damaged_one_is_named(added, name, damage):
    added.add(*an_image(), "okapi")
    DAMAGES[damage](added.folder / "1" / name)
    with pytest.raises(LlafsError, match="added.1 is not readable as an added support .*remove that folder"):
        Corrections(added.folder, describe, BY)


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_row_is_made_anew(added, damage):
    added.add(*an_image(), "okapi")
    DAMAGES[damage](added.folder / "1" / "features.npz")
    (again,) = Corrections(added.folder, describe, BY).listed
    assert np.array_equal(again.inside, added.listed[0].inside) and again.area == added.listed[0].area


def test_the_row_of_another_one_is_not_used(added):
    image, mask = an_image()
    for one in (mask, ~mask):
        added.add(image, one, "okapi")
    shutil.copyfile(added.folder / "2" / "features.npz", added.folder / "1" / "features.npz")
    assert np.array_equal(Corrections(added.folder, describe, BY).listed[0].inside, added.listed[0].inside)


def no_writing(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_a_folder_that_may_only_be_read_is_read_and_says_what_it_does_not_do(added, monkeypatch):
    number = added.add(*an_image(), "okapi")
    (added.folder / "1" / "features.npz").unlink()
    monkeypatch.setattr(os, "replace", no_writing)
    again = Corrections(added.folder, describe, BY)
    assert np.allclose(again.listed[0].inside, added.listed[0].inside)
    with pytest.raises(LlafsError, match="added.1 cannot be removed .Permission denied.: change"):
        again.remove(number)
    assert [c.number for c in again.listed] == [number] and (added.folder / "1" / "mask.png").is_file()


def test_what_is_removed_twice_or_was_half_removed_is_gone(added, monkeypatch):
    numbers = [added.add(*an_image(i), "okapi") for i in range(2)]
    other = Corrections(added.folder, describe, BY)
    other.remove(numbers[0])
    added.remove(numbers[0])
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as a kill after the first step leaves it
        added.remove(numbers[1])
    again = Corrections(added.folder, describe, BY)
    assert again.listed == []
    again.remove(again.add(*an_image(), "okapi"))


def test_other_folders_beside_them_are_let_be(added):
    for name in ("²", "3 of mine", ".4"):
        (added.folder / name).mkdir(parents=True)
    assert Corrections(added.folder, describe, BY).listed == []


# --- beside a bank ----------------------------------------------------------------------------------------------------


@pytest.fixture
def bank(tmp_path):
    images = {i: ("zebra",) if i % 2 else ("bus",) for i in range(16)}
    thumbnails = Thumbnails(tmp_path / "thumbnails", ("zebra", "bus"))

    def read(i):
        image, mask = an_image(10 + i)
        thumbnails.keep(i, image, {images[i][0]: mask})
        return image, {images[i][0]: mask}

    return build_bank(tmp_path / "bank", images, ("zebra", "bus"), read, describe, {}), thumbnails


def request(name, *related, source="given"):
    ranked = tuple(RelatedClass(c, 1.0) for c in related)
    return Request(Episode(name, -1, ()), RelatedClasses(name, ranked, source, ""), np.ones(3, np.float32))


def test_an_added_support_counts_a_share_of_all_look_alikes(bank, added):
    rows, asked = bank[0], request("okapi", "zebra")
    added.add(*an_image(), "okapi")
    own = added.listed[0]
    (inside, outside), notes = class_prototypes(rows, asked, added.listed)
    beside = choose_rows("llm", rows, asked, "all")
    parts = (
        np.concatenate([rows.foreground[beside.rows], own.inside[None]]),
        np.concatenate([rows.background[beside.rows], own.outside[None]]),
        np.append(rows.area[beside.rows], own.area),
    )
    expected = combine(*parts, np.append(beside.weights, OWN * beside.weights.sum()), plain=True)
    assert np.allclose(inside, expected[0], atol=1e-6) and np.allclose(outside, expected[1], atol=1e-6)
    assert "were added: 1" in notes[0]
    shown = shown_supports(rows, asked, added.listed, 3, bank[1])
    assert [s.class_name for s in shown] == ["okapi", "zebra", "zebra"]


def test_an_added_support_of_an_annotated_class_is_one_of_many(bank, added):
    rows, asked = bank[0], request("zebra", "zebra", source="itself")
    added.add(*an_image(), "zebra")
    (inside, _), _ = class_prototypes(rows, asked, added.listed)
    all_rows = rows.rows_of("zebra")
    area = np.append(rows.area[all_rows], added.listed[0].area)
    means = np.concatenate([rows.foreground[all_rows], added.listed[0].inside[None]])
    assert np.allclose(inside, area @ means / area.sum(), atol=1e-6)


def test_without_look_alikes_the_added_ones_stand_alone(bank, added):
    asked = request("okapi")
    _, notes = class_prototypes(bank[0], asked)
    assert "random base supports" in notes[0]
    added.add(*an_image(), "okapi")
    (inside, _), notes = class_prototypes(bank[0], asked, added.listed)
    assert np.allclose(inside, added.listed[0].inside, atol=1e-6) and "random" not in notes[0]
    assert [s.class_name for s in shown_supports(bank[0], asked, added.listed, 5, bank[1])] == ["okapi"]


def test_supports_are_read_when_somebody_looks(bank):
    looked = []
    shown = shown_supports(bank[0], request("okapi", "zebra"), (), 3, lambda *key: looked.append(key) or an_image())
    assert not looked
    assert len(shown) == 3 and shown[0].class_name == "zebra" and len(looked) == 3


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_no_object_is_lost_in_a_thumbnail(height, width, h, w, seed):
    mask = np.zeros((height, width), bool)
    mask[seed * height // 10, seed * width // 10] = True
    small = shrunk(mask, (min(h, height), min(w, width)))
    assert set(np.unique(small)) <= {0, 255} and small.any()


def test_a_thumbnail_that_is_gone_names_the_remedy(bank):
    thumbnails = bank[1]
    next(thumbnails.folder.glob("*/0.jpg")).unlink()
    remedy = "thumbnails of image 0 cannot be read: remove .*thumbnails and .* `llafs bank`"
    with pytest.raises(LlafsError, match=remedy):
        thumbnails(0, "bus")
