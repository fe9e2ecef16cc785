"""COCO-20i at its full size, as far as a machine without the data and without a GPU can go.

    python benchmarks/full_scale.py            # on two cores: under 25 minutes, 16 GB of memory, 1 GB of disk
    python benchmarks/full_scale.py --quick    # a few dozen images and the small network: does it run?

It draws a COCO 2014 of the full size (`drawn_coco.py`) and calls what the notebooks call, step by step: open the data
and paint its label maps, make the folds, run notebook 01, take the first steps of HSNet's training with the `full`
budget's settings, ask the first episodes of HSNet's test. Weights are random: time does not depend on them.
The first table holds only what was measured. The second multiplies it, and says by what.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
import weakref
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn_coco import draw_coco
from memory import peak_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from vision import cpu_model

from llafs_lib.artifacts import discard
from llafs_lib.data import labels
from llafs_lib.data.episodes import EpisodeSampler, training_episodes
from llafs_lib.data.folds import DataSet, make_fold, open_dataset, save_fold, training_labels
from llafs_lib.data.labels import void_of
from llafs_lib.data.official import COCO_IMAGES
from llafs_lib.data.splits import SupportReader
from llafs_lib.evaluation.metrics import count, squashed
from llafs_lib.records import Episode, Fold, Support
from llafs_lib.settings import Settings
from llafs_lib.threads import threads
from llafs_lib.tools.tutorial import project_root, run_tutorial
from llafs_lib.vision.backbone import Backbone, to_input, to_mask, usual_device
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.losses import IGNORE, hsnet_loss
from llafs_lib.vision.recipes import Recipe, recipe_for
from llafs_lib.vision.samples import episode_images, tap_store
from llafs_lib.vision.segmenter import HSNetSegmenter
from llafs_lib.vision.training import fit

TEST = 1000  # episodes of a fold in HSNet's test
# What an H100 took for a step of HSNet's training (docs/speed.md, "On a GPU"), the mean of two runs; and for a query.
H100_STEP, H100_SIZE, H100_BATCH, H100_QUERY = 0.032, 257, 2, 0.017  # s, px, pairs, s
BANDWIDTH = {"H100": 3.35, "A100, 80 GB": 2.04, "A100, 40 GB": 1.56, "RTX 4090": 1.01, "L4": 0.30, "T4": 0.32}  # TB/s
MEMORY = {"H100": 80, "A100, 80 GB": 80, "A100, 40 GB": 40, "RTX 4090": 24, "L4": 24, "T4": 16}  # GB
BUS = 10e9  # bytes a second between the CPU's memory and a card's


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of all processors together. Other work on the machine lengthens only the first."""

    wall: float
    processor: float

    def over(self, n: int) -> Spent:
        return Spent(self.wall / n, self.processor / n)


def measured(what: str, work: Callable[[], Any], about: Callable[[Any], str] = lambda _: "") -> tuple[Any, Spent]:
    """Do some work, print a row of the first table, and return what came out with the time that it took."""

    def timed() -> tuple[Any, Spent]:
        started, processor = time.perf_counter(), time.process_time()
        found = work()
        return found, Spent(time.perf_counter() - started, time.process_time() - processor)

    (found, spent), _, peak = peak_of(timed)
    print(f"| {what} | {spent.wall:,.1f} | {spent.processor:,.1f} | {peak:,} | {about(found)} |", flush=True)
    return found, spent


class Held(TorchDispatchMode):
    """Bytes of all tensors that are alive, at the peak; on the device `meta` nothing is computed for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        for storage in (t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
            if storage._cdata not in self._alive:
                self._alive.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return out

    def _freed(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Work:
    """What a step of HSNet's training takes in the form that a GPU runs: operations, bytes of features, bytes held."""

    encoding: int
    learning: int
    features: int
    held: int

    @classmethod
    def count(cls, backbone: str, recipe: Recipe) -> Work:
        with torch.device("meta"):
            net = Backbone(backbone).freeze()
            model, image = HSNet(net), torch.empty(1, 3, recipe.size, recipe.size)
            mask = torch.empty(recipe.batch, recipe.size, recipe.size, dtype=torch.bool)
        with torch.no_grad(), FlopCounterMode(display=False) as encoding:
            taps = [torch.empty(recipe.batch, *t.shape[1:], device="meta") for t in net(image)]
        with FlopCounterMode(display=False) as learning, Held() as held:
            hsnet_loss(net.levels, recipe)(model.learner, (taps, taps, mask, mask.long())).backward()
        images, features = 2 * recipe.batch, 2 * sum(t.nbytes for t in taps)
        return cls(images * encoding.get_total_flops(), learning.get_total_flops(), features, held.peak + features)


