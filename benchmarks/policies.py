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
from pathlib import Path

import numpy as np
import torch
from policy_ideas import augmented_arms, idea_arms

from llafs_lib.classes import DATASETS, N_FOLDS, base_classes, novel_classes
from llafs_lib.data.folds import DataSet, data_root, open_dataset
from llafs_lib.data.splits import MIN_PIXELS, Split, SupportReader
from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.metrics import miou
from llafs_lib.evaluation.study import Arm, Curve, Question, Result, answer, relations_of, report, with_oracle
from llafs_lib.language.asking import Asker
from llafs_lib.language.relations import shuffled
from llafs_lib.retrieval.bank import SupportBank, build_bank
from llafs_lib.retrieval.policies import POLICIES, RELATIONS
from llafs_lib.vision.backbone import load_backbone
from llafs_lib.vision.prototype import PrototypeSegmenter

SHOTS = (1, 5, 20)


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
    results, bootstrap = report(curves)
    unlabelled = study.unlabelled_share()
    everything = miou([c.at(0) for c in next(iter(curves.values())) if c.image_id % 2])
    print(f"\n{study.described}\n{len(next(iter(results.values())).counts)} queries reported; ", end="")
    print(f"marking the whole image: {everything:.1f}; ", end="")
    print(f"{unlabelled:.0%} of the chosen five supports show the class asked for unlabelled\n")
    print_policies(results, bootstrap)
    print_ideas(results, bootstrap)
    print_augmented(results, bootstrap)
    if options.out:
        write_counts(options.out, results)


