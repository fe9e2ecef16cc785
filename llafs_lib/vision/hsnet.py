"""HSNet: hypercorrelation squeeze (Min, Kang and Cho, ICCV 2021; spec §1).

Every tap of the query is compared with the same tap of the support at every pair of positions. The learner squeezes the
resulting 4-D correlations to a 2-D map, with 4-D convolutions that look at the query plane and the support plane
separately. Only the learner is trained; 2.6 M parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llafs_lib.errors import LlafsError
from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.hsnet_fast import EPS, Pairs, check_support_grids, resize, squeeze

CLASSIFIER = ("fc.", "classifier.")  # the backbones' own: in checkpoints, but HSNet never uses it


class CheckpointError(LlafsError):
    """A checkpoint that cannot be read or does not fit."""


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
    maps = [_correlate(q, _mask_feature(s, mask)) for q, s in zip(query, support, strict=True)]
    shallow, middle, _ = levels
    groups = maps[:shallow], maps[shallow : shallow + middle], maps[shallow + middle :]
    return [torch.stack(group, dim=1) for group in reversed(groups)]


def _mask_feature(feature: Tensor, mask: Tensor) -> Tensor:
    small = F.interpolate(mask[:, None].to(feature.dtype), feature.shape[-2:], mode="bilinear", align_corners=True)
    return feature * small  # soft at the border: the small mask is not thresholded


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
        weight, padding = _trim(self.conv2.weight, (hs, ws))
        flat = x.permute(0, 2, 3, 1, 4, 5).reshape(b * hq * wq, c, hs, ws)
        y = F.conv2d(flat, weight, self.conv2.bias, self.stride, padding)
        return y.view(b, hq, wq, *y.shape[1:]).permute(0, 3, 1, 2, 4, 5)  # → [B, C', hq, wq, hs', ws']


def _trim(weight: Tensor, plane: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Drop the rows and columns of a kernel that only ever meet padding, as on small pictures' 1×1 support planes.

    The result is the same; the 3×3 kernels there become 1×1 and cost a ninth.
    """
    padding = tuple(min(k // 2, n - 1) for k, n in zip(weight.shape[-2:], plane, strict=True))
    cut = [k // 2 - p for k, p in zip(weight.shape[-2:], padding, strict=True)]
    return weight[..., cut[0] : weight.shape[-2] - cut[0], cut[1] : weight.shape[-1] - cut[1]], padding


class HSNetLearner(nn.Module):
    """Correlation pyramid → two logits per position (spec §1.5–1.8). Parameter names are the official ones.

    Args:
        channels: taps per pyramid level, deepest first: (3, 6, 4) for ResNet-50.
    """

    def __init__(self, channels: tuple[int, int, int]):
        super().__init__()
        deep, middle, shallow = channels
        self.channels = channels
        self.encoder_layer4 = _squeeze(deep, (16, 64, 128), (3, 3, 3), (2, 2, 2))
        self.encoder_layer3 = _squeeze(middle, (16, 64, 128), (5, 3, 3), (4, 2, 2))
        self.encoder_layer2 = _squeeze(shallow, (16, 64, 128), (5, 5, 3), (4, 4, 2))
        self.encoder_layer4to3 = _squeeze(128, (128, 128, 128), (3, 3, 3), (1, 1, 1))
        self.encoder_layer3to2 = _squeeze(128, (128, 128, 128), (3, 3, 3), (1, 1, 1))
        self.decoder1 = nn.Sequential(
            nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 64, 3, padding=1), nn.ReLU()
        )
        self.decoder2 = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 2, 3, padding=1))

    def forward(self, pyramid: Sequence[Tensor] | Pairs) -> Tensor:
        """Squeeze correlations to logits [B, 2, 2·hq, 2·wq] of the finest level's query grid.

        Args:
            pyramid: three [B, taps, hq, wq, hs, ws], deepest first, as `hypercorrelation` makes them; or the `Pairs` to
                make them from, which is faster on a CPU.
        """
        if isinstance(pyramid, Pairs):
            if pyramid.mask.device.type == "cpu":
                return self._decode(squeeze(self, pyramid))
            with torch.no_grad():
                pyramid = hypercorrelation(*pyramid)
        deep, middle, shallow = pyramid
        x = self._mix(self.encoder_layer4(deep), self.encoder_layer3(middle), self.encoder_layer4to3)
        x = self._mix(x, self.encoder_layer2(shallow), self.encoder_layer3to2)
        return self._decode(x.mean(dim=(-2, -1)))

    def _decode(self, x: Tensor) -> Tensor:
        x = self.decoder1(x)  # [B, 128, hq, wq] → [B, 64, hq, wq]
        height, width = x.shape[-2:]
        return self.decoder2(resize(x, (2 * height, 2 * width)))

    @staticmethod
    def _mix(coarse: Tensor, fine: Tensor, block: nn.Module) -> Tensor:
        """Bring the coarse level to the fine level's *query* grid, add, squeeze."""
        check_support_grids(coarse.shape[-2:], fine.shape[-2:])
        b, c, hq, wq, hs, ws = coarse.shape
        flat = coarse.permute(0, 4, 5, 1, 2, 3).reshape(b * hs * ws, c, hq, wq)
        flat = resize(flat, fine.shape[2:4])
        wide = flat.view(b, hs, ws, c, *fine.shape[2:4]).permute(0, 3, 4, 5, 1, 2)
        return block(wide + fine)


