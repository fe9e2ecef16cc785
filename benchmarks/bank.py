"""What the support bank costs: filling it, and looking up the nearest among up to a million supports.

    LLAFS_DATA=path/to/data python benchmarks/bank.py            # both tables; faiss is compared where it is installed

Filling: `LLaFS.from_coco` on coco-mini's training images 1, 4 and 16 times over, beside the time that its backbone
passes alone take. The peak is what is held at once beyond what was held before, and from the throughput follows what
all of COCO train2014 would take. Looking up: the 20 nearest of a bank on
disk, mapped into memory, among all rows and among those of five of sixty classes, as related classes leave them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from memory import peak_of
from numpy.lib.format import open_memmap

from llafs_lib import LLaFS
from llafs_lib.data.folds import open_dataset
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.scoring import visual_term
from llafs_lib.vision.backbone import Backbone

TRAIN2014_IMAGES = 82_783
WIDTH, K, CLASSES = 512, 20, 60


def main() -> None:
    """Parse the command line and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16], help="how often the images are repeated")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        print(
            "| coco-mini × | images | pairs | s | / backbone's | images / s | peak MB |\n|---|---|---|---|---|---|---|"
        )
        for times in options.times:
            path = Path(folder, f"{times} times")
            (images, pairs, seconds, passes), before, peak = peak_of(lambda p=path, t=times: fill(p, t))
            rate = images / seconds
            figures = f"{seconds:.0f} | {seconds / passes:.2f} | {rate:.1f} | {peak - before:.0f}"
            print(f"| {times} | {images} | {pairs} | {figures} |", flush=True)
        minutes = TRAIN2014_IMAGES / rate / 60
        print(f"COCO train2014, {TRAIN2014_IMAGES:,} images, at the last rate: {minutes:.0f} min\n")
        look_up(Path(folder), options.rows, options.queries)


def fill(path: Path, times: int) -> tuple[int, int, float, float]:
    """(images, pairs, seconds, of these in the backbone) of a user's file with coco-mini's images `times` times over.

    All that `LLaFS.from_coco` does is counted: label maps, rows, thumbnails, calibration.
    """
    train = open_dataset("coco-mini").train
    official = json.loads(train.annotations.read_text(encoding="utf-8"))
    images, annotations = [], []
    (path / "images").mkdir(parents=True)
    for n in range(times):
        for image in official["images"]:
            name = f"{n}-{image['file_name']}"
            shutil.copy(train.folder / image["file_name"], path / "images" / name)
            images.append({**image, "id": f"{n} {image['id']}", "file_name": name})
        annotations += [
            {**a, "id": f"{n} {a['id']}", "image_id": f"{n} {a['image_id']}"} for a in official["annotations"]
        ]
    own = {"images": images, "annotations": annotations, "categories": official["categories"]}
    (path / "annotations.json").write_text(json.dumps(own), encoding="utf-8")
    passes, forward = [], Backbone.forward

    def timed_forward(self: Backbone, x: torch.Tensor) -> list[torch.Tensor]:
        began = time.perf_counter()
        taps = forward(self, x)
        passes.append(time.perf_counter() - began)
        return taps

    with mock.patch.object(Backbone, "forward", timed_forward):
        began = time.perf_counter()
        model = LLaFS.from_coco(path / "annotations.json")
        seconds = time.perf_counter() - began
    return len(images), len(model.bank), seconds, sum(passes)


def look_up(folder: Path, sizes: list[int], queries: int) -> None:
    """Latency of the exact search in the mapped bank, and of faiss on the same rows, all in turn in one process."""
    print(f"| rows × {WIDTH} | search | p50 ms | p95 ms | recall of the {K} nearest |\n|---|---|---|---|---|")
    for n in sizes:
        bank = drawn_bank(folder / f"{n}.npy", n)
        rng = np.random.default_rng(1)
        asked = [
            unit(bank.foreground[rng.integers(n)] + 0.5 * rng.normal(size=WIDTH) / WIDTH**0.5) for _ in range(queries)
        ]
        related = np.concatenate([bank.rows_of(c) for c in bank.classes[:5]])
        searches: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "exact, five related classes": lambda q, b=bank, r=related: nearest(b, q, K, r),
            "exact, all rows": lambda q, b=bank: nearest(b, q, K),
            **faiss_searches(bank),
        }
        truth = [set(nearest(bank, q, K)) for q in asked]
        for name, search in searches.items():
            times, found = zip(*(timed(search, q) for q in asked), strict=True)
            recall = np.mean([len(set(f) & t) / K for f, t in zip(found, truth, strict=True)])
            shown = "" if "five" in name else f"{recall:.2f}"
            p50, p95 = 1e3 * np.percentile(times, [50, 95])
            print(f"| {n:,} | {name} | {p50:.1f} | {p95:.1f} | {shown} |", flush=True)


def nearest(bank: SupportBank, query: np.ndarray, k: int, rows: np.ndarray | None = None) -> np.ndarray:
    """The `k` rows whose foreground looks most like the query, best first, among all or among `rows`; exact."""
    rows = np.arange(len(bank)) if rows is None else rows
    likeness = visual_term(bank, rows, query)
    best = np.argpartition(-likeness, k - 1)[:k]
    return rows[best[np.argsort(-likeness[best], kind="stable")]]


def drawn_bank(path: Path, n: int) -> SupportBank:
    """A bank of `n` drawn rows whose foregrounds lie on disk: unit vectors around one centre per class."""
    rng, class_index = np.random.default_rng(0), np.sort(np.arange(n) % CLASSES)
    centres = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    foreground = open_memmap(path, "w+", np.float32, (n, WIDTH))
    for start in range(0, n, 50_000):
        index = class_index[start : start + 50_000]
        drawn = centres[index] + 2 * rng.normal(size=(len(index), WIDTH)).astype(np.float32)
        foreground[start : start + 50_000] = unit(drawn)
    classes, area = tuple(f"class {i}" for i in range(CLASSES)), np.full(n, 0.2, np.float32)
    return SupportBank(classes, np.arange(n), class_index, open_memmap(path, "r"), np.zeros((n, 0)), area)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def timed(search: Callable, query: np.ndarray) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    found = search(query)
    return time.perf_counter() - began, found


def faiss_searches(bank: SupportBank) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """faiss's exact and its clustered index over all rows, held in memory; empty where it is not installed."""
    try:
        import faiss
    except ImportError:
        return {}
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows = np.ascontiguousarray(bank.foreground)
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(rows)
    lists = max(int(len(bank) ** 0.5), 1)
    clustered = faiss.IndexIVFFlat(faiss.IndexFlatIP(WIDTH), WIDTH, lists, faiss.METRIC_INNER_PRODUCT)
    clustered.train(rows[:: max(len(rows) // (40 * lists), 1)])
    clustered.add(rows)
    clustered.nprobe = max(lists // 16, 1)
    return {
        "faiss flat, all rows": lambda q: flat.search(q[None], K)[1][0],
        f"faiss IVF, {clustered.nprobe} of {lists} lists": lambda q: clustered.search(q[None], K)[1][0],
    }


if __name__ == "__main__":
    main()
