"""All retrieval policies with 1, 5, 20 and all supports, on all four folds, with paired intervals.

    LLAFS_DATA=path/to/data python benchmarks/policies.py --dataset coco-mini

Every (image, class) pair of at least 2,048 pixels is asked once, in the fold in which its class is novel; supports
are training images of the base classes, never the query. The segmenter is training-free: prototypes of a frozen
ImageNet backbone. Thresholds are chosen on queries with an even image id, all results are of those with an odd one.

A second table takes the method apart, one idea a row, against what is kept of it (`policy_ideas.py`). A third adds base
supports to few true ones: the other reading of the source document's rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from policy_ideas import IDEAS, KEPT, Drawn, Idea, augmented_arms

from llafs_lib.classes import DATASETS
from llafs_lib.data.folds import DataSet, data_root, open_dataset
from llafs_lib.data.splits import MIN_PIXELS, Split, SupportReader
from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.metrics import ConfusionCounts, Curve, miou
from llafs_lib.evaluation.runner import BankPrototypes, Panel, Question, counts_of, cut_scores, evaluate
from llafs_lib.evaluation.statistics import Bootstrap
from llafs_lib.evaluation.tables import interval
from llafs_lib.language.asking import Asker
from llafs_lib.language.relations import shuffled
from llafs_lib.progress import track
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank, build_bank
from llafs_lib.retrieval.policies import POLICIES, RELATIONS
from llafs_lib.vision.backbone import load_backbone
from llafs_lib.vision.features import query_embedding
from llafs_lib.vision.prototype import PrototypeSegmenter

SHOTS = (1, 5, 20)
MODEL = "prototype"
Counts = Mapping[Arm, Sequence[ConfusionCounts]]


def main() -> None:
    """Parse the command line, run both tables, print them, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="coco-mini", choices=DATASETS)
    parser.add_argument(
        "--queries", default="both", choices=["val", "train", "both"], help="images that are asked about"
    )
    parser.add_argument("--limit", type=int, default=0, help="at most so many queries (default: all)")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=417, help="px (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write every query's counts as JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        study = Study(open_dataset(options.dataset), options.backbone, options.size)
        curves = study.ask(options.queries, options.limit)
    except LlafsError as error:
        sys.exit(f"policies: {error}")
    counts, thresholds = cut_scores(curves)
    first = next(iter(counts))
    bootstrap, unlabelled = Bootstrap(counts[first]), study.unlabelled_share()
    everything = miou([c.at(0) for c in curves[first] if c.image_id % 2])
    print(f"\n{study.described}\n{len(counts[first])} queries reported; ", end="")
    print(f"marking the whole image: {everything:.1f}; ", end="")
    print(f"{unlabelled:.0%} of the chosen five supports show the class asked for unlabelled\n")
    print_policies(counts, bootstrap)
    print_ideas(counts, bootstrap)
    print_augmented(counts, bootstrap)
    if options.out:
        write_counts(options.out, counts, thresholds)


