"""HSNet against its plain form: time, peak memory and the floor that the arithmetic sets. Run it on an idle machine.

    python benchmarks/vision.py --rounds 9
    python benchmarks/vision.py --encode            # the backbones alone, on one thread; or --encode resnet50:400 …

The plain form is that of `llafs_lib/vision/hsnet.py`, used as the published code uses it: whole 4-D tensors, one
complete pass per support, and the features of the query and of the supports computed every time. Both forms share
weights and inputs. They take turns in one process, and their medians are compared, with one thread and with two. Where
there is a GPU, they are also compared there, in float32 and under bfloat16 autocast. Peak memory is measured in a
process for each form. The mask is a disc. The fast form computes nothing outside of its bounding box, so there are also
rows with the whole image as the mask.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from memory import peak_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, flop_registry, mm_flop

from llafs_lib.vision.backbone import Backbone, resize
from llafs_lib.vision.hsnet import HSNet, hypercorrelation, pairs_at_once, vote
from llafs_lib.vision.hsnet_fast import Pairs
from llafs_lib.vision.losses import cross_entropy

ENCODED = (
    *("small:161", "mobilenet_v2:417", "efficientnet_lite2:577", "efficientnet_lite2:417"),
    *("resnet50:400", "convnext_tiny:448", "dinov2_s:448"),
)
SHOTS, BATCH = 5, 2
GFLOP = 1e9


def plain_logits(model: HSNet, query: Tensor, support: Tensor, mask: Tensor) -> Tensor:
    """One support per query, with whole tensors: query, support [B, 3, H, W], mask [B, H, W] → logits [B, 2, H, W]."""
    with torch.no_grad():
        pyramid = hypercorrelation(model.backbone(query), model.backbone(support), mask, model.backbone.levels)
    return resize(model.learner(pyramid), query.shape[-2:])


# What is compared -----------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A model with random weights, a random query and random supports: the time does not depend on their values."""

    model: HSNet
    query: Tensor  # [B, 3, S, S]
    supports: Tensor  # [B, K, 3, S, S]
    masks: Tensor  # [B, K, S, S]

    @classmethod
    def draw(cls, backbone: str, size: int, batch: int, shots: int, box: float, device: str = "cpu") -> Scene:
        """`box` is the side of the mask's bounding box in sides of the image; 1 makes the whole image the mask."""
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
    """`fast_segment`, with the supports' features known from earlier queries: `HSNetSegmenter` without its images."""
    model, size, shots = scene.fast(), scene.query.shape[-2:], scene.supports.shape[1]
    with torch.inference_mode():
        known = [model.backbone(scene.supports[:, k]) for k in range(shots)]  # one by one, as a cache keeps them
    some = pairs_at_once(scene.query.device)

    @torch.inference_mode()
    def run() -> Tensor:
        query, found = model.backbone(scene.query), []
        for part, masks in zip(batches(known, some), scene.masks.split(some, dim=1), strict=True):
            n = len(part)
            taps = [torch.cat(same) for same in zip(*part, strict=True)]  # [B, C, h, w] each → [n·B, C, h, w]
            repeated = [t.repeat(n, 1, 1, 1) for t in query]
            logits = model.match(repeated, taps, masks.transpose(0, 1).flatten(0, 1), size)
            found.append(logits.unflatten(0, (n, -1)).transpose(0, 1))  # [n·B, 2, H, W] → [B, n, 2, H, W]
        return vote(torch.cat(found, dim=1))

    return run


def batches(items: list, size: int) -> list[list]:
    return [items[first : first + size] for first in range(0, len(items), size)]


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
    """Median seconds of each variant. The variants take turns; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, run in variants.items():
            times[name].append(seconds(run))
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def flops(run: Callable) -> int:
    """Floating-point operations of the convolutions and matrix products that `run` calls."""
    others = {torch.ops.aten.addmm_: lambda _, a, b, **__: mm_flop(a, b)}
    if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):  # the convolutions of an optimised backbone
        others[torch.ops.mkldnn._convolution_pointwise] = lambda x, w, *_, out_shape, **__: conv_flop_count(
            x, w, out_shape
        )
        others[torch.ops.mkldnn._convolution_pointwise_] = lambda onto, x, w, *_, **__: conv_flop_count(x, w, onto)
    with FlopCounterMode(display=False, custom_mapping=others) as counter:
        run()
    return counter.get_total_flops()


def attainable_rate(device: str, n: int = 512, rounds: int = 30) -> float:
    """Floating-point operations per second in the best of many tries with a matrix product and a 3×3 convolution."""
    n = n if device == "cpu" else 8 * n  # a GPU reaches its rate with large tensors only
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


# Encoding -------------------------------------------------------------------------------------------------------------


class Layers(TorchDispatchMode):
    """Notes the operations and the bytes of each convolution, matrix product and attention of a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []
        aten = torch.ops.aten
        attention = flop_registry[aten._scaled_dot_product_flash_attention]
        self.counts = {**flop_registry, aten._scaled_dot_product_flash_attention_for_cpu: attention}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        count = self.counts.get(function._overloadpacket)
        if count is not None:
            results = out[:1] if isinstance(out, tuple) else [out]
            moved = sum(t.nbytes for t in (*arguments, *results) if isinstance(t, Tensor))
            self.seen.append((count(*arguments, **(options or {}), out_val=out), moved))
        return out


