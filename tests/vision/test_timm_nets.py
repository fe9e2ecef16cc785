"""Networks of timm with random weights: what is tested is where things are, not what they are."""

import copy
import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from llafs_lib.errors import LlafsError
from llafs_lib.records import Support
from llafs_lib.vision.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, last_taps, load_backbone, to_input
from llafs_lib.vision.features import squashed_taps
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.pspnet import SMALL, PSPNet
from llafs_lib.vision.segmenter import HSNetSegmenter, INSID3Segmenter

LITE = "efficientnet_lite2"
# One with a class token, one with four registers beside it, one with rotary positions, one with registers alone.
TRANSFORMERS = ["vit_tiny_patch16_224", "dinov2_s", "dinov3_s", "test_vit3"]
CNNS = [LITE, "test_convnext", "test_resnet", "test_byobnet", "densenet121"]


def seeded(name):
    if timm.is_model(name) and not hasattr(timm.create_model(name), "forward_intermediates"):
        pytest.skip(f"timm {timm.__version__} gives no maps of {name}: a later one does")
    torch.manual_seed(0)
    return Backbone(name).freeze()


def change(backbone, size, top, left, side, stride):
    """How much a bright square changes each place of the tap at a stride: [h, w]."""
    grey = torch.zeros(1, 3, *size)
    square = grey.clone()
    square[:, :, top : top + side, left : left + side] = 3
    with torch.no_grad():
        before, after = (last_taps(backbone(x), backbone.levels, (stride,))[0] for x in (grey, square))
    return (after - before)[0].norm(dim=0)


def place(map_):
    return tuple(np.unravel_index(int(map_.argmax()), map_.shape))


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("grid", [(6, 9), (8, 5)])
def test_tokens_lie_where_their_patches_do(name, grid):
    backbone = seeded(name)
    patch = backbone.taps.patch
    size = (grid[0] * patch, grid[1] * patch)
    for row, column in [(1, 1), (2, 1), (1, 2), (grid[0] - 1, 0), (0, grid[1] - 1), (3, 3)]:
        changed = change(backbone, size, row * patch, column * patch, patch, 32)
        assert changed.shape == grid and place(changed) == (row, column)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_byobnet"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_square_moved_by_one_stride_moves_the_change_by_one_place(name, stride):
    backbone, size, (top, left) = seeded(name), (352, 480), (160, 224)
    changed = change(backbone, size, top, left, stride, stride)
    row, column = place(changed)
    assert abs(row - top / stride) <= 1 and abs(column - left / stride) <= 1
    for down, right in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        moved = change(backbone, size, top + down * stride, left + right * stride, stride, stride)
        assert place(moved) == (row + down, column + right)


@pytest.mark.parametrize("name", CNNS)
@pytest.mark.parametrize("size", [(97, 130), (64, 96)])
@torch.no_grad()
def test_taps_lead_to_timms_own_maps(name, size):
    backbone, x = seeded(name), torch.rand(2, 3, *size)
    taps = backbone(x)
    assert len(taps) == sum(backbone.levels) and all(backbone.levels)
    own = x if backbone.scale is None else torch.addcmul(backbone.shift, x, backbone.scale)
    strides = [f["reduction"] for f in backbone.net.feature_info]
    maps = dict(zip(strides, backbone.net.forward_intermediates(own, intermediates_only=True), strict=True))
    for found, stride in zip(last_taps(taps, backbone.levels, (8, 16, 32)), (8, 16, 32), strict=True):
        torch.testing.assert_close(found, maps[stride])
    for tap, stride in zip(taps, np.repeat((8, 16, 32), backbone.levels), strict=True):
        assert tap.shape[-2:] == maps[stride].shape[-2:]


def test_a_block_is_a_tap():
    assert seeded(LITE).levels == (3, 8, 6) and seeded("convnext_tiny").levels == (3, 9, 3)


@torch.no_grad()
def test_tokens_of_an_earlier_layer():
    whole, early = seeded("test_vit"), seeded("test_vit@2")
    x = torch.rand(1, 3, 96, 64)
    maps = whole.net.forward_intermediates(x * whole.scale + whole.shift, norm=True, intermediates_only=True)
    torch.testing.assert_close(early(x)[0], maps[1])
    torch.testing.assert_close(whole(x)[0], maps[-1])
    assert not torch.allclose(maps[1], maps[-1])


@pytest.mark.parametrize("name", ["test_vit@0", "test_vit@99", "test_vit@last"])
def test_a_layer_that_is_not_there(name):
    with pytest.raises(LlafsError, match="has layers 1 to"):
        Backbone(name)


