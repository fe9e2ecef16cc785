"""Parity with the specification: reference tensors and golden values."""

import json

import pytest
import torch
import torch.nn.functional as F

from llafs_lib.errors import LlafsError
from llafs_lib.vision import hsnet
from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.hsnet import HSNet, HSNetLearner, hypercorrelation, vote

RESNET50 = (4, 6, 3)  # taps per level, shallow to deep


@pytest.mark.parametrize(
    ("channels", "parameters"), [((1, 3, 3), 2_570_018), ((3, 6, 4), 2_573_794), ((3, 23, 4), 2_587_394)]
)
def test_parameter_counts(channels, parameters):
    assert sum(p.numel() for p in HSNetLearner(channels).parameters()) == parameters


@torch.no_grad()
def test_reference_tensors(reference):
    case = torch.load(reference / "hsnet_resnet50_129px.pt")
    pyramid = hypercorrelation(case["query_feats"], case["support_feats"], case["support_mask"], RESNET50)
    torch.testing.assert_close(pyramid[0], case["pyramid_l4"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pyramid[1], case["pyramid_l3"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pyramid[2].sum((-2, -1)), case["pyramid_l2_sum"], atol=1e-5, rtol=0)

    learner = HSNetLearner((3, 6, 4)).eval()
    learner.load_state_dict({k.split("hpn_learner.")[-1]: v for k, v in case["learner_state"].items()})
    logits = learner(pyramid)
    torch.testing.assert_close(logits, case["logit"], atol=1e-5, rtol=0)
    large = F.interpolate(logits, (129, 129), mode="bilinear", align_corners=True)
    torch.testing.assert_close(large, case["logit_fullres"], atol=1e-5, rtol=0)


def golden_parameter(name, value):
    """The deterministic fill of spec §8."""
    h = sum(map(ord, name)) % 97
    i = torch.arange(value.numel(), dtype=torch.float64)
    x = torch.sin(12.9898 * i + 78.233 * h) * 43758.5453
    v = (x - x.floor() - 0.5).view(value.shape)
    if value.dim() == 4:
        fan_in = value[0].numel()
        return v * 12**0.5 * (2 / fan_in) ** 0.5
    return 1 + 0.1 * v if name.endswith("weight") else 0.1 * v


def golden_feature(shape, identity):
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(0.013 * identity + 0.37 * i + 0.001 * (i % 101) ** 2).view(shape)


@torch.no_grad()
def test_golden_values_in_float64(reference):
    golden = json.loads((reference / "golden.json").read_text())["hs"]
    shapes = [(1, 16, 50, 50)] * 4 + [(1, 24, 25, 25)] * 6 + [(1, 32, 13, 13)] * 3
    query = [golden_feature(s, j + 1) for j, s in enumerate(shapes)]
    support = [golden_feature(s, j + 101) for j, s in enumerate(shapes)]
    mask = torch.zeros(1, 400, 400, dtype=torch.float64)
    mask[:, 60:310, 120:380] = 1
    learner = HSNetLearner((3, 6, 4)).double()
    learner.load_state_dict({k: golden_parameter(k, v) for k, v in learner.state_dict().items()})

    pyramid = hypercorrelation(query, support, mask, RESNET50)
    for level, total in zip(pyramid, golden["corr_sums"], strict=True):
        assert level.sum().item() == pytest.approx(total, rel=1e-9)
    logits = learner(pyramid)
    assert logits.sum().item() == pytest.approx(golden["sum"], abs=1e-9, rel=1e-9)
    for index, value in golden["samples"].items():
        assert logits[tuple(json.loads(f"[{index.strip('()')}]"))].item() == pytest.approx(value, abs=1e-9)
    large = F.interpolate(logits, (400, 400), mode="bilinear", align_corners=True)
    assert int((large[:, 1] > large[:, 0]).sum()) == golden["fg_pixels_after_400up"][0]
    assert F.cross_entropy(large, mask.long()).item() == pytest.approx(golden["CE_vs_mask"], abs=1e-9)


def test_reference_voting(reference):
    case = torch.load(reference / "hsnet_voting_5shot.pt")
    assert torch.equal(vote(case["shot_logits"].transpose(0, 1)).long(), case["mask"].long())


def test_vote_example_of_the_specification():
    votes = torch.tensor([0, 1, 2, 3])  # of five shots; the image's maximum is 3
    logits = torch.zeros(1, 5, 2, 1, 4)
    for pixel, n in enumerate(votes):
        logits[0, :n, 1, 0, pixel] = 1.0
        logits[0, n:, 0, 0, pixel] = 1.0
    assert vote(logits)[0, 0].tolist() == [False, False, True, True]


def test_no_votes_is_all_background():
    logits = torch.zeros(1, 3, 2, 4, 4)
    logits[:, :, 0] = 1
    assert not vote(logits).any()


def test_empty_mask_gives_zero_correlation():
    taps = [torch.rand(1, 4, n, n) for n in (8, 4, 2)]
    pyramid = hypercorrelation(taps, taps, torch.zeros(1, 64, 64), (1, 1, 1))
    assert all(not level.any() for level in pyramid)


@torch.no_grad()
def test_a_mask_that_is_not_seen_marks_nothing():
    torch.manual_seed(0)
    model = HSNet(Backbone("small").freeze()).eval()
    query, supports, masks = torch.rand(1, 3, 97, 97), torch.rand(1, 3, 3, 97, 97), torch.zeros(1, 3, 97, 97)
    masks[0, 1, 3, 3] = 1  # between the points of every grid
    masks[0, 2, 40:60, 40:60] = 1
    logits = model(query, supports, masks)
    assert not logits[0, :2].softmax(dim=1)[:, 1].any() and not vote(logits[:, :2]).any()
    assert logits[0, 2].isfinite().all()


def test_save_and_load(tmp_path):
    model = HSNet(Backbone("small").freeze())
    model.save(tmp_path / "m.safetensors", size=97)
    loaded, header = HSNet.load(tmp_path / "m.safetensors")
    assert header == {"backbone": "small", "size": 97}
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert not loaded.training and not any(p.requires_grad for p in loaded.backbone.parameters())


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x10\0\0\0\0\0\0\0{}"])
def test_foreign_checkpoint(tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(LlafsError, match="no HSNet checkpoint"):
        HSNet.load(tmp_path / "m.safetensors")


def test_truncated_checkpoint(tmp_path):
    path = tmp_path / "m.safetensors"
    HSNet(Backbone("small").freeze()).save(path, size=97)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LlafsError):
        HSNet.load(path)


# Other ways to run it -------------------------------------------------------------------------------------------------


def drawn_inputs(shots=2, size=97):
    g = torch.Generator().manual_seed(3)
    query, supports = torch.randn(2, 3, size, size, generator=g), torch.randn(2, shots, 3, size, size, generator=g)
    masks = torch.zeros(2, shots, size, size)
    masks[:, :, 10:70, 20:60] = 1
    masks[0, -1] = 0  # one support shows nothing
    return query, supports, masks


@pytest.mark.parametrize("name", ["small", "mobilenet_v2", "efficientnet_lite2"])
def test_under_autocast(name):
    torch.manual_seed(0)
    model = HSNet(Backbone(name).freeze()).eval()
    for form in (model.backbone, model.backbone.optimised()):
        model.backbone = form
        with torch.no_grad():
            wanted = model(*drawn_inputs())
            with torch.autocast("cpu", torch.bfloat16):
                found = model(*drawn_inputs())
        far = (found.float() - wanted)[wanted.abs() < 99].abs().max()
        assert far < 0.05 * wanted[wanted.abs() < 99].abs().max()


def test_a_training_step_under_autocast():
    torch.manual_seed(0)
    model = HSNet(Backbone("small").freeze())
    gradients = []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(*drawn_inputs(1))[1:, 0].float().square().mean()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.learner.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_in_another_precision(dtype):
    torch.manual_seed(0)
    model = HSNet(Backbone("small").freeze()).eval()
    wanted = model(*drawn_inputs())
    found = model.to(dtype)(*(x.to(dtype) for x in drawn_inputs()))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, atol=0.05 * wanted[wanted.abs() < 99].abs().max().item(), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["export", "trace"])
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_captured_by_torch(how):
    torch.manual_seed(0)
    model, inputs = HSNet(Backbone("small").freeze()).eval(), drawn_inputs()
    if how == "export":
        captured = torch.export.export(model, inputs).module()
    else:
        captured = torch.jit.trace(model, inputs, check_trace=False)
    query, supports, masks = drawn_inputs()
    for shown in (masks, masks.roll(20, dims=-1), torch.zeros_like(masks), torch.ones_like(masks)):
        wanted = model(query, supports, shown)
        torch.testing.assert_close(captured(query, supports, shown), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("at_once", [2, 3, 4, 8, 100])
@torch.no_grad()
def test_pairs_compared_at_once_are_as_those_compared_one_by_one(at_once, monkeypatch):
    torch.manual_seed(0)
    model, inputs = HSNet(Backbone("small").freeze()).eval(), drawn_inputs(shots=5)
    alone = model(*inputs)
    monkeypatch.setitem(hsnet.PAIRS_AT_ONCE, "cpu", at_once)
    torch.testing.assert_close(model(*inputs), alone, atol=1e-5, rtol=1e-5)
