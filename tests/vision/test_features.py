"""Feature maps, masked means, and the cache of features."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llafs_lib.errors import LlafsError
from llafs_lib.vision.backbone import Backbone, encode, encode_batch
from llafs_lib.vision.features import FeatureCache, squashed_taps, unit_features

rng = np.random.default_rng(0)


def random_image(height=60, width=80):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def counting_cache(**options):
    """A cache of features of 1 MB, and the list of what it had to compute."""
    computed = []
    return FeatureCache(lambda key: computed.append(key) or [torch.zeros(2**18)], **options), computed


def test_images_are_found_again_by_their_pixels():
    cache, image = squashed_taps(Backbone("small").freeze(), 97), random_image()
    assert cache(image) is cache(image.copy())
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    assert cache(changed) is not cache(image)
    turned = image.reshape(80, 60, 3)  # the same bytes
    assert cache(turned) is not cache(image)
    with pytest.raises(LlafsError, match="uint8 RGB"):
        cache(image / 255)


def test_a_full_cache_forgets_what_was_not_asked_for_longest():
    cache, computed = counting_cache(limit_mb=2)
    for key in "abacab":
        cache(key)
    assert computed == ["a", "b", "c", "b"] and cache.used == 2 * 2**20


def test_one_that_does_not_evict_keeps_what_came_first():
    cache, computed = counting_cache(limit_mb=2, evict=False)
    assert cache.fill("abcdef") is cache, "what follows c would be computed for nothing"
    cache.fill("cba")
    assert computed == ["a", "b", "c", "c"] and cache.used == 2 * 2**20


def test_epochs_over_more_images_than_fit_compute_those_that_do_not_fit():
    """Each epoch asks for 20 images in an order of its own, and 10 fit: evicting computes most of them again."""
    spent = {}
    for evict in (True, False):
        cache, computed = counting_cache(limit_mb=10, evict=evict)
        order = np.random.default_rng(0)
        for _ in range(10):
            for key in order.permutation(20).tolist():
                cache(key)
        spent[evict] = len(computed)
    assert spent[False] == 20 + 9 * 10 and spent[True] > 1.4 * spent[False]


@torch.no_grad()
def test_joined_strides_average_their_cosines():
    backbone = Backbone("small").freeze()
    taps = [t[0] for t in backbone(torch.rand(1, 3, 96, 128))]
    joined = unit_features(taps, backbone.levels)
    assert joined.shape == (64 + 96, 6, 8)
    torch.testing.assert_close(joined.norm(dim=0), torch.ones(6, 8))
    one, two = joined[:, 2, 3], joined[:, 4, 5]
    deep = F.interpolate(taps[-1][None], (6, 8), mode="bilinear", align_corners=True)[0]
    cosines = [F.cosine_similarity(t[:, 2, 3], t[:, 4, 5], dim=0) for t in (taps[3], deep)]
    torch.testing.assert_close(one @ two, sum(cosines) / 2)


# --- several at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit_mb", [0, 1, 64])
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_many_are_computed_at_once_and_each_only_once(at_once, limit_mb):
    passes = []

    def encode_all(keys):
        passes.append(list(keys))
        return [[torch.full((2**17,), float(key))] for key in keys]  # half a MB

    cache = FeatureCache(lambda key: encode_all([key])[0], limit_mb, encode_all=encode_all, at_once=at_once)
    asked = [3, 1, 3, 2, 7, 5, 1]
    assert [f[0][0].item() for f in cache.many(asked)] == asked
    assert sum(passes, []) == [3, 1, 2, 7, 5] and max(map(len, passes)) == at_once
    assert cache.used <= limit_mb * 2**20 and cache.many([]) == []
    again = len(passes)
    assert cache(5)[0][0] == 5 and (len(passes) == again) == (limit_mb > 0)


@pytest.mark.parametrize("name", ["small", "test_efficientnet"])
def test_a_batch_gives_what_its_images_give_alone(name):
    backbone = Backbone(name).freeze().optimised()
    images = torch.randn(3, 3, 97, 97)
    for together, image in zip(encode_batch(backbone, images), images, strict=True):
        for found, wanted in zip(together, encode(backbone, image), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5 * wanted.abs().max().item(), rtol=1e-4)
            assert found.untyped_storage().nbytes() == found.nbytes  # so that one alone can be forgotten