@pytest.mark.parametrize("name", ["no_such_net", "dinov9_s", "resnet51"])
def test_unknown_names(name):
    with pytest.raises(LlafsError, match="timm has none of that name"):
        Backbone(name)


@pytest.mark.parametrize("size, sides", [((100, 112), "98 or 112"), ((112, 13), "14:|14[.]")])
def test_sides_that_are_no_multiple_of_the_patch(size, sides):
    with pytest.raises(LlafsError, match=f"multiples of 14 px.*{sides}"):
        seeded("dinov2_s")(torch.rand(1, 3, *size))


@torch.no_grad()
def test_registers_and_class_tokens_are_left_out():
    backbone, x = seeded("dinov2_s"), torch.rand(1, 3, 56, 84)
    tokens = backbone.net.forward_features(x)  # [1, 1 + 4 + 24, 384]
    assert backbone.net.num_prefix_tokens == 5 and tokens.shape[1] == 5 + 24
    wanted = tokens[0, 5:].T.view(384, 4, 6)
    torch.testing.assert_close(backbone(x)[0][0], wanted)


@torch.no_grad()
def test_images_are_brought_to_the_networks_own_mean_and_deviation():
    backbone, image = seeded(LITE), np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    cfg = backbone.net.pretrained_cfg
    assert cfg["mean"] == cfg["std"] == (0.5, 0.5, 0.5) and backbone.interpolation == cfg["interpolation"] == "bicubic"
    x = to_input(image, 97, backbone.interpolation)
    pixels = x * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    wanted = backbone.net.forward_intermediates(((pixels - 0.5) / 0.5)[None], intermediates_only=True)[-1]
    torch.testing.assert_close(backbone(x[None])[-1], wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(squashed_taps(backbone, 97)(image)[-1], wanted[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(x, to_input(image, 97))


# Inference ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [LITE, "test_convnext", "test_resnet", "test_nfnet", "test_vit", "densenet121"])
@torch.inference_mode()
def test_an_optimised_copy_gives_the_same_taps(name):
    plain = seeded(name)
    for norm in (m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.2, 0.2)
    fast = plain.optimised()
    for form in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        for shape in ((1, 3, 96, 160), (2, 3, 64, 96)) if name == "test_vit" else ((1, 3, 97, 131), (2, 3, 64, 96)):
            x = torch.rand(shape)
            for found, wanted in zip(form(x), plain(x), strict=True):
                torch.testing.assert_close(found, wanted, atol=2e-4 * wanted.abs().max().item(), rtol=0)


def test_norms_that_are_not_applied_where_they_are_registered_are_not_folded(monkeypatch):
    class Crossed(torch.nn.Module):  # registers conv and norm in a row, and applies the norm first
        def __init__(self, inner):
            super().__init__()
            self.conv, self.norm, self.inner = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3), inner

        def forward(self, x):
            return self.inner(self.conv(self.norm(x).square()))

    plain = seeded("test_resnet")
    plain.net.conv1 = Crossed(plain.net.conv1).eval()
    with torch.no_grad():
        plain.net.conv1.norm.running_mean.fill_(0.5)
        x = torch.rand(1, 3, 64, 64)
        for found, wanted in zip(plain.optimised()(x), plain(x), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


# The models on top ----------------------------------------------------------------------------------------------------


def query_and_supports(n=2):
    rng, mask = np.random.default_rng(1), np.zeros((60, 80), bool)
    mask[10:40, 20:60] = True
    images = rng.integers(0, 256, (n + 1, 60, 80, 3), np.uint8)
    return images[0], [Support(i, "zebra", 1.0, image, mask) for i, image in enumerate(images[1:])]


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext"])
def test_hsnet_and_repri_read_a_cnn_of_timm(name, tmp_path):
    backbone = seeded(name)
    query, supports = query_and_supports()
    model = HSNet(backbone)
    found = HSNetSegmenter(model, 97).segment(query, supports)
    assert found.mask.shape == (60, 80) and not found.notes
    model.save(tmp_path / "hsnet.safetensors", size=97)
    again = HSNetSegmenter.from_file(tmp_path / "hsnet.safetensors").segment(query, supports)
    np.testing.assert_array_equal(again.probability, found.probability)
    network = PSPNet(backbone, 5, **SMALL).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 97, 97)).shape[:2] == (1, 5)
        last = last_taps(backbone(torch.rand(1, 3, 64, 64)), backbone.levels, (32,))[0]
        assert (last < 0).any() and (network.trunk(torch.rand(1, 3, 64, 64)) < 0).any(), "linear ends stay linear"


@pytest.mark.parametrize("model", [HSNet, lambda backbone: PSPNet(backbone, 5)])
def test_models_that_need_three_strides_refuse_a_transformer(model):
    with pytest.raises(LlafsError, match="test_vit has one map only: use it with prototypes or INSID3"):
        model(seeded("test_vit"))


@pytest.mark.parametrize("name, size", [("test_vit", 112), ("test_efficientnet", 97)])
def test_prototypes_and_insid3_read_any(name, size):
    backbone, (query, supports) = seeded(name), query_and_supports()
    for segmenter in (PrototypeSegmenter(backbone, size, 0.5), INSID3Segmenter(backbone, size)):
        found = segmenter.segment(query, supports)
        assert found.mask.shape == (60, 80) and np.isfinite(found.probability).all()
    described = segmenter.describe(query)
    torch.testing.assert_close(described.norm(dim=0), torch.ones(described.shape[1:]))


def test_a_model_remembers_whose_weights_its_backbone_has(tmp_path):
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "test_efficientnet-mine.pth")
    backbone = load_backbone("test_efficientnet", tmp_path)
    HSNet(backbone).save(tmp_path / "hsnet.safetensors", size=97)
    PSPNet(backbone, 5, **SMALL).save(tmp_path / "repri.safetensors", size=97)
    for kind, file in ((HSNet, "hsnet.safetensors"), (PSPNet, "repri.safetensors")):
        model, header = kind.load(tmp_path / file)
        assert model.backbone.weights_from == header["weights_from"] == backbone.weights_from
        assert model.backbone.weights_from["file"] == "test_efficientnet-mine.pth"


