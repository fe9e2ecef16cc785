"""What a GPU makes of HSNet, of the backbones and of an evaluation: one command, under ten minutes.

    python benchmarks/gpu.py                        # on the GPU, or on the CPU where there is none
    python benchmarks/gpu.py --device cpu --quick   # tiny networks and images: does it run?

Four tables. HSNet in the published code's form against this library's, for inference and for a training step. Images a
second of each backbone. Queries a second of each few-shot model, with five supports each, out of forty images. All in
float32 and under bfloat16 autocast, and each with how far its outputs are from those in float32.
Time does not depend on the values of weights: what has no file in `$LLAFS_DATA/weights` has random ones, and says so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from vision import SHOTS, Scene, cached_segment, cpu_model, fast_segment, plain_logits, plain_segment, training_variants

from llafs_lib.data.folds import data_root
from llafs_lib.records import Support
from llafs_lib.vision.backbone import Backbone, has_weights, load_backbone
from llafs_lib.vision.features import unit_features
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.pspnet import SMALL, PSPNet
from llafs_lib.vision.repri import RePRISegmenter
from llafs_lib.vision.segmenter import HSNetSegmenter, INSID3Segmenter, Segmenter

# Each with the size in px that it is used at: a multiple of 14 or 16 for a vision transformer.
BACKBONES = {
    "mobilenet_v2": 417,
    "efficientnet_lite2": 577,
    "resnet50": 400,
    "resnet101": 400,
    "vgg16": 400,
    "convnext_tiny": 448,
    "dinov2_s": 518,
    "dinov2_b": 518,
    "dinov3_s": 512,
}
QUICK = {"small": 97, "test_efficientnet": 97, "test_vit": 96}
PRECISIONS = {"float32": False, "bfloat16": True}


@contextmanager
def precision(device: str, half: bool) -> Iterator[None]:
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
        yield


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: str, rounds: int) -> float:
    """Median seconds of a call, after two that do not count."""
    times = []
    for _ in range(2 + rounds):
        wait(device)
        started = time.perf_counter()
        run()
        wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def peak_mb(run: Callable[[], object], device: str) -> str:
    """MB of the GPU's memory that a call takes at its peak, beside what lay there before."""
    if device != "cuda":
        return "–"
    wait(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    wait(device)
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:,.0f}"


def backbone_for(name: str, device: str) -> tuple[Backbone, str]:
    """A frozen backbone on the device, and where its weights are from."""
    folder = data_root() / "weights"
    if has_weights(name, folder):
        backbone = load_backbone(name, folder)
        return backbone.to(device), backbone.weights_from["file"]
    torch.manual_seed(0)
    return Backbone(name).freeze().to(device), "random"


# HSNet ----------------------------------------------------------------------------------------------------------------


def hsnet_tables(name: str, size: int, training_size: int, device: str, rounds: int) -> None:
    print(f"\nHSNet, {name} with random weights, {size} px, the mask's box 18% of the image\n")
    print("| supports | form | precision | ms a query | against plain float32 | peak MB | pixels as in plain float32 |")
    print("|---|---|---|---|---|---|---|")
    for shots in (1, SHOTS):
        scene = Scene.draw(name, size, 1, shots, 0.42, device)
        forms = {"plain": lambda s=scene: plain_segment(s)}
        forms |= {"fast": fast_segment(scene), "fast, supports' features known": cached_segment(scene)}
        wanted, base = forms["plain"](), 0.0
        for label, half in PRECISIONS.items():
            with precision(device, half):
                for form, run in forms.items():
                    spent, same = seconds(run, device, rounds), (run() == wanted).float().mean().item()
                    base = base or spent
                    ratio = f"{1000 * spent:.1f} | {base / spent:.2f}x | {peak_mb(run, device)}"
                    print(f"| {shots} | {form} | {label} | {ratio} | {same:.2%} |", flush=True)
        logits_differ(scene, device)
    scene = Scene.draw(name, training_size, 2, 1, 0.42, device)
    print(f"\ntraining step, {training_size} px, batch 2\n\n| form | precision | ms |\n|---|---|---|")
    for label, half in PRECISIONS.items():
        with torch.autocast(device, torch.bfloat16, enabled=half):
            for form, run in training_variants(scene).items():
                print(f"| {form} | {label} | {1000 * seconds(run, device, rounds):.1f} |", flush=True)


def logits_differ(scene: Scene, device: str) -> None:
    """How far the library's logits are from the plain form's, in units of the largest."""
    with torch.inference_mode():
        wanted = plain_logits(scene.model, scene.query, scene.supports[:, 0], scene.masks[:, 0])
        found = {}
        for label, half in PRECISIONS.items():
            with torch.autocast(device, torch.bfloat16, enabled=half):
                found[label] = scene.fast()(scene.query, scene.supports[:, :1], scene.masks[:, :1])[:, 0].float()
    far = {label: ((f - wanted).abs().max() / wanted.abs().max()).item() for label, f in found.items()}
    print("| | logits, largest difference | " + ", ".join(f"{k} {v:.1e}" for k, v in far.items()) + " | | | | |")