# --- the steps --------------------------------------------------------------------------------------------------------


def open_data() -> tuple[DataSet, Fold]:
    """The data, its label maps and its four folds; → the data and fold 0."""
    data, _ = measured(
        "open `coco-20i`, label maps painted",
        lambda: open_dataset("coco-20i"),
        lambda d: f"{len(d.train):,} + {len(d.val):,} images; left out: {'; '.join(d.train.skipped)}",
    )
    measured("open it again, label maps from the cache", lambda: open_dataset("coco-20i"))
    fold, _ = measured("folds 0 to 3, every file looked at", lambda: [make_fold(data, f) for f in range(4)][0], lists)
    return data, fold


def lists(fold: Fold) -> str:
    def pairs(images: dict, classes: tuple) -> str:
        return f"{sum(len(images[c]) for c in classes):,}"

    train, test = pairs(fold.train_images, fold.training), pairs(fold.test_images, fold.novel)
    return f"fold 0: {train} (image, class) pairs to train on, {test} to ask about"


def notebook_01(settings: Settings) -> None:
    """The real notebook, in a process of its own: its manifest says how much memory it took."""

    def run() -> int:
        with redirect_stdout(io.StringIO()):
            run_tutorial(settings, only=("01",))
        os.environ["LLAFS_PROGRESS"] = "none"  # it was set for the notebook
        return settings.run.manifest("folds.json")["peak_rss_mb"]

    measured("notebook 01, label maps from the cache", run, lambda peak: f"its own process: {peak:,} MB at its peak")


def train(data: DataSet, fold: Fold, net: Backbone, recipe: Recipe, episodes: list[Episode], folder: Path) -> None:
    """The steps that some episodes make, as notebook 02 takes them."""

    def mask_of(image_id: int, class_name: str) -> np.ndarray:
        shown = training_labels(data.train.label_map(image_id), data.classes, fold)
        return np.where(shown == void_of(shown), IGNORE, shown == data.classes.index(class_name) + 1)

    store = tap_store(net, data.train.image, recipe.size)
    learner, name = HSNet(net).learner, f"{len(episodes)}-{recipe.batch}.safetensors"
    loss = hsnet_loss(net.levels, recipe)
    fit(
        *(learner, loss, lambda epoch: episode_images(episodes, mask_of, store, recipe.size)),
        *(replace(recipe, epochs=1), folder / name, 0),
    )


def ask(data: DataSet, net: Backbone, size: int, episodes: list[Episode]) -> None:
    """Answer episodes, and score them at 400 × 400 as HSNet does."""
    segmenter, read = HSNetSegmenter(HSNet(net).to(usual_device()), size), SupportReader(data.val)
    for e in episodes:
        shown = [Support(i, e.class_name, 1.0, *read(i, e.class_name)) for i in e.support_ids]
        found = segmenter.segment(data.val.image(e.query_id), shown, e.class_name)
        truth = data.val.mask(e.query_id, e.class_name)
        count(squashed(found.mask), squashed(truth), e.class_name, e.query_id)


def read_all(data: DataSet, size: int, episodes: list[Episode]) -> None:
    """What of some episodes is not the network's work: files, label maps, resizing."""
    for e in episodes:
        for image_id in (e.query_id, *e.support_ids):
            to_input(data.train.image(image_id), size)
            to_mask(data.train.mask(image_id, e.class_name), size)


# --- projecting -------------------------------------------------------------------------------------------------------


