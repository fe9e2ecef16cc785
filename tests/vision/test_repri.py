"""RePRI against the reference, its gradients against autograd, its base network and its form of images."""

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llafs_lib.errors import LlafsError
from llafs_lib.records import Support
from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.losses import IGNORE, cross_entropy
from llafs_lib.vision.pspnet import PUBLISHED, PSPNet, fitted_size, padded_input, padded_labels, unpadded
from llafs_lib.vision.repri import ORACLE, RePRISegmenter, RepriSettings, refine, true_proportion

# --- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", ["1shot", "5shot"])
def test_reference_tensors(reference, shots):
    case = torch.load(reference / "repri_inference.pt")[shots]
    padding = case["query_mask"][:, 0] == IGNORE  # the reference's V_q is that of the query's label
    found = refine(case["support_feats"], case["query_feats"], case["support_masks"], padding)
    for value, name in (
        (found.initial.prototype, "init_prototype"),
        (found.initial.bias, "init_bias"),
        (found.final.prototype, "final_prototype"),
        (found.final.bias, "final_bias"),
        (found.probability, "query_foreground_probability"),
    ):
        torch.testing.assert_close(value, case[name], atol=1e-5, rtol=0)
    for value, name in ((found.initial, "init_proportion"), (found.final, "final_proportion")):
        torch.testing.assert_close(value.proportion, case[name][:, 1], atol=1e-5, rtol=0)  # [n, 2]: background first