class Study:
    """The data, the bank of all classes, and the questions."""

    def __init__(self, dataset: DataSet, backbone: str, size: int):
        self.dataset = dataset
        net = load_backbone(backbone, data_root() / "weights")
        self.segmenter = PrototypeSegmenter(net, size, threshold=0.5)
        self.asked: list[Question] = []
        self.described = f"{dataset.name}, {backbone}, {size} px"
        self._split_of = {i: split for split in (dataset.train, dataset.val) for i in split.image_ids}
        if len(self._split_of) < len(dataset.train) + len(dataset.val):
            raise LlafsError(
                f"the images of {dataset.name} share ids between its splits: a query could not be told apart."
            )

    def ask(self, which: str, limit: int) -> dict[str, list[Curve]]:
        """Ask every arm every question."""
        with tempfile.TemporaryDirectory() as folder:
            bank = self.bank(Path(folder) / "support_bank")
            bank = bank.only(bank.classes)  # into memory
        questions = sorted(self.questions(bank, which), key=lambda q: q.image_id)
        questions = questions[:: max(len(questions) // limit, 1)][:limit] if limit else questions
        self.asked = questions = with_oracle(questions, self.describe, self.share)
        return answer({**policy_arms(), **idea_arms(), **augmented_arms()}, questions, self.describe, self.truth)

    def bank(self, path: Path) -> SupportBank:
        """Every training pair of every class: each fold takes what is base in it."""
        train = self.dataset.train
        images = _classes_of(train)
        read = SupportReader(train)
        made_from = {"dataset": self.dataset.name, "fingerprint": self.dataset.fingerprint}
        return build_bank(
            path, images, train.classes, lambda i: read.with_masks(i, images[i]), self.describe_image, made_from
        )

    def questions(self, bank: SupportBank, which: str) -> list[Question]:
        """One question for each (image, class) pair, in the fold in which the class is novel."""
        classes, name = self.dataset.train.classes, self.dataset.name
        llm = Asker().related_to_each(classes, classes)
        splits = {"val": [self.dataset.val], "train": [self.dataset.train]}.get(
            which, [self.dataset.train, self.dataset.val]
        )
        found = []
        for fold in range(N_FOLDS):
            novel, base = novel_classes(name, fold), base_classes(name, fold)
            known = {c: llm[c].restrict_to(base) for c in novel}
            relations = relations_of(novel, known, base, shuffled(known))
            base_bank = bank.only(base)
            for c in novel:
                own, unlabelled = bank.only((c,)), frozenset(_showing(self.dataset.train, c))
                for split in splits:
                    ids = split.images_by_class()[c]
                    found += [Question(c, i, base_bank, relations[c], own, unlabelled) for i in ids]
        return found

    def unlabelled_share(self) -> float:
        """The share of the five supports chosen by `llm` whose image shows the class asked for without a mask."""
        tainted = []
        for q in self.asked:
            bank, chosen = Arm("llm", 5).choose(q, np.zeros(q.base.foreground.shape[1], np.float32))
            tainted += [int(i) in q.unlabelled for i in bank.image_ids[chosen.rows]]
        return float(np.mean(tainted))

    def describe(self, image_id: int) -> torch.Tensor:
        """Unit features [C, h, w] of an image."""
        return self.describe_image(self._split_of[image_id].image(image_id))

    def describe_image(self, image: np.ndarray) -> torch.Tensor:
        with torch.inference_mode():
            return self.segmenter.describe(image).float()

    def truth(self, image_id: int, class_name: str) -> tuple[np.ndarray, np.ndarray]:
        """(mask, void), each [H, W] bool."""
        split = self._split_of[image_id]
        return split.mask(image_id, class_name), split.void(image_id)

    def share(self, image_id: int, class_name: str) -> np.ndarray:
        """[h, w]: which share of each place the truth covers."""
        grid = self.describe(image_id).shape[-2:]
        mask = torch.from_numpy(self.truth(image_id, class_name)[0]).float()
        return torch.nn.functional.adaptive_avg_pool2d(mask[None], grid)[0].numpy()


def _classes_of(split: Split) -> dict[int, tuple[str, ...]]:
    """Image → the classes that it shows at least 2,048 pixels of."""
    shown = split.pixels >= MIN_PIXELS
    return {i: tuple(np.array(split.classes)[row]) for i, row in zip(split.image_ids, shown, strict=True) if row.any()}


def _showing(split: Split, class_name: str) -> list[int]:
    """The images that show any pixel of a class."""
    return np.array(split.image_ids)[split.pixels[:, split.classes.index(class_name)] > 0].tolist()


# --- arms ------------------------------------------------------------------------------------------------------------


def policy_arms() -> dict[str, Arm]:
    """Every policy with every number of supports; `clean` and the null test for some."""
    arms = {f"{p} {k}": Arm(p, k) for p in POLICIES if p != "all" for k in SHOTS}
    arms |= {f"{p} all": Arm(p, "all") for p in ("all", "true", *RELATIONS, "visual", "hybrid")}
    arms |= {f"random {k}, other draw": Arm("random", k, seed=1) for k in SHOTS}
    return arms | {f"{p} {k}, clean": Arm(p, k, clean=True) for p in ("llm", "random") for k in (5,)} | {
        "llm all, clean": Arm("llm", "all", clean=True), "all all, clean": Arm("all", "all", clean=True)
    }  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------------


def _interval(low_high: Sequence[float], sign: bool = False) -> str:
    form = "+.1f" if sign else ".1f"
    return "[" + ", ".join(format(x, form) for x in low_high) + "]"


def _difference(results: Mapping[str, Result], a: str, b: str, bootstrap) -> str:
    paired = bootstrap.paired_interval(results[a].counts, results[b].counts)
    return f"{results[a].miou - results[b].miou:+.1f} {_interval(paired, True)}"


def print_policies(results: Mapping[str, Result], bootstrap) -> None:
    """mIoU by policy and number of supports, then the differences that matter."""
    columns = [*map(str, SHOTS), "all"]
    print("| policy | " + " | ".join(f"K = {k}" for k in columns) + " |\n|---|" + "---|" * len(columns))
    for policy in POLICIES:
        cells = [results.get(f"{policy} {k}") for k in columns]
        print(f"| {policy} | " + " | ".join(f"{r.miou:.1f} {_interval(r.interval)}" if r else "" for r in cells) + " |")
    pairs = [(f"{p} {k}", f"random {k}") for p in POLICIES if p not in ("random", "all") for k in SHOTS]
    pairs += [(f"{p} all", "all all") for p in ("true", *RELATIONS, "visual", "hybrid")]
    pairs += [(f"random {k}, other draw", f"random {k}") for k in SHOTS]
    pairs += [("llm all", "llm 5"), ("llm 5", "text 5"), ("llm all", "text all"), ("llm 5, clean", "random 5, clean")]
    pairs += [("llm all, clean", "all all, clean"), ("llm 5, clean", "llm 5"), ("llm all, clean", "llm all")]
    print("\n| paired difference | mIoU |\n|---|---|")
    for a, b in pairs:
        print(f"| {a} − {b} | {_difference(results, a, b, bootstrap)} |")


def print_ideas(results: Mapping[str, Result], bootstrap) -> None:
    """One idea a row, with its difference to what is kept."""
    kept = "plain foreground, diffusion 8 (kept)"
    print("\n| llm, all supports | mIoU | − kept |\n|---|---|---|")
    for name in idea_arms():
        r = results[name]
        print(f"| {name} | {r.miou:.1f} {_interval(r.interval)} | {_difference(results, name, kept, bootstrap)} |")


def print_augmented(results: Mapping[str, Result], bootstrap) -> None:
    """True supports and base supports together, with the difference to the true ones alone."""
    print("\n| true supports and … | mIoU | − true alone |\n|---|---|---|")
    for name, arm in augmented_arms().items():
        r = results[name]
        print(f"| {name} | {r.miou:.1f} | {_difference(results, name, f'true {arm.k}', bootstrap)} |")


def write_counts(path: Path, results: Mapping[str, Result]) -> None:
    """One JSON line per arm and query, so that anything can be analysed again."""
    with path.open("w", encoding="utf-8") as file:
        for name, result in results.items():
            for c in result.counts:
                file.write(json.dumps({"arm": name, "threshold": result.threshold, **vars(c)}) + "\n")


if __name__ == "__main__":
    main()