# Backbones ------------------------------------------------------------------------------------------------------------


def encoding_table(sizes: dict[str, int], batch: int, device: str, rounds: int) -> None:
    print(f"\nEncoding, images a second; similarity: mean cosine with the unit features in float32, batch {batch}\n")
    title = (
        f"| backbone | weights | px | plain, float32 | float32, one | batch {batch} | bfloat16, one | batch {batch} "
    )
    print(title + "| peak MB | similarity |\n|---|---|---|---|---|---|---|---|---|---|")
    for name, size in sizes.items():
        backbone, weights = backbone_for(name, device)
        fast = backbone.optimised()
        many = torch.randn(batch, 3, size, size, device=device)
        one, cells = many[:1], []
        with torch.inference_mode():
            wanted = described(backbone, one)
            cells.append(1 / seconds(lambda b=backbone, x=one: b(x), device, rounds))
        for half in PRECISIONS.values():
            with precision(device, half):
                cells += [len(x) / seconds(lambda b=fast, x=x: b(x), device, rounds) for x in (one, many)]
                found, peak = described(fast, one), peak_mb(lambda b=fast, x=many: b(x), device)
        alike = (found * wanted).sum(dim=0).mean().item()
        row = " | ".join(f"{c:.1f}" for c in cells)
        print(f"| {name} | {weights} | {size} | {row} | {peak} | {alike:.4f} |", flush=True)
        del backbone, fast


def described(backbone: Backbone, x: Tensor) -> Tensor:
    """The unit features [C, h, w] of a batch of one."""
    return unit_features([t[0].float() for t in backbone(x)], backbone.levels)


# An evaluation --------------------------------------------------------------------------------------------------------


def drawn_questions(queries: int) -> list[tuple[np.ndarray, list[Support]]]:
    """Images of noise in blocks, 480 × 640, each with five supports out of forty: features come again, as in a bank."""
    rng = np.random.default_rng(0)

    def image() -> np.ndarray:
        return np.kron(rng.integers(0, 256, (30, 40, 3), np.uint8), np.ones((16, 16, 1), np.uint8))

    mask = np.zeros((480, 640), bool)
    mask[140:340, 180:460] = True
    pool = [Support(i, "zebra", 1.0, image(), mask) for i in range(40)]
    return [(image(), [pool[i] for i in rng.permutation(len(pool))[:SHOTS]]) for _ in range(queries)]


def segmenters(name: str, size: int, device: str) -> dict[str, Callable[[], Segmenter]]:
    """What makes each model, with empty caches."""
    backbone = backbone_for(name, device)[0]
    torch.manual_seed(0)
    hsnet, base = HSNet(backbone).to(device), PSPNet(backbone, 61, **SMALL).to(device)
    return {
        "HSNet": lambda: HSNetSegmenter(hsnet, size),
        "RePRI": lambda: RePRISegmenter(base, size),
        "Prototype": lambda: PrototypeSegmenter(backbone, size, 0.7),
        "INSID3": lambda: INSID3Segmenter(backbone, size),
    }


def evaluation_table(name: str, size: int, queries: int, device: str) -> None:
    print(f"\nQueries a second, {name}, {size} px, {SHOTS} supports out of 40, reading images not counted\n")
    print("| model | float32 | bfloat16 | probabilities, mean difference |\n|---|---|---|---|")
    questions = drawn_questions(queries)
    for model, make in segmenters(name, size, device).items():
        rates, found = [], []
        for half in PRECISIONS.values():
            with precision(device, half):
                segmenter = make()
                segmenter.segment(*questions[0])
                wait(device)
                started = time.perf_counter()
                found.append(np.stack([segmenter.segment(*question).probability for question in questions]))
                rates.append(len(questions) / (time.perf_counter() - started))
        print(f"| {model} | {rates[0]:.1f} | {rates[1]:.1f} | {np.abs(found[0] - found[1]).mean():.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny networks and images, one round: does it run?")
    parser.add_argument("--rounds", type=int, default=15, help="how many calls to measure (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=60, help="of the evaluation (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="images encoded at once (default: %(default)s)")
    options = parser.parse_args()
    started, device, rounds = time.perf_counter(), options.device, 1 if options.quick else options.rounds
    where = torch.cuda.get_device_name() if device == "cuda" else f"{cpu_model()}, {torch.get_num_threads()} thread(s)"
    print(
        f"{where}, torch {torch.__version__}, medians of {rounds} calls, float32 as PyTorch sets it (no TF32 in matmul)"
    )
    if options.quick:
        hsnet_tables("small", 97, 97, device, rounds)
        encoding_table(QUICK, 2, device, rounds)
        evaluation_table("small", 97, 2, device)
    else:
        hsnet_tables("resnet50", 400, 257, device, rounds)
        encoding_table(BACKBONES, options.batch, device, rounds)
        evaluation_table("efficientnet_lite2", 577, options.queries, device)
    print(f"\nThis took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
