"""HSNet against its plain form: time, peak memory and the floor that the arithmetic sets. Run it on an idle machine.

    python benchmarks/vision.py --rounds 9

The plain form is written below from the specification, as the published code does it: whole 4-D tensors, one complete
pass per support, the query's and the supports' features computed every time. Both forms share weights and inputs, take
turns in one process, and their medians are compared, with one thread and with two; where there is a GPU, there too, in
float32 and under bfloat16 autocast. Peak memory is measured in processes of their own. The mask is an ellipse; what
lies outside its bounding box need not be computed, so rows with the whole image as mask follow.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from memory import peak_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, mm_flop

from llafs_lib.vision.backbone import Backbone
from llafs_lib.vision.hsnet import HSNet, vote
from llafs_lib.vision.hsnet_fast import Pairs
from llafs_lib.vision.losses import cross_entropy

SHOTS, BATCH = 5, 2
GFLOP = 1e9


# The plain form -------------------------------------------------------------------------------------------------------


def plain_pyramid(query: list[Tensor], support: list[Tensor], mask: Tensor, levels: tuple[int, ...]) -> list[Tensor]:
    """Spec §1.2, §1.3: three [B, taps, hq, wq, hs, ws], deepest first."""
    maps = []
    for q, s in zip(query, support, strict=True):
        small = F.interpolate(mask[:, None].float(), s.shape[-2:], mode="bilinear", align_corners=True)
        s_flat, q_flat = (s * small).flatten(2), q.flatten(2)  # [B, C, h, w] → [B, C, h·w]
        s_flat = s_flat / (s_flat.norm(dim=1, keepdim=True) + 1e-5)
        q_flat = q_flat / (q_flat.norm(dim=1, keepdim=True) + 1e-5)
        cosine = torch.bmm(q_flat.transpose(1, 2), s_flat)  # [B, hq·wq, hs·ws]
        maps.append(cosine.view(len(q), *q.shape[-2:], *s.shape[-2:]).clamp(min=0))
    ends = [sum(levels[:i]) for i in range(4)]
    return [torch.stack(maps[ends[i] : ends[i + 1]], dim=1) for i in (2, 1, 0)]


def plain_center_pivot(layer: nn.Module, x: Tensor) -> Tensor:
    """Spec §1.4: x [B, C, hq, wq, hs, ws] → [B, C', hq, wq, hs', ws']."""
    b, c, hq, wq, hs, ws = x.shape
    kept = x[..., :: layer.stride, :: layer.stride]
    hk, wk = kept.shape[-2:]
    a = kept.permute(0, 4, 5, 1, 2, 3).contiguous().view(b * hk * wk, c, hq, wq)
    a = layer.conv1(a).view(b, hk, wk, -1, hq, wq).permute(0, 3, 4, 5, 1, 2).contiguous()
    o = x.permute(0, 2, 3, 1, 4, 5).contiguous().view(b * hq * wq, c, hs, ws)
    o = layer.conv2(o)
    return a + o.view(b, hq, wq, *o.shape[1:]).permute(0, 3, 1, 2, 4, 5).contiguous()


def plain_block(block: nn.Sequential, x: Tensor) -> Tensor:
    for i in range(0, len(block), 3):
        x = F.relu(block[i + 1](plain_center_pivot(block[i], x)))
    return x


def plain_mix(coarse: Tensor, fine: Tensor) -> Tensor:
    """Spec §1.6: bring the coarse level to the fine level's query grid and add."""
    b, c, hq, wq, hs, ws = coarse.shape
    flat = coarse.permute(0, 4, 5, 1, 2, 3).contiguous().view(b * hs * ws, c, hq, wq)
    flat = F.interpolate(flat, fine.shape[2:4], mode="bilinear", align_corners=True)
    return flat.view(b, hs, ws, c, *fine.shape[2:4]).permute(0, 3, 4, 5, 1, 2).contiguous() + fine


def plain_logits(model: HSNet, query: Tensor, support: Tensor, mask: Tensor) -> Tensor:
    """One support per query: query, support [B, 3, H, W], mask [B, H, W] → logits [B, 2, H, W]."""
    learner = model.learner
    with torch.no_grad():
        taps = model.backbone(query), model.backbone(support)
        deep, middle, shallow = plain_pyramid(*taps, mask, model.backbone.levels)
    deep, middle = plain_block(learner.encoder_layer4, deep), plain_block(learner.encoder_layer3, middle)
    x = plain_block(learner.encoder_layer4to3, plain_mix(deep, middle))
    x = plain_block(learner.encoder_layer3to2, plain_mix(x, plain_block(learner.encoder_layer2, shallow)))
    x = learner.decoder1(x.mean(dim=(-2, -1)))
    x = learner.decoder2(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))
    return F.interpolate(x, query.shape[-2:], mode="bilinear", align_corners=True)


