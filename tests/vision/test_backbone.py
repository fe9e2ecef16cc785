import copy
import hashlib
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llafs_lib.errors import LlafsError
from llafs_lib.vision.backbone import Backbone, load_backbone, to_input, to_mask, toy_backbone

SMALL_INPUT = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["small", "mobilenet_v2", "resnet18", "resnet50", "vgg16"])
@torch.no_grad()
def test_taps_come_at_strides_8_16_32(name):
    backbone = Backbone(name).freeze()
    taps = backbone(SMALL_INPUT)
    strides = [8] * backbone.levels[0] + [16] * backbone.levels[1] + [32] * backbone.levels[2]
    assert [t.shape[-2:] for t in taps] == [(96 // s, 128 // s) for s in strides]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_resnet_taps_lead_to_torchvisions_own_answer(name):
    backbone = Backbone(name).freeze()
    last = F.relu(backbone(SMALL_INPUT)[-1])
    torch.testing.assert_close(backbone.net.fc(last.mean(dim=(2, 3))), backbone.net(SMALL_INPUT))


@torch.no_grad()
def test_vgg_and_mobilenet_taps_lead_to_torchvisions_own_features():
    vgg = Backbone("vgg16").freeze()
    torch.testing.assert_close(vgg(SMALL_INPUT)[-1], vgg.net.features(SMALL_INPUT))
    assert all((tap < 0).any() for tap in vgg(SMALL_INPUT)[:-1]), "convolution taps are taken before the ReLU"
    mobilenet = Backbone("mobilenet_v2").freeze()
    last = mobilenet.net.features[18](mobilenet(SMALL_INPUT)[-1])
    torch.testing.assert_close(last, mobilenet.net.features(SMALL_INPUT))


def test_frozen_stays_frozen():
    backbone = Backbone("small").freeze()
    backbone.train()
    assert not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(p.requires_grad for p in backbone.parameters())


def assert_close_to_scale(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", ["small", "mobilenet_v2", "resnet18", "resnet50", "vgg16"])
@torch.inference_mode()
def test_an_optimised_backbone_takes_images_of_any_size_in_turn(name):
    plain = Backbone(name).freeze()
    fast = plain.optimised()
    for shape in ((1, 3, 97, 97), (2, 3, 65, 129), (1, 3, 32, 32), (2, 3, 33, 40), (1, 3, 97, 97)):
        x = torch.rand(shape)
        for found, expected in zip(fast(x), plain(x), strict=True):
            assert_close_to_scale(found, expected)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b)), Backbone.optimised])
def test_an_optimised_backbone_that_was_used_can_be_copied(again):
    fast = Backbone("small").optimised()
    with torch.inference_mode():
        expected = fast(SMALL_INPUT)
        found = again(fast)(SMALL_INPUT)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


def test_an_optimised_backbone_gives_gradients_to_the_image():
    torch.manual_seed(0)  # with some weights rounding turns a ReLU on or off, and the gradient differs there
    plain = Backbone("resnet18").freeze()
    fast, x = plain.optimised(), SMALL_INPUT.clone().requires_grad_()
    with torch.inference_mode():
        fast(SMALL_INPUT)
    found, expected = (torch.autograd.grad(b(x)[-1].square().sum(), x)[0] for b in (fast, plain))
    assert_close_to_scale(found, expected)


@torch.no_grad()
def test_an_optimised_backbone_in_float64():
    plain = Backbone("small").freeze().double()
    for found, expected in zip(plain.optimised()(SMALL_INPUT.double()), plain(SMALL_INPUT.double()), strict=True):
        torch.testing.assert_close(found, expected)


def test_unknown_backbone():
    with pytest.raises(LlafsError, match="'resnet51': none of small, mobilenet_v2"):
        Backbone("resnet51")


def test_real_imagenet_weights(photographs):
    backbone = load_backbone("mobilenet_v2", photographs / "weights")
    assert len(backbone(SMALL_INPUT)) == sum(backbone.levels) == 14


def test_a_weights_file_that_does_not_fit(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "resnet18-mine.pth")
    with pytest.raises(LlafsError, match="does not hold resnet18 weights"):
        load_backbone("resnet18", tmp_path)


