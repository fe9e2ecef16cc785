"""The bridge, on an untrained model over drawn scenes: what goes in, what comes out, what is said on bad input."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from llafs_lib import LLaFS
from llafs_lib.classes import COCO_CLASSES
from llafs_lib.data import folds
from llafs_lib.data.splits import SupportReader
from llafs_lib.data.toy.dataset import make_toy
from llafs_lib.errors import LlafsError
from llafs_lib.language import replay
from llafs_lib.language.asking import Asker
from llafs_lib.language.prompts import CONSTRAINED, Question
from llafs_lib.language.replay import ReplayMiss
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import build_bank, described_by
from llafs_lib.retrieval.policies import Request, choose_rows, load_supports, select_supports
from llafs_lib.seals import read_sealed, write_sealed
from llafs_lib.settings import Settings
from llafs_lib.tools.cli import main
from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.features import _pixel_hash, query_embedding
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.segmenter import HSNetSegmenter

HOW = {"threshold": 0.6, "plain": True, "sharpness": 8.0}


def add_bank(run, dataset, fold, segmenter, backbone, limit=None):
    """A support bank of at most `limit` images, with its manifest."""
    wanted, read = dict([*fold.shown(fold.base).items()][:limit]), SupportReader(dataset.train)
    made_from = described_by(backbone, segmenter.size)
    path = run.path / "support_bank"
    build_bank(path, wanted, fold.base, lambda i: read.with_masks(i, wanted[i]), segmenter.describe, made_from)
    run.record("support_bank", made_with(fold))


def made_with(fold):
    """What the manifests of a run's models say."""
    return {"fold": fold.index, "data": fold.digest}


def add_calibration(run, fold):
    with run.writing("calibration.json", made_with(fold)) as path:
        path.write_text(json.dumps({"prototypes": HOW}))