# What is compared -----------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A model with random weights, a query and its supports, all random: arithmetic does not care."""

    model: HSNet
    query: Tensor  # [B, 3, S, S]
    supports: Tensor  # [B, K, 3, S, S]
    masks: Tensor  # [B, K, S, S]

    @classmethod
    def draw(cls, backbone: str, size: int, batch: int, shots: int, box: float, device: str = "cpu") -> Scene:
        """`box`: side of the mask's bounding box in sides of the image; 1 makes the whole image the mask."""
        torch.manual_seed(0)
        y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) / size - 0.5] * 2, indexing="ij")
        mask = (x**2 + y**2 <= (box / 2) ** 2) | (box >= 1)
        masks = mask.expand(batch, shots, size, size).float()
        model = HSNet(Backbone(backbone).freeze()).eval()
        images = torch.randn(batch, 3, size, size), torch.randn(batch, shots, 3, size, size)
        return cls(model.to(device), *(t.to(device) for t in (*images, masks)))

    def fast(self) -> HSNet:
        model = HSNet(self.model.backbone.optimised()).eval()
        model.learner = self.model.learner
        return model


def plain_segment(scene: Scene) -> Tensor:
    """K-shot as published: K complete passes, argmax, vote."""
    with torch.inference_mode():
        shots = [
            plain_logits(scene.model, scene.query, scene.supports[:, k], scene.masks[:, k]).argmax(dim=1)
            for k in range(scene.supports.shape[1])
        ]
        votes = torch.stack(shots).sum(dim=0)
        return votes / votes.amax(dim=(-2, -1), keepdim=True).clamp(min=1) >= 0.5


def fast_segment(scene: Scene) -> Callable[[], Tensor]:
    model = scene.fast()

    @torch.inference_mode()
    def run() -> Tensor:
        return vote(model(scene.query, scene.supports, scene.masks))

    return run


def cached_segment(scene: Scene) -> Callable[[], Tensor]:
    """As `fast_segment`, the supports' features known from earlier queries."""
    model, size = scene.fast(), scene.query.shape[-2:]
    with torch.inference_mode():
        known = [model.backbone(scene.supports[:, k]) for k in range(scene.supports.shape[1])]

    @torch.inference_mode()
    def run() -> Tensor:
        query = model.backbone(scene.query)
        shots = [model.match(query, taps, scene.masks[:, k], size) for k, taps in enumerate(known)]
        return vote(torch.stack(shots, dim=1))

    return run


def training_step(scene: Scene, logits: Callable[[], Tensor]) -> Callable[[], None]:
    learner, target = scene.model.learner, scene.masks[:, 0].long()
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-5)

    def run() -> None:
        optimizer.zero_grad()
        cross_entropy(logits(), target).backward()
        optimizer.step()

    return run


def training_variants(scene: Scene) -> dict[str, Callable]:
    backbone, levels = scene.model.backbone.optimised(), scene.model.backbone.levels
    query, support, mask = scene.query, scene.supports[:, 0], scene.masks[:, 0]

    @torch.no_grad()
    def encode() -> Pairs:
        return Pairs(backbone(query), backbone(support), mask, levels)

    known = encode()
    return {
        "plain": training_step(scene, lambda: plain_logits(scene.model, query, support, mask)),
        "fast": training_step(scene, lambda: scene.model.learner(encode())),
        "cached features": training_step(scene, lambda: scene.model.learner(known)),
    }


def inference_variants(scene: Scene) -> dict[str, Callable]:
    return {
        "plain": lambda: plain_segment(scene),
        "fast": fast_segment(scene),
        "cached supports": cached_segment(scene),
    }


# Measuring ------------------------------------------------------------------------------------------------------------


def seconds(run: Callable) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def medians(variants: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each variant; they take turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, run in variants.items():
            times[name].append(seconds(run))
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def flops(run: Callable) -> int:
    """Floating-point operations of the convolutions and matrix products in `run`, counted as they are called."""
    others = {torch.ops.aten.addmm_: lambda _, a, b, **__: mm_flop(a, b)}
    if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):  # an optimised backbone's
        others[torch.ops.mkldnn._convolution_pointwise] = lambda x, w, *_, out_shape, **__: conv_flop_count(
            x, w, out_shape
        )
        others[torch.ops.mkldnn._convolution_pointwise_] = lambda onto, x, w, *_, **__: conv_flop_count(x, w, onto)
    with FlopCounterMode(display=False, custom_mapping=others) as counter:
        run()
    return counter.get_total_flops()


