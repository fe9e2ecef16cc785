"""HSNet: hypercorrelation squeeze (Min, Kang and Cho, ICCV 2021; spec §1).

Every tap of the query is compared with the same tap of the support at every pair of positions. The learner squeezes the
resulting 4-D correlations to a 2-D map, with 4-D convolutions that look at the query plane and the support plane
separately. Only the learner is trained; it has 2.6 M parameters.

This is the plain form, on whole tensors. A GPU runs it as it stands, and so do `torch.export` and `torch.jit.trace`. On
a CPU the learner hands the correlation and the squeezing to `hsnet_fast.py`, which gives the same result sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from llafs_lib.errors import LlafsError
from llafs_lib.vision.backbone import Backbone, resize
from llafs_lib.vision.checkpoints import fill, read_model, read_state, save_model
from llafs_lib.vision.hsnet_fast import EPS, Pairs, check_support_grids, squeeze

KIND = "HSNet"  # the name in checkpoints
# The HSNet that comes with the library, for a first look (notebook 00): `HSNetSegmenter.from_file(TOY_HSNET)`. It was
# trained on `toy`, base classes of fold 0, by `llafs tutorial --only 01,02`, and brought into this file, as 16-bit
# numbers, by data_scripts/make_toy_hsnet.py.
TOY_HSNET = Path(__file__).with_name("toy_fold0_hsnet.safetensors")
CLASSIFIER = ("backbone.net.fc.", "backbone.net.classifier.")  # official checkpoints hold it, HSNet never uses it
NOTHING = (100.0, -100.0)  # the logits of a pixel that is certainly background
PAIRS_AT_ONCE = {"cpu": 1}  # pairs of images compared in one pass; elsewhere 8, which keep a GPU busy


def pairs_at_once(device: torch.device) -> int:
    return PAIRS_AT_ONCE.get(device.type, 8)


def hypercorrelation(
    query: Sequence[Tensor], support: Sequence[Tensor], mask: Tensor, levels: tuple[int, int, int]
) -> list[Tensor]:
    """Clamped cosine similarity of every query position with every masked support position (spec §1.2, §1.3).

    Args:
        query, support: taps, shallow to deep, each [B, C, h, w].
        mask: the support's foreground, [B, H, W], 0 or 1.
        levels: how many taps belong to strides 8, 16 and 32.

    Returns: three tensors [B, taps, hq, wq, hs, ws] in [0, 1], deepest first. Where the mask is empty they are 0.
    """
    maps = [_correlate(q, s * _shrink(mask, s)) for q, s in zip(query, support, strict=True)]
    shallow, middle, _ = levels
    groups = maps[:shallow], maps[shallow : shallow + middle], maps[shallow + middle :]
    return [torch.stack(group, dim=1) for group in reversed(groups)]


def _shrink(mask: Tensor, like: Tensor) -> Tensor:
    """A mask [B, H, W] on the grid of a tap → [B, 1, h, w] in [0, 1]. It is not thresholded, so its border is soft."""
    return resize(mask[:, None].to(like.dtype), like.shape[-2:])


def _correlate(query: Tensor, support: Tensor) -> Tensor:
    q, s = _unit_columns(query), _unit_columns(support)  # [B, C, hq·wq], [B, C, hs·ws]
    cosine = torch.bmm(q.transpose(1, 2), s).clamp(min=0)  # [B, hq·wq, hs·ws]
    return cosine.view(len(q), *query.shape[-2:], *support.shape[-2:])  # [B, hq, wq, hs, ws]


def _unit_columns(feature: Tensor) -> Tensor:
    flat = feature.flatten(2)  # [B, C, h, w] → [B, C, h·w]
    return flat / (flat.norm(dim=1, keepdim=True) + EPS)


class CenterPivotConv4d(nn.Module):
    """A 4-D convolution kept only where one of its two planes sits at its centre: two 2-D convolutions (spec §1.4)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)  # query plane
        self.conv2 = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2)  # support plane

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, hq, wq, hs, ws] → [B, C', hq, wq, ⌈hs/stride⌉, ⌈ws/stride⌉]."""
        return self._over_query(x) + self._over_support(x)

    def _over_query(self, x: Tensor) -> Tensor:
        x = x[..., :: self.stride, :: self.stride]
        b, c, hq, wq, hs, ws = x.shape
        y = self.conv1(x.permute(0, 4, 5, 1, 2, 3).reshape(b * hs * ws, c, hq, wq))
        return y.view(b, hs, ws, -1, hq, wq).permute(0, 3, 4, 5, 1, 2)  # → [B, C', hq, wq, hs, ws]

    def _over_support(self, x: Tensor) -> Tensor:
        b, c, hq, wq, hs, ws = x.shape
        y = self.conv2(x.permute(0, 2, 3, 1, 4, 5).reshape(b * hq * wq, c, hs, ws))
        return y.view(b, hq, wq, *y.shape[1:]).permute(0, 3, 1, 2, 4, 5)  # → [B, C', hq, wq, hs', ws']


class HSNetLearner(nn.Module):
    """Correlation pyramid → two logits per position (spec §1.5–1.8). Parameter names are the official ones.

    Args:
        channels: taps per pyramid level, deepest first: (3, 6, 4) for ResNet-50.
    """

    def __init__(self, channels: tuple[int, int, int]):
        super().__init__()
        deep, middle, shallow = channels
        self.encoder_layer4 = _block(deep, (16, 64, 128), (3, 3, 3), (2, 2, 2))
        self.encoder_layer3 = _block(middle, (16, 64, 128), (5, 3, 3), (4, 2, 2))
        self.encoder_layer2 = _block(shallow, (16, 64, 128), (5, 5, 3), (4, 4, 2))
        self.encoder_layer4to3 = _block(128, (128, 128, 128), (3, 3, 3), (1, 1, 1))
        self.encoder_layer3to2 = _block(128, (128, 128, 128), (3, 3, 3), (1, 1, 1))
        self.decoder1 = nn.Sequential(
            nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 64, 3, padding=1), nn.ReLU()
        )
        self.decoder2 = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 2, 3, padding=1))

    def forward(
        self, pyramid: Sequence[Tensor] | Pairs, with_embeddings: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Squeeze correlations to logits [B, 2, 2·hq, 2·wq] of the finest level's query grid.

        Args:
            pyramid: three [B, taps, hq, wq, hs, ws], deepest first, as `hypercorrelation` makes them; or the `Pairs` to
                make them from, which is faster on a CPU.
            with_embeddings: also return the map that the logits are made from, [B, 64, hq, wq].
        """
        if isinstance(pyramid, Pairs) and pyramid.mask.device.type == "cpu" and not _is_captured():
            squeezed = squeeze(self, pyramid)
        else:
            squeezed = self._squeeze(pyramid)
        embeddings = self.decoder1(squeezed)  # [B, 128, hq, wq] → [B, 64, hq, wq]
        height, width = embeddings.shape[-2:]
        logits = self.decoder2(resize(embeddings, (2 * height, 2 * width)))
        return (logits, embeddings) if with_embeddings else logits

    def _squeeze(self, pyramid: Sequence[Tensor] | Pairs) -> Tensor:
        """Correlation, encoders and mixing → [B, 128, hq, wq]."""
        if isinstance(pyramid, Pairs):
            with torch.no_grad():
                pyramid = hypercorrelation(*pyramid)
        deep, middle, shallow = pyramid
        x = self._mix(self.encoder_layer4(deep), self.encoder_layer3(middle), self.encoder_layer4to3)
        x = self._mix(x, self.encoder_layer2(shallow), self.encoder_layer3to2)
        return x.mean(dim=(-2, -1))

    @staticmethod
    def _mix(coarse: Tensor, fine: Tensor, block: nn.Module) -> Tensor:
        """Bring the coarse level to the fine level's *query* grid, add, squeeze."""
        check_support_grids(coarse.shape[-2:], fine.shape[-2:])
        b, c, hq, wq, hs, ws = coarse.shape
        flat = coarse.permute(0, 4, 5, 1, 2, 3).reshape(b * hs * ws, c, hq, wq)  # one map per support cell
        flat = resize(flat, fine.shape[2:4])
        wide = flat.view(b, hs, ws, c, *fine.shape[2:4]).permute(0, 3, 4, 5, 1, 2)  # → [B, C, hq', wq', hs, ws]
        return block(wide + fine)


def _block(c_in: int, widths: Sequence[int], kernels: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    """Three times: centre-pivot convolution, group normalisation (4 groups), ReLU."""
    layers: list[nn.Module] = []
    for width, kernel, stride in zip(widths, kernels, strides, strict=True):
        layers += [CenterPivotConv4d(c_in, width, kernel, stride), nn.GroupNorm(4, width), nn.ReLU()]
        c_in = width
    return nn.Sequential(*layers)


class HSNet(nn.Module):
    """Backbone and learner together.

    Args:
        backbone: a frozen one; the number of its taps decides the number of correlation maps.

    Raises:
        LlafsError: a vision transformer, which has no maps at three strides.
    """

    def __init__(self, backbone: Backbone):
        super().__init__()
        backbone.check_levels("HSNet")
        self.backbone = backbone
        self.learner = HSNetLearner(tuple(reversed(backbone.levels)))

    def forward(self, query: Tensor, supports: Tensor, masks: Tensor) -> Tensor:
        """Segment each query once per support.

        Args:
            query: [B, 3, H, W]; supports: [B, K, 3, H, W]; masks: [B, K, H, W], 0 or 1.

        Returns: logits [B, K, 2, H, W], channel 1 is foreground. An empty mask gives background everywhere (`match`).

        Raises:
            LlafsError: K = 0, or NaN or infinity in images or weights.
        """
        if not supports.shape[1]:
            raise LlafsError("K = 0: HSNet needs at least one support per query.")
        query_taps, shots = self.backbone(query), []  # once, however many supports there are
        some = max(pairs_at_once(query.device) // len(query), 1)
        for images, shown in zip(supports.split(some, dim=1), masks.split(some, dim=1), strict=True):
            n = images.shape[1]
            taps = self.backbone(images.flatten(0, 1))  # [B, n, 3, H, W] → [B·n, 3, H, W]
            repeated = [t.repeat_interleave(n, dim=0) for t in query_taps] if n > 1 else query_taps
            logits = self.match(repeated, taps, shown.flatten(0, 1), query.shape[-2:])
            shots.append(logits.unflatten(0, (-1, n)))  # [B·n, 2, H, W] → [B, n, 2, H, W]
        return torch.cat(shots, dim=1)

    def match(self, query: Sequence[Tensor], support: Sequence[Tensor], mask: Tensor, size: tuple[int, int]) -> Tensor:
        """`forward` for one support whose taps are known.

        An empty mask, or one that is too small for any position of the taps, is no error: every pixel is then certainly
        background. (The published code returns what its learner makes of zeros.)

        Args:
            query, support: taps, shallow to deep, each [B, C, h, w].
            mask: [B, H, W], 0 or 1.
            size: (H, W) of the logits.

        Returns: logits [B, 2, *size].

        Raises:
            LlafsError: taps of another backbone, or features that are NaN or infinite.
        """
        channels = [[t.shape[1] for t in taps] for taps in (query, support)]
        if channels[0] != channels[1] or len(query) != sum(self.backbone.levels):
            raise LlafsError(
                f"taps with {channels[0]} (query) and {channels[1]} channels (support) cannot be compared: both must "
                f"be the {sum(self.backbone.levels)} taps of {self.backbone.name}."
            )
        logits = self.learner(Pairs(query, support, mask, self.backbone.levels))
        if not _is_captured() and not logits.isfinite().all():
            raise LlafsError("the logits are not finite: look for NaN or infinity in images, features and weights.")
        shown = torch.stack([_shrink(mask, s).flatten(1).any(dim=1) for s in support]).any(dim=0)  # [B]
        return torch.where(shown[:, None, None, None], resize(logits, size), logits.new_tensor(NOTHING)[:, None, None])

    def save(self, path: str | Path, **facts: str | int | float) -> None:
        """Write learner *and* backbone to one safetensors file, with `facts` in its header.

        Raises:
            LlafsError: the backbone is an `optimised` copy, whose parameters `load` would not recognise.
        """
        if self.backbone.folded:
            raise LlafsError("save the model with its original backbone, not with the optimised() copy.")
        save_model(path, self, KIND, {**self.backbone.facts(), **facts})

    @classmethod
    def load(cls, path: str | Path) -> tuple[HSNet, dict]:
        """Read a file written by `save`.

        Returns: the model, ready for inference, and the file's header.

        Raises:
            LlafsError: another kind of file.
        """
        state, header = read_model(path, KIND)
        model = cls(Backbone(header["backbone"]))
        fill(model, state, str(path), f"an HSNet with {header['backbone']}")
        model.backbone.freeze().weights_from = header.get("weights_from")
        return model.eval(), header

    def load_official(self, path: str | Path) -> HSNet:
        """Fill the model from a checkpoint of the published code (spec §1.8), ready for inference.

        Args:
            path: of a file with a state dict. The names of parameters may start with DataParallel's `module.`, those of
                the learner also with `hpn_learner.`. If there are names that start with `backbone.`, the backbone is
                filled as well. Its classifier and its counters of batches are not needed.

        Returns: the model itself.

        Raises:
            LlafsError: the file is cut off, of another kind or for another backbone. The model is then unchanged.
        """
        found = {_own_name(name): value for name, value in read_state(path).items()}
        whole = any(name.startswith("backbone.") for name in found)
        if whole and self.backbone.folded:
            raise LlafsError(f"{path} fills the backbone: call optimised() afterwards.")
        # What HSNet does not use, and a backbone that is not in the file, stay as they are.
        kept = CLASSIFIER if whole else ("backbone.",)
        own = {n: v for n, v in self.state_dict().items() if n.startswith(kept) or n.endswith("num_batches_tracked")}
        found = {n: v for n, v in found.items() if not n.startswith(CLASSIFIER)}
        fill(self, own | found, str(path), f"an official HSNet for {self.backbone.name}")
        self.backbone.freeze()
        return self.eval()


def _own_name(official: str) -> str:
    """The name of a parameter in `HSNet`, given its name in the published code."""
    name = str(official).removeprefix("module.").removeprefix("hpn_learner.")
    return name.replace("backbone.", "backbone.net.", 1) if name.startswith("backbone.") else f"learner.{name}"


def _is_captured() -> bool:
    """Whether torch.export, torch.compile or torch.jit.trace records what is computed; nothing may depend on values."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def vote(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """K-shot voting (spec §1.10): each support votes per pixel.

    A pixel is foreground if it has at least half as many votes as the pixel of its *image* that has most.

    Args:
        logits: [B, K, 2, H, W].
        weights: [B, K] ≥ 0, how much a support's vote counts; None: all the same, as published.

    Returns: [B, H, W] bool. With K = 1 this is the plain argmax. Without a single vote everything is background.
    """
    ballots = logits[:, :, 1] > logits[:, :, 0]  # [B, K, H, W]
    votes = ballots.sum(dim=1) if weights is None else (ballots * weights[..., None, None]).sum(dim=1)  # [B, H, W]
    return (votes > 0) & (2 * votes >= votes.amax(dim=(-2, -1), keepdim=True))
