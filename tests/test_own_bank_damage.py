"""A bank of one's own: what is damaged is named by whoever has the bank alone, and made anew where the images are."""

import json
import os
import shutil

import numpy as np
import pytest
from damage import DAMAGES, restored

from llafs_lib import LLaFS
from llafs_lib.bank_folder import FILES
from llafs_lib.errors import LlafsError

PARTS = ["bank.json", "files.json", "support_bank", "support_bank/index.json", "support_bank/area.npy", "thumbnails"]
PLAIN = {"backbone": "small", "size": 65}
CELLS = [(part, damage) for part in PARTS for damage in DAMAGES]


@pytest.fixture(scope="module")
def own(own_scenes, tmp_path_factory):
    """A copy of the images with eight of them annotated, their bank, and what it answers."""
    root = tmp_path_factory.mktemp("damaged")
    shutil.copytree(own_scenes / "images", root / "images")
    content = json.loads((own_scenes / "mine.json").read_text())
    content["images"] = content["images"][:8]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (root / "mine.json").write_text(json.dumps(content))
    return root, answer(LLaFS.from_coco(root / "mine.json", **PLAIN))


def answer(model):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    found = model.segment(image, model.bank.classes[0], shots=1)
    return found.mask.tobytes() + found.probability.tobytes()


@pytest.mark.parametrize(
    ("part", "damage"), [c if not n % 6 else pytest.param(*c, marks=pytest.mark.slow) for n, c in enumerate(CELLS)]
)
def test_a_damaged_bank_is_named_or_made_anew(own, part, damage):
    root, whole = own
    bank = root / "mine-bank"
    with restored(bank):
        DAMAGES[damage](bank / part)
        try:
            assert answer(LLaFS.from_run(bank)) == whole
        except LlafsError as error:
            assert "llafs" in str(error) and "mine-bank" in str(error)
        try:
            assert answer(LLaFS.from_coco(root / "mine.json", **PLAIN)) == whole
        except LlafsError as error:
            assert part == "thumbnails" and "make the bank anew" in str(error)


def test_an_image_that_was_replaced_under_its_own_name_is_noticed(own):
    root, _ = own
    first, second = sorted((root / "images").iterdir())[:2]
    with restored(first):
        state = first.stat()
        os.utime(first, ns=(1, 1))
        LLaFS.from_coco(root / "mine.json", **PLAIN)  # a copy has another time
        shutil.copyfile(second, first)
        with pytest.raises(LlafsError, match=f"stale: .*{first.name} is not the image that it knows.*llafs bank"):
            LLaFS.from_coco(root / "mine.json", **PLAIN)
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_bank_that_was_copied_needs_no_times(own, tmp_path):
    shutil.copytree(own[0] / "mine-bank", tmp_path / "copy", copy_function=shutil.copyfile)
    (tmp_path / "copy" / FILES).unlink()
    assert answer(LLaFS.from_run(tmp_path / "copy")) == own[1]