def cpu_seconds(run: Callable) -> float:
    started = time.thread_time()
    run()
    return time.thread_time() - started


def encoding_table(backbones: Sequence[str], rounds: int) -> None:
    """CPU-seconds an image on one thread, against a floor. All forms take turns with what measures the processor.

    A layer of the floor takes max(operations / rate, bytes / bandwidth). The rate is the better of a large matrix
    product's and a 3×3 convolution's, the bandwidth that of a copy of 64 MB: each the best that was seen.
    """
    torch.set_num_threads(1)
    a, x, w = torch.rand(1024, 1024), torch.rand(4, 128, 50, 50), torch.rand(128, 128, 3, 3)
    source = torch.rand(2**24)
    target = torch.empty_like(source)
    yard = {"product": lambda: a @ a, "convolution": lambda: F.conv2d(x, w, padding=1)}
    work = {name: flops(run) for name, run in yard.items()} | {"copy": 2 * source.nbytes}
    yard["copy"] = lambda: target.copy_(source)
    print("| backbone | px | plain, ms | optimised, ms | four at once, ms each | GFLOP | floor, ms | reached | rates |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, size in (spec.split(":") for spec in backbones):
        torch.manual_seed(0)
        plain = Backbone(name).freeze()
        four = torch.randn(4, 3, int(size), int(size))
        fast, batch = plain.optimised(), plain.optimised()  # each keeps weights packed for one shape
        with torch.no_grad(), Layers() as layers:
            plain(four[:1])
        runs = {"plain": lambda p=plain, f=four: p(f[:1]), "fast": lambda b=fast, f=four: b(f[:1])}
        runs |= {"four": lambda b=batch, f=four: b(f)} | yard
        times: dict[str, list[float]] = {key: [] for key in runs}
        with torch.inference_mode():
            for _ in range(rounds + 1):
                for key, run in runs.items():
                    times[key].append(cpu_seconds(run))
        speed = {key: work[key] / min(times[key]) for key in yard}
        rate = max(speed["product"], speed["convolution"])
        floor = sum(max(n / rate, moved / speed["copy"]) for n, moved in layers.seen)
        one, best, many = (statistics.median(times[key][1:]) for key in ("plain", "fast", "four"))
        row = f"{1e3 * one:.1f} | {1e3 * best:.1f} | {250 * many:.1f} | {sum(n for n, _ in layers.seen) / GFLOP:.1f}"
        rates = f"{speed['product'] / GFLOP:.0f}, {speed['convolution'] / GFLOP:.0f}, {speed['copy'] / 1e9:.0f} GB/s"
        reached = floor / min(best, many / 4)
        print(f"| {name} | {size} | {row} | {1e3 * floor:.1f} | {reached:.0%} | {rates} |", flush=True)


def extra_memory(variant: str, size: int, shots: int, box: float, backbone: str) -> int:
    """MB that a segmentation adds, at its peak, to a process that already holds the model and the images."""
    torch.set_num_threads(1)
    small = Scene.draw(backbone, 65, 1, 1, box)
    inference_variants(small)[variant]()  # loads the libraries and has them allocate their buffers
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
    parser.add_argument("--backbone", default="resnet50", help="with random weights (default: %(default)s)")
    parser.add_argument("--size", type=int, default=400, help="side of the images in px (default: %(default)s)")
    parser.add_argument("--training-size", type=int, default=257, help="the same for training (default: %(default)s)")
    # Of coco-mini's 694 masks of ≥ 2048 px the median box has 17% of its image, the mean mask 13%.
    parser.add_argument("--box", type=float, default=0.42, help="side of the mask's box, in sides of the image")
    parser.add_argument("--rounds", type=int, default=7, help="how many rounds to measure (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--quick", action="store_true", help="a small backbone, small images, one round: does it run?")
    parser.add_argument("--encode", nargs="*", metavar="NAME:PX", help="backbones to time alone (default: seven)")
    options = parser.parse_args()
    if options.encode is not None:
        print(f"{cpu_model()}, torch {torch.__version__}, 1 thread, medians of {options.rounds} rounds in turn\n")
        return encoding_table(options.encode or ENCODED, options.rounds)
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
