"""RePRI: few-shot segmentation without meta-learning (Boudiaf et al., CVPR 2021; spec §2).

A network learns the base classes as any segmentation network does (`pspnet.py`). For a new class, each task fits one
small classifier σ(τ·cos(f, w) − b) to the network's features f, by gradient descent at inference. The classifier should

    be right on the support      CE = cross-entropy with the support masks,
    be confident on the query    H  = entropy of its answer there,
    find a plausible share       KL = divergence of the query's foreground share from an estimate π of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llafs_lib.errors import LlafsError
from llafs_lib.records import Prediction, Support
from llafs_lib.vision.backbone import images_at_once, usual_device
from llafs_lib.vision.features import FeatureCache, full_precision
from llafs_lib.vision.losses import IGNORE
from llafs_lib.vision.pspnet import PSPNet, padded_input, padded_labels, unpadded
from llafs_lib.vision.segmenter import by_key, check_supports, weights_of

EPS = 1e-10


@dataclass(frozen=True)
class RepriSettings:
    """How a classifier is fitted to a task; the defaults are the published ones (spec §2.3).

    `adapt_iter` counts as the published code does: t = 1 … adapt_iter − 1, so 50 means 49 gradient steps. After the
    step with t + 1 == `update_at`, π is estimated anew and the weight of KL grows by 1. A weight of None means 1/K.
    """

    temperature: float = 20.0
    rate: float = 0.025
    adapt_iter: int = 50
    update_at: int = 10
    kl_weight: float | None = None
    entropy_weight: float | None = None


# For analysis only: what if the query's share of foreground were known? Use it with `proportion=true_proportion(…)`.
ORACLE = RepriSettings(adapt_iter=300, kl_weight=1.0, entropy_weight=0.1)


@dataclass(frozen=True)
class Classifier:
    """One classifier per task, p(x) = σ(τ·cos(f(x), w) − b), and the share of foreground that it should find.

    prototype: w, [n, C]; bias: b, [n]; proportion: π, [n] in [0, 1]; temperature: τ.
    Features of n tasks at P positions are [n, C, P], or [1, C, P] where all tasks share them.
    """

    prototype: Tensor
    bias: Tensor
    proportion: Tensor
    temperature: float

    def scores(self, features: Tensor) -> Tensor:
        """τ·cos(f, w), without the bias: unit features [n, C, P] → [n, P]."""
        return self.temperature * _dots(self.prototype, features) / (self.prototype.norm(dim=1, keepdim=True) + EPS)

    def probability(self, features: Tensor) -> Tensor:
        """Probability of the foreground, in [0, 1]: unit features [n, C, P] → [n, P]."""
        return torch.sigmoid(self.scores(features) - self.bias[:, None])


@dataclass(frozen=True)
class Refinement:
    """What `refine` found: the first and the last classifiers, and the query's `probability` [n, H, W] in [0, 1]."""

    initial: Classifier
    final: Classifier
    probability: Tensor


