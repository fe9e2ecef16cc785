"""On a GPU all goes the same way: the library and the notebooks, on a pretended one (`pretended_device.py`)."""

import json
import shutil

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from pretended_device import DEVICE, OnDevice, pretended_gpu

from llafs_lib import LLaFS
from llafs_lib.artifacts import SERIES
from llafs_lib.data.images import find_images
from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.runner import BankPrototypes, Panel, Question, ShownImages, arms_of, evaluate
from llafs_lib.records import Episode, Support
from llafs_lib.tools.tutorial import project_root
from llafs_lib.vision import losses, samples
from llafs_lib.vision.backbone import Backbone, encode, toy_backbone
from llafs_lib.vision.clicks import Click
from llafs_lib.vision.features import query_embedding
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.pspnet import SMALL, PSPNet, base_network
from llafs_lib.vision.recipes import Recipe
from llafs_lib.vision.repri import RePRISegmenter
from llafs_lib.vision.samples import BaseImages, episode_images, tap_store
from llafs_lib.vision.segmenter import HSNetSegmenter, INSID3Segmenter
from llafs_lib.vision.training import fit

pytestmark = pytest.mark.filterwarnings("ignore:.*to a meta parameter:UserWarning")  # the name of the pretended device
SIZE, SHAPE = 97, (80, 100)
RECIPE = Recipe(size=SIZE, epochs=2, batch=2)


@pytest.fixture
def gpu():
    with pretended_gpu():
        yield


def image(number):
    return np.random.default_rng(number).integers(0, 256, (*SHAPE, 3), np.uint8)


def mask(number, *_):
    found = np.zeros(SHAPE, np.uint8)
    found[20 : 60 - number % 5, 30:70] = 1
    return found


def supports(count=3):
    return [Support(i, "zebra", 1.0 + i, image(i), mask(i) > 0) for i in range(1, 1 + count)]


# --- the pretended GPU itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda here, there: here + there,
        lambda here, there: torch.where(there > 0, here, there),
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here[there.long()],
        lambda here, there: here.add_(there),
        lambda here, there: there.numpy(),
        lambda here, there: np.asarray(there),
        lambda here, there: there + here.new_tensor([1.0]),
    ],
)
def test_it_refuses_what_a_gpu_refuses(wrong, gpu):
    with pytest.raises(RuntimeError, match="same device|numpy"):
        wrong(torch.ones(2), torch.ones(2, device="cuda"))


def test_it_allows_what_a_gpu_allows(gpu):
    there = torch.arange(3.0, device="cuda")
    assert isinstance(there, OnDevice) and there.device.type != "cpu" and not isinstance(there.cpu(), OnDevice)
    assert (there * torch.tensor(2.0)).tolist() == [0, 2, 4] and float(there.sum()) == 3
    assert there[torch.tensor([2, 0])].tolist() == [2, 0] and there[[1]].cpu().numpy() == 1
    for made in (there.new_tensor([1.0]), torch.tensor([1.0], device="cuda:0"), torch.ones(1).to(there), there[:1] + 1):
        assert isinstance(made, OnDevice) and made.tolist() == [1]
    there[0] = torch.tensor(5.0)
    assert there.clone().add_(1).tolist() == [6, 2, 3] and there.tolist() == [5, 1, 2]


# --- the library ------------------------------------------------------------------------------------------------------


def segmenters(device):
    """The four, with the same weights on every device."""
    torch.manual_seed(0)
    hsnet, base = HSNet(toy_backbone()), PSPNet(toy_backbone(), 5, **SMALL)
    backbone = toy_backbone().to(device)
    return {
        "HSNet": HSNetSegmenter(hsnet.to(device), SIZE),
        "RePRI": RePRISegmenter(base.to(device), SIZE),
        "Prototype": PrototypeSegmenter(backbone, SIZE, 0.5, plain=True, sharpness=8.0),
        "INSID3": INSID3Segmenter(backbone, SIZE),
        "INSID3, debiased": INSID3Segmenter(backbone, SIZE, rank=20),
    }


@pytest.mark.slow
def test_the_segmenters_mark_the_same():
    empty = [Support(9, "zebra", 1.0, image(9), np.zeros(SHAPE, bool))]
    shown = [supports(), [*supports(1), *empty], empty]
    wanted = {name: s.segment_each(image(0), shown, "zebra") for name, s in segmenters("cpu").items()}
    with pretended_gpu():
        found = {name: s.segment_each(image(0), shown, "zebra") for name, s in segmenters("cuda").items()}
    for name, predictions in wanted.items():
        for there, here in zip(found[name], predictions, strict=True):
            np.testing.assert_allclose(there.probability, here.probability, atol=1e-4, err_msg=name)
            assert (there.mask == here.mask).mean() > 0.999 and there.notes == here.notes


def test_features_to_train_on_are_made_on_the_gpu_wherever_the_backbone_is(monkeypatch):
    net, made_on = toy_backbone(), []

    def watched(backbone, inputs):
        made_on.append(next(backbone.parameters()).device)
        return encode(backbone, inputs)

    monkeypatch.setattr(samples, "encode", watched)
    with pretended_gpu():
        taps = tap_store(net, image, SIZE)(0)
    assert made_on == [DEVICE]
    assert {t.device.type for t in (*taps, *net.parameters())} == {"cpu"}, "the data loader and the caller have them"