@contextmanager
def without(path):
    """Take a file or a folder away for a while."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A working directory with a small `toy` and a run folder on it."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(folds, "make_toy", lambda out: make_toy(out, n_train=40, n_val=20))
        dataset, run = folds.open_dataset("toy"), Settings().run
        fold = folds.make_fold(dataset, 0)
        folds.save_fold(run, fold)
        torch.manual_seed(0)
        segmenter = HSNetSegmenter(HSNet(Backbone("small").freeze()), 97)
        with run.writing("hsnet.safetensors", made_with(fold)) as path:
            segmenter.model.save(path, size=97)
        add_bank(run, dataset, fold, segmenter, segmenter.model.backbone)
        add_calibration(run, fold)
        yield root, patch, run, fold


@pytest.fixture
def model(project):
    return LLaFS.from_run(project[2].path)


def test_an_image_and_a_word_make_a_mask(project, model, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    found = model.segment(tmp_path / "photo.png", "Giraffe", shots=3)
    assert found.mask.shape == found.probability.shape == (70, 90) and found.mask.dtype == bool
    assert found.related.names[:2] == ("zebra", "horse") and found.related.source == "recorded"
    assert len(found.supports) == 3 and {s.class_name for s in found.supports} <= {"zebra", "horse", "cow"}
    assert not found.notes
    again = model.segment(image, "giraffe", shots=3)
    assert np.array_equal(again.probability, found.probability)


@pytest.mark.parametrize("compared_at", [None, 129])
def test_the_features_of_images_asked_about_are_not_kept(model, compared_at):
    torch.manual_seed(0)
    method = HSNetSegmenter(HSNet(Backbone("small").freeze()), 97, compared_at)
    asked = LLaFS(method, model.bank, model.read, model.vocabulary)
    held = []
    for n in range(3):
        asked.segment(np.full((64, 64, 3), n, np.uint8), "giraffe", shots=2)
        held.append((method.features.used, method.compared.used))
    assert held[0][0] > 0 and len(set(held)) == 1  # those of the supports, which are the same for each image


def test_a_base_class_is_its_own_support(model):
    related = model.related("zebra")
    assert related.source == "itself" and related.names == ("zebra",)


def test_an_answer_without_a_base_class_falls_back_on_words_and_says_so(model):
    found = model.segment(np.zeros((64, 64, 3), np.uint8), "toothbrush")  # looks like nothing that `toy` has
    assert found.related.source == "fallback" and {s.class_name for s in found.supports} <= set(found.related.names)
    assert any("cosine of the names" in note for note in found.notes) and "note:" in str(found)
    assert sum("the related classes come from" in note for note in found.notes) == 1, "said once"


def test_no_related_base_class_at_all_is_noted(model, tmp_path):
    question = Question(CONSTRAINED, "okapi", COCO_CLASSES, "m", 0.0)
    response = {"text": "[]", "finish_reason": "stop", "model": "m", "usage": None}
    replay.save(replay.make_recording(question.request, response, None, "a test", None), tmp_path)
    model.asker = Asker("m", mode="replay", cache=tmp_path)
    found = model.segment(np.zeros((64, 64, 3), np.uint8), "okapi")
    assert found.notes[-1] == "no related base class has a support: random base supports were used instead"
    assert len(found.supports) == 5


def test_an_image_that_cannot_be_read_is_found_out_before_a_model_is_asked(model):
    model.asker = Asker("m", base_url="http://127.0.0.1:1/v1", retries=0)
    with pytest.raises(LlafsError, match="does not exist"):
        model.segment("nowhere.jpg", "okapi")


def test_a_class_nobody_was_asked_about(model):
    with pytest.raises(ReplayMiss, match="okapi"):
        model.segment(np.zeros((64, 64, 3), np.uint8), "okapi")


def test_a_misspelt_class_gets_a_suggestion(model):
    with pytest.raises(ReplayMiss, match="Did you mean 'giraffe'"):
        model.segment(np.zeros((64, 64, 3), np.uint8), "girafe")


@pytest.mark.parametrize("size", [(1, 1), (3, 400)])
def test_odd_sizes(model, size):
    assert model.segment(np.zeros((*size, 3), np.uint8), "giraffe", shots=1).mask.shape == size


def test_what_was_read_of_a_file_is_noted(model, tmp_path):
    frames = [Image.new("RGB", (40, 30), (n, 0, 0)) for n in range(3)]
    frames[0].save(tmp_path / "p.gif", save_all=True, append_images=frames[1:])
    assert model.segment(tmp_path / "p.gif", "giraffe", shots=1).notes == ("the first of 3 frames",)


@pytest.mark.parametrize("image", [np.zeros((9, 9, 5), np.uint8), np.zeros((0, 9, 3), np.uint8), None, 7])
def test_not_an_image(model, image):
    with pytest.raises(LlafsError, match="image"):
        model.segment(image, "giraffe")


@pytest.mark.parametrize(
    ("name", "book"),
    [
        ("support_bank", "04_retrieval_scoring"),
        ("calibration.json", "04_retrieval_scoring"),
        ("hsnet.safetensors", "02_backbone_training"),
    ],
)
@pytest.mark.parametrize("method", ["hsnet", "prototypes"])
def test_a_missing_artifact_names_the_notebook(project, name, book, method):
    run = project[2]
    with without(run.path / name), pytest.raises(LlafsError, match=f"{name} is missing.*[Rr]un notebook {book}"):
        LLaFS.from_run(run.path, method=method)


@pytest.mark.parametrize("method", ["hsnet", "prototypes"])
def test_a_bank_of_another_model_is_refused(project, method):
    run, fold = project[2:]
    index = run.path / "support_bank" / "index.json"
    kept = index.read_text()
    about = read_sealed(index)
    write_sealed(index, about | {"made_from": about["made_from"] | {"weights": "0"}})
    run.record("support_bank", made_with(fold))
    try:
        with pytest.raises(LlafsError, match="stale"):
            LLaFS.from_run(run.path, method=method)
    finally:
        index.write_text(kept)
        run.record("support_bank", made_with(fold))


@pytest.mark.parametrize("method", ["hsnet", "prototypes"])
def test_the_confidence_is_that_of_the_related_prototypes(project, method):
    model = LLaFS.from_run(project[2].path, method=method)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = model.segment(image, "giraffe", shots=1)
    features = model.method.describe(image)
    request = Request(Episode("giraffe", -1, ()), found.related, query_embedding(features))
    rows = choose_rows("llm", model.bank, request, "all")
    inside, outside = (torch.from_numpy(p).float() for p in model.bank.prototypes(rows.rows, rows.weights, plain=True))
    best = (features.flatten(1).T @ (inside - outside)).sort(descending=True).values[:5]
    assert found.confidence == pytest.approx(float(best.mean()), abs=1e-5) and "confidence" in str(found)
    absent = model.segment(image, "giraffe", shots=1, min_confidence=found.confidence + 0.01)
    assert not absent.mask.any() and "taken as absent" in absent.notes[-1]


def test_a_large_image_is_segmented_small_and_answered_large(model, monkeypatch):
    monkeypatch.setattr("llafs_lib.answering.MAX_SIDE", 64)
    found = model.segment(np.zeros((90, 120, 3), np.uint8), "giraffe", shots=1)
    assert found.mask.shape == found.probability.shape == (90, 120) and found.mask.dtype == bool
    assert found.probability.max() <= 1 and "segmented at 64 × 48 px" in found.notes[0]


def test_many_images_one_bad(model, tmp_path):
    (tmp_path / "text.jpg").write_text("I am no image")
    images = [np.zeros((40, 50, 3), np.uint8), tmp_path / "text.jpg", np.zeros((30, 30, 3), np.uint8)]
    first, bad, last = model.segment_all(images, "giraffe", shots=1)
    assert first.mask.shape == (40, 50) and last.mask.shape == (30, 30)
    assert isinstance(bad, LlafsError) and "text.jpg is not a readable image" in str(bad)


@pytest.mark.parametrize("method", ["hsnet", "prototypes"])
def test_memory_does_not_grow_with_the_number_of_images(project, method):
    model, images = LLaFS.from_run(project[2].path, method=method), [np.full((40, 40, 3), n, np.uint8) for n in (1, 2)]
    assert len(list(model.segment_all(images, "giraffe", shots=1))) == 2
    assert not {_pixel_hash(image) for image in images} & set(model.method.features._kept)


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "L", "P"])
def test_other_kinds_of_images(model, tmp_path, mode):
    Image.new(mode, (40, 30)).save(tmp_path / "p.png")
    assert model.segment(tmp_path / "p.png", "giraffe", shots=1).mask.shape == (30, 40)


def test_an_unknown_method(project):
    with pytest.raises(LlafsError, match="choose one of hsnet, prototypes"):
        LLaFS.from_run(project[2].path, method="magic")


def test_prototypes_of_all_related_supports(project):
    model = LLaFS.from_run(project[2].path, method="prototypes")
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    found = model.segment(image, "giraffe", shots=2)
    assert found.mask.shape == (70, 90) and 0 < found.mask.mean() < 1
    assert len(found.supports) == 2 and not found.notes
    request = Request(Episode("giraffe", -1, ()), found.related, query_embedding(model.method.describe(image)))
    supports = load_supports(select_supports("llm", model.bank, request, "all"), model.read)
    by_images = model.method.segment(image, supports, "giraffe")
    assert np.corrcoef(found.probability.ravel(), by_images.probability.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("method", "passes"), [("hsnet", 1 + 2), ("prototypes", 1)])
def test_each_image_goes_through_the_backbone_once(project, monkeypatch, method, passes):
    """The query, and of the supports only those that the model looks at."""
    model = LLaFS.from_run(project[2].path, method=method)
    seen, forward = [], Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    model.segment(np.random.default_rng(1).integers(0, 256, (50, 60, 3), np.uint8), "giraffe", shots=2)
    assert seen == [1] * passes


def test_prototypes_on_photographs_need_no_trained_model(project, tmp_path, monkeypatch):
    """A run whose backbone has ImageNet weights, of which notebook 02 never ran. (The scenes are still drawn ones.)"""
    fold = project[3]
    run, dataset = Settings(runs=str(tmp_path / "runs")).run, folds.open_dataset("toy")
    monkeypatch.setenv("LLAFS_DATA", str(tmp_path))
    backbone = Backbone("mobilenet_v2").freeze()
    (tmp_path / "weights").mkdir()
    torch.save(backbone.net.state_dict(), tmp_path / "weights" / "mobilenet_v2-imagenet.pth")
    folds.save_fold(run, fold)
    add_bank(run, dataset, fold, PrototypeSegmenter(backbone, 97, 0.5), backbone, limit=12)
    add_calibration(run, fold)
    model = LLaFS.from_run(run.path, method="prototypes")
    assert model.segment(np.zeros((40, 50, 3), np.uint8), "giraffe", shots=1).mask.shape == (40, 50)
    with pytest.raises(LlafsError, match="run notebook 02_backbone_training"):
        LLaFS.from_run(run.path)
    other = Backbone("mobilenet_v2").net.state_dict()
    torch.save(other, tmp_path / "weights" / "mobilenet_v2-imagenet.pth")
    with pytest.raises(LlafsError, match="stale bank: it was made with weights="):
        LLaFS.from_run(run.path, method="prototypes")


def test_stand_ins_can_be_given(model):
    cow = RelatedClasses("giraffe", (RelatedClass("cow", 1.0),), "recorded", "a test")
    found = model.segment(np.zeros((64, 64, 3), np.uint8), "giraffe", related=cow)
    assert {s.class_name for s in found.supports} == {"cow"}


def test_a_run_may_be_moved_and_renamed(project, tmp_path):
    shutil.copytree(project[2].path, tmp_path / "giraffes")
    image = np.zeros((64, 64, 3), np.uint8)
    moved, there = LLaFS.from_run(tmp_path / "giraffes"), LLaFS.from_run(project[2].path)
    assert np.array_equal(moved.segment(image, "giraffe").probability, there.segment(image, "giraffe").probability)


def test_the_command(project, tmp_path, capsys):
    Image.new("RGB", (64, 48), "tan").save(tmp_path / "photo.jpg")
    run, out = str(project[2].path), str(tmp_path / "out.png")
    command = ["segment", str(tmp_path / "photo.jpg"), "giraffe", "--run", run, "-o", out, "--shots", "2"]
    for more, wide in (([], False), (["--format", "figure"], True)):
        assert main([*command, *more]) == 0
        assert "giraffe looks like: zebra 0.70" in capsys.readouterr().out
        with Image.open(out) as written:
            assert (written.width > 300) == wide and (written.size == (64, 48)) != wide


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jpg", "giraffe"], "nothing.jpg does not exist"),
        (["photo.jpg", "giraffe", "--run", "runs/toy/fold9"], "not a run folder"),
        (["photo.jpg", "giraffe", "-o", "o.npy"], "o.npy: a result is not written as .npy"),
        (["photo.jpg", "giraffe", "--shots", "0"], "at least 1"),
        (["photo.jpg", "gir\naffe"], "line break"),
        (["photo.jpg", "giraff"], "Did you mean 'giraffe'?"),
    ],
)
def test_the_commands_errors_are_one_line(project, capsys, arguments, message):
    root, *_ = project
    Image.new("RGB", (64, 48)).save(root / "photo.jpg")
    assert main(["segment", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("llafs: ") and message in error and len(error.splitlines()) == 1


def test_the_manifest_of_a_run_is_json(project):
    for manifest in project[2].path.glob("*.manifest.json"):
        assert json.loads(manifest.read_text())["sha256"]