def attainable_rate(device: str, n: int = 512, rounds: int = 30) -> float:
    """Floating-point operations per second at the best of many tries: a matrix product and a 3×3 convolution."""
    n = n if device == "cpu" else 8 * n  # a GPU wants more to do
    a, x, w = (torch.rand(s, device=device) for s in ((n, n), (n // 128, 128, 50, 50), (128, 128, 3, 3)))
    runs = (lambda: a @ a, lambda: F.conv2d(x, w, padding=1))
    return max(flops(run) / min(seconds(run) for _ in range(rounds)) for run in runs)


def table(title: str, variants: dict[str, Callable], rounds: int, device: str) -> None:
    rate, times = attainable_rate(device), medians(variants, rounds)
    print(title)
    for name, s in times.items():
        floor = flops(variants[name]) / rate
        row = f"  {name:16s} {s:8.3f} s {times['plain'] / s:6.2f}x"
        print(f"{row}   floor {floor:7.3f} s ({floor * rate / GFLOP:6.0f} GFLOP), reached {floor / s:5.0%}", flush=True)


def tables(options: argparse.Namespace, where: str, device: str = "cpu", half: bool = False) -> None:
    name, box = options.backbone, options.box
    with torch.autocast(device, torch.bfloat16, enabled=half):
        for shots, side in ((1, box), (SHOTS, box), (1, 1.0)):
            scene = Scene.draw(name, options.size, 1, shots, side, device)
            share = f"mask {scene.masks.mean():.0%} of the image, its box {side**2:.0%}"
            title = f"\n{shots}-shot, {options.size} px, {share}, {where}"
            table(title, inference_variants(scene), options.rounds, device)
        scene = Scene.draw(name, options.training_size, BATCH, 1, box, device)
        title = f"\ntraining step, {options.training_size} px, batch {BATCH}, box {box**2:.0%}, {where}"
        table(title, training_variants(scene), options.rounds, device)


def extra_memory(variant: str, size: int, shots: int, box: float, backbone: str) -> int:
    """MB that a segmentation adds, at its peak, to a process in which model and images lie ready."""
    torch.set_num_threads(1)
    small = Scene.draw(backbone, 65, 1, 1, box)
    inference_variants(small)[variant]()  # libraries loaded, buffers of theirs allocated
    scene = Scene.draw(backbone, size, 1, shots, box)
    run = inference_variants(scene)[variant]
    _, before, peak = peak_of(run)
    return peak - before


def in_a_process(*arguments) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(extra_memory, arguments)


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", help="its weights are random (default: %(default)s)")
    parser.add_argument("--size", type=int, default=400, help="side of the images in px (default: %(default)s)")
    parser.add_argument("--training-size", type=int, default=257, help="the same for training (default: %(default)s)")
    # Of coco-mini's 694 masks of ≥ 2048 px the median box has 17% of its image, the mean mask 13%.
    parser.add_argument("--box", type=float, default=0.42, help="side of the mask's box in sides of the image")
    parser.add_argument("--rounds", type=int, default=7, help="that count (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--quick", action="store_true", help="a small backbone, small images, one round: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.backbone, options.size, options.training_size, options.rounds = "small", 97, 97, 1
    name, size, box = options.backbone, options.size, options.box
    print(f"{cpu_model()}, torch {torch.__version__}, {name}, medians of {options.rounds} rounds in turn")
    for threads in options.threads:
        torch.set_num_threads(threads)
        tables(options, f"{threads} thread(s)")
    if torch.cuda.is_available():
        for half in (False, True):
            tables(options, f"{torch.cuda.get_device_name()}{', bfloat16' if half else ''}", "cuda", half)
    print("\nextra peak memory, MB")
    for shots, side in ((1, box), (SHOTS, box), (1, 1.0)):
        plain, fast = (in_a_process(v, size, shots, side, name) for v in ("plain", "fast"))
        print(
            f"  {shots}-shot, box of side {side:g}: plain {plain:5d}, fast {fast:5d}, ratio {fast / max(plain, 1):.2f}"
        )


if __name__ == "__main__":
    main()
