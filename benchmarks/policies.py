"""All retrieval policies with 1, 5, 20 and all supports, on all four folds, with paired intervals.

    LLAFS_DATA=path/to/data python benchmarks/policies.py --dataset coco-mini

Every (image, class) pair of at least 2,048 pixels is asked once, in the fold in which its class is novel; supports
are training images of the base classes, never the query. The segmenter is training-free: prototypes of a frozen
ImageNet backbone. Its threshold is chosen for each row and fold on base classes (`policy_thresholds.py`). Another table
adds base supports to few true ones: the other reading of the source document's rows.

The appendix reports queries with an odd image id, at thresholds chosen on those with an even one. There one more table
takes the method apart, one idea a row, against what is kept of it (`policy_ideas.py`). With `--insid3` another
shows the same supports to INSID3.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from policy_ideas import IDEAS, SHARES, Drawn, Idea, Share, alike, augmented_arms
from policy_tables import (
    INSID3,
    MODEL,
    RELATIVE,
    Figures,
    idea_arms,
    insid3_arms,
    policy_arms,
    print_augmented,
    print_choices,
    print_cost,
    print_ideas,
    print_insid3,
    print_policies,
    print_relative,
    relative_arms,
    share_arms,
    write_counts,
)
from policy_thresholds import PAIRS, as_if_novel, best_thresholds, cut, cut_scores, moved_by_halving

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
    evaluate,
)
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
    """Parse the command line, ask everything, print the tables, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="coco-mini", choices=DATASETS)
    parser.add_argument(
        "--queries", default="both", choices=["val", "train", "both"], help="images that are asked about"
    )
    parser.add_argument("--limit", type=int, default=0, help="at most so many queries, and base questions")
    parser.add_argument("--backbone", default=PHOTOGRAPHS_BACKBONE)
    parser.add_argument("--size", type=int, default=0, help="px (default: what suits the backbone)")
    parser.add_argument("--insid3", action="store_true", help="show some of the supports to INSID3, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write every query's counts as JSON lines")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        study = Study(open_dataset(options.dataset), options.backbone, options.size or size_compared(options.backbone))
        questions = study.questions(options.queries, options.limit)
        curves = study.ask(questions, study.arms)
        most = min(max(options.limit // len(study.folds), 1), PAIRS) if options.limit else PAIRS
        base = [study.ask(study.base_questions(fold, most), [*study.arms, *share_arms()]) for fold in study.folds]
    except LlafsError as error:
        sys.exit(f"policies: {error}")
    thresholds = best_thresholds(base)
    counts = cut(curves, thresholds, study.fold_of)
    tuned, by_half = cut_scores(curves)
    headline, appendix = Figures(counts), Figures(tuned)
    asked = ", ".join(str(len(next(iter(of_fold.values())))) for of_fold in base)
    unlabelled = study.unlabelled_share(questions)
    print(f"\n{study.described}: thresholds chosen on base classes ({asked} questions in the folds)\n")
    print(f"{_reported(curves, headline)}; ", end="")
    print(f"{unlabelled:.0%} of the chosen five supports show the class asked for unlabelled\n")
    for table in (print_policies, print_relative, print_augmented):
        table(headline)
    print_choices(base, thresholds)
    print("\nthresholds chosen on either half of the base questions: ", end="")
    print("mIoU differs by {:.2f} on average and {:.2f} at most".format(*moved_by_halving(base, curves, study.fold_of)))
    print("\nAppendix: thresholds chosen on the other half of the queries\n")
    print(f"{_reported(curves, appendix)}\n")
    for table in (print_policies, print_relative, print_ideas, print_augmented):
        table(appendix)
    print_cost(appendix, counts, by_half, thresholds)
    if options.insid3:
        tuned |= study.ask_insid3([q for q in questions if _query(q) in appendix.queries])
        print_insid3(Figures(tuned))
    if options.out:
        options.out.unlink(missing_ok=True)
        write_counts(options.out, "base classes", counts, lambda arm, name: thresholds[arm][study.fold_of[name]])
        write_counts(options.out, "other half of the queries", tuned, lambda arm, name: by_half.get(arm))


def _reported(curves: dict[Arm, list[Curve]], figures: Figures) -> str:
    whole = [c.at(0) for c in next(iter(curves.values())) if (c.class_name, c.image_id) in figures.queries]
    return f"{len(whole)} queries reported; marking the whole image: {miou(whole):.1f}"


def _query(question: Question) -> tuple[str, int]:
    return question.episode.class_name, question.episode.query_id


class Study:
    """The data, the bank of all classes, the models, and the questions."""

    arms = (*policy_arms(), *relative_arms(), *idea_arms(), *augmented_arms(MODEL))

    def __init__(self, dataset: DataSet, backbone: str, size: int):
        self.dataset = dataset
        self.folds = range(dataset.benchmark.n_folds)
        self.fold_of = {c: fold for fold in self.folds for c in dataset.benchmark.novel(fold)}
        self.llm = Asker().related_to_each(dataset.classes, dataset.classes)
        self.described = f"{dataset.name}, {backbone}, {size} px"
        self._split_of = {i: split for split in (dataset.train, dataset.val) for i in split.image_ids}
        if len(self._split_of) < len(dataset.train) + len(dataset.val):
            raise LlafsError(
                f"the images of {dataset.name} share ids between its splits: a query could not be told apart."
            )
        net = load_backbone(backbone, data_root() / "weights").to("cuda" if torch.cuda.is_available() else "cpu")
        self.size, self.segmenter = size, PrototypeSegmenter(net, size, threshold=0.5, cache_mb=0, **HOW)
        describe = self.segmenter.describe
        kept = FeatureCache(lambda image: [describe(image)], 2048)  # unit features take less room than all taps
        self.segmenter.describe = lambda image: kept(image)[0]
        self.segmenter.alike = lambda features: alike(features, self.segmenter.sharpness)
        with tempfile.TemporaryDirectory() as folder:
            bank = self._build(Path(folder) / "support_bank")
            self.bank = bank.only(bank.classes)  # into memory
        self.models = {MODEL: Prototypes(self.segmenter, [self.bank], as_scores=True)}
        self.models[RELATIVE] = BankPrototypes(self.segmenter, [self.bank], as_scores=True)
        self.models |= {name: Idea(self.segmenter, self.bank, change) for name, change in IDEAS.items()}
        self.models |= {name: Share(self.segmenter, self.bank, share) for name, share in SHARES.items()}

    def ask(self, questions: Sequence[Question], arms: Sequence[Arm]) -> dict[Arm, list[Curve]]:
        """Ask every arm every question."""
        panel = Panel(self.models, arms, embed=self.embed)
        return counts_of(evaluate(self.with_oracle(questions), panel, self.read_query))

    def ask_insid3(self, questions: Sequence[Question]) -> dict[Arm, list[ConfusionCounts]]:
        """The answers of INSID3, which has no threshold to choose."""
        net = self.segmenter.backbone
        insid3 = INSID3Segmenter(net, self.size, tau=TAU if all(net.levels) else 0.6)
        insid3.describe = self.segmenter.describe
        model = ShownOrNothing(insid3, SupportReader(self.dataset.train))
        return counts_of(evaluate(questions, Panel({INSID3: model}, insid3_arms()), self.read_query))

    def _build(self, path: Path) -> SupportBank:
        """Every training pair of every class: each fold takes what is base in it."""
        train = self.dataset.train
        images = _classes_of(train)
        read = SupportReader(train)
        made_from = {"dataset": self.dataset.name, "fingerprint": self.dataset.fingerprint}
        return build_bank(
            path, images, train.classes, lambda i: read.with_masks(i, images[i]), self.describe, made_from
        )

    def questions(self, which: str, limit: int) -> list[Question]:
        """A question for each (image, class) pair, in the fold in which the class is novel; each image's together."""
        splits = {"val": [self.dataset.val], "train": [self.dataset.train]}.get(
            which, [self.dataset.train, self.dataset.val]
        )
        found = []
        for fold in self.folds:
            novel, base = self.dataset.benchmark.novel(fold), self.dataset.benchmark.base(fold)
            known = {c: self.llm[c].restrict_to(base) for c in novel}
            dealt, bank = shuffled(known), self.bank.only(base)
            for c in novel:
                images = [i for split in splits for i in split.images_by_class()[c]]
                found += self._about(c, images, bank, known[c], dealt[c])
        found.sort(key=lambda q: q.episode.query_id)
        return found[:: max(len(found) // limit, 1)][:limit] if limit else found

    def base_questions(self, fold: int, most: int) -> list[Question]:
        """Questions about a fold's base classes, each treated as if it were novel; each image's together."""
        bank = self.bank.only(self.dataset.benchmark.base(fold))
        pretended = as_if_novel(bank, self.llm, most, seed=fold)
        found = [q for about in pretended for q in self._about(*about)]
        return sorted(found, key=lambda q: q.episode.query_id)

    def _about(
        self, name: str, images: Iterable[int], bank: SupportBank, known: RelatedClasses, dealt: RelatedClasses
    ) -> list[Question]:
        """Questions about a class; `bank` and both relations are of the classes that may stand in for it."""
        own, unlabelled = self.bank.image_ids[self.bank.rows_of(name)], frozenset(_showing(self.dataset.train, name))
        episodes = [Episode(name, i, tuple(own.tolist())) for i in images]
        return [Question(e, bank, known, {"shuffled": dealt}, unlabelled) for e in episodes]

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

    def unlabelled_share(self, questions: Sequence[Question]) -> float:
        """The share of the five supports chosen by `llm` whose image shows the class asked for without a mask."""
        arm, tainted = Drawn(MODEL, "llm", 5), []
        for q in questions:
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
