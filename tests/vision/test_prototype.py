import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llafs_lib.errors import LlafsError
from llafs_lib.records import Support
from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.features import masked_means, query_embedding
from llafs_lib.vision.prototype import ABSOLUTE as A
from llafs_lib.vision.prototype import (
    PrototypeSegmenter,
    combine,
    diffuse,
    prototypes,
    score_map,
    similarity,
    stretched,
)


def random_maps(k=2, channels=5, grid=(4, 6)):
    return F.normalize(torch.randn(k, channels, *grid, dtype=torch.float64), dim=1)


def test_prototypes_by_hand():
    features, masks = random_maps(), torch.randint(0, 2, (2, 4, 6))
    masks[0, 0, 0], masks[0, 0, 1] = 1, 0
    inside, outside = [], []
    for k, i, j in np.ndindex(2, 4, 6):
        (inside if masks[k, i, j] else outside).append(features[k, :, i, j])
    foreground, background = prototypes(features, masks)
    mean = torch.stack(inside).mean(0)
    torch.testing.assert_close(foreground, mean / mean.norm())
    torch.testing.assert_close(background, torch.stack(outside).mean(0))  # as short as it is


def test_an_object_smaller_than_a_position_is_not_lost():
    features, masks = random_maps(1), torch.zeros(1, 40, 60)
    masks[0, 15, 25] = 1  # a hundredth of position (1, 2)
    torch.testing.assert_close(prototypes(features, masks)[0], features[0, :, 1, 2])


def test_weights_say_how_much_a_support_counts():
    features, masks = random_maps(3), torch.randint(0, 2, (3, 4, 6))
    only = prototypes(features, masks, torch.tensor([0.0, 2.0, 0.0]))
    alone = prototypes(features[1:2], masks[1:2])
    twice = prototypes(features[[0, 0, 1]], masks[[0, 0, 1]])
    weighted = prototypes(features[:2], masks[:2], torch.tensor([2.0, 1.0]))
    for a, b in ((only, alone), (twice, weighted)):
        torch.testing.assert_close(a[0], b[0])
        torch.testing.assert_close(a[1], b[1])


def test_masks_without_foreground_or_background():
    features = random_maps()
    assert not prototypes(features, torch.zeros(2, 4, 6))[0].any()
    assert not prototypes(features, torch.ones(2, 4, 6))[1].any()


@pytest.mark.parametrize(
    ("features", "masks"),
    [(torch.rand(0, 5, 4, 4), torch.rand(0, 4, 4)), (torch.rand(2, 5, 4, 4), torch.rand(1, 4, 4)),
     (torch.rand(5, 4, 4), torch.rand(5, 4, 4)), (torch.rand(2, 5, 4, 4), torch.rand(2, 1, 4, 4)),
     (torch.full((1, 5, 4, 4), torch.nan), torch.ones(1, 4, 4))],
)  # fmt: skip
def test_bad_input(features, masks):
    with pytest.raises(LlafsError, match="must be|NaN"):
        prototypes(features, masks)


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_scores_span_the_unit_interval(seed):
    torch.manual_seed(seed)
    scores = score_map(random_maps()[0], torch.randn(5).double(), torch.randn(5).double(), (9, 11))
    assert scores.shape == (9, 11) and scores.min() == 0 and scores.max() == pytest.approx(1)


