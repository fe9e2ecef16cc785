"""The functions that the notebooks write out by hand, loaded from the notebooks, against the library's."""

import ast
import functools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.classes import TOY_CLASSES
from llafs_lib.data.episodes import EpisodeSampler
from llafs_lib.tools.tutorial import project_root
from llafs_lib.vision import insid3
from llafs_lib.vision.hsnet import CenterPivotConv4d, HSNetLearner, hypercorrelation


@functools.cache
def functions_of(name: str) -> dict:
    """Every function that a notebook defines, in a namespace with its imports."""
    book = json.loads((project_root() / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    namespace: dict = {}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            for node in ast.parse("".join(cell["source"])).body:
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
                    exec(compile(ast.Module([node], []), name, "exec"), namespace)
    return namespace


def test_label_maps(tmp_path):
    from llafs_lib.data.coco import CocoSplit
    from llafs_lib.data.toy.dataset import make_toy

    make_toy(tmp_path, n_train=8, n_val=1)
    split = CocoSplit(tmp_path / "train", tmp_path / "annotations" / "instances_train.json", TOY_CLASSES)
    paint_by_hand = functions_of("01_data_folds")["paint_by_hand"]
    for image_id in split.image_ids:
        assert np.array_equal(paint_by_hand(split, image_id), split.label_map(image_id))


@pytest.mark.parametrize("shots", [1, 5])
def test_hsnets_stream(shots):
    images = {"zebra": range(9), "horse": range(20, 27), "cow": range(50, 53)}
    by_hand = functions_of("01_data_folds")["hsnet_episodes_by_hand"](images, shots, 100)
    assert list(by_hand) == EpisodeSampler(images, shots, protocol="hsnet").draw(100)


@pytest.mark.parametrize("seed", range(3))
def test_correlation(seed):
    torch.manual_seed(seed)
    q, s, mask = torch.randn(6, 9, 9), torch.randn(6, 9, 9), (torch.rand(70, 70) > 0.7).long()
    by_hand = functions_of("02_backbone_training")["correlate_by_hand"](q, s, mask)
    library = hypercorrelation([q[None]] * 3, [s[None]] * 3, mask[None], (1, 1, 1))[0][0, 0]
    torch.testing.assert_close(by_hand, library, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 4)])
def test_center_pivot_convolution(kernel, stride):
    layer, x = CenterPivotConv4d(3, 4, kernel, stride), torch.randn(3, 4, 5, 3, 6)
    by_hand = functions_of("02_backbone_training")["center_pivot_by_hand"](x, layer)
    torch.testing.assert_close(by_hand, layer(x[None])[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_squeeze_block():
    block, x = HSNetLearner((2, 2, 2)).encoder_layer3, torch.rand(2, 3, 4, 7, 5)
    for norm in block[1::3]:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    by_hand = functions_of("02_backbone_training")["block_by_hand"](x, block)
    torch.testing.assert_close(by_hand, block(x[None])[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_mixing():
    learner, coarse, fine = HSNetLearner((2, 2, 2)), torch.rand(1, 128, 3, 4, 2, 1), torch.rand(1, 128, 5, 7, 2, 1)
    by_hand = functions_of("02_backbone_training")["mix"](coarse, fine, learner.encoder_layer4to3)
    torch.testing.assert_close(by_hand, learner._mix(coarse, fine, learner.encoder_layer4to3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rank", [0, 3])
def test_insid3(seed, rank):
    """Every step, on features in a few directions, so that there are clusters and ties are rare."""
    by_hand = functions_of("02b_other_segmenters")
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    kinds = draw(4, 12)  # [kinds, C]

    def features(*grid):
        kind = torch.randint(4, grid, generator=generator)
        return torch.nn.functional.normalize((kinds[kind] + 0.6 * draw(*grid, 12)).movedim(-1, -3), dim=-3)

    shots = 1 + seed % 3
    target, supports, black = features(6, 7), features(shots, 6, 5), features(6, 7)
    masks = (draw(shots, 48, 40) > 0.3).long()
    masks[:, :24] = 1
    basis = insid3.position_basis(black, rank)
    own = by_hand["position_basis_by_hand"](black, rank)
    torch.testing.assert_close(own @ own.T, basis @ basis.T, atol=1e-6, rtol=0)
    on_grid = insid3.masks_on_grid(masks, (6, 5))
    found = by_hand["insid3_by_hand"](target, supports, on_grid, basis)
    assert torch.equal(found, insid3.segment_features(target, supports, masks, basis))


def test_masked_average():
    from llafs_lib.vision.features import masked_means

    feature, mask = torch.randn(5, 4, 6), np.random.default_rng(0).random((40, 50)) > 0.6
    by_hand = functions_of("04_retrieval_scoring")["masked_average_by_hand"](feature, mask)
    for own, library in zip(by_hand, masked_means(feature, mask), strict=False):
        np.testing.assert_allclose(own, library, atol=1e-5)


@given(st.dictionaries(st.text("abcd", min_size=1), st.tuples(st.floats(0, 1), st.integers(0, 4))), st.integers(1, 9))
def test_dhondt(classes, k):
    from llafs_lib.retrieval.policies import dhondt

    votes, available = ({name: pair[n] for name, pair in classes.items()} for n in (0, 1))
    assert functions_of("04_retrieval_scoring")["dhondt_by_hand"](votes, available, k) == dhondt(votes, available, k)


@pytest.mark.parametrize("seed", range(3))
def test_presence_and_how_well_it_ranks(seed):
    from llafs_lib.evaluation.presence import auc, presence_score
    from llafs_lib.vision.prototype import similarity

    torch.manual_seed(seed)
    by_hand = functions_of("04_retrieval_scoring")
    features, prototypes = torch.randn(6, 4, 5), torch.randn(2, 6)
    own = by_hand["presence_by_hand"](features, *prototypes)
    assert float(own) == pytest.approx(presence_score(similarity(features, *prototypes)), abs=1e-5)

    rng = np.random.default_rng(seed)
    asked = [(int(score), bool(n % 3)) for n, score in enumerate(rng.integers(0, 5, 20))]  # few scores, so ties
    assert by_hand["auc_by_hand"](asked) == pytest.approx(auc(*zip(*asked, strict=True)))


def test_iou_at_every_threshold():
    from llafs_lib.evaluation.metrics import class_ious, curve

    rng = np.random.default_rng(0)
    curves = [curve(rng.random((9, 8)), rng.random((9, 8)) > 0.5, name) for name in "aab"]
    by_hand = functions_of("04_retrieval_scoring")["class_ious_by_hand"](curves)
    for step in (0, 30, 100):
        library = class_ious([c.at(step / 100) for c in curves])
        assert {name: ious[step] for name, ious in by_hand.items()} == pytest.approx(library)


def test_choosing_classes():
    from llafs_lib.classes import COCO_CLASSES
    from llafs_lib.language.parsing import parse_related

    answer = ["Zebras", "horse", "okapi", "giraffe", "horse", "sofa"]
    kept, dropped = functions_of("03_llm_prompting")["choose_by_hand"](answer, "giraffe", COCO_CLASSES)
    library = parse_related(json.dumps(answer), "giraffe", COCO_CLASSES)
    assert kept == [r.name for r in library.ranked] and len(dropped) == len(library.dropped)