def test_a_truncated_weights_file(tmp_path):
    torch.save(Backbone("small").net.state_dict(), tmp_path / "small-mine.pth")
    data = (tmp_path / "small-mine.pth").read_bytes()
    (tmp_path / "small-mine.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(LlafsError, match="small-mine.pth"):
        load_backbone("small", tmp_path)


def test_the_small_backbone_has_no_download(tmp_path):
    with pytest.raises(LlafsError, match="notebook 02 trains it"):
        load_backbone("small", tmp_path)


def test_inputs_are_standardised():
    import numpy as np

    grey = np.full((30, 50, 3), 127, np.uint8)
    x = to_input(grey, 16)
    assert x.shape == (3, 16, 16)
    torch.testing.assert_close(
        x[:, 0, 0], (127 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    mask = to_mask(np.arange(1500).reshape(30, 50) % 7 == 0, 16)
    assert mask.shape == (16, 16) and set(mask.unique().tolist()) <= {0, 1}


def test_the_backbone_that_comes_with_the_library():
    backbone, untrained = toy_backbone(), Backbone("small")
    assert not any(p.requires_grad for p in backbone.parameters()) and not backbone.training
    for (name, own), new in zip(backbone.state_dict().items(), untrained.state_dict().values(), strict=True):
        assert own.dtype == new.dtype and own.shape == new.shape and own.isfinite().all(), name
    assert all(tap.isfinite().all() for tap in backbone(torch.rand(1, 3, 97, 97)))


# Files of one network that hold different weights: torchvision's own V2 and V1, and one of somebody else.
V2, V1, OTHER = "mobilenet_v2-7ebf99e0.pth", "mobilenet_v2-b0353104.pth", "mobilenet_v2-imagenet-tf2.pth"


def write_weights(folder, *names):
    """Files whose first bias tells them apart."""
    for mark, name in enumerate(names):
        state = Backbone("mobilenet_v2").net.state_dict()
        state["classifier.1.bias"].fill_(mark)
        torch.save(state, folder / name)


@pytest.mark.parametrize("others", [[V1], [OTHER], [V1, OTHER, "mobilenet_v2-00000000.pth"]])
def test_the_official_file_is_taken_whatever_the_alphabet_says(tmp_path, others):
    write_weights(tmp_path, V2, *others)
    backbone = load_backbone("mobilenet_v2", tmp_path)
    assert backbone.weights_from["file"] == V2 and not backbone.net.classifier[1].bias.any()


@pytest.mark.parametrize("name", [V1, OTHER])
def test_a_file_of_another_version_is_said(tmp_path, name, capsys):
    write_weights(tmp_path, name)
    facts = load_backbone("mobilenet_v2", tmp_path).weights_from
    printed = capsys.readouterr().err
    assert facts["file"] == name and name in facts["note"] and facts["note"] in printed
    assert facts["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert f"{name} holds other weights than {V2}" in printed
    assert ("does not hold what its name says" in printed) == (name == V1), "this one is made up"


def test_a_file_of_another_version_is_named_beside_the_official_one(tmp_path, capsys):
    state = Backbone("resnet18").net.state_dict()
    torch.save(state, tmp_path / "draft.pth")
    digest = hashlib.sha256((tmp_path / "draft.pth").read_bytes()).hexdigest()[:8]
    (tmp_path / "draft.pth").rename(tmp_path / f"resnet18-{digest}.pth")
    facts = load_backbone("resnet18", tmp_path).weights_from
    assert (
        facts["note"]
        == f"resnet18-{digest}.pth holds other weights than resnet18-f37072fd.pth, so results are this file's"
    )
    assert "unknown" in facts["licence"] and facts["note"] in capsys.readouterr().err


def test_several_files_of_which_none_is_official(tmp_path):
    write_weights(tmp_path, V1, OTHER)
    with pytest.raises(LlafsError, match=f"{V1}, {OTHER}.*{V2}.*move all but one away"):
        load_backbone("mobilenet_v2", tmp_path)


def test_a_longer_name_is_another_network(tmp_path):
    write_weights(tmp_path, V2)
    (tmp_path / V2).rename(tmp_path / "mobilenet_v2x2-7ebf99e0.pth")
    (tmp_path / "mobilenet_v2-notes.txt").write_text("no weights")
    write_weights(tmp_path, OTHER)
    assert load_backbone("mobilenet_v2", tmp_path).weights_from["file"] == OTHER


def test_weights_without_a_file_have_no_provenance():
    assert Backbone("small").weights_from is None and toy_backbone().weights_from is None