def test_a_map_without_differences_scores_nothing():
    flat = torch.ones(5, 4, 4)
    assert not score_map(flat, torch.ones(5), torch.zeros(5), (8, 8)).any()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [  # of supports whose background has the mean similarity −0.5 and whose foreground has 0.5
        ([-0.5, 0.0, 0.5], [0, 0.5, 1]),
        ([-0.25, 0.0, 0.25], [0.25 * A, 0.5, 1 - 0.25 * A]),  # half as far apart as in the supports
        ([-3.0, 0.0, 3.0], [0, 0.5, 1]),
        ([0.5, 0.5, 0.5], [A, A, A]),  # all of the image is as similar as the supports' foreground
        ([-0.5, -0.5, -0.5], [0, 0, 0]),
    ],
)
def test_supports_of_the_class_itself_say_how_similar_it_is(scores, expected):
    own = torch.tensor([0.5, 0.0]), torch.tensor([-0.5, 0.0])
    found = stretched(torch.tensor([scores]), (1, 3), own=own)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float32))


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_own_supports_keep_scores_in_the_unit_interval_and_in_order(seed):
    torch.manual_seed(seed)
    (features,), own = random_maps(1), tuple(torch.randn(2, 5, dtype=torch.float64))
    likeness = similarity(features, *own)
    found = stretched(likeness, likeness.shape, own=own)
    order = likeness.flatten().argsort()
    assert found.min() >= 0 and found.max() <= 1 and (found.flatten()[order].diff() >= -1e-12).all()


def test_a_query_without_finite_features():
    with pytest.raises(LlafsError, match="NaN"):
        score_map(torch.full((5, 4, 4), torch.nan), torch.ones(5), torch.zeros(5), (8, 8))


# --- the segmenter ---------------------------------------------------------------------------------------------------

rng, ids = np.random.default_rng(0), itertools.count(1)


def random_image(height=60, width=80):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def support(score=1.0):
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:60] = True
    return Support(next(ids), "zebra", score, random_image(), mask)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return Backbone("small").freeze()


@pytest.mark.parametrize("shots", [1, 3])
def test_a_prediction_has_the_images_size(backbone, shots):
    segmenter = PrototypeSegmenter(backbone, 97, threshold=0.7)
    found = segmenter.segment(random_image(50, 70), [support() for _ in range(shots)], "giraffe")
    assert found.mask.shape == found.probability.shape == (50, 70) and not found.notes
    assert found.mask.dtype == bool and found.probability.dtype == np.float32
    assert np.array_equal(found.mask, found.probability >= np.float32(0.7))


def test_the_object_itself_is_found_again(backbone):
    shown = support()
    image = np.where(shown.mask[..., None], np.uint8([250, 20, 20]), np.uint8([20, 60, 20]))
    found = PrototypeSegmenter(backbone, 97, 0.6).segment(image, [Support(1, "zebra", 1.0, image, shown.mask)])
    assert (found.mask & shown.mask).sum() / (found.mask | shown.mask).sum() > 0.6


def test_supports_count_by_their_weight_not_by_their_score(backbone):
    query, (a, b), segmenter = random_image(), (support(1.0), support(0.1)), PrototypeSegmenter(backbone, 97, 0.6)

    def score(*shown):
        return segmenter.segment(query, shown).probability

    assert np.array_equal(score(a, b), score(replace(a, score=0.1), replace(b, score=1.0)))
    assert not np.allclose(score(a, b), score(a, replace(b, weight=0.1)), atol=1e-4)
    np.testing.assert_allclose(score(a, replace(b, weight=0)), score(a), atol=1e-6)


def test_empty_masks_give_an_empty_prediction(backbone):
    empty = Support(1, "zebra", 1.0, random_image(), np.zeros((60, 80), bool))
    found = PrototypeSegmenter(backbone, 97, threshold=0.0).segment(random_image(50, 70), [empty])
    assert found.mask.shape == (50, 70) and not found.mask.any() and "nothing is marked" in found.notes[0]


def test_no_supports(backbone):
    with pytest.raises(LlafsError, match="no support for giraffe"):
        PrototypeSegmenter(backbone, 97, 0.6).segment(random_image(), [], "giraffe")


def test_a_plain_foreground_keeps_its_length():
    features, masks = random_maps(3), torch.randint(0, 2, (3, 4, 6))
    (plain, background), (unit, same) = prototypes(features, masks, plain=True), prototypes(features, masks)
    torch.testing.assert_close(F.normalize(plain, dim=0), unit)
    torch.testing.assert_close(background, same)
    inside = features.permute(0, 2, 3, 1)[masks.bool()]  # [places, C]
    torch.testing.assert_close(plain, inside.mean(0))