class Study:
    """The data, the bank of all classes, and the questions."""

    def __init__(self, dataset: DataSet, backbone: str, size: int):
        self.dataset = dataset
        net = load_backbone(backbone, data_root() / "weights").to("cuda" if torch.cuda.is_available() else "cpu")
        self.segmenter = PrototypeSegmenter(net, size, threshold=0.5, plain=True, sharpness=8.0)
        self.asked: list[Question] = []
        self.described = f"{dataset.name}, {backbone}, {size} px"
        self._split_of = {i: split for split in (dataset.train, dataset.val) for i in split.image_ids}
        if len(self._split_of) < len(dataset.train) + len(dataset.val):
            raise LlafsError(
                f"the images of {dataset.name} share ids between its splits: a query could not be told apart."
            )

    def ask(self, which: str, limit: int) -> dict[Arm, list[Curve]]:
        """Ask every arm every question."""
        with tempfile.TemporaryDirectory() as folder:
            bank = self.bank(Path(folder) / "support_bank")
            bank = bank.only(bank.classes)  # into memory
        questions = sorted(self.questions(bank, which), key=lambda q: q.episode.query_id)  # each image described once
        questions = questions[:: max(len(questions) // limit, 1)][:limit] if limit else questions
        self.asked = self.with_oracle(questions)
        models = {MODEL: BankPrototypes(self.segmenter, [bank], as_scores=True)}
        models |= {name: Idea(self.segmenter, bank, change) for name, change in IDEAS.items()}
        arms = [*policy_arms(), *(Drawn(name, "llm", "all") for name in IDEAS), *augmented_arms(MODEL)]
        return counts_of(evaluate(self.asked, Panel(models, arms, embed=self.embed), self.read_query))

    def bank(self, path: Path) -> SupportBank:
        """Every training pair of every class: each fold takes what is base in it."""
        train = self.dataset.train
        images = _classes_of(train)
        read = SupportReader(train)
        made_from = {"dataset": self.dataset.name, "fingerprint": self.dataset.fingerprint}
        return build_bank(
            path, images, train.classes, lambda i: read.with_masks(i, images[i]), self.describe, made_from
        )

    def questions(self, bank: SupportBank, which: str) -> list[Question]:
        """One question for each (image, class) pair, in the fold in which the class is novel."""
        classes, name = self.dataset.train.classes, self.dataset.name
        llm = Asker().related_to_each(classes, classes)
        splits = {"val": [self.dataset.val], "train": [self.dataset.train]}.get(
            which, [self.dataset.train, self.dataset.val]
        )
        found = []
        for fold in range(DATASETS[name].n_folds):
            novel, base = DATASETS[name].novel(fold), DATASETS[name].base(fold)
            known = {c: llm[c].restrict_to(base) for c in novel}
            dealt, base_bank = shuffled(known), bank.only(base)
            for c in novel:
                own, unlabelled = bank.image_ids[bank.rows_of(c)], frozenset(_showing(self.dataset.train, c))
                for split in splits:
                    episodes = [Episode(c, i, tuple(own.tolist())) for i in split.images_by_class()[c]]
                    found += [Question(e, base_bank, known[c], {"shuffled": dealt[c]}, unlabelled) for e in episodes]
        return found

    def with_oracle(self, questions: Sequence[Question]) -> list[Question]:
        """Add the relation "oracle": the one base class whose supports do best on the class's *other* queries.

        How well supports do is judged on the coarse feature grid at one threshold: it only has to rank classes. A class
        with a single query has no oracle, so its relation is empty.
        """
        ious = []  # of each question, [base classes]
        for q in track(questions, "oracle", "query"):
            image, truth, _ = self.read_query(q.episode)
            features = self.describe(image).cpu()  # [C, h, w]
            share = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(truth).float()[None], features.shape[1:])
            covered = share.flatten().numpy() > 0.5  # [1, h, w] → [hw]
            directions = [_difference(q.bank, q.bank.rows_of(c), q.episode.query_id) for c in q.bank.classes]
            marked = np.stack([_unit(d @ features.flatten(1).numpy()) for d in directions]) > 0.65  # [classes, hw]
            ious.append((marked & covered).sum(1) / np.maximum((marked | covered).sum(1), 1))
        of_class: dict[str, list[int]] = {}
        for n, q in enumerate(questions):
            of_class.setdefault(q.episode.class_name, []).append(n)
        found = []
        for n, q in enumerate(questions):
            name = q.episode.class_name
            others = [ious[m] for m in of_class[name] if m != n]
            ranked = (RelatedClass(q.bank.classes[int(np.mean(others, axis=0).argmax())], 1.0),) if others else ()
            oracle = RelatedClasses(name, ranked, "oracle", "the best base class on the class's other queries")
            found.append(replace(q, others={**q.others, "oracle": oracle}))
        return found

    def unlabelled_share(self) -> float:
        """The share of the five supports chosen by `llm` whose image shows the class asked for without a mask."""
        arm, tainted = Drawn(MODEL, "llm", 5), []
        for q in self.asked:
            chosen = arm.choose(q.bank, q.request(np.zeros(q.bank.foreground.shape[1], np.float32)))
            tainted += [c.image_id in q.exclude for c in chosen]
        return float(np.mean(tainted))

    def describe(self, image: np.ndarray) -> torch.Tensor:
        """Unit features [C, h, w] of an image."""
        with torch.inference_mode():
            return self.segmenter.describe(image).float()

    def embed(self, image: np.ndarray) -> np.ndarray:
        """The direction of an image's mean feature, [C]."""
        return query_embedding(self.describe(image))

    def read_query(self, episode: Episode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(image [H, W, 3], truth [H, W] bool, void [H, W] bool)."""
        image = episode.query_id
        split = self._split_of[image]
        return split.image(image), split.mask(image, episode.class_name), split.void(image)


def _difference(bank: SupportBank, rows: np.ndarray, query_id: int) -> np.ndarray:
    rows = rows[bank.image_ids[rows] != query_id]
    inside, outside = bank.prototypes(rows, np.ones(len(rows)), plain=True)
    return inside - outside


def _unit(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.min()) / max(np.ptp(scores), 1e-9)


def _classes_of(split: Split) -> dict[int, tuple[str, ...]]:
    """Image → the classes that it shows at least 2,048 pixels of."""
    shown = split.pixels >= MIN_PIXELS
    return {i: tuple(np.array(split.classes)[row]) for i, row in zip(split.image_ids, shown, strict=True) if row.any()}


def _showing(split: Split, class_name: str) -> list[int]:
    """The images that show any pixel of a class."""
    return np.array(split.image_ids)[split.pixels[:, split.classes.index(class_name)] > 0].tolist()


# --- arms ------------------------------------------------------------------------------------------------------------


def policy_arms() -> list[Arm]:
    """Every policy with every number of supports; the null test and `clean` for some."""
    arms = [Drawn(MODEL, policy, k) for policy in POLICIES if policy != "all" for k in SHOTS]
    arms += [Drawn(MODEL, policy, "all") for policy in ("all", "true", *RELATIONS, "visual", "hybrid")]
    arms += [Drawn(MODEL, "random", k, draw=1) for k in SHOTS]
    clean = (("llm", 5), ("random", 5), ("llm", "all"), ("all", "all"))
    return arms + [Drawn(MODEL, policy, k, clean=True) for policy, k in clean]


# --- tables ----------------------------------------------------------------------------------------------------------


def _cell(counts: Counts, arm: Arm, bootstrap: Bootstrap) -> str:
    return f"{miou(counts[arm]):.1f} {interval(bootstrap.interval(counts[arm]))}" if arm in counts else ""


def _difference_of(counts: Counts, a: Arm, b: Arm, bootstrap: Bootstrap) -> str:
    paired = bootstrap.paired_interval(counts[a], counts[b])
    return f"{miou(counts[a]) - miou(counts[b]):+.1f} {interval(paired, '+.1f')}"


def print_policies(counts: Counts, bootstrap: Bootstrap) -> None:
    """mIoU by policy and number of supports, then the differences that matter."""
    numbers = (*SHOTS, "all")
    print("| policy | " + " | ".join(f"K = {k}" for k in numbers) + " |\n|---|" + "---|" * len(numbers))
    for policy in POLICIES:
        cells = [_cell(counts, Drawn(MODEL, policy, k), bootstrap) for k in numbers]
        print(f"| {policy} | " + " | ".join(cells) + " |")
    llm, random = ({k: Drawn(MODEL, policy, k) for k in numbers} for policy in ("llm", "random"))
    text, every = {k: Drawn(MODEL, "text", k) for k in numbers}, Drawn(MODEL, "all", "all")
    clean_llm, clean_random = ({k: replace(arm, clean=True) for k, arm in arms.items()} for arms in (llm, random))
    pairs = [(Drawn(MODEL, p, k), random[k]) for p in POLICIES if p not in ("random", "all") for k in SHOTS]
    pairs += [(Drawn(MODEL, p, "all"), every) for p in ("true", *RELATIONS, "visual", "hybrid")]
    pairs += [(replace(random[k], draw=1), random[k]) for k in SHOTS]
    pairs += [(llm["all"], llm[5]), (llm[5], text[5]), (llm["all"], text["all"]), (clean_llm[5], clean_random[5])]
    pairs += [(clean_llm["all"], replace(every, clean=True)), *((clean_llm[k], llm[k]) for k in (5, "all"))]
    print("\n| paired difference | mIoU |\n|---|---|")
    for a, b in pairs:
        print(f"| {a.supports} − {b.supports} | {_difference_of(counts, a, b, bootstrap)} |")


def print_ideas(counts: Counts, bootstrap: Bootstrap) -> None:
    """One idea a row, with its difference to what is kept."""
    print("\n| llm, all supports | mIoU | − kept |\n|---|---|---|")
    for idea in IDEAS:
        arm, kept = Drawn(idea, "llm", "all"), Drawn(KEPT, "llm", "all")
        print(f"| {idea} | {_cell(counts, arm, bootstrap)} | {_difference_of(counts, arm, kept, bootstrap)} |")


def print_augmented(counts: Counts, bootstrap: Bootstrap) -> None:
    """True supports and base supports together, with the difference to the true ones alone."""
    print("\n| true supports and … | mIoU | − true alone |\n|---|---|---|")
    for arm in augmented_arms(MODEL):
        alone = Drawn(MODEL, "true", arm.k)
        print(f"| {arm.supports} | {miou(counts[arm]):.1f} | {_difference_of(counts, arm, alone, bootstrap)} |")


def write_counts(path: Path, counts: Counts, thresholds: Mapping[Arm, float]) -> None:
    """One JSON line per arm and query, so that anything can be analysed again."""
    with path.open("w", encoding="utf-8") as file:
        for arm, found in counts.items():
            for c in found:
                file.write(json.dumps({"arm": arm.name, "threshold": thresholds[arm], **vars(c)}) + "\n")


if __name__ == "__main__":
    main()