def golden_feature(shape, identity):
    """The deterministic fill of spec §8."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.013 * identity + 0.37 * i + 0.001 * (i % 101) ** 2).view(shape)


def golden_task(shots):
    support, query = golden_feature((2, shots, 16, 7, 7), 3), golden_feature((2, 1, 16, 7, 7), 5)
    masks = torch.zeros(2, shots, 49, 49, dtype=torch.long)
    masks[..., 8:30, 10:35] = 1
    masks[..., 45:, :] = IGNORE
    query_mask = torch.zeros(2, 49, 49, dtype=torch.long)
    query_mask[:, 15:40, 5:25] = 1
    query_mask[..., 46:] = IGNORE
    return F.normalize(support, dim=2), F.normalize(query, dim=2), masks, query_mask


def approx(values, tolerance=1e-9):
    return pytest.approx(values, abs=tolerance, rel=tolerance)


@pytest.mark.parametrize("shots", [1, 5])
def test_golden_values_in_float64(reference, shots):
    golden = json.loads((reference / "golden.json").read_text())[f"repri_{shots}shot"]
    support, query, masks, query_mask = golden_task(shots)
    found = refine(support, query, masks, query_mask == IGNORE)
    assert found.initial.bias.tolist() == approx(golden["bias0"])
    assert found.initial.proportion.tolist() == approx(golden["pi0_fg"])
    assert found.final.proportion.tolist() == approx(golden["pi_end_fg"])
    assert found.final.bias.tolist() == approx(golden["bias_end"])
    assert found.final.prototype[0, :4].tolist() == approx(golden["proto_end[0,:4]"])
    assert found.final.prototype[1, -3:].tolist() == approx(golden["proto_end[1,-3:]"])
    assert found.probability.sum((1, 2)).tolist() == approx(golden["sum_fg_prob_49x49"])
    assert (found.probability > 0.5).sum((1, 2)).tolist() == golden["fg_pixels"]


def test_golden_values_of_the_oracle(reference):
    golden = json.loads((reference / "golden.json").read_text())["repri_oracle_1shot_T300_w1_1_.1"]
    support, query, masks, query_mask = golden_task(1)
    proportion = true_proportion(query_mask, (7, 7))
    assert proportion.tolist() == approx(golden["pi_fg"])
    found = refine(support, query, masks, query_mask == IGNORE, ORACLE, proportion)
    assert torch.equal(found.final.proportion, proportion)
    assert found.final.bias.tolist() == approx(golden["bias_end"])
    assert found.probability.sum((1, 2)).tolist() == approx(golden["sum_fg_prob"])


# --- the refinement itself -------------------------------------------------------------------------------------------


def loss_by_autograd(w, b, pi, support, query, labels, inside, settings, shots):
    """Spec §2.3 word by word, on flat unit features [n, C, P]."""
    eps = 1e-10

    def probability(f):
        cosine = (w[:, :, None] * f).sum(1) / (w.norm(dim=1)[:, None] * f.norm(dim=1) + eps)
        return torch.sigmoid(settings.temperature * cosine - b[:, None])

    def mean(x, where):
        return (x * where).sum(1) / where.sum(1)

    p, y = probability(support), (labels == 1).double()
    ce = -mean(y * torch.log(p + eps) + (1 - y) * torch.log(1 - p + eps), labels != IGNORE)
    p = probability(query)
    entropy = -mean(p * torch.log(p + eps) + (1 - p) * torch.log(1 - p + eps), inside)
    m = mean(p, inside)
    kl = m * torch.log(m / (pi + eps)) + (1 - m) * torch.log((1 - m) / (1 - pi + eps))
    return (ce + kl / shots + entropy / shots).sum()


@pytest.mark.parametrize("shots", [1, 3])
def test_a_step_is_the_gradient_of_the_loss(shots):
    support, query, masks, query_mask = golden_task(shots)
    padding = query_mask == IGNORE
    settings = RepriSettings(adapt_iter=2, rate=1.0)  # one step as long as the gradient
    found = refine(support, query, masks, padding, settings)
    start = found.initial
    w, b = start.prototype.clone().requires_grad_(), start.bias.clone().requires_grad_()
    loss_by_autograd(
        w,
        b,
        start.proportion,
        support.transpose(1, 2).flatten(2),
        query[:, 0].flatten(2),
        masks[..., ::7, ::7].flatten(1),
        ~padding[:, ::7, ::7].flatten(1),
        settings,
        shots,
    ).backward()
    torch.testing.assert_close(start.prototype - found.final.prototype, w.grad, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(start.bias - found.final.bias, b.grad, atol=1e-12, rtol=1e-10)


def random_task(seed=0, n=3, shots=2, channels=8, grid=(5, 6)):
    """A task whose masks are as large as its grid, so that nothing is resized."""
    rng = torch.Generator().manual_seed(seed)
    support = torch.randn(n, shots, channels, *grid, generator=rng, dtype=torch.float64)
    query = torch.randn(n, 1, channels, *grid, generator=rng, dtype=torch.float64)
    masks = torch.randint(0, 2, (n, shots, *grid), generator=rng)
    masks[..., 0, 0], masks[..., -1, :] = 1, IGNORE
    padding = torch.zeros(n, *grid, dtype=torch.bool)
    padding[..., -2:] = True
    return support, query, masks, padding


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 3))
def test_a_batch_equals_a_loop(seed, n, shots):
    support, query, masks, padding = random_task(seed, n, shots)
    together = refine(support, query, masks, padding)
    for i in range(n):
        one = slice(i, i + 1)
        alone = refine(support[one], query[one], masks[one], padding[one])
        torch.testing.assert_close(together.probability[one], alone.probability, atol=1e-9, rtol=0)
        torch.testing.assert_close(together.final.prototype[one], alone.final.prototype, atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=4))
def test_tasks_that_share_features_equal_tasks_with_copies(seed, chosen):
    """One pool of four supports, of which each task is shown some; a weight of 0 also leaves the count K alone."""
    support, query, masks, padding = random_task(seed, n=1, shots=4)
    weights = torch.zeros(len(chosen), 4, dtype=torch.float64)
    for row, own in zip(weights, chosen, strict=True):
        row[list(own)] = torch.rand(len(own), dtype=torch.float64) + 0.1
    together = refine(support, query, masks, padding, weights=weights)
    for i, own in enumerate(map(list, chosen)):
        alone = refine(support[:, own], query, masks[:, own], padding, weights=weights[i : i + 1, own])
        torch.testing.assert_close(together.probability[i], alone.probability[0], atol=1e-9, rtol=0)
        torch.testing.assert_close(together.final.bias[i], alone.final.bias[0], atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000))
def test_what_lies_under_void_support_pixels_does_not_matter(seed):
    support, query, masks, padding = random_task(seed)
    changed = torch.where((masks == IGNORE)[:, :, None], torch.randn_like(support), support)
    a, b = refine(support, query, masks, padding), refine(changed, query, masks, padding)
    assert torch.equal(a.probability, b.probability)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000))
def test_padding_enters_the_initial_bias_alone(seed):
    """So the image's probabilities do not depend on how its padding is arranged, and do depend on there being any."""
    support, query, masks, padding = random_task(seed)
    shuffled = query.clone()
    shuffled[..., -2:] = query[..., -2:].flip(-1, -2)
    a, b = refine(support, query, masks, padding), refine(support, shuffled, masks, padding)
    torch.testing.assert_close(a.probability[..., :-2], b.probability[..., :-2], atol=1e-9, rtol=0)
    unpadded_result = refine(support, query, masks, torch.zeros_like(padding))
    torch.testing.assert_close(a.initial.bias, unpadded_result.initial.bias)
    assert not torch.allclose(a.final.bias, unpadded_result.final.bias, atol=1e-6)