def test_masked_means_are_one_supports_part_of_the_prototypes():
    features, masks = random_maps(1), torch.randint(0, 2, (1, 4, 6))
    inside, outside, area = masked_means(features[0], masks[0].numpy())
    parts = combine(inside[None], outside[None], np.array([area]), np.ones(1), plain=True)
    for found, wanted in zip(parts, prototypes(features, masks, plain=True), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert area == pytest.approx(float(masks.float().mean()))
    nothing = masked_means(features[0], np.zeros((4, 6), bool))
    assert not nothing[0].any() and nothing[2] == 0


def test_prototypes_equal_one_average_over_all_positions():
    features, weights = random_maps(3).float(), torch.tensor([1.0, 0.3, 0.0])
    masks = torch.rand(3, 29, 41) < 0.3  # a position covers parts of both kinds
    shares = F.adaptive_avg_pool2d(masks.float(), (4, 6))  # [3, 4, 6]
    for plain in (False, True):
        means = []
        for counted in (weights[:, None, None] * shares, weights[:, None, None] * (1 - shares)):
            means.append(torch.einsum("kchw,khw->c", features, counted) / counted.sum())
        foreground = means[0] if plain else F.normalize(means[0], dim=0)
        found = prototypes(features, masks, weights, plain)
        torch.testing.assert_close(found[0], foreground, atol=1e-6, rtol=0)
        torch.testing.assert_close(found[1], means[1], atol=1e-6, rtol=0)


def test_diffusion_by_hand():
    features, scores = random_maps(1)[0], torch.randn(4, 6, dtype=torch.float64)
    found = diffuse(features, scores, 3.0)
    for i, j in np.ndindex(4, 6):
        weights = torch.exp(3.0 * (torch.einsum("chw,c->hw", features, features[:, i, j]) - 1))
        torch.testing.assert_close(found[i, j], (weights * scores).sum() / weights.sum())


def test_diffusion_keeps_a_border_between_unlike_things_and_evens_out_like_ones():
    features = torch.zeros(2, 1, 6)
    features[0, :, :3], features[1, :, 3:] = 1, 1
    scores = torch.tensor([[1.0, 0.5, 0.9, 0.1, 0.0, 0.2]])
    found = diffuse(features, scores, 100.0)
    torch.testing.assert_close(found, torch.tensor([[0.8] * 3 + [0.1] * 3]))
    torch.testing.assert_close(diffuse(features, scores, 0.0), scores.mean().expand(1, 6))


def test_marking_with_prototypes_equals_segmenting_with_the_supports():
    rng = np.random.default_rng(0)
    segmenter = PrototypeSegmenter(Backbone("small").freeze(), 64, 0.5, plain=True, sharpness=4.0)
    images = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(3)]
    mask = np.zeros((64, 64), bool)
    mask[8:40, 16:56] = True
    supports = [Support(i, "cat", 1.0, p, mask, weight=w) for i, (p, w) in enumerate(zip(images[1:], (1.0, 0.5)))]  # noqa: B905
    with torch.inference_mode():
        rows = [masked_means(segmenter.describe(s.image), s.mask) for s in supports]
    inside, outside, area = (np.stack(column) for column in zip(*rows, strict=True))
    marked = segmenter.mark(images[0], *combine(inside, outside, area, np.array([1.0, 0.5]), plain=True))
    found = segmenter.segment(images[0], supports, "cat")
    np.testing.assert_allclose(marked.probability, found.probability, atol=1e-4)
    with torch.inference_mode():
        assert np.linalg.norm(query_embedding(segmenter.describe(images[0]))) == pytest.approx(1, abs=1e-5)