# Weights --------------------------------------------------------------------------------------------------------------


def test_the_weights_of_photographs(photographs):
    backbone = load_backbone(LITE, photographs / "weights")
    facts = backbone.weights_from
    assert facts["file"] == "tf_efficientnet_lite2-ea11728f.pth" and facts["sha256"].startswith("ea11728f")
    assert facts["licence"] == "apache-2.0" and not facts["note"]
    own = timm.create_model("tf_efficientnet_lite2").eval()
    own.load_state_dict(torch.load(photographs / "weights" / facts["file"]))
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        wanted = own.forward_intermediates(x * backbone.scale + backbone.shift, intermediates_only=True)[-1]
        torch.testing.assert_close(backbone(x)[-1], wanted)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_in_timms_form_is_found_by_timms_name(tmp_path, suffix, capsys):
    torch.manual_seed(1)
    net = timm.create_model("vit_tiny_patch16_224")  # with its classifier, and with positions for 224 px
    path = tmp_path / f"vit_tiny_patch16_224-mine.{suffix}"
    save_file(net.state_dict(), path) if suffix == "safetensors" else torch.save(net.state_dict(), path)
    backbone = load_backbone("vit_tiny_patch16_224", tmp_path)
    for name, value in backbone.net.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name
    assert backbone.weights_from["file"] == path.name and path.name in capsys.readouterr().err


def spoiled(state):
    one = next(n for n in state if n.endswith("proj.weight"))
    return [
        {"conv.weight": torch.zeros(1)},
        {n: v for n, v in state.items() if n != one},
        {**state, "more.weight": torch.zeros(1)},
        {**state, one: state[one][..., :1]},
        timm.create_model("test_vit3").state_dict(),
    ]


@pytest.mark.parametrize("kind", range(5))
def test_a_file_that_does_not_fit(tmp_path, kind):
    torch.save(spoiled(timm.create_model("test_vit").state_dict())[kind], tmp_path / "test_vit-mine.pth")
    with pytest.raises(LlafsError, match="test_vit-mine.pth does not hold test_vit weights"):
        load_backbone("test_vit", tmp_path)


def test_a_layer_does_not_change_which_file_is_read(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "test_vit-mine.pth")
    whole, early = load_backbone("test_vit", tmp_path), load_backbone("test_vit@3", tmp_path)
    assert whole.weights_from == early.weights_from
    assert all(map(torch.equal, whole.net.state_dict().values(), early.net.state_dict().values()))


def test_without_a_file_and_a_network(tmp_path, monkeypatch):
    def unreachable(*args, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(
        LlafsError, match=r"no file convnext_tiny-\*.pth .*timm could not download its own \(no route\)"
    ):
        load_backbone("convnext_tiny", tmp_path)


def test_a_download_is_read_and_recorded(tmp_path, monkeypatch, capsys):
    state = timm.create_model("test_vit").state_dict()
    save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file: str(tmp_path / file))
    backbone = load_backbone("test_vit", tmp_path / "nothing")
    assert backbone.weights_from["file"] == "model.safetensors" and not capsys.readouterr().out
    assert torch.equal(backbone.net.state_dict()["cls_token"], state["cls_token"])