def test_the_length_and_the_order_of_things_do_not_matter():
    support, query, masks, padding = random_task()
    found = refine(support, query, masks, padding).probability
    torch.testing.assert_close(refine(3 * support, 0.1 * query, masks, padding).probability, found)
    torch.testing.assert_close(refine(support.flip(1), query, masks.flip(1), padding).probability, found)


def test_refinement_lowers_the_oracles_divergence():
    support, query, masks, padding = random_task()
    truth = torch.full((3,), 0.2, dtype=torch.float64)
    shares = [
        (c.probability(F.normalize(query[:, 0].flatten(2), dim=1)) * ~padding.flatten(1)).sum(1)
        for found in [refine(support, query, masks, padding, ORACLE, truth)]
        for c in (found.initial, found.final)
    ]
    before, after = ((share / (~padding[0]).sum() - truth).abs() for share in shares)
    assert (after < before).all()


def test_under_inference_mode_and_without_leaks():
    support, query, masks, padding = random_task()
    support.requires_grad_()
    expected = refine(support, query, masks, padding)
    assert not expected.probability.requires_grad and not expected.final.prototype.requires_grad
    before = query.clone()
    with torch.inference_mode():
        found = refine(support.detach().clone(), query.clone(), masks, padding)
    assert torch.equal(found.probability, expected.probability) and torch.equal(query, before)


def test_an_empty_mask_marks_nothing_and_disturbs_no_other_task():
    support, query, masks, padding = random_task()
    empty = masks.clone()
    empty[1] = 0
    found, expected = refine(support, query, empty, padding), refine(support, query, masks, padding)
    assert not found.probability[1].any() and found.final.prototype.isfinite().all()
    torch.testing.assert_close(found.probability[[0, 2]], expected.probability[[0, 2]])


def test_supports_that_are_all_void_mark_nothing():
    support, query, masks, padding = random_task()
    assert not refine(support, query, torch.full_like(masks, IGNORE), padding).probability.any()


def test_absurd_settings_saturate_and_stay_finite():
    support, query, masks, padding = (x.float() if x.is_floating_point() else x for x in random_task())
    found = refine(support, query, masks.clamp(min=1), padding, RepriSettings(rate=100.0))
    assert found.probability.isfinite().all() and found.final.prototype.isfinite().all()


def test_masks_of_any_type():
    support, query, masks, padding = random_task()
    plain = masks == 1
    expected = refine(support, query, plain.long(), padding).probability
    for same in (plain, plain.float(), plain.to(torch.uint8)):
        assert torch.equal(refine(support, query, same, padding).probability, expected)


def replaced(task, **changes):
    names = ("support", "query", "masks", "padding")
    return dict(zip(names, task, strict=True)) | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, q, m, p: {"support": s[:, :0]}, "K ≥ 1"),
        (lambda s, q, m, p: {"support": s[0]}, "must be"),
        (lambda s, q, m, p: {"query": q[..., :-1]}, "query features"),
        (lambda s, q, m, p: {"query": q[:, :, :-1]}, "query features"),
        (lambda s, q, m, p: {"masks": m[:, :1]}, "support masks"),
        (lambda s, q, m, p: {"padding": p[:2]}, "padding"),
        (lambda s, q, m, p: {"proportion": torch.ones(2)}, "proportion"),
        (lambda s, q, m, p: {"query": q.index_fill(2, torch.tensor(0), math.nan)}, "NaN"),
        (lambda s, q, m, p: {"support": s.index_fill(2, torch.tensor(0), math.inf)}, "NaN or infinity"),
        (lambda s, q, m, p: {"padding": p.index_fill(0, torch.tensor(2), True)}, "all of it is padding"),
    ],
)
def test_bad_input(change, message):
    task = random_task()
    with pytest.raises(LlafsError, match=message):
        refine(**replaced(task, **change(*task)))


def test_true_proportion():
    mask = torch.zeros(2, 4, 4, dtype=torch.long)
    mask[0, :2] = 1
    mask[0, 3] = IGNORE
    mask[1] = IGNORE
    assert true_proportion(mask, (4, 4)).tolist() == [pytest.approx(8 / 12), 0]


