"""The fast form equals the plain one of `hsnet.py`, which tests hold to the published code."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llafs_lib.errors import LlafsError
from llafs_lib.vision.backbone import BACKBONES, Backbone
from llafs_lib.vision.group_norm import NormaliseAndRectify
from llafs_lib.vision.hsnet import HSNet, HSNetLearner, hypercorrelation
from llafs_lib.vision.hsnet_fast import Pairs, _AddConvolutions, correlate
from llafs_lib.vision.losses import hsnet_loss
from llafs_lib.vision.recipes import Recipe

LEVELS = (2, 3, 1)  # taps per level, shallow to deep
CHANNELS = (6, 8, 10)


def learner_of(dtype=torch.float32):
    torch.manual_seed(0)
    return HSNetLearner(tuple(reversed(LEVELS))).to(dtype)


def taps_of(batch, height, width, dtype=torch.float32):
    shapes = [(c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, (8, 16, 32), strict=True)]
    return [torch.randn(batch, *s, dtype=dtype) for s, n in zip(shapes, LEVELS, strict=True) for _ in range(n)]


def mask_of(kind, height, width):
    mask = torch.zeros(height, width)
    if kind == "full":
        mask[:] = 1
    elif kind == "small":
        mask[height // 2 : height // 2 + 3, width // 3 : width // 3 + 2] = 1
    elif kind == "corner":
        mask[: height // 3, width // 2 :] = 1
    elif kind == "border":
        mask[-1] = 1
    elif kind == "scattered":
        mask[5:9, 5:9] = mask[-9:-5, -9:-5] = 1
    return mask


MASKS = ("full", "small", "corner", "border", "scattered", "empty")


def assert_equal(fast, plain, tolerance=1e-4):
    assert (fast - plain).abs().max() <= tolerance * plain.abs().max()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (129, 129), (97, 161), (160, 96), (257, 129)])
@torch.no_grad()
def test_equal_to_the_plain_form(kind, height, width):
    torch.manual_seed(height + width)
    query, support = taps_of(1, width, height), taps_of(1, height, width)  # their grids may differ
    pairs = Pairs(query, support, mask_of(kind, height, width)[None], LEVELS)
    learner = learner_of()
    assert_equal(learner(pairs), learner(hypercorrelation(*pairs)))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 40), st.integers(1, 60), st.integers(0, 60), st.integers(1, 60), st.integers(0, 9))
@torch.no_grad()
def test_any_box_in_float64(top, height, left, width, seed):
    torch.manual_seed(seed)
    mask = torch.zeros(2, 97, 129, dtype=torch.float64)
    mask[0, top : top + height, left : left + width] = 1
    mask[1, ::7, left:] = 1
    pairs = Pairs(taps_of(2, 64, 97, torch.float64), taps_of(2, 97, 129, torch.float64), mask, LEVELS)
    learner = learner_of(torch.float64)
    assert_equal(learner(pairs), learner(hypercorrelation(*pairs)), 1e-10)


@torch.no_grad()
def test_the_correlation_is_stored_where_the_mask_is():
    query, support = [torch.rand(3, 4, 5)] * 2, [torch.rand(3, 8, 6)] * 2
    mask = torch.zeros(8, 6)
    mask[2:5, 3:] = 1
    found = correlate(query, support, mask)
    assert found.cells.shape == (3, 3, 2, 4, 5) and found.corner == (2, 3) and found.grid == (8, 6)
    batched = [[t[None] for t in taps * 2] for taps in (query, support)]
    plain = hypercorrelation(*batched, mask[None], (1, 1, 2))[0][0]
    torch.testing.assert_close(found.cells, plain[..., 2:5, 3:].permute(3, 4, 0, 1, 2))


@pytest.mark.parametrize(("stride", "kernel", "corner"), [(1, 3, (0, 0)), (2, 3, (1, 2)), (4, 5, (3, 0))])
def test_gradient_of_the_added_convolutions(stride, kernel, corner):
    torch.manual_seed(0)
    shapes = ((2, 3, 4, 5, 1), (1, 2, 4, 5), (3, 4, 2, 5), (4, 2, kernel, kernel))
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]

    def add(y, maps, x, w):
        return _AddConvolutions.apply(y.clone(), (2, 3), maps, (1, 0), x, w, stride, corner)

    assert torch.autograd.gradcheck(add, tensors)
    assert torch.autograd.gradcheck(lambda y, x, w: add(y, None, x, w), tensors[:1] + tensors[2:])


@pytest.mark.parametrize("cells_outside", [0, 1, 7])
def test_normalisation_and_its_gradient_know_what_lies_outside(cells_outside):
    torch.manual_seed(0)
    shapes = ((5, 8, 6), (8,), (8,), (8,))
    y, outside, weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)

    def fast(y, outside, weight, bias):
        return NormaliseAndRectify.apply(y, outside, cells_outside, weight, bias, 4, 1e-5, torch.is_grad_enabled())

    def plain(y, outside, weight, bias):
        everything = torch.cat([y, outside[:, None].expand(cells_outside, 8, 6)])  # [cells, C, P]
        return F.group_norm(everything.transpose(0, 1)[None], 4, weight, bias).relu()[0].transpose(0, 1)

    found, constant = fast(y, outside, weight, bias)
    expected = plain(y, outside, weight, bias)
    torch.testing.assert_close(found, expected[:5])
    for cell in expected[5:]:
        torch.testing.assert_close(constant[:, None].expand(8, 6), cell)
    assert torch.autograd.gradcheck(fast, (y, outside, weight, bias))
    with torch.no_grad():
        assert fast(y_again := y.clone(), outside, weight, bias)[0].data_ptr() == y_again.data_ptr(), "in place"


@pytest.mark.parametrize("kind", MASKS)
@torch.no_grad()
def test_nothing_is_left_outside(kind):
    torch.manual_seed(0)
    learner = learner_of()
    for block in (learner.encoder_layer4, learner.encoder_layer3, learner.encoder_layer2):
        for layer in block[::3]:
            layer.conv1.bias.zero_(), layer.conv2.bias.fill_(-0.01)
        for norm in block[1::3]:
            norm.bias.fill_(-0.1)  # what is below the mean ends as 0
    pairs = Pairs(taps_of(1, 256, 256), taps_of(1, 256, 256), mask_of(kind, 256, 256)[None], LEVELS)
    assert_equal(learner(pairs), learner(hypercorrelation(*pairs)))


@pytest.mark.parametrize("kind", MASKS)
def test_gradients_equal_those_of_the_plain_form(kind):
    learner, mask = learner_of(torch.float64), mask_of(kind, 97, 161)
    pairs = Pairs(*(taps_of(2, 97, 161, torch.float64) for _ in range(2)), torch.stack([mask, mask.flip(0)]), LEVELS)
    target = (torch.rand(2, 97, 161) > 0.7).long()
    loss = hsnet_loss(LEVELS, Recipe(size=97, epochs=1, batch=2, dice=1.0, contrastive=0.5))
    gradients = []
    for form in (pairs, hypercorrelation(*pairs)):
        learner.zero_grad()
        total = loss(
            lambda _, form=form, **options: learner(form, **options), (pairs.query, pairs.support, pairs.mask, target)
        )
        total.backward()
        gradients.append([p.grad.clone() for p in learner.parameters()])
    for fast, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-12, rtol=1e-9)


@torch.no_grad()
def test_a_constant_image_is_normalised_as_in_the_plain_form():
    ones = [torch.ones(1, 4, n, n) for n in (12, 12, 6, 6, 6, 3)]
    pairs = Pairs(ones, ones, torch.ones(1, 96, 96), LEVELS)
    learner = learner_of()
    assert_equal(learner(pairs), learner(hypercorrelation(*pairs)))


@torch.no_grad()
def test_batch_and_shots_equal_a_loop_and_one_model_takes_many_sizes():
    torch.manual_seed(0)
    model = HSNet(Backbone("small").freeze()).eval()
    for height, width in ((160, 160), (257, 321), (129, 129)):
        batch, shots = (3, 5) if height < 160 else (1, 1)
        query, supports = torch.randn(batch, 3, height, width), torch.randn(batch, shots, 3, height, width)
        masks = torch.stack([mask_of(MASKS[i % 6], height, width) for i in range(batch * shots)])
        masks = masks.view(batch, shots, height, width)
        logits = model(query, supports, masks)
        for b in range(batch):
            for k in range(shots):
                alone = model(query[b : b + 1], supports[b : b + 1, k : k + 1], masks[b : b + 1, k : k + 1])
                assert_equal(logits[b, k], alone[0, 0], 1e-5)


@pytest.mark.parametrize("name", [b for b in BACKBONES if b != "resnet101" and not b.startswith("dino")])
@torch.no_grad()
def test_an_optimised_backbone_gives_the_same_logits(name):
    torch.manual_seed(0)
    model = HSNet(Backbone(name).freeze()).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.2, 0.2)
    fast = HSNet(model.backbone.optimised()).eval()
    fast.learner = model.learner
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    query, supports = torch.randn(1, 3, 96, 128), torch.randn(1, 1, 3, 96, 128)
    masks = mask_of("corner", 96, 128)[None, None]
    assert_equal(fast(query, supports, masks), model(query, supports, masks))


def test_an_optimised_copy_is_not_saved(tmp_path):
    with pytest.raises(LlafsError, match="original backbone"):
        HSNet(Backbone("small").freeze().optimised()).save(tmp_path / "m.safetensors")


def official(model, prefix=""):
    learner = {f"{prefix}hpn_learner.{n}": v for n, v in model.learner.state_dict().items()}
    return learner | {f"{prefix}backbone.{n}": v for n, v in model.backbone.net.state_dict().items()}


@pytest.fixture
def file_of(tmp_path):
    """Writes a state dict to a file, as the published code does."""

    def write(state):
        torch.save(state, tmp_path / "best_model.pt")
        return tmp_path / "best_model.pt"

    return write


def same(a, b):
    a, b = ({n: v for n, v in m.state_dict().items() if ".fc." not in n} for m in (a, b))  # HSNet has no classes
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_checkpoints(file_of, prefix):
    source, model = HSNet(Backbone("resnet18")), HSNet(Backbone("resnet18"))
    assert model.load_official(file_of(official(source, prefix))) is model
    assert same(model, source) and not model.training
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_an_official_learner_alone_keeps_the_backbone(file_of):
    source, model = HSNet(Backbone("small")), HSNet(Backbone("small"))
    before = HSNet(model.backbone)
    for state in (source.learner.state_dict(), {f"hpn_learner.{n}": v for n, v in source.learner.state_dict().items()}):
        model.load_official(file_of(state))
        assert same(model.learner, source.learner) and same(model.backbone, before.backbone)


def test_official_checkpoints_without_classifier_and_counters(file_of):
    source, model = HSNet(Backbone("resnet18")), HSNet(Backbone("resnet18"))
    state = {n: v for n, v in official(source).items() if "fc.bias" not in n and "num_batches" not in n}
    state["backbone.fc.weight"] = torch.zeros(20, 512)  # of another number of classes
    query = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.load_official(file_of(state)).backbone(query), source.eval().backbone(query))


def test_official_checkpoints_for_another_backbone_change_nothing(file_of):
    model = HSNet(Backbone("resnet18"))
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(LlafsError, match="not hold an official HSNet for resnet18: backbone.net.bn1.bias is missing"):
        model.load_official(file_of(official(HSNet(Backbone("mobilenet_v2")))))
    with pytest.raises(LlafsError, match="backbone.*missing"):
        model.load_official(file_of({n: v for n, v in official(model).items() if "layer3.0.conv1" not in n}))
    with pytest.raises(LlafsError, match="learner.*missing in it"):
        model.load_official(file_of({}))
    with pytest.raises(LlafsError, match=r"call optimised\(\) afterwards"):
        HSNet(model.backbone.optimised()).load_official(file_of(official(model)))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "list", "missing"])
def test_bad_official_files(tmp_path, damage):
    path, model = tmp_path / "best_model.pt", HSNet(Backbone("small"))
    if damage == "list":
        torch.save([1, 2], path)
    elif damage == "truncated":
        torch.save(official(model), path)
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"no checkpoint")
    with pytest.raises(LlafsError, match="best_model.pt"):
        model.load_official(path)


@torch.no_grad()
def test_bad_input():
    model = HSNet(Backbone("small").freeze()).eval()
    query, supports, masks = torch.rand(1, 3, 96, 96), torch.rand(1, 1, 3, 96, 96), torch.ones(1, 1, 96, 96)
    with pytest.raises(LlafsError, match="K = 0"):
        model(query, supports[:, :0], masks[:, :0])
    taps = model.backbone(query)
    for wrong in (taps[:-1], [*taps[:-1], taps[-1][:, 1:]]):
        with pytest.raises(LlafsError, match="cannot be compared"):
            model.match(taps, wrong, masks[:, 0], (96, 96))
    for broken in (float("nan"), float("inf")):
        spoilt = supports.clone()
        spoilt[0, 0, 0, 40, 40] = broken
        with pytest.raises(LlafsError, match="not finite"):
            model(query, spoilt, masks)
        with pytest.raises(LlafsError, match="not finite"):
            model(spoilt[:, 0], supports, masks)


@torch.no_grad()
def test_levels_whose_support_grids_do_not_meet():
    query, support = taps_of(1, 64, 64), [*taps_of(1, 256, 256)[:-1], torch.randn(1, CHANNELS[-1], 9, 9)]
    pairs = Pairs(query, support, torch.ones(1, 256, 256), LEVELS)
    for form in (pairs, hypercorrelation(*pairs)):
        with pytest.raises(LlafsError, match="cannot be added"):
            learner_of()(form)
