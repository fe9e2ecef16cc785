"""Does a user's own file give the masks that the benchmark of policies gives for the same supports?

    LLAFS_DATA=path/to/data python benchmarks/own_images.py

The training half of coco-mini plays the user: its classes are renamed, its ids are shuffled, and one class is left out
of the file. `LLaFS.from_coco` opens the file, and the class is asked for by a word that nobody annotated, with the
recorded answer's look-alikes. Beside it, the same question is put to what `policies.py` asks ("llm all"), on a bank of
the original file. Class after class is left out; the two mIoUs must agree. What the calibration expected is printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from llafs_lib import LLaFS
from llafs_lib.bank_folder import HOW, Wanted
from llafs_lib.data.folds import DataSet, data_root, open_dataset
from llafs_lib.data.own import MIN_AREA, open_own
from llafs_lib.data.splits import SupportReader
from llafs_lib.evaluation.metrics import Curve, best_threshold, curve, miou
from llafs_lib.evaluation.runner import BankPrototypes, Question
from llafs_lib.language.asking import Asker
from llafs_lib.records import Episode, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank, build_bank
from llafs_lib.retrieval.policies import select_supports
from llafs_lib.vision.backbone import load_backbone
from llafs_lib.vision.prototype import PrototypeSegmenter


def main() -> None:
    """Leave out one class after the other, and print the mIoUs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=20, help="how many are left out, one by one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset, rng = open_dataset("coco-mini"), np.random.default_rng(options.seed)
    asked = {c: ids for c, ids in dataset.val.images_by_class().items() if len(ids) >= 2}
    left_out = rng.permutation(sorted(asked))[: options.classes]
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(dataset, Path(folder) / "reference")
        own, theirs, cut, expected = [], [], [], []
        for name in left_out:
            answer = Asker(mode="replay").related(name, dataset.classes, set(dataset.classes) - {name})
            file, new_names = user_file(dataset, name, Path(folder) / name, rng)
            model = LLaFS.from_coco(file, dataset.train.folder)
            related = {new_names[c]: s for c, s in answer.scores.items()}
            expected.append(model.expected.novel.iou)
            for image_id in asked[name]:
                image, truth = dataset.val.image(image_id), dataset.val.mask(image_id, name)
                found = model.segment(image, "the word", related=related)
                own.append(curve(found.probability, truth, name, image_id))
                cut.append(curve(found.mask.astype(np.float32), truth, name, image_id))
                theirs.append(curve(reference.scores(image, answer, image_id), truth, name, image_id))
    threshold = best_threshold(theirs)
    print(f"{len(own)} questions about {len(left_out)} classes left out of the file, {reference.segmenter.size} px")
    print(f"at one threshold ({threshold:.2f}): own {at(own, threshold):.2f}, policies {at(theirs, threshold):.2f}")
    apart = max(np.abs(a.inter - b.inter).max() / a.pixels for a, b in zip(own, theirs, strict=True))
    print(f"largest difference of a query's intersection, at any threshold: {apart:.2%} of its pixels")
    print(f"with the thresholds that were calibrated: {at(cut, 1.0):.2f}; expected beforehand: {np.mean(expected):.1f}")


def at(curves: list[Curve], threshold: float) -> float:
    """mIoU in percent."""
    return miou([c.at(threshold) for c in curves])


class Reference:
    """What `policies.py` asks: prototypes of all related rows of a bank of the original file."""

    def __init__(self, dataset: DataSet, path: Path):
        usual = Wanted().settings()
        net = load_backbone(usual["backbone"], data_root() / "weights")
        self.segmenter = PrototypeSegmenter(net, usual["size"], 0.5, **HOW)
        read, shown = SupportReader(dataset.train), self._shown(dataset)

        def describe(image: np.ndarray) -> torch.Tensor:
            with torch.inference_mode():
                return self.segmenter.describe(image)

        classes = dataset.classes
        self.bank: SupportBank = build_bank(path, shown, classes, lambda i: read.with_masks(i, shown[i]), describe, {})
        self.model = BankPrototypes(self.segmenter, [self.bank], as_scores=True)

    @staticmethod
    def _shown(dataset: DataSet) -> dict[int, tuple[str, ...]]:
        """The pairs that a user's file has: by a share of the image, not by pixels."""
        return open_own(dataset.train.annotations, dataset.train.folder).shown(MIN_AREA)

    def scores(self, image: np.ndarray, answer: RelatedClasses, image_id: int) -> np.ndarray:
        """The score map [H, W] for the class that `answer` is about."""
        question = Question(Episode(answer.query_class, image_id, ()), self.bank, answer)
        choices = select_supports("llm", self.bank, question.request(np.empty(0)), "all")
        return self.model.answers(question, image, [choices])[0]


def user_file(
    dataset: DataSet, left_out: str, folder: Path, rng: np.random.Generator
) -> tuple[Path, Mapping[str, str]]:
    """The training file as a user might have it: without one class, other names, other ids, another order."""
    official = json.loads(dataset.train.annotations.read_text(encoding="utf-8"))
    kept = [c for c in official["categories"] if c["name"] != left_out]
    category_ids = dict(zip([c["id"] for c in kept], rng.permutation(1000)[: len(kept)].tolist(), strict=True))
    image_ids = {i["id"]: f"photo {n}" for i, n in zip(official["images"], rng.permutation(10_000), strict=False)}
    names = {c["name"]: f"kind {category_ids[c['id']]}" for c in kept}
    own = {
        "images": [{**i, "id": image_ids[i["id"]]} for i in official["images"]],
        "annotations": [
            {**a, "id": n, "image_id": image_ids[a["image_id"]], "category_id": category_ids[a["category_id"]]}
            for n, a in enumerate(official["annotations"])
            if a["category_id"] in category_ids and not a.get("iscrowd")
        ],
        "categories": [{"id": category_ids[c["id"]], "name": names[c["name"]]} for c in kept],
    }
    rng.shuffle(own["images"])
    rng.shuffle(own["categories"])
    folder.mkdir(parents=True)
    file = folder / "annotations.json"
    file.write_text(json.dumps(own), encoding="utf-8")
    return file, names


if __name__ == "__main__":
    main()