def _squeeze(c_in: int, widths: Sequence[int], kernels: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    """Three times: centre-pivot convolution, group normalisation (4 groups), ReLU."""
    layers: list[nn.Module] = []
    for width, kernel, stride in zip(widths, kernels, strides, strict=True):
        layers += [CenterPivotConv4d(c_in, width, kernel, stride), nn.GroupNorm(4, width), nn.ReLU()]
        c_in = width
    return nn.Sequential(*layers)


class HSNet(nn.Module):
    """Backbone and learner together.

    Args:
        backbone: frozen; decides the number of correlation maps.
        weights: a file written by `save`.
    """

    def __init__(self, backbone: Backbone, weights: str | Path | None = None):
        super().__init__()
        self.backbone = backbone
        self.learner = HSNetLearner(tuple(reversed(backbone.levels)))
        if weights is not None:
            self.load_state_dict(_read(weights)[0])

    def forward(self, query: Tensor, supports: Tensor, masks: Tensor) -> Tensor:
        """Segment each query once per support.

        Args:
            query: [B, 3, H, W]; supports: [B, K, 3, H, W]; masks: [B, K, H, W], 0 or 1.

        Returns: logits [B, K, 2, H, W], channel 1 is foreground.
        """
        if not supports.shape[1]:
            raise LlafsError("K = 0: HSNet needs at least one support per query.")
        if query.shape[1] != 3 or supports.shape[2] != 3:
            raise LlafsError(
                f"pictures have 3 channels, not {query.shape[1]} (query) and {supports.shape[2]} (supports)."
            )
        query_taps = self.backbone(query)  # once, whatever K is
        shots = [
            self.match(query_taps, self.backbone(supports[:, k]), masks[:, k], query.shape[-2:])
            for k in range(supports.shape[1])
        ]
        return torch.stack(shots, dim=1)

    def match(self, query: Sequence[Tensor], support: Sequence[Tensor], mask: Tensor, size: tuple[int, int]) -> Tensor:
        """As `forward` for one support whose taps are known: → logits [B, 2, *size]. An empty mask is no error.

        Raises:
            LlafsError: taps of another backbone, or NaN or infinite features.
        """
        channels = [[t.shape[1] for t in taps] for taps in (query, support)]
        if channels[0] != channels[1] or len(query) != sum(self.backbone.levels):
            raise LlafsError(
                f"taps with {channels[0]} (query) and {channels[1]} channels (support) cannot be compared: both must "
                f"be the {sum(self.backbone.levels)} taps of {self.backbone.name}."
            )
        logits = self.learner(Pairs(query, support, mask, self.backbone.levels))
        if not logits.isfinite().all():
            raise LlafsError("the logits are not finite: look for NaN or infinity in pictures, features and weights.")
        return resize(logits, size)

    def save(self, path: str | Path, **facts: str | int | float) -> None:
        """Write learner *and* backbone to one safetensors file; `facts` travel in its header.

        Raises:
            LlafsError: the backbone is an `optimised` copy, whose parameters `load` would not recognise.
        """
        if self.backbone.folded:
            raise LlafsError("save the model with its original backbone, not with the optimised() copy.")
        header = {"backbone": self.backbone.name, **facts}
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, path, {"llafs": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> tuple[HSNet, dict]:
        """Read a file written by `save`: the model, ready for inference, and its header.

        Raises:
            CheckpointError: not such a file.
        """
        state, header = _read(path)
        model = cls(Backbone(header["backbone"]))
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not fit {header['backbone']}: {error}") from error
        model.backbone.freeze()
        return model.eval(), header

    def load_official(self, checkpoint: str | Path | Mapping[str, Tensor]) -> HSNet:
        """Fill the model from a checkpoint of the published code (spec §1.8), ready for inference.

        Args:
            checkpoint: the file or its state dict, names with or without DataParallel's `module.`. Learner names may
                start with `hpn_learner.`; if there are `backbone.` names, the backbone is filled as well.

        Returns: the model itself.

        Raises:
            CheckpointError: truncated, foreign or for another backbone; the model is then unchanged.
        """
        state = checkpoint if isinstance(checkpoint, Mapping) else _read_official(checkpoint)
        state = {str(name).removeprefix("module."): value for name, value in state.items()}
        backbone = {n.removeprefix("backbone."): v for n, v in state.items() if n.startswith("backbone.")}
        learner = {n.removeprefix("hpn_learner."): v for n, v in state.items() if not n.startswith("backbone.")}
        source = "the state dict" if isinstance(checkpoint, Mapping) else checkpoint
        if backbone and self.backbone.folded:
            raise CheckpointError(f"{source} fills the backbone: call optimised() afterwards.")
        parts = [(self.learner, learner)] + [(self.backbone.net, backbone)] * bool(backbone)
        for module, values in parts:
            _check_fit(module, values, f"{source} is not an official HSNet checkpoint for {self.backbone.name}")
        for module, values in parts:
            module.load_state_dict({n: v for n, v in values.items() if not n.startswith(CLASSIFIER)}, strict=False)
        self.backbone.freeze()
        return self.eval()


def _read_official(path: str | Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a truncated or foreign file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not the state dict of an HSNet.")
    return state


def _check_fit(module: nn.Module, state: Mapping[str, Tensor], complaint: str) -> None:
    """Names and shapes must agree, but for a backbone's classifier and its counters of batches."""
    expected = {n: v.shape for n, v in module.state_dict().items() if not n.startswith(CLASSIFIER)}
    found = {n: getattr(v, "shape", None) for n, v in state.items() if not n.startswith(CLASSIFIER)}
    for name in sorted(expected.keys() | found.keys()):
        if name.endswith("num_batches_tracked"):
            continue
        if expected.get(name) != found.get(name):
            there, wanted = (shapes.get(name) for shapes in (found, expected))
            raise CheckpointError(
                f"{complaint}: {name} is {tuple(there) if there is not None else 'missing'} in the file, "
                f"{tuple(wanted) if wanted is not None else 'unknown'} in the model."
            )


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["llafs"])
            return {name: file.get_tensor(name) for name in file.keys()}, header
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not an HSNet checkpoint of this library ({error}).") from error


def vote(logits: Tensor) -> Tensor:
    """K-shot voting (spec §1.10): each support votes per pixel; foreground from half of the *picture's* highest count.

    Args:
        logits: [B, K, 2, H, W].

    Returns: [B, H, W] bool. With K = 1 this is the plain argmax; without a single vote everything is background.
    """
    votes = (logits[:, :, 1] > logits[:, :, 0]).sum(dim=1)  # [B, K, H, W] → [B, H, W]
    highest = votes.amax(dim=(-2, -1), keepdim=True).clamp(min=1)
    return votes / highest >= 0.5
