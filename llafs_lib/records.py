"""The values that flow through the method, in the order in which it makes them. Each can be printed and read.

Fold → Episode → RelatedClasses → Support → Prediction
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from llafs_lib.seals import digest_of


@dataclass(frozen=True)
class Fold:
    """One of the four splits of a data set's classes, with the images that show each class.

    An image is listed under a class when at least 2,048 of its label pixels belong to it (spec §3.3). `validation`
    are base classes that no model is trained on, so that the best model can be chosen on them. `novel_in_train` says
    what happens to novel objects in training images (see `llafs_lib.data.folds.make_fold`).
    """

    dataset: str
    index: int
    base: tuple[str, ...]
    novel: tuple[str, ...]
    train_images: Mapping[str, tuple[int, ...]] = field(repr=False)  # class → image ids, training split
    test_images: Mapping[str, tuple[int, ...]] = field(repr=False)  # class → image ids, validation split
    validation: tuple[str, ...] = ()
    novel_in_train: str = "background"
    fingerprint: str = ""  # of the data set

    @property
    def training(self) -> tuple[str, ...]:
        """The base classes that a model may be trained on: all but those for validation."""
        return tuple(c for c in self.base if c not in self.validation)

    def shown(self, classes: Sequence[str]) -> dict[int, tuple[str, ...]]:
        """Training image → those of `classes` that it is listed for, images in ascending order; none without any."""
        found: dict[int, tuple[str, ...]] = {}
        for name in classes:
            for image_id in self.train_images[name]:
                found[image_id] = (*found.get(image_id, ()), name)
        return dict(sorted(found.items()))

    @property
    def digest(self) -> str:
        """A short hash of the whole fold. Whatever is made from a fold carries its digest."""
        return digest_of(asdict(self))

    def __str__(self) -> str:
        def count(images: Mapping[str, tuple[int, ...]], classes: tuple[str, ...]) -> str:
            ids = [i for c in classes for i in images[c]]
            return f"{len(ids):,} (image, class) pairs in {len(set(ids)):,} images"

        return (
            f"{self.dataset}, fold {self.index}\n"
            f"  {len(self.base)} base classes : {', '.join(self.base)}\n"
            f"    of these held out for validation: {', '.join(self.validation) or 'none'}\n"
            f"  {len(self.novel)} novel classes: {', '.join(self.novel)}\n"
            f"  train on base : {count(self.train_images, self.training)}, novel objects: {self.novel_in_train}\n"
            f"  test on novel : {count(self.test_images, self.novel)}"
        )


@dataclass(frozen=True)
class Episode:
    """One question to the model: where is `class_name` in image `query_id`?

    `support_ids` are training images that show the same class. A *few-shot* model may look at them, and the policy
    `true` uses them. The zero-annotation policies never read them.
    """

    class_name: str
    query_id: int
    support_ids: tuple[int, ...]


@dataclass(frozen=True)
class RelatedClass:
    """A class that looks like the one asked about; `score` in [0, 1] says how much alike they are."""

    name: str
    score: float
    reason: str = ""


@dataclass(frozen=True)
class Call:
    """One call to a language model.

    The tokens are as the server counted them; None means that it did not. `live` says whether the call was made just
    now. A replayed call was paid for when it was recorded.
    """

    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    live: bool


@dataclass(frozen=True)
class RelatedClasses:
    """The answer to "what looks like this class?", ranked, with where it came from.

    source: "recorded" (a stored answer of a language model), "live" (an answer given just now), "fallback" (there was
        no usable answer, so text similarity stands in), "itself" (a base class needs no stand-in), or the name of a
        control: "supercategory", "text", "shuffled", "oracle".
    provenance: who gave the answer.
    raw: the answer as it was given.
    dropped: what was removed from the answer, and why.
    notes: what else did not go as planned.
    calls: the calls to a language model that the answer took.
    """

    query_class: str
    ranked: tuple[RelatedClass, ...]
    source: str
    provenance: str
    raw: str = field(default="", repr=False)
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(r.name for r in self.ranked)

    @property
    def scores(self) -> dict[str, float]:
        return {r.name: r.score for r in self.ranked}

    def restrict_to(self, allowed: Iterable[str]) -> RelatedClasses:
        """Keep only the `allowed` classes (a fold's base classes); `dropped` notes the others."""
        allowed = set(allowed)
        gone = tuple(f"{r.name}: not a base class" for r in self.ranked if r.name not in allowed)
        kept = tuple(r for r in self.ranked if r.name in allowed)
        return replace(self, ranked=kept, dropped=self.dropped + gone)

    def __str__(self) -> str:
        listed = ", ".join(f"{r.name} {r.score:.2f}" for r in self.ranked) or "nothing"
        notes = "".join(f"\n  note: {n}" for n in self.notes)
        return f"{self.query_class} looks like: {listed}  [{self.source}]{notes}"


@dataclass(frozen=True)
class Support:
    """An annotated image that the model may look at: `image` [H, W, 3] uint8 RGB, `mask` [H, W] bool.

    `class_name` is the class that the mask shows, which need not be the class asked for. `score` ≥ 0 says how well the
    support fits according to its policy. `weight` ≥ 0 says how much it counts beside the other supports.
    """

    image_id: int
    class_name: str
    score: float
    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    weight: float = 1.0

    @property
    def key(self) -> tuple[int, str]:
        """Which support this is: (image id, class). Supports with the same key are the same image and mask."""
        return self.image_id, self.class_name


@dataclass(frozen=True)
class Prediction:
    """A segmented query: `probability` [H, W] float32 in [0, 1] and `mask` [H, W] bool, at the image's own size.

    `confidence` orders images by whether they show the class: the higher, the likelier. It is no probability
    (`llafs_lib.evaluation.presence`); None means that it was not computed. `notes` holds every fallback that was taken
    on the way, and is empty when all went as planned. `image` [H, W, 3] uint8 is what was segmented and `source` the
    file that it came from, if there was one.
    """

    class_name: str
    mask: np.ndarray = field(repr=False)
    probability: np.ndarray = field(repr=False)
    supports: Sequence[Support] = field(repr=False, default=())
    related: RelatedClasses | None = None
    notes: tuple[str, ...] = ()
    confidence: float | None = None
    image: np.ndarray | None = field(repr=False, default=None)
    source: str = ""

    def save(self, path: str | Path, format: str | None = None) -> Path:
        """Write the result to a file; return its path.

        Args:
            path: a file, or a folder (a name without an ending, or with a slash at its end), in which the file is
                named after the image. A file that is there is replaced, the segmented image itself never.
            format: "mask" (PNG, 0 and 255, of the image's size), "labelmap" (PNG of class numbers), "overlay" (the
                image with the mask in colour), "coco" (JSON) or "yolo" (polygons). None goes by the ending: `.png` is
                a mask, `.jpg` an overlay, `.json` COCO.

        Raises:
            LlafsError: the format does not go with the ending, or the file cannot be written.
        """
        from llafs_lib.writing import save

        return save(self, path, format)

    def __str__(self) -> str:
        by_class: dict[str, int] = {}
        for s in self.supports:
            by_class[s.class_name] = by_class.get(s.class_name, 0) + 1
        supports = ", ".join(f"{n} × {c}" for c, n in by_class.items())
        notes = "".join(f"\n  note: {n}" for n in self.notes)
        share = f"{self.mask.mean():.1%} of the image"
        share += "" if self.confidence is None else f", confidence {self.confidence:.2f}"
        return f"{self.class_name}: {share}, segmented with {supports or 'no supports'}{notes}"


@dataclass(frozen=True)
class Predictions:
    """Several classes in one image: a `Prediction` for each, and one label map.

    `label_map` [H, W] uint16 holds 0 where no class was found, and else the number of the class, counted from 1. A
    pixel that several masks claim goes to the class whose prototypes it resembles most.
    """

    found: tuple[Prediction, ...]
    label_map: np.ndarray = field(repr=False)
    source: str = ""

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, which: int | str) -> Prediction:
        """The prediction of a class, by its name or its place."""
        if isinstance(which, int):
            return self.found[which]
        return {p.class_name: p for p in self.found}[which]

    def save(self, path: str | Path, format: str | None = None) -> Path:
        """Write the results as `Prediction.save` does; return the file, or the folder where there are several.

        `.png` is the label map. In a folder, each class gets a mask in a subfolder of its name.
        """
        from llafs_lib.writing import save

        return save(self, path, format)

    def __str__(self) -> str:
        return "\n".join(map(str, self.found))