@full_precision
@torch.inference_mode(False)  # whose tensors autograd could not use in `_adapt`
@torch.no_grad()
def refine(
    support: Tensor,
    query: Tensor,
    masks: Tensor,
    padding: Tensor,
    settings: RepriSettings | None = None,
    proportion: Tensor | None = None,
    weights: Tensor | None = None,
) -> Refinement:
    """Fit a classifier to each of n independent tasks (spec §2.3).

    The first dimension of a tensor that all tasks share may be 1. The tensor is then held once, and read once per step.

    Args:
        support: features [n, K, C, h, w] of any length; query: the same, [n, 1, C, h, w].
        masks: of the supports, [n, K, H, W] in {0, 1, IGNORE}.
        padding: where the query image was padded, [n, H, W] bool. (The published code takes this from the query's
            annotation. Here, all that is known about a query comes from its image.)
        settings: None means the published ones.
        proportion: [n], the true π (`true_proportion`), which is kept to the end: the oracle, for analysis.
        weights: [n, K] ≥ 0, how much a support's pixels count in the first w and in CE; None: all the same, as
            published. Where tasks share supports, a task is shown those of weight > 0, and its K is their number.

    Returns: probabilities at the masks' size. They are 0 everywhere for a task whose supports show no foreground on the
        h × w grid (an empty mask, or an object that falls between the grid's points).

    Raises:
        LlafsError: K = 0, shapes that do not belong together, features that are not finite, or a query that is padding
            throughout.
    """
    _check(support, query, masks, padding, proportion, weights)
    settings = settings or RepriSettings()
    grid = tuple(support.shape[-2:])
    labels = _nearest(masks, grid).flatten(1)  # [n, K, H, W] → [n, K·h·w]; each n from here on may be 1
    inside = (~_nearest(padding[:, None], grid)).to(query).flatten(1)  # [n, H, W] → [n, h·w]
    if not inside.any(dim=1).all():
        raise LlafsError("a query has no pixel to segment: all of it is padding. Check the padding mask.")
    s = F.normalize(support.transpose(1, 2).flatten(2), dim=1)  # [n, K, C, h, w] → [n, C, K·h·w]
    q = F.normalize(query[:, 0].flatten(2), dim=1)  # [n, 1, C, h, w] → [n, C, h·w]

    weights = torch.ones_like(support[:, :, 0, 0, 0]) if weights is None else weights.to(support)
    shots = (weights > 0).sum(dim=1).clamp(min=1).to(support)  # [n]
    w = weights.repeat_interleave(grid[0] * grid[1], dim=1)  # [n, K] → [n, K·h·w]

    initial = _initialise(s, q, labels, w, inside, settings.temperature)
    if proportion is not None:
        initial = replace(initial, proportion=proportion.to(query))
    final = _adapt(initial, s, q, labels, w, inside, settings, shots, oracle=proportion is not None)

    scores = final.scores(q).unflatten(1, grid)[:, None]  # [n, h·w] → [n, 1, h, w]
    scores = F.interpolate(scores, masks.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    shown = ((labels == 1) & (w > 0)).any(dim=1)[:, None, None]
    return Refinement(initial, final, torch.sigmoid(scores - final.bias[:, None, None]) * shown)


def true_proportion(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """The oracle's π: the share of foreground on the feature grid.

    Args:
        masks: of the queries, [n, H, W] in {0, 1, IGNORE}; grid: (h, w) of the features.

    Returns: [n] float64 in [0, 1], among the points that are not `IGNORE`; 0 if there are none.
    """
    labels = _nearest(masks[:, None], grid).flatten(1)  # [n, H, W] → [n, h·w]
    return (labels == 1).sum(dim=1).double() / (labels != IGNORE).sum(dim=1).clamp(min=1)


def _initialise(
    s: Tensor, q: Tensor, labels: Tensor, weights: Tensor, inside: Tensor, temperature: float
) -> Classifier:
    """The first w is the supports' mean foreground feature; b is the query's mean score, with padding, as published."""
    foreground = (labels == 1) * weights
    prototype = _dots(foreground, s.mT) / (foreground.sum(dim=1, keepdim=True) + EPS)  # [n, P] · [n, P, C] → [n, C]
    unbiased = Classifier(prototype, torch.zeros_like(prototype[:, 0]), torch.zeros_like(prototype[:, 0]), temperature)
    biased = replace(unbiased, bias=unbiased.scores(q).mean(dim=1))
    return replace(biased, proportion=_mean(biased.probability(q), inside))


def _adapt(
    classifier: Classifier,
    s: Tensor,
    q: Tensor,
    labels: Tensor,
    weights: Tensor,
    inside: Tensor,
    settings: RepriSettings,
    shots: Tensor,
    oracle: bool,
) -> Classifier:
    """Gradient descent on CE + λ_KL·KL + λ_H·H in w and b."""
    entropy_weight = 1 / shots if settings.entropy_weight is None else settings.entropy_weight
    kl_weight = 1 / shots if settings.kl_weight is None else settings.kl_weight
    known = (labels != IGNORE) * weights
    w, b, proportion = classifier.prototype, classifier.bias, classifier.proportion
    for t in range(1, settings.adapt_iter):
        with torch.enable_grad():
            w, b = w.detach().requires_grad_(), b.detach().requires_grad_()
            classifier = replace(classifier, prototype=w, bias=b, proportion=proportion)
            p = classifier.probability(q)
            loss = _cross_entropy(classifier.probability(s), labels, known)
            loss = loss + kl_weight * _kl_divergence(_mean(p, inside), proportion)
            loss = loss + entropy_weight * _entropy(p, inside)
            by_w, by_b = torch.autograd.grad(loss.sum(), (w, b))
        w, b = w - settings.rate * by_w, b - settings.rate * by_b
        if t + 1 == settings.update_at and not oracle:
            proportion = _mean(replace(classifier, prototype=w, bias=b).probability(q), inside)
            kl_weight = kl_weight + 1
    return replace(classifier, prototype=w, bias=b, proportion=proportion)


# The three losses of each task, [n]. Each logarithm is log(x + EPS), as published.


def _cross_entropy(p: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Mean of −[y log p + (1 − y) log(1 − p)], in which a label counts by `known` [n, P]."""
    of_label = torch.where(labels == 1, p, 1 - p)
    return -(torch.log(of_label + EPS) * known).sum(dim=1) / known.sum(dim=1).clamp(min=EPS)


def _entropy(p: Tensor, inside: Tensor) -> Tensor:
    """Mean of −[p log p + (1 − p) log(1 − p)] inside."""
    return -_mean(p * torch.log(p + EPS) + (1 - p) * torch.log(1 - p + EPS), inside)


def _kl_divergence(m: Tensor, proportion: Tensor) -> Tensor:
    """m log(m/π) + (1 − m) log((1 − m)/(1 − π)), where m is the query's share of foreground and π is `proportion`."""
    tiny = torch.finfo(m.dtype).tiny  # where m rounds to 0 or 1 the product is 0, not 0 · ∞
    foreground = m * torch.log(m.clamp(min=tiny) / (proportion + EPS))
    return foreground + (1 - m) * torch.log((1 - m).clamp(min=tiny) / (1 - proportion + EPS))


def _dots(vectors: Tensor, features: Tensor) -> Tensor:
    """[n, A] · [n, A, B] → [n, B]; features [1, A, B] are read once, for all vectors."""
    return vectors @ features[0] if len(features) == 1 else (vectors[:, None] @ features)[:, 0]


def _mean(values: Tensor, inside: Tensor) -> Tensor:
    return (values * inside).sum(dim=1) / inside.sum(dim=1)


def _nearest(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    return F.interpolate(masks.float(), grid, mode="nearest").to(masks.dtype)  # labels up to 255 survive the float


def _check(
    support: Tensor, query: Tensor, masks: Tensor, padding: Tensor, proportion: Tensor | None, weights: Tensor | None
) -> None:
    if support.dim() != 5 or not support.shape[1]:
        raise LlafsError(f"support features {list(support.shape)} must be [n, K, C, h, w]; RePRI needs K ≥ 1 supports.")
    _, k, c, h, w = support.shape
    expected = {
        "support features": (support, [k, c, h, w]),
        "query features": (query, [1, c, h, w]),
        "support masks": (masks, [k, *masks.shape[-2:]]),
        "padding": (padding, list(masks.shape[-2:])),
        "proportion": (proportion, []),
        "weights": (weights, [k]),
    }
    given = {name: (value, shape) for name, (value, shape) in expected.items() if value is not None}
    n = max(len(value) for value, _ in given.values())
    for name, (value, shape) in given.items():
        if list(value.shape) not in ([n, *shape], [1, *shape]):
            raise LlafsError(f"{name} are {list(value.shape)}, but {[n, *shape]} belongs to these {n} tasks.")
    if not (support.isfinite().all() and query.isfinite().all()):
        raise LlafsError("features hold NaN or infinity: train the base network again with a smaller learning rate.")


def _pooled(tasks: Sequence[Sequence[Support]]) -> tuple[list[Support], Tensor]:
    """The supports of n tasks, each once, and the weights [n, K] that the tasks give them: 0 where one is not shown.

    The published draws may show a task one support twice. It then counts as two of the K, so it is twice in the pool.

    Raises:
        LlafsError: two supports have the same key but not the same image and mask.
    """
    by_key(s for task in tasks for s in task)
    # A key in the pool is (a support's key, how often the task was shown that support before).
    keys = [[(s.key, [o.key for o in task[:i]].count(s.key)) for i, s in enumerate(task)] for task in tasks]
    pool = {key: s for task, own in zip(tasks, keys, strict=True) for key, s in zip(own, task, strict=True)}
    place = {key: i for i, key in enumerate(pool)}
    weights = torch.zeros(len(tasks), len(pool))
    for row, task, own in zip(weights, tasks, keys, strict=True):
        row[[place[key] for key in own]] = weights_of(task)
    return list(pool.values()), weights


def _groups(tasks: Sequence[Sequence[Support]]) -> list[list[int]]:
    """The tasks, by number, that are best fitted together: each shows at least half of its supports to others, too.

    A step computes every task of a group at every support of the group. So it pays to share, and strangers cost.
    """
    groups: list[tuple[set, list[int]]] = []
    for n in sorted(range(len(tasks)), key=lambda n: -len(tasks[n])):
        keys = {s.key for s in tasks[n]}
        pool, group = next(((p, g) for p, g in groups if 2 * len(keys & p) >= len(keys)), (set(), []))
        if not group:
            groups.append((pool, group))
        pool |= keys
        group.append(n)
    return [group for _, group in groups]


class RePRISegmenter:
    """RePRI as a `Segmenter`: the supports are pooled (spec §2.3), and their pixels count by the supports' weights.

    Args:
        model: a trained `PSPNet`.
        size: side of the square that images are fitted into, in pixels: the size the model was trained at.
    """

    def __init__(self, model: PSPNet, size: int):
        self.model, self.size = model.eval(), size
        at_once = images_at_once(next(model.parameters()).device)
        self.features = FeatureCache(lambda i: self._encode([i])[0], encode_all=self._encode, at_once=at_once)

    @classmethod
    def from_file(cls, path: str | Path, device: str | torch.device | None = None) -> RePRISegmenter:
        """Open a checkpoint written by `PSPNet.save(path, size=…)`, on a device; None takes a GPU if there is one."""
        model, header = PSPNet.load(path)
        return cls(model.to(device or usual_device()), int(header["size"]))

    @torch.inference_mode()
    def segment(self, query: np.ndarray, supports: Sequence[Support], class_name: str = "") -> Prediction:
        """Segment `query` [H, W, 3] uint8; the mask is where the probability exceeds ½.

        Empty support masks give an empty prediction, with a note.

        Raises:
            LlafsError: no supports, or some that do not fit (`check_supports`).
        """
        return self.segment_each(query, [supports], class_name)[0]

    @torch.inference_mode()
    def segment_each(
        self, query: np.ndarray, shown: Sequence[Sequence[Support]], class_name: str = ""
    ) -> list[Prediction]:
        """`segment` with several sets of supports. They share their features, and are fitted together where it pays."""
        for supports in shown:
            check_supports(supports, class_name, "RePRI")
        device = next(self.model.parameters()).device
        groups = _groups(shown) if device.type == "cpu" else [list(range(len(shown)))]  # a GPU would rather wait once
        found = {n: p for g in groups for n, p in zip(g, self._fit(query, [shown[n] for n in g]), strict=True)}
        return [self._answer(found[n], query, supports, class_name) for n, supports in enumerate(shown)]

    def _answer(self, found: Tensor, query: np.ndarray, supports: Sequence[Support], class_name: str) -> Prediction:
        p = unpadded(found, query.shape[:2]).cpu().numpy()
        notes = () if p.any() else ("no support shows the class on the feature grid: nothing is marked",)
        return Prediction(class_name, p > 0.5, p, tuple(supports), notes=notes)

    def _fit(self, query: np.ndarray, tasks: Sequence[Sequence[Support]]) -> Tensor:
        """Probability [n, S, S] of n tasks."""
        pool, weights = _pooled(tasks)
        q, *features = (maps[0] for maps in self.features.many([query, *(s.image for s in pool)]))  # each [C, h, w]
        masks = torch.stack([padded_labels(s.mask, self.size) for s in pool]).to(q.device)  # [K, S, S]
        padding = padded_labels(np.zeros(query.shape[:2]), self.size).to(q.device) == IGNORE  # [S, S]
        return refine(
            torch.stack(features)[None], q[None, None], masks[None], padding[None], weights=weights
        ).probability

    def _encode(self, images: Sequence[np.ndarray]) -> list[list[Tensor]]:
        like = next(self.model.parameters())
        inputs = torch.stack([padded_input(image, self.size) for image in images]).to(like)  # [n, 3, S, S]
        found = self.model.features(inputs).to(like.dtype)  # under autocast the network computes in half precision
        return [[one if len(images) == 1 else one.clone()] for one in found]  # each [C, h, w]