def train_hsnet(folder, epochs=2):
    """From features that `tap_store` made; → the learner's weights."""
    torch.manual_seed(0)
    model = HSNet(toy_backbone())
    store = tap_store(model.backbone, image, SIZE)
    episodes = [Episode("zebra", i, (i + 1,)) for i in range(4)]

    def loss_of(prepared, batch):
        query, support, shown, target = batch
        return losses.cross_entropy(prepared.match(query, support, shown, target.shape[-2:]), target)

    segmenter = HSNetSegmenter(model, SIZE)
    fit(
        *(model, loss_of, lambda epoch: episode_images(episodes, mask, store, SIZE), RECIPE, folder / "hsnet"),
        seed=0,
        validate=lambda _: float(segmenter.segment(image(0), supports(1)).probability.mean()),
    )
    return {name: value.cpu() for name, value in model.learner.state_dict().items()}


def train_repri(folder, whole):
    torch.manual_seed(0)
    base = base_network(toy_backbone() if not whole else Backbone("small"), n_classes=2, whole=whole)
    recipe = Recipe(size=SIZE, epochs=2, batch=2, whole=whole, optimizer="sgd")
    samples = BaseImages(range(4), image, mask, base, recipe, seed=0)
    trained = base if whole else base.head

    def loss_of(prepared, batch):
        return losses.cross_entropy(prepared(batch[0]), batch[1])

    fit(trained, loss_of, samples, recipe, folder / "repri", seed=0)
    return {name: value.cpu() for name, value in base.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("train", [train_hsnet, lambda f: train_repri(f, True), lambda f: train_repri(f, False)])
def test_training_finds_the_same_weights(train, tmp_path):
    wanted = train(tmp_path / "here")
    with pretended_gpu():
        found = train(tmp_path / "there")
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_ones_own_images(own_scenes, tmp_path):
    """A bank is built and calibrated; images are asked about, corrected and added."""
    photos = list(find_images(own_scenes / "images"))[:2]
    clicks, given = [Click(0.5, 0.5, True), Click(0.1, 0.1, False)], {"train": 0.9, "truck": 0.5}

    def ask(bank):
        model = LLaFS.from_coco(own_scenes / "mine.json", bank=bank, backbone="small", size=SIZE)
        (found, *_), (both, *_) = (list(model.segment_all(photos, c, related=r)) for c, r in asked)
        corrected = model.correct(found, clicks)
        model.add(photos[0], corrected.mask | True, "bus")
        again = LLaFS.from_run(bank).segment(photos[1], "bus", related=given)
        ranked = [name for name, _ in model.rank(photos, "bus", given)]
        return found, both, corrected, again, ranked, model.expected, np.array(model.bank.foreground)

    asked = [("bus", given), (["bus", "train"], {"bus": given})]
    found, both, corrected, again, ranked, expected, rows = ask(tmp_path / "here")
    with pretended_gpu():
        there = ask(tmp_path / "there")
    np.testing.assert_allclose(there[-1], rows, atol=1e-5)
    assert there[5].novel.threshold == expected.novel.threshold and there[4] == ranked
    for a, b in zip((there[0], there[2], there[3]), (found, corrected, again), strict=True):
        assert (a.mask == b.mask).mean() > 0.999 and np.isclose(a.confidence, b.confidence, atol=1e-4)
    assert (there[1].label_map == both.label_map).mean() > 0.999 and (corrected.mask != found.mask).any()


@pytest.mark.slow
def test_an_evaluation(own_model):
    """The models that are shown images and the one that reads a bank, asked two questions."""
    bank = own_model.bank
    ids = {c: [int(bank.image_ids[row]) for row in bank.rows_of(c)] for c in bank.classes}
    name = max(ids, key=lambda c: len(ids[c]))
    related = own_model.related(name)
    questions = [
        Question(Episode(name, i, tuple(j for j in ids[name] if j != i)[:2]), bank, related) for i in ids[name][:2]
    ]

    def read_query(episode):
        pixels, truth = own_model.read(episode.query_id, name)
        return pixels, truth > 0, np.zeros(truth.shape, bool)

    def answers(device):
        made = segmenters(device)
        by_rows = PrototypeSegmenter(toy_backbone().to(device), own_model.method.size, 0.5, plain=True, sharpness=8.0)
        models = {m: ShownImages(s, own_model.read) for m, s in made.items()} | {
            "rows": BankPrototypes(by_rows, [bank])
        }
        arms = arms_of(models, [Arm("", "true", 1), Arm("", "llm", 2), Arm("", "random", 2)])
        panel = Panel(models, arms, embed=lambda pixels: query_embedding(by_rows.describe(pixels)))
        return [asked.answers for asked in evaluate(questions, panel, read_query)]

    wanted = answers("cpu")
    with pretended_gpu():
        found = answers("cuda")
    for there, here in zip(found, wanted, strict=True):
        assert there.keys() == here.keys()
        for arm, counted in here.items():
            assert abs(there[arm].inter - counted.inter) <= 20 and abs(there[arm].union - counted.union) <= 20, arm


# --- the notebooks ----------------------------------------------------------------------------------------------------

FEW = {"budget": "tiny", "queries": 2, "segmenters": "hsnet,prototype"}  # RePRI answers in the tests above


@pytest.fixture(scope="module")
def copied_run(finished_run, tmp_path_factory):
    """A project whose runs are a copy of the tiny run's."""
    runs, _, (code, _, err) = finished_run
    assert code == 0, err
    project = tmp_path_factory.mktemp("on a GPU")
    shutil.copytree(runs, project / "runs")
    for name in ("llafs_lib", "docs", "data"):
        if (project_root() / name).is_dir():
            (project / name).symlink_to(project_root() / name)
    return project


@pytest.mark.slow
@pytest.mark.parametrize("name", SERIES)
def test_the_cells_run(name, copied_run, monkeypatch, gpu):
    monkeypatch.chdir(copied_run)
    cells = json.loads((project_root() / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    names = {"__name__": "__main__", "display": lambda *_: None}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}[{number}]", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= {key: value for key, value in FEW.items() if key in names}
    plt.close("all")
