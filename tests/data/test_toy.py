"""`toy`: the right layout, exact masks, look-alike families, the same bytes each time, all or nothing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from damage import DAMAGES
from pycocotools import mask as rle
from pycocotools.coco import COCO

from llafs_lib.classes import COCO_IDS, COCO_SUPERCATEGORIES, TOY_CLASSES, TOY_FAMILIES
from llafs_lib.data.toy import dataset as toy
from llafs_lib.data.toy.dataset import draw_scene, make_toy
from llafs_lib.data.toy.sketch import shrink
from llafs_lib.errors import LlafsError

N_TRAIN, N_VAL = 40, 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("data") / "toy", N_TRAIN, N_VAL, seed=3)


@pytest.fixture(scope="module")
def scenes() -> list[toy.Scene]:
    return [draw_scene(np.random.default_rng([3, i])) for i in range(60)]


def annotations(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def contents(root: Path) -> dict[str, bytes]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.endswith(".lock"))
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


# ----------------------------------------------------------------------------------------- images


def shown_in(folder):
    """What lies in a folder, without locks."""
    return [p.name for p in folder.iterdir() if not p.name.startswith(".")]


def test_masks_are_disjoint_and_of_the_images_size(scenes):
    for image, objects in scenes:
        assert image.dtype == np.uint8 and image.shape[2] == 3
        assert all(toy.SIDES[0] <= side <= toy.SIDES[1] for side in image.shape[:2])
        assert all(mask.dtype == bool and mask.shape == image.shape[:2] for _, mask in objects)
        assert np.sum([mask for _, mask in objects], axis=0).max() == 1
        assert all(mask.sum() >= toy.MIN_VISIBLE for _, mask in objects)


def test_scenes_hold_one_to_four_objects_and_most_pass_the_area_rule(scenes):
    assert {len(objects) for _, objects in scenes} == {1, 2, 3, 4}
    areas = np.array([mask.sum() for _, objects in scenes for _, mask in objects])
    assert np.mean(areas >= 2048) >= 0.75
    assert areas.max() <= 1.02 * toy.AREAS[1]


def test_images_come_upright_and_lying(scenes):
    assert len({image.shape[0] > image.shape[1] for image, _ in scenes}) == 2


def test_nearer_objects_hide_farther_ones():
    """Some object must lose pixels to another one, and never more than half of itself in the usual case."""
    rng = np.random.default_rng(0)
    square = np.ones((80, 80), np.float32)
    shares = [
        toy._least_visible(toy._arrange([square] * 3, (190, 250), rng), [square] * 3, (190, 250)) for _ in range(20)
    ]
    assert min(shares) < 0.95
    assert np.mean(np.array(shares) >= 0.5) > 0.9


def draw_object(class_name: str, rng: np.random.Generator, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """One object on its own, its longer side `size` px: colour [h, w, 3] uint8 RGB, mask [h, w] bool."""
    colour, mask = toy._cut_out(class_name, rng)
    colour, alpha = shrink(colour, mask, size / max(mask.shape))
    return colour.astype(np.uint8), alpha >= 0.5


@pytest.mark.parametrize("class_name", TOY_CLASSES)
def test_every_class_is_drawn_whole_and_never_twice_the_same(class_name):
    colours = []
    for seed in range(4):
        colour, mask = draw_object(class_name, np.random.default_rng(seed), size=96)
        assert colour.dtype == np.uint8 and colour.shape == (*mask.shape, 3) and mask.dtype == bool
        assert max(mask.shape) == 96
        n_parts, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        assert stats[1:, cv2.CC_STAT_AREA].max() > 0.97 * mask.sum()  # in one piece
        colours.append(colour[mask].mean(axis=0))
    assert np.ptp(colours, axis=0).max() > 2


def test_donut_has_a_hole():
    _, mask = draw_object("donut", np.random.default_rng(0), size=96)
    assert not mask[mask.shape[0] // 2, mask.shape[1] // 2]


def descriptor(colour: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Square root of a 4 × 4 × 4 colour histogram beside a 16 × 16 silhouette, each of length 1: [320]."""
    histogram = np.bincount((colour[mask] // 64).astype(int) @ [16, 4, 1], minlength=64) / mask.sum()
    side = max(mask.shape)
    square = np.zeros((side, side), np.float32)
    top, left = (side - mask.shape[0]) // 2, (side - mask.shape[1]) // 2
    square[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    outline = cv2.resize(square, (16, 16), interpolation=cv2.INTER_AREA)
    outline = (outline + outline[:, ::-1]).ravel()  # a mirror image is the same shape
    return np.concatenate([np.sqrt(histogram), outline / np.linalg.norm(outline)])


@pytest.fixture(scope="module")
def distances() -> np.ndarray:
    """[20, 20] mean distance of the descriptors of two classes, classes in the order of `TOY_CLASSES`."""
    samples = np.array(
        [[descriptor(*draw_object(c, np.random.default_rng([5, i]))) for i in range(12)] for c in TOY_CLASSES]
    )
    pairs = samples[:, None, :, None] - samples[None, :, None, :]
    return np.linalg.norm(pairs, axis=-1).mean(axis=(2, 3))


@pytest.mark.parametrize("family", TOY_FAMILIES)
def test_family_resembles_itself_more_than_any_other(family, distances):
    member = np.array([name in TOY_FAMILIES[family] for name in TOY_CLASSES])
    within = distances[np.ix_(member, member)][~np.eye(4, dtype=bool)].mean()
    for other, names in TOY_FAMILIES.items():
        if other != family:
            stranger = np.array([name in names for name in TOY_CLASSES])
            assert within < distances[np.ix_(member, stranger)].mean(), other


def test_class_resembles_itself_more_than_its_family(distances):
    for index, name in enumerate(TOY_CLASSES):
        family = next(names for names in TOY_FAMILIES.values() if name in names)
        others = [TOY_CLASSES.index(n) for n in family if n != name]
        assert distances[index, index] < distances[index, others].mean(), name


# ----------------------------------------------------------------------------------------- data set


def test_layout_is_cocos(made):
    assert sorted(p.name for p in made.iterdir()) == ["annotations", "sums.json", "train", "val"]
    for split, count in (("train", N_TRAIN), ("val", N_VAL)):
        coco = COCO(made / "annotations" / f"instances_{split}.json")
        assert len(coco.imgs) == count == len(list((made / split).iterdir()))
        assert {c["name"]: c["id"] for c in coco.cats.values()} == {c: COCO_IDS[c] for c in TOY_CLASSES}
        assert all(c["name"] in COCO_SUPERCATEGORIES[c["supercategory"]] for c in coco.cats.values())
        assert len(coco.anns) == len(coco.dataset["annotations"])  # ids are unique
        for record in coco.imgs.values():
            image = cv2.imread(str(made / split / record["file_name"]))
            assert image.shape == (record["height"], record["width"], 3)


def test_no_image_id_is_in_both_splits(made):
    train, val = ({i["id"] for i in annotations(made, split)["images"]} for split in toy.SPLITS)
    assert not train & val


def test_masks_decode_to_the_drawn_ones(made):
    content = annotations(made, "val")
    for index, record in enumerate(content["images"][:8]):
        rng = np.random.default_rng([3, 1, index])
        image, objects = draw_scene(rng, TOY_CLASSES[index % 20])
        found = [a for a in content["annotations"] if a["image_id"] == record["id"]]
        assert [a["category_id"] for a in found] == [COCO_IDS[name] for name, _ in objects]
        for annotation, (_, mask) in zip(found, objects, strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert np.array_equal(rle.decode(annotation["segmentation"]).astype(bool), mask)
            assert annotation["area"] == mask.sum() and annotation["bbox"] == box
            assert annotation["iscrowd"] == 0
        stored = cv2.imread(str(made / "val" / record["file_name"]))[..., ::-1]
        assert np.abs(stored.astype(int) - image).mean() < 6  # JPEG's loss, no more


def test_every_class_is_in_both_splits_about_equally_often(made):
    for split in toy.SPLITS:
        content = annotations(made, split)
        counts = Counter(a["category_id"] for a in content["annotations"])
        assert set(counts) == {COCO_IDS[c] for c in TOY_CLASSES}
        per_image = Counter(a["image_id"] for a in content["annotations"])
        assert set(per_image) == {i["id"] for i in content["images"]}
        assert max(per_image.values()) <= 4


def test_info_tells_renderer_seed_and_counts(made):
    info = annotations(made, "train")["info"]
    assert info == annotations(made, "val")["info"]
    assert (info["renderer_version"], info["seed"]) == (toy.RENDERER_VERSION, 3)
    assert (info["n_train"], info["n_val"]) == (N_TRAIN, N_VAL)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first, again, other = (make_toy(tmp_path / n, 4, 2, seed) for n, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert contents(first) == contents(again)
    assert not set(contents(first).values()) & set(contents(other).values())


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    few, more = make_toy(tmp_path / "few", 2, 1), make_toy(tmp_path / "more", 5, 3)
    images = {name: data for name, data in contents(few).items() if name.endswith(".jpg")}
    assert len(images) == 3 and images.items() <= contents(more).items()


# ------------------------------------------------------------------------------------------ on disk


def test_second_run_does_nothing(tmp_path, monkeypatch):
    out = make_toy(tmp_path / "toy", 2, 1)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    monkeypatch.setattr(toy, "draw_scene", lambda *_: pytest.fail("drew again"))
    assert make_toy(tmp_path / "toy", 2, 1) == out
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}


@pytest.mark.parametrize("there", ["nothing", "another data set"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_half_way_leaves_everything_as_it_was(tmp_path, monkeypatch, there, error):
    if there == "another data set":
        make_toy(tmp_path / "toy", 1, 1, seed=1)
    before, draw, calls = contents(tmp_path), toy.draw_scene, []

    def fail_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise error
        return draw(*arguments)

    monkeypatch.setattr(toy, "draw_scene", fail_at_the_third)
    with pytest.raises(type(error)):
        make_toy(tmp_path / "toy", 4, 2, force=True)
    assert contents(tmp_path) == before
    assert shown_in(tmp_path) == (["toy"] if before else [])


def test_another_data_set_is_replaced_only_by_force(tmp_path):
    out = make_toy(tmp_path / "toy", 2, 1, seed=1)
    before = contents(out)
    with pytest.raises(LlafsError, match="seed 1.*seed 2.*--force"):
        make_toy(out, 2, 1, seed=2)
    assert contents(out) == before
    make_toy(out, 2, 1, seed=2, force=True)
    assert annotations(out, "train")["info"]["seed"] == 2
    assert shown_in(tmp_path) == ["toy"]


def test_two_runs_that_start_at_once_draw_it_once(tmp_path, monkeypatch):
    drawn, write = [], toy._write_split
    monkeypatch.setattr(toy, "_write_split", lambda *a: drawn.append(a[1]) or write(*a))
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: make_toy(tmp_path / "toy", 3, 2), range(2)))
    assert drawn == ["train", "val"] and made == [tmp_path / "toy"] * 2


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory):
    return make_toy(tmp_path_factory.mktemp("once") / "toy", 2, 1)


@pytest.mark.parametrize("name", ["train/000000000001.jpg", "annotations/instances_val.json", "sums.json", "val"])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_data_set_is_drawn_anew(tmp_path, drawn_once, capsys, name, damage):
    out = tmp_path / "toy"
    shutil.copytree(drawn_once, out)
    before = contents(out)
    DAMAGES[damage](out / name)
    assert contents(make_toy(out, 2, 1)) == before
    assert "is not as it was drawn" in capsys.readouterr().err


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_something_else_is_never_replaced(tmp_path, force):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(LlafsError, match="not a toy data set"):
        make_toy(tmp_path, 2, 1, force=force)
    with pytest.raises(LlafsError, match="not a toy data set"):
        make_toy(tmp_path / "thesis.txt", 2, 1, force=force)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_and_missing_parents_will_do(tmp_path):
    (tmp_path / "empty").mkdir()
    assert (make_toy(tmp_path / "empty", 1, 1) / "train").is_dir()
    assert (make_toy(tmp_path / "some" / "where" / "toy", 1, 1) / "val").is_dir()


@pytest.mark.parametrize("wrong", [{"n_train": 0}, {"n_val": -1}, {"n_train": 100_000}, {"seed": -1}])
def test_numbers_out_of_range_are_named(tmp_path, wrong):
    with pytest.raises(LlafsError, match=next(iter(wrong))):
        make_toy(tmp_path / "toy", **wrong)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LlafsError, match="toy cannot be written .*choose another place"):
        make_toy(tmp_path / "file" / "toy", 1, 1)
