"""All retrieval policies with 1, 5, 20 and all supports, on all four folds, with paired intervals.

    LLAFS_DATA=path/to/data python benchmarks/policies.py --dataset coco-mini

Every (image, class) pair of at least 2,048 pixels is asked once, in the fold in which its class is novel; supports
are training images of the base classes, never the query. The segmenter is training-free: prototypes of a frozen
ImageNet backbone. Thresholds are chosen on queries with an even image id, all results are of those with an odd one.

A second table takes the method apart, one idea a row, against what is kept of it (`policy_ideas.py`). A third adds base
supports to few true ones: the other reading of the source document's rows. With `--insid3` a fourth shows the same
supports to INSID3, which takes about as long as all the rest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from policy_ideas import IDEAS, Drawn, Idea, alike, augmented_arms
from policy_tables import (
    INSID3,
    MODEL,
    RELATIVE,
    insid3_arms,
    policy_arms,
    print_augmented,
    print_ideas,
    print_insid3,
    print_policies,
    print_relative,
    relative_arms,
    write_counts,
)

from llafs_lib.bank_folder import HOW
from llafs_lib.classes import DATASETS
from llafs_lib.data.folds import DataSet, data_root, open_dataset
from llafs_lib.data.splits import MIN_PIXELS, Split, SupportReader
from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.metrics import ConfusionCounts, Curve, miou
from llafs_lib.evaluation.runner import (
    BankPrototypes,
    Panel,
    Question,
    ShownImages,
    counts_of,
    cut_scores,
    evaluate,
)
from llafs_lib.evaluation.statistics import Estimator
from llafs_lib.language.asking import Asker
from llafs_lib.language.relations import shuffled
from llafs_lib.progress import track
from llafs_lib.records import Episode, RelatedClass, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank, build_bank
from llafs_lib.retrieval.policies import Choice
from llafs_lib.settings import PHOTOGRAPHS_BACKBONE
from llafs_lib.vision.backbone import load_backbone
from llafs_lib.vision.features import FeatureCache, query_embedding
from llafs_lib.vision.prototype import PrototypeSegmenter
from llafs_lib.vision.recipes import size_compared
from llafs_lib.vision.segmenter import INSID3Segmenter

TAU = 0.4  # of INSID3 with a convolutional network; the tuning half chose it with EfficientNet-Lite2


def main() -> None:
    """Parse the command line, run both tables, print them, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="coco-mini", choices=DATASETS)
    parser.add_argument(
        "--queries", default="both", choices=["val", "train", "both"], help="images that are asked about"
    )
    parser.add_argument("--limit", type=int, default=0, help="at most so many queries (default: all)")
    parser.add_argument("--backbone", default=PHOTOGRAPHS_BACKBONE)
    parser.add_argument("--size", type=int, default=0, help="px (default: what suits the backbone)")
    parser.add_argument("--insid3", action="store_true", help="show some of the supports to INSID3, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write every query's counts as JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        study = Study(open_dataset(options.dataset), options.backbone, options.size or size_compared(options.backbone))
        curves = study.ask(options.queries, options.limit)
    except LlafsError as error:
        sys.exit(f"policies: {error}")
    counts, thresholds = cut_scores(curves)
    first = next(iter(counts))
    estimator, unlabelled = Estimator(counts[first]), study.unlabelled_share()
    reported = {c.image_id for c in counts[first]}
    everything = miou([c.at(0) for c in curves[first] if c.image_id in reported])
    print(f"\n{study.described}\n{len(counts[first])} queries reported; ", end="")
    print(f"marking the whole image: {everything:.1f}; ", end="")
    print(f"{unlabelled:.0%} of the chosen five supports show the class asked for unlabelled\n")
    print_policies(counts, estimator)
    print_relative(counts, estimator)
    print_ideas(counts, estimator)
    print_augmented(counts, estimator)
    if options.insid3:
        counts |= study.ask_insid3(counts[first])
        print_insid3(counts, estimator)
        thresholds |= dict.fromkeys(insid3_arms())
    if options.out:
        write_counts(options.out, counts, thresholds)


class Study:
    """The data, the bank of all classes, and the questions."""

    def __init__(self, dataset: DataSet, backbone: str, size: int):
        self.dataset = dataset
        net = load_backbone(backbone, data_root() / "weights").to("cuda" if torch.cuda.is_available() else "cpu")
        self.size, self.segmenter = size, PrototypeSegmenter(net, size, threshold=0.5, cache_mb=0, **HOW)
        describe = self.segmenter.describe
        kept = FeatureCache(lambda image: [describe(image)], 2048)  # unit features take less room than all taps
        self.segmenter.describe = lambda image: kept(image)[0]
        self.segmenter.alike = lambda features: alike(features, self.segmenter.sharpness)
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
        models = {MODEL: Prototypes(self.segmenter, [bank], as_scores=True)}
        models[RELATIVE] = BankPrototypes(self.segmenter, [bank], as_scores=True)
        models |= {name: Idea(self.segmenter, bank, change) for name, change in IDEAS.items()}
        arms = [
            *policy_arms(),
            *relative_arms(),
            *(Drawn(name, "llm", "all") for name in IDEAS),
            *augmented_arms(MODEL),
        ]
        return counts_of(evaluate(self.asked, Panel(models, arms, embed=self.embed), self.read_query))

    def ask_insid3(self, reported: Sequence[ConfusionCounts]) -> dict[Arm, list[ConfusionCounts]]:
        """The answers of INSID3, which has no threshold to choose, to the queries that are reported."""
        net = self.segmenter.backbone
        insid3 = INSID3Segmenter(net, self.size, tau=TAU if all(net.levels) else 0.6)
        insid3.describe = self.segmenter.describe
        model = ShownOrNothing(insid3, SupportReader(self.dataset.train))
        names = {(c.class_name, c.image_id) for c in reported}
        questions = [q for q in self.asked if (q.episode.class_name, q.episode.query_id) in names]
        return counts_of(evaluate(questions, Panel({INSID3: model}, insid3_arms()), self.read_query))

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
            return self.segmenter.describe(image)

    def embed(self, image: np.ndarray) -> np.ndarray:
        """The direction of an image's mean feature, [C]."""
        return query_embedding(self.describe(image))

    def read_query(self, episode: Episode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(image [H, W, 3], truth [H, W] bool, void [H, W] bool)."""
        image = episode.query_id
        split = self._split_of[image]
        return split.image(image), split.mask(image, episode.class_name), split.void(image)


class Prototypes(BankPrototypes):
    """Score maps for which true supports also say how similar the class is (`vision.prototype.stretched`)."""

    def answers(self, question: Question, image: np.ndarray, shown: Sequence[Sequence[Choice]]) -> list[np.ndarray]:
        """The score map for each set."""
        name = question.episode.class_name
        own = [any(c.class_name == name for c in choices) for choices in shown]
        return self.segmenter.scores(image, map(self.prototypes, shown), own)


class ShownOrNothing(ShownImages):
    """A segmenter that marks nothing where no support is left: a class with a single image has no other true one."""

    def answers(self, question: Question, image: np.ndarray, shown: Sequence[Sequence[Choice]]) -> list[np.ndarray]:
        """The mask for each set."""
        found = iter(super().answers(question, image, [choices for choices in shown if choices]))
        return [next(found) if choices else np.zeros(image.shape[:2], bool) for choices in shown]


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


if __name__ == "__main__":
    main()
