"""What trainings are fed: flips, labels, kept features."""

import numpy as np
import pytest
import torch

from llafs_lib.records import Episode
from llafs_lib.vision.backbone import Backbone, encode, to_input, to_mask
from llafs_lib.vision.losses import IGNORE
from llafs_lib.vision.pspnet import PSPNet, padded_input, padded_labels
from llafs_lib.vision.recipes import Recipe
from llafs_lib.vision.samples import BaseImages, episode_images, tap_store

RECIPE = Recipe(size=97, epochs=2, batch=2, whole=True, upside_down=True, label_stride=4)
IDS = list(range(8))


def image(image_id):
    return np.random.default_rng(image_id).integers(0, 256, (60, 96, 3), dtype=np.uint8)


def labels(image_id):
    return np.random.default_rng(image_id).integers(0, 5, (60, 96), dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return PSPNet(Backbone("small").freeze(), 5, (16, 32), width=8).eval()


def test_flips_move_image_and_labels_alike(network):
    samples = BaseImages(IDS, image, labels, network, RECIPE, seed=0)
    seen = set()
    for epoch in range(4):
        for key, (x, y) in zip((drawn := samples(epoch)).keys, drawn, strict=True):
            i, down, across = key
            rows, columns = slice(None, None, -1 if down else 1), slice(None, None, -1 if across else 1)
            assert torch.equal(x, padded_input(image(i)[rows, columns], 97))
            assert torch.equal(y, padded_labels(labels(i)[rows, columns], 97)[::4, ::4])
            seen.add((down, across))
    assert len(seen) == 4, "published: flips on both axes, each half of the time"


def test_an_epoch_depends_on_its_number_alone(network):
    a, b = (BaseImages(IDS, image, labels, network, RECIPE, seed=3) for _ in range(2))
    a(0), a(1)
    assert a(2).keys == b(2).keys != a(3).keys
    assert sorted(k[0] for k in a(2).keys) == IDS


def test_a_frozen_trunk_is_read_once_per_version(network):
    recipe = Recipe(size=97, epochs=1, batch=2, samples=5)
    reads = []
    samples = BaseImages(IDS, lambda i: reads.append(i) or image(i), labels, network, recipe, seed=0)
    for epoch in range(40):
        drawn = samples(epoch)
        assert len(drawn) == 5 and not any(down for _, down, _ in drawn.keys)
        for (i, _, across), (x, y) in zip(drawn.keys, drawn, strict=True):
            flipped = image(i)[:, :: -1 if across else 1]
            assert y.shape == (97, 97)
            with torch.no_grad():
                torch.testing.assert_close(x, network.trunk(padded_input(flipped, 97)[None])[0])
    assert len(reads) == 2 * len(IDS)


def test_episodes_come_as_taps_and_masks():
    backbone = Backbone("small").freeze()

    def mask(image_id, class_name):
        shown = (labels(image_id) == 1).astype(np.uint8)
        shown[:9] = IGNORE
        return shown

    store = tap_store(backbone, image, 97).fill(IDS)
    ((query, support, support_mask, query_mask),) = list(episode_images([Episode("cat", 2, (3,))], mask, store, 97))
    for taps, i in ((query, 2), (support, 3)):
        for a, b in zip(taps, encode(backbone, to_input(image(i), 97)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert torch.equal(query_mask, to_mask(mask(2, "cat"), 97)) and IGNORE in query_mask
    assert torch.equal(support_mask, to_mask(mask(3, "cat"), 97) == 1), "what is ignored is not shown"
