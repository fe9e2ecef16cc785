import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llafs_lib.errors import LlafsError
from llafs_lib.records import Support
from llafs_lib.vision.backbone import Backbone, toy_backbone
from llafs_lib.vision.insid3 import (
    candidates_of,
    clusters_of,
    debias,
    masks_on_grid,
    position_basis,
    prototype_of,
    segment_features,
)
from llafs_lib.vision.segmenter import INSID3Segmenter

rng, ids = np.random.default_rng(0), itertools.count(1)
CASES = range(6)


def partition(labels):
    """Clusters as sets of places, whatever their numbers."""
    flat = labels.flatten().tolist()
    return {frozenset(i for i, label in enumerate(flat) if label == one) for one in set(flat)}


@pytest.mark.parametrize("number", CASES)
def test_the_published_code_is_reproduced(reference, number):
    case = torch.load(reference / "insid3.pt")[number]
    target, supports, masks = case["target_features"], case["support_features"], case["support_masks"]
    basis = position_basis(case["zero_features"], case["svd"])
    assert basis.shape == (len(target), case["svd"])
    own, shown, inside = debias(target, basis), debias(supports, basis), masks_on_grid(masks, target.shape[-2:])
    every = torch.ones(len(supports))
    torch.testing.assert_close(own, case["target_debiased"], atol=1e-5, rtol=0)
    torch.testing.assert_close(prototype_of(shown, inside, every), case["prototype"], atol=1e-5, rtol=0)
    assert torch.equal(candidates_of(own, shown, inside, every), case["candidates"])
    assert partition(clusters_of(target, case["tau"])) == partition(case["clusters"])
    found = segment_features(target, supports, masks, basis, case["tau"], case["merge"])
    assert torch.equal(found, case["grid_mask"])
    size = (case["size"], case["size"])
    whole = F.interpolate(found[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0] > 0.5
    assert torch.equal(whole, case["mask"])


def plain(target, supports, inside, tau, merge, weights):
    """Spec §9 without a position basis, one token and one pair of clusters at a time."""
    unit = F.normalize(target.flatten(1), dim=0).T  # [hw, C]
    shown = [F.normalize(s.flatten(1), dim=0).T for s in supports]
    prototype = sum(w * s[m.flatten()].mean(dim=0) for w, s, m in zip(weights, shown, inside, strict=True))
    prototype = F.normalize(prototype, dim=0)
    similar = [float(token @ prototype) for token in unit]
    threshold = 0 if max(similar) > 0 else np.quantile(similar, 0.9)
    candidates = []
    for i, token in enumerate(unit):
        votes = [bool(m.flatten()[(s @ token).argmax()]) for s, m in zip(shown, inside, strict=True)]
        if all(w == 1 for w in weights):
            enough = sum(votes) >= math.ceil(len(votes) / 2)
        else:
            enough = 2 * sum(w * v for w, v in zip(weights, votes, strict=True)) > sum(weights) - 1e-9
        if similar[i] > threshold and enough:
            candidates.append(i)
    if not candidates:
        return torch.zeros(target.shape[1:], dtype=torch.bool)
    clusters = [[i] for i in range(len(unit))]
    while len(clusters) > 1:  # join the two clusters whose places are most alike on average

        def alike(pair):
            a, b = (unit[clusters[c]] for c in pair)
            return float((a @ b.T).mean())

        best = max(itertools.combinations(range(len(clusters)), 2), key=alike)
        if alike(best) < tau:
            break
        clusters[best[0]] += clusters.pop(best[1])
    holding = [c for c in clusters if set(c) & set(candidates)]
    means = [F.normalize(unit[c].mean(dim=0), dim=0) for c in holding]
    seed = max(range(len(holding)), key=lambda i: float(means[i] @ prototype))
    found = torch.zeros(len(unit), dtype=torch.bool)
    for i, c in enumerate(holding):
        share = 1 if i == seed else len(set(c) & set(candidates)) / len(c)
        found[c] = bool(np.mean([similar[j] for j in c]) * float(means[i] @ means[seed]) * share > merge)
    return found.view(target.shape[1:])


def drawn(seed, shots, grid, noise, kinds=5, channels=12):
    """Maps whose places are a few kinds of things; the first two kinds are the supports' foreground."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.randn(kinds, channels, generator=g, dtype=torch.float64)
    kind = torch.randint(0, kinds, (1 + shots, *grid), generator=g)
    maps = directions[kind].permute(0, 3, 1, 2)  # [1 + S, h, w, C] → [1 + S, C, h, w]
    maps = maps + noise * torch.randn(maps.shape, generator=g, dtype=torch.float64)
    inside = kind[1:] < 2
    inside[:, 0, 0] = True
    return maps[0], maps[1:], inside


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shots=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    noise=st.sampled_from([0.1, 0.5, 1.5]),
    tau=st.sampled_from([0.3, 0.6, 0.8]),
    merge=st.sampled_from([0.05, 0.2]),
    weighted=st.booleans(),
)
def test_equal_to_a_plain_version(seed, shots, grid, noise, tau, merge, weighted):
    target, supports, inside = drawn(seed, shots, grid, noise)
    weights = [1.0, 0.7, 0.45, 0.2][:shots] if weighted else [1.0] * shots
    none = torch.zeros(len(target), 0, dtype=torch.float64)
    # On the grid itself the masks stay what they are.
    found = segment_features(target, supports, inside, none, tau, merge, torch.tensor(weights))
    assert torch.equal(found, plain(target, supports, inside, tau, merge, weights))
    if not weighted:
        assert torch.equal(found, segment_features(target, supports, inside, none, tau, merge))


@settings(max_examples=25, deadline=None)
@given(channels=st.integers(2, 20), h=st.integers(1, 5), w=st.integers(1, 5), seed=st.integers(0, 999), data=st.data())
def test_a_position_basis_takes_off_what_differs_by_place(channels, h, w, seed, data):
    rank = data.draw(st.integers(0, channels - 1))
    g = torch.Generator().manual_seed(seed)
    zero = torch.randn(channels, h, w, generator=g, dtype=torch.float64)
    basis = position_basis(zero, rank)
    columns = basis.shape[1]
    assert columns == min(rank, h * w)
    torch.testing.assert_close(basis.T @ basis, torch.eye(columns, dtype=torch.float64))
    clean = debias(torch.randn(3, channels, h, w, generator=g, dtype=torch.float64), basis)
    assert float(torch.einsum("schw,cr->srhw", clean, basis).abs().sum()) < 1e-9
    torch.testing.assert_close(clean.norm(dim=1), torch.ones(3, h, w, dtype=torch.float64))
    if rank >= h * w - 1:  # all that an empty image shows at its places is then taken off
        tokens = F.normalize(zero.flatten(1), dim=0)
        rest = tokens - tokens.mean(dim=1, keepdim=True)
        assert float((rest - basis @ (basis.T @ rest)).abs().max()) < 1e-9


@pytest.mark.parametrize("rank", [-1, 12, 500])
def test_a_basis_that_would_leave_nothing(rank):
    with pytest.raises(LlafsError, match=f"rank {rank}: choose from 0 to 11"):
        position_basis(torch.randn(12, 5, 5), rank)


def test_no_supports_and_shapes_that_do_not_fit():
    target, supports, inside = drawn(0, 2, (4, 5), 0.1)
    basis = position_basis(target, 3)
    for maps, masks in ((supports[:0], inside[:0]), (supports, inside[:1]), (supports[:, 1:], inside)):
        with pytest.raises(LlafsError, match="INSID3 needs"):
            segment_features(target, maps, masks, basis)
    with pytest.raises(LlafsError, match="NaN"):
        segment_features(target * torch.nan, supports, inside, basis)


def test_empty_masks_and_weights_of_nothing():
    target, supports, inside = drawn(3, 3, (5, 5), 0.1)
    basis = position_basis(target, 0)
    assert not segment_features(target, supports, torch.zeros_like(inside), basis).any()
    some = inside.clone()
    some[1] = False
    found = segment_features(target, supports, some, basis)
    assert found.any() and torch.equal(found, segment_features(target, supports[[0, 2]], inside[[0, 2]], basis))
    weighted = segment_features(target, supports, inside, basis, weights=torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(found, weighted)
    assert not segment_features(target, supports, inside, basis, weights=torch.zeros(3)).any()


def test_without_a_candidate_nothing_is_marked():
    # Every place of the target looks like the support's background.
    target = torch.tensor([1.0, 0.5])[:, None, None].expand(2, 4, 4)
    support = torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 0.5)])
    support[:, 0, 0] = torch.tensor([0.0, 1.0])
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = True
    assert not segment_features(target, support[None], mask, torch.zeros(2, 0)).any()


def test_weights_count_in_the_votes():
    # Support 0 knows the target as foreground, supports 1 and 2 know it as background.
    a, b = torch.tensor([1.0, 0.2]), torch.tensor([0.2, 1.0])
    yes, no = (torch.stack([x, y], dim=1)[:, None] for x, y in ((a, b), (b, a)))  # [C, 1, 2], the first is foreground
    target, supports = a[:, None, None], torch.stack([yes, no, no])
    masks = torch.tensor([[[True, False]]]).expand(3, 1, 2)
    assert not segment_features(target, supports, masks, torch.zeros(2, 0)).any()
    assert segment_features(target, supports, masks, torch.zeros(2, 0), weights=torch.tensor([1.0, 0.4, 0.4])).all()


def test_the_smallest_object_keeps_a_place_on_the_grid():
    masks = torch.zeros(3, 70, 90, dtype=torch.bool)
    masks[0, 69, 89] = masks[1, 20:23, 40] = True  # a pixel, and three in a column
    small = masks_on_grid(masks, (7, 9))
    assert small.flatten(1).sum(dim=1).tolist() == [1, 1, 0]
    assert small[0, 6, 8] and small[1, 2, 4]


# As a segmenter ------------------------------------------------------------------------------------------------------


def image_and_mask():
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:60] = True
    noise = rng.integers(0, 40, (60, 80, 3), np.uint8)
    return np.where(mask[..., None], np.uint8([210, 20, 20]), np.uint8([20, 60, 200])) + noise, mask


def support(name="zebra"):
    return Support(next(ids), name, 1.0, *image_and_mask())


@pytest.fixture(scope="module")
def backbone():
    return toy_backbone()


@pytest.mark.parametrize("shots", [1, 3])
def test_an_object_is_found_in_another_image(backbone, shots):
    segmenter = INSID3Segmenter(backbone, 193, rank=0)
    query, truth = image_and_mask()
    found = segmenter.segment(query, [support() for _ in range(shots)], "giraffe")
    assert found.mask.shape == found.probability.shape == truth.shape and not found.notes
    assert found.probability.dtype == np.float32 and np.array_equal(found.mask, found.probability > 0.5)
    assert (found.mask & truth).sum() / (found.mask | truth).sum() > 0.5


def test_sets_of_supports_share_the_query_and_change_nothing(backbone):
    segmenter, (query, _) = INSID3Segmenter(backbone, 97), image_and_mask()
    a, b = support(), support()
    together = segmenter.segment_each(query, [[a], [a, replace(b, weight=0.3)]], "giraffe")
    alone = [segmenter.segment(query, [a]), segmenter.segment(query, [a, replace(b, weight=0.3)])]
    assert all(np.array_equal(x.probability, y.probability) for x, y in zip(together, alone, strict=True))


def test_empty_masks_are_said(backbone):
    segmenter, (query, _) = INSID3Segmenter(backbone, 97), image_and_mask()
    empty = replace(support(), mask=np.zeros((60, 80), bool))
    found = segmenter.segment(query, [empty])
    assert not found.mask.any() and "1 of 1 supports do not show" in found.notes[0] and "nothing" in found.notes[1]
    with pytest.raises(LlafsError, match="INSID3 needs at least one"):
        segmenter.segment(query, [], "giraffe")


def test_the_rank_stays_below_the_features_dimension(backbone):
    dimension = len(INSID3Segmenter(backbone, 97).describe(image_and_mask()[0]))
    assert INSID3Segmenter(backbone, 161).basis.shape == (dimension, 0)
    assert INSID3Segmenter(backbone, 161, rank=40).basis.shape == (dimension, 40)
    transformer = Backbone("test_vit").freeze()
    assert INSID3Segmenter(transformer, 160).basis.shape == (64, 32)
    with pytest.raises(LlafsError, match="rank"):
        INSID3Segmenter(backbone, 97, rank=dimension)


def test_when_clusters_join_depends_on_the_kind_of_network_unless_it_is_given(backbone):
    assert INSID3Segmenter(Backbone("test_vit").freeze(), 160).merge == 0.2
    assert INSID3Segmenter(backbone, 97).merge == 0.025 and INSID3Segmenter(backbone, 97, merge=0).merge == 0


def test_the_position_basis_is_computed_once(backbone, monkeypatch):
    segmenter, seen = INSID3Segmenter(backbone, 97), []
    forward = Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    query, shown = image_and_mask()[0], support()
    for _ in range(3):
        segmenter.segment(query, [shown])
    assert len(seen) == 2, "one pass for the query, one for the support"