def project(backbone: str, recipe: Recipe, step: Spent, read: Spent, episode: Spent) -> None:
    """The second table, from what a step, reading an image, and an episode took."""
    steps, work = recipe.samples // recipe.batch, Work.count(backbone, recipe)
    small = Work.count(backbone, replace(recipe, size=H100_SIZE, batch=H100_BATCH))
    rate = (small.encoding + small.learning) / H100_STEP
    operations, bus, disk = work.encoding + work.learning, 2 * work.features / BUS, 2 * recipe.batch * read.processor
    print(
        f"\nA step of {recipe.batch} pairs at {recipe.size} px is {operations / 1e12:.1f} TFLOP, and its tensors take"
    )
    print(f"{work.held / 1e9:.0f} GB of a card's memory, workspaces not counted. An epoch is {steps:,} steps.\n")
    print(f"| projected | step, s | epoch, hours | {recipe.epochs} epochs, days | {TEST:,} episodes, min |")
    print("|---|---|---|---|---|")

    def row(name: str, step: float, episode: float) -> None:
        hours = steps * step / 3600
        print(f"| {name} | {step:.1f} | {hours:.1f} | {hours * recipe.epochs / 24:,.0f} | {TEST * episode / 60:.1f} |")

    row("this machine, as busy as it was", step.wall, episode.wall)
    if not torch.cuda.is_available():
        row("this machine, idle", step.processor / threads(), episode.processor / threads())
    for card, bandwidth in BANDWIDTH.items():
        slower = BANDWIDTH["H100"] / bandwidth
        room = MEMORY[card] * 2**30 / work.held  # the plain form on a CPU takes 1.3 times what its tensors do
        note = "" if room > 1.3 else ", if its memory suffices" if room > 1 else ", had it the memory"
        row(card + note, operations / rate * slower + bus + disk, H100_QUERY * slower + 2 * read.processor)
    print(
        f"\nAssumed: the H100 computes at the {rate / 1e12:.1f} TFLOP/s that it reached in a step of {H100_BATCH} "
        f"pairs at {H100_SIZE} px, other cards in proportion to their memory's bandwidth, features cross the bus twice "
        f"at {BUS / 1e9:.0f} GB/s, and reading an image takes {1000 * read.processor:.1f} ms of a core, as it did here."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where COCO is drawn, and kept; else it is drawn and removed")
    parser.add_argument("--images", type=int, default=COCO_IMAGES["train2014"], help="to train on (%(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of training, with one pair each (%(default)s)")
    parser.add_argument("--full-steps", type=int, default=1, help="of training, with the full batch (%(default)s)")
    parser.add_argument("--episodes", type=int, default=100, help="of HSNet's test (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few dozen images and the small network")
    options = parser.parse_args()
    torch.set_num_threads(threads())
    os.environ["LLAFS_PROGRESS"] = "none"
    if options.quick:
        options.images, options.steps, options.episodes = 90, 2, 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch) / "drawn").resolve()
        os.environ["LLAFS_DATA"] = str(folder)
        with chdir(project_root()):
            before = set(labels.CACHE.glob("*"))
            try:
                run(options, folder, Path(scratch))
            finally:
                for made in set(labels.CACHE.glob("*")) - before:
                    discard(made)


def run(options: argparse.Namespace, folder: Path, scratch: Path) -> None:
    backbone, recipe = "resnet50", recipe_for("full", "coco-20i")
    if options.quick:
        backbone, recipe = "small", replace(recipe, size=97, batch=2, samples=40)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu_model()}, {threads()} thread(s)"
    print(f"{where}, torch {torch.__version__}, HSNet with {backbone} at {recipe.size} px\n")
    print("| measured | s | s of processors | peak MB | |\n|---|---|---|---|---|")
    if not (folder / "coco" / "annotations").is_dir():
        measured("draw COCO 2014", lambda: draw_coco(folder / "coco", options.images), lambda n: f"{n:,} objects")
    data, fold = open_data()
    settings = Settings(dataset="coco-20i", budget="full", backbone="resnet50", runs=str(scratch / "runs"))
    if options.quick:
        save_fold(settings.run, fold, data)
    else:
        notebook_01(settings)
    epoch, _ = measured(
        f"draw an epoch, {recipe.samples:,} episodes", lambda: training_episodes(fold, recipe.samples, 0)
    )
    some = epoch[: options.steps]
    _, reading = measured(
        f"read and resize their first {2 * len(some)} images", lambda: read_all(data, recipe.size, some)
    )
    torch.manual_seed(0)
    net, one = Backbone(backbone).freeze(), replace(recipe, batch=1)
    measured(f"the first {len(some)} steps, one pair each", lambda: train(data, fold, net, one, some, scratch))
    whole = epoch[: options.full_steps * recipe.batch]
    title = f"the first {options.full_steps} of {len(epoch) // recipe.batch:,} steps, {recipe.batch} pairs each"
    _, step = measured(title, lambda: train(data, fold, net, recipe, whole, scratch))
    lists = {c: fold.test_images[c] for c in fold.novel}
    test, _ = measured(
        f"draw HSNet's test, {TEST:,} episodes", lambda: EpisodeSampler(lists, 1, protocol="hsnet", seed=0).draw(TEST)
    )
    asked = test[: options.episodes]
    title = f"its first {len(asked)} episodes, one support each"
    _, episode = measured(title, lambda: ask(data, net, recipe.size, asked))
    project(backbone, recipe, step.over(options.full_steps), reading.over(2 * len(some)), episode.over(len(asked)))


if __name__ == "__main__":
    main()
