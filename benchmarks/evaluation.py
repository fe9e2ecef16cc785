"""What an evaluation costs: eight arms against one, more queries, and all of COCO-20i.

    LLAFS_DATA=path/to/data python benchmarks/evaluation.py

One arm shows five supports (`llm 5`). Eight arms, two of them floors that need no model, are taken twice: rows that
build on each other (true and LLM supports, one and five, alone and together) share supports, rows that are controls of
each other do not. Each is timed from cold caches, in turn, in one process. What eight arms cost beyond one is what they
do not share: the table counts the distinct supports that a query is compared with. Weights of the learners do not
matter for time, so they are random; the backbone is the ImageNet one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from llafs_lib.data.episodes import test_episodes
from llafs_lib.data.folds import data_root, make_fold, open_dataset
from llafs_lib.data.splits import SupportReader
from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import EVERYTHING, Arm, predict_everything
from llafs_lib.evaluation.runner import BankPrototypes, Model, Panel, Question, ShownImages, arms_of, evaluate
from llafs_lib.language.asking import Asker
from llafs_lib.language.relations import shuffled
from llafs_lib.records import Episode, Support
from llafs_lib.retrieval.bank import SupportBank, build_bank
from llafs_lib.vision.backbone import Backbone, load_backbone
from llafs_lib.vision.features import query_embedding
from llafs_lib.vision.hsnet import HSNet
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.pspnet import PSPNet
from llafs_lib.vision.repri import RePRISegmenter
from llafs_lib.vision.segmenter import HSNetSegmenter

TRUE, LLM = ([Arm("", policy, k) for k in (1, 5)] for policy in ("true", "llm"))
ONE = (Arm("", "llm", 5),)
NESTED = (*TRUE, *LLM, *(Arm("", "true", k, added="llm") for k in (1, 5)))  # and two floors
CONTROLS = (
    *(Arm("", policy, 5) for policy in ("true", "random", "llm", "shuffled")),
    *(Arm("", "true", 5, added=policy) for policy in ("random", "llm")),
)  # and two floors
COCO_EPISODES = 4 * 1000  # HSNet's test: four folds of 1,000 episodes


def main() -> None:
    """Parse the command line and print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="coco-mini")
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=225, help="px (default: %(default)s)")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--full-size", type=int, default=400, help="px, of the projection (default: %(default)s)")
    parser.add_argument("--full-backbone", default="resnet50", help="of the projection (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            bench = Bench(options.dataset, options.backbone, options.size, Path(folder))
        except LlafsError as error:
            sys.exit(f"evaluation: {error}")
        bench.arms(options.queries, options.rounds)
        bench.growth(options.queries)
    project(options.full_backbone, options.full_size)


class Bench:
    """Fold 0 of a data set, and models as notebook 05 has them."""

    def __init__(self, dataset: str, backbone: str, size: int, folder: Path):
        self.data = open_dataset(dataset)
        self.fold = make_fold(self.data, 0)
        self.net, self.size, self.folder = load_backbone(backbone, data_root() / "weights"), size, folder
        torch.manual_seed(0)
        self.learner = HSNet(self.net)
        self.base = PSPNet(self.net, len(self.fold.base) + 1, (8, 32)).eval()
        self.bank, self.own = (self._bank(n, c) for n, c in (("base", self.fold.base), ("own", self.fold.novel)))
        asker = Asker(mode="replay")
        self.related = {c: asker.related(c, self.data.classes, self.fold.base) for c in self.fold.novel}
        self.dealt = shuffled(self.related)

    def _bank(self, name: str, classes: tuple[str, ...]) -> SupportBank:
        read, describe = SupportReader(self.data.train), HSNetSegmenter(self.learner, self.size).describe
        shown = self.fold.shown(classes)
        with torch.inference_mode():
            path = self.folder / name
            return build_bank(path, shown, classes, lambda i: read.with_masks(i, shown[i]), describe, {})

    def models(self) -> tuple[dict[str, Model], Callable[[np.ndarray], torch.Tensor]]:
        """All three, their caches empty, and what describes a query: HSNet's features."""
        read, hsnet = SupportReader(self.data.train), HSNetSegmenter(self.learner, self.size)
        by_prototypes = PrototypeSegmenter(self.net, self.size, 0.7, plain=True, sharpness=8.0)
        by_prototypes.features = hsnet.features  # one backbone and one size, as in notebook 05
        return {
            "Prototype": BankPrototypes(by_prototypes, (self.bank, self.own)),
            "RePRI": ShownImages(RePRISegmenter(self.base, self.size), read),
            "HSNet": ShownImages(hsnet, read),
        }, hsnet.describe

    def seconds(self, model: str, arms: tuple[Arm, ...], queries: int) -> tuple[float, float]:
        """(seconds, distinct supports a query) of asking one model about some queries with some arms."""
        episodes = test_episodes(self.fold, self.fold.novel, 5, queries, seed=0)
        models, describe = self.models()

        def embed(image: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return query_embedding(describe(image))

        floors = {} if len(arms) == 1 else {EVERYTHING: predict_everything, Arm("", "none"): _nothing}
        own = {model: models[model]}
        panel = Panel(own, arms_of(own, arms), floors, embed)
        questions = [self._question(e) for e in episodes]
        log = self.folder / "log.jsonl"
        log.unlink(missing_ok=True)
        started = time.perf_counter()
        asked = evaluate(questions, panel, self._read_query, log)
        seconds = time.perf_counter() - started
        pairs = [{(i, c) for shown in a.supports.values() for i, c, _ in shown} for a in asked]
        return seconds, statistics.mean(map(len, pairs))

    def _question(self, episode: Episode) -> Question:
        name = episode.class_name
        return Question(episode, self.bank, self.related[name], {"shuffled": self.dealt[name]})

    def _read_query(self, episode: Episode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, val = episode.query_id, self.data.val
        return val.image(image), val.mask(image, episode.class_name), val.void(image)

    def arms(self, queries: int, rounds: int) -> None:
        """Eight arms against one."""
        print(f"{self.data.name}, {self.net.name}, {self.size} px, {queries} queries, medians of {rounds} rounds\n")
        print("| model | arms | ms a query | against one arm | supports compared |\n|---|---|---|---|---|")
        kinds = {"one": ONE, "eight that build on each other": NESTED, "eight with controls": CONTROLS}
        for model in self.models()[0]:
            spent: dict[str, list[float]] = {kind: [] for kind in kinds}
            compared: dict[str, float] = {}
            for _ in range(rounds):
                for kind, arms in kinds.items():  # in turn, so that other work on the machine meets all
                    seconds, compared[kind] = self.seconds(model, arms, queries)
                    spent[kind].append(1000 * seconds / queries)
            for kind, times in spent.items():
                ratio = statistics.median(t / one for t, one in zip(times, spent["one"], strict=True))
                row = f"{model} | {kind} | {statistics.median(times):.0f} | {ratio:.2f} | {compared[kind]:.0f}"
                print(f"| {row} |", flush=True)

    def growth(self, queries: int) -> None:
        """More queries."""
        print("\n| queries, eight arms | " + " | ".join(self.models()[0]) + " |\n|---|---|---|---|")
        for n in (queries, 2 * queries, 4 * queries):
            spent = [1000 * self.seconds(model, CONTROLS, n)[0] / n for model in self.models()[0]]
            print(f"| {n} | " + " | ".join(f"{s:.0f} ms a query" for s in spent) + " |", flush=True)


def _nothing(episode: Episode, image: np.ndarray) -> np.ndarray:
    return np.zeros(image.shape[:2], bool)


def project(backbone: str, size: int) -> None:
    """All of COCO-20i with five supports, from synthetic episodes; on a GPU if there is one."""
    rng = np.random.default_rng(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    segmenter = HSNetSegmenter(HSNet(Backbone(backbone).freeze()).to(device), size)

    def image() -> np.ndarray:
        return rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)

    mask = np.zeros((480, 640), bool)
    mask[140:340, 180:460] = True  # 18% of the image, the median box of coco-mini
    spent = []
    for _ in range(4):
        supports = [Support(n, "zebra", 1.0, image(), mask) for n in range(5)]
        query = image()
        started = time.perf_counter()
        segmenter.segment(query, supports, "giraffe")
        spent.append(time.perf_counter() - started)
    hours = statistics.median(spent[1:]) * COCO_EPISODES / 3600
    print(
        f"\nHSNet, {backbone}, {size} px, 5 shots, on {device}: {statistics.median(spent[1:]):.2f} s an episode, so "
        f"{hours:.1f} hours for COCO-20i's {COCO_EPISODES:,} episodes, reading images not counted"
    )


if __name__ == "__main__":
    main()