# --- the base network ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_published_network():
    model = PSPNet(Backbone("resnet50"), 61, **PUBLISHED).eval()
    x = torch.rand(1, 3, 65, 97)
    assert model.trunk(x).shape == (1, 2048, 9, 13)  # output stride 8
    assert model.features(x).shape == (1, 512, 9, 13)
    assert model(x).shape == (1, 61, 9, 13)
    assert model.head.bottleneck[0].in_channels == 4096
    for stage, dilation in ((model.backbone.net.layer3, 2), (model.backbone.net.layer4, 4)):
        wide = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert all(m.dilation == m.padding == (dilation, dilation) for m in wide)
        assert all(m.stride == (1, 1) for m in stage.modules() if isinstance(m, nn.Conv2d))


def test_dilation_works_on_a_copy():
    plain = Backbone("resnet18")
    dilated = PSPNet(plain, 6, width=8, dilated=True).backbone
    assert plain.net.layer4[0].conv1.stride == (2, 2) and dilated.net.layer4[0].conv1.stride == (1, 1)
    assert all(torch.equal(v, dilated.state_dict()[k]) for k, v in plain.state_dict().items())


@pytest.mark.parametrize(
    ("name", "strides", "channels", "stride"),
    [("small", (8, 32), 48 + 96, 8), ("mobilenet_v2", (16, 32), 96 + 320, 16), ("resnet18", (32,), 512, 32)],
)
def test_small_trunks(name, strides, channels, stride):
    model = PSPNet(Backbone(name).freeze(), 6, strides, width=16)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    model.train()
    x = torch.rand(2, 3, 96, 128)
    assert model.trunk(x).shape == (2, channels, 96 // stride, 128 // stride)
    model(x).sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.head.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())


def test_networks_that_do_not_exist():
    with pytest.raises(LlafsError, match="take a ResNet"):
        PSPNet(Backbone("small"), 6, dilated=True)
    with pytest.raises(LlafsError, match="choose among"):
        PSPNet(Backbone("small"), 6, strides=(4,))


def test_smoothed_cross_entropy_by_hand():
    logits = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 3, 3))
    labels[0, 0] = IGNORE
    log_p = logits.log_softmax(1)
    losses = []
    for b, i, j in np.ndindex(2, 3, 3):
        if labels[b, i, j] != IGNORE:
            target = torch.full((4,), 0.1 / 3, dtype=torch.float64)
            target[labels[b, i, j]] = 0.9
            losses.append(-(target * log_p[b, :, i, j]).sum())
    torch.testing.assert_close(cross_entropy(logits, labels, smoothing=0.1), torch.stack(losses).mean())
    plain = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    torch.testing.assert_close(cross_entropy(logits, labels), plain)
    assert cross_entropy(logits, torch.full_like(labels, IGNORE), smoothing=0.1) == 0


def test_cross_entropy_resizes_the_logits():
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 9, 9))
    large = F.interpolate(logits, (9, 9), mode="bilinear", align_corners=True)
    assert cross_entropy(logits, labels) == cross_entropy(large, labels)


# --- images --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([97, 225, 417]))
def test_fitted_size_is_the_published_rule(height, width, size):
    ratio = size / max(height, width)
    expected = [int(side * ratio + 1e-9) // 8 * 8 for side in (height, width)]
    assert fitted_size((height, width), size) == tuple(max(8, side) for side in expected)


def random_image(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def test_an_image_of_the_right_size_is_only_moved():
    image = random_image(64, 96)
    x, y = padded_input(image, 97), padded_labels(image[..., 0] > 99, 97)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x[:, :64, :96].permute(1, 2, 0), (torch.from_numpy(image) / 255 - mean) / std)
    torch.testing.assert_close(x[:, 64:, 96:], (-mean / std)[:, None, None].expand(3, 33, 1))
    assert torch.equal(y[:64, :96], torch.from_numpy(image[..., 0] > 99).long())
    assert (y[64:] == IGNORE).all() and (y[:, 96:] == IGNORE).all()


@pytest.mark.parametrize("shape", [(64, 96), (300, 200), (50, 31), (480, 640)])
def test_undoing_the_padding_finds_the_image_again(shape):
    ramp = np.add.outer(np.linspace(0, 100, shape[0]), np.linspace(0, 100, shape[1])).astype(np.float32)
    image = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    back = unpadded(padded_input(image, 225)[0], shape) * 0.229 * 255 + 0.485 * 255
    assert back.shape == shape
    # A shift by half a pixel of the small form would show: the ramp's steepest slope is 100 per side.
    torch.testing.assert_close(back[5:-5, 5:-5], torch.from_numpy(ramp)[5:-5, 5:-5], atol=1.1, rtol=0)


# --- the segmenter ---------------------------------------------------------------------------------------------------


def support(height=60, width=80, seed=1):
    mask = np.zeros((height, width), bool)
    mask[10:40, 20:60] = True
    return Support(seed, "zebra", 1.0, random_image(height, width, seed), mask)


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return RePRISegmenter(PSPNet(Backbone("small").freeze(), 6, (8, 32), width=32), size=97)


@pytest.mark.parametrize("shots", [1, 3])
def test_a_prediction_has_the_images_size(segmenter, shots):
    found = segmenter.segment(random_image(50, 70), [support(60 + 7 * i, 80, i) for i in range(shots)], "giraffe")
    assert found.mask.shape == found.probability.shape == (50, 70)
    assert found.mask.dtype == bool and found.probability.dtype == np.float32
    assert 0 <= found.probability.min() <= found.probability.max() <= 1 and not found.notes


def test_equal_to_the_steps_by_hand(segmenter):
    query, shown = random_image(50, 70), support()
    found = segmenter.segment(query, [shown])
    with torch.no_grad():
        features = segmenter.model.features(torch.stack([padded_input(i, 97) for i in (shown.image, query)]))
    padding = torch.ones(1, 97, 97, dtype=torch.bool)
    padding[0, :64, :96] = False  # 50 × 70 px fill 69 × 97, of which 64 × 96 remain
    by_hand = refine(features[None, :1], features[None, 1:], padded_labels(shown.mask, 97)[None, None], padding)
    np.testing.assert_allclose(found.probability, unpadded(by_hand.probability[0], (50, 70)).numpy(), atol=1e-5)
    assert np.array_equal(found.mask, found.probability > 0.5)


def test_the_object_itself_is_found_again(segmenter):
    """The support as its own query, told apart by colour: even random features suffice."""
    shown = support()
    image = np.where(shown.mask[..., None], np.uint8([250, 20, 20]), np.uint8([20, 60, 20]))
    found = segmenter.segment(image, [replace(shown, image=image)])
    assert (found.mask & shown.mask).sum() / (found.mask | shown.mask).sum() > 0.6


def test_a_support_counts_by_its_weight(segmenter):
    query, a, b = random_image(50, 70), support(seed=1), support(seed=2)

    def probability(*supports):
        return segmenter.segment(query, supports).probability

    np.testing.assert_allclose(probability(a, replace(b, weight=0)), probability(a, replace(a, weight=0)), atol=1e-5)
    np.testing.assert_allclose(probability(a, b), probability(replace(a, weight=3), replace(b, weight=3)), atol=1e-5)
    assert not np.allclose(probability(a, b), probability(a, replace(b, weight=0.1)), atol=1e-3)


def test_empty_masks_give_an_empty_prediction(segmenter):
    found = segmenter.segment(random_image(50, 70), [replace(support(), mask=np.zeros((60, 80), bool))])
    assert not found.mask.any() and not found.probability.any() and "nothing is marked" in found.notes[0]


def test_supports_that_cannot_be_used(segmenter):
    with pytest.raises(LlafsError, match="no support for giraffe"):
        segmenter.segment(random_image(50, 70), [], "giraffe")
    with pytest.raises(LlafsError, match="the mask of support 1"):
        segmenter.segment(random_image(50, 70), [replace(support(), mask=np.zeros((3, 3), bool))])


@pytest.mark.parametrize(
    ("backbone", "network"),
    [("small", {"strides": (16,), "width": 8}), ("resnet18", {"strides": (32,), "width": 8, "dilated": True})],
)
def test_save_and_load(tmp_path, backbone, network):
    torch.manual_seed(0)
    model = PSPNet(Backbone(backbone).freeze(), 6, **network)
    model.save(tmp_path / "repri.safetensors", size=97, fold=0)
    loaded, header = PSPNet.load(tmp_path / "repri.safetensors")
    assert header["backbone"] == backbone and header["size"] == 97 and header["fold"] == 0
    state = loaded.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    a = RePRISegmenter(model, 97).segment(random_image(50, 70), [support()])
    b = RePRISegmenter.from_file(tmp_path / "repri.safetensors").segment(random_image(50, 70), [support()])
    np.testing.assert_allclose(a.probability, b.probability, atol=1e-5)


def test_a_checkpoint_of_another_model(tmp_path):
    HSNet(Backbone("small").freeze()).save(tmp_path / "m.safetensors", size=97)
    with pytest.raises(LlafsError, match="no RePRI checkpoint of this library: its header names HSNet"):
        PSPNet.load(tmp_path / "m.safetensors")
