"""Relations between classes: controls that come from no language model, and functions that work on any relation.

All are `RelatedClasses` with their provenance, so that every policy can be run with every relation.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from llafs_lib.artifacts import RunFolder, write_json
from llafs_lib.classes import COCO_CLASSES, COCO_SUPERCATEGORIES, did_you_mean, find_class, normalise, split_names
from llafs_lib.errors import LlafsError, told
from llafs_lib.language.prompts import MAX_NAMES_IN_ANSWER
from llafs_lib.records import Call, RelatedClass, RelatedClasses

SIMILARITY_FILE = Path(__file__).parent / "text_similarity.json"
WORD_MODEL = "sentence-transformers/all-MiniLM-L6-v2"  # whose embeddings the file compares


# --- controls --------------------------------------------------------------------------------------------------------


def by_supercategory(class_name: str, vocabulary: Sequence[str]) -> RelatedClasses:
    """The classes of COCO's super-category of `class_name`, all with score 1: what the data set's own labels say.

    A class that is not COCO's has none; a note says so.
    """
    known_as = find_class(class_name, COCO_CLASSES)
    family = next((names for names in COCO_SUPERCATEGORIES.values() if known_as in names), ())
    alike = [c for c in vocabulary if find_class(c, family) not in (None, known_as)]
    notes = () if known_as else (f"{class_name!r} is no COCO class and has no super-category",)
    ranked = tuple(RelatedClass(c, 1.0) for c in alike)
    return RelatedClasses(class_name, ranked, "supercategory", "COCO's super-categories", notes=notes)


@functools.cache
def word_similarity() -> dict[str, dict[str, float]]:
    """Name → name → cosine in [−1, 1] of their MiniLM embeddings, for the names of COCO's and PASCAL's classes."""
    stored = json.loads(SIMILARITY_FILE.read_text(encoding="utf-8"))
    names = stored["names"]
    table: dict[str, dict[str, float]] = {name: {} for name in names}
    for name, row in zip(names, stored["similarity"], strict=True):  # row i: the cosines with names 0 to i − 1
        for other, cosine in zip(names, row, strict=False):
            table[name][other] = table[other][name] = cosine
    return table


def by_text(class_name: str, vocabulary: Sequence[str], most: int = MAX_NAMES_IN_ANSWER) -> RelatedClasses:
    """The `most` classes of `vocabulary` whose names are most alike as words, with their likeness in (0, 1].

    Two names that the table of `word_similarity` holds are as much alike as their cosine there. "milk cow" is looked up
    as "cow": the last words of a name say what the thing is. Of other names the share of common words counts, so
    "claw hammer" is like "hammer". Letters alone are not compared, because spelling says nothing about looks.
    A name that is like no other is related to nothing; a note says so.
    """
    scores = {c: _likeness(class_name, c) for c in vocabulary if find_class(c, (class_name,)) is None}
    best = sorted((c for c, score in scores.items() if score > 0), key=scores.get, reverse=True)[:most]
    known = _known_as(class_name)
    notes = () if known else (f"{WORD_MODEL} has no embedding of {class_name!r} here",)
    provenance = f"cosine of the names by {WORD_MODEL}" if known else "words that the names have in common"
    return RelatedClasses(class_name, tuple(RelatedClass(c, scores[c]) for c in best), "text", provenance, notes=notes)


def _likeness(one: str, other: str) -> float:
    known, same = _known_as(one), _known_as(other)
    if known and same:
        return 1.0 if known == same else min(word_similarity()[known][same], 1.0)
    words, others = (set(normalise(name).split()) for name in (one, other))
    return len(words & others) / len(words | others)


@functools.lru_cache(4096)
def _known_as(name: str) -> str | None:
    """The name in the table of `word_similarity` that a name means, or that its last words mean."""
    words = normalise(name).split()
    endings = (" ".join(words[i:]) for i in range(len(words)))
    return next((found for end in endings if (found := find_class(end, tuple(word_similarity())))), None)


def shuffled(related: Mapping[str, RelatedClasses], seed: int = 0) -> dict[str, RelatedClasses]:
    """The same answers, each dealt to another class: what a list of real classes is worth when it is not the right one.

    Raises:
        LlafsError: fewer than two classes.
    """
    names = list(related)
    if len(names) < 2:
        raise LlafsError("to deal answers to other classes, at least two classes are needed.")
    order = np.random.default_rng(seed).permutation(len(names))
    dealt = {}
    for giver, taker in zip(order, np.roll(order, 1), strict=True):  # one ring: nobody keeps its own
        name, other = names[taker], names[giver]
        ranked = tuple(r for r in related[other].ranked if find_class(r.name, (name,)) is None)
        dealt[name] = RelatedClasses(name, ranked, "shuffled", f"the answer about {other!r}, dealt to {name!r}")
    return {name: dealt[name] for name in names}


def given(
    class_name: str, related: RelatedClasses | Mapping[str, float] | Iterable[str] | str, vocabulary: Sequence[str]
) -> RelatedClasses:
    """The related classes that a user gives: names, names with scores, or a text such as "zebra=.9,horse=.6".

    Names without a score get 1. Scores are in (0, 1].

    Raises:
        LlafsError: a name is no text, not in `vocabulary` or stands twice, or a score is not in (0, 1].
    """
    if isinstance(related, RelatedClasses):
        return related
    scores: dict[str, float] = {}
    for name, score in _pairs(related):
        if not isinstance(name, str):
            raise LlafsError(f"a related class is named by a text such as 'zebra', not by {told(name)}.")
        found = find_class(name, vocabulary)
        if found is None:
            listed = ", ".join(vocabulary[:20]) + (", …" if len(vocabulary) > 20 else "")
            raise LlafsError(
                f"the related class {name!r} is not annotated here.{did_you_mean(name, vocabulary)} "
                f"There are: {listed}."
            )
        if found in scores:
            raise LlafsError(f"the related class {name!r} is given twice: name each once.")
        if not (isinstance(score, int | float) and 0 < score <= 1):
            raise LlafsError(
                f"the score of the related class {name!r} must be above 0 and at most 1, not {told(score)}."
            )
        scores[found] = float(score)
    if not scores:
        raise LlafsError(f"no related class is given for {class_name!r}: name some, such as zebra=0.9,horse=0.6.")
    ranked = tuple(RelatedClass(name, scores[name]) for name in sorted(scores, key=scores.get, reverse=True))
    return RelatedClasses(class_name, ranked, "given", "the user")


def _pairs(related: Mapping[str, float] | Iterable[str] | str) -> list[tuple[str, float]]:
    if isinstance(related, Mapping):
        return list(related.items())
    if not isinstance(related, Iterable):
        raise LlafsError(f"related must name annotated classes, such as 'zebra=0.9,horse', not {told(related)}.")
    if not isinstance(related, str):
        return [(name, 1.0) for name in related]
    found = []
    for part in split_names(related):
        name, _, score = part.rpartition("=")
        try:
            found.append((name.strip(), float(score)) if name else (part, 1.0))
        except ValueError:
            raise LlafsError(f"the score in {part!r} is no number: write it as in zebra=0.9,horse=0.6.") from None
    return found


# --- what is done with relations -------------------------------------------------------------------------------------


def merge_by_mean_rank(samples: Sequence[RelatedClasses]) -> RelatedClasses:
    """Several answers to one question as one: ordered by mean rank, with the mean score.

    An answer of n classes gives a class that it does not name rank n + 1 and score 0. Equal mean ranks are ordered by
    the mean score. Merging copies of one answer gives that answer. One that names nothing (it was refused, or of no
    use) has no vote.

    Raises:
        LlafsError: no sample, or samples of several classes.
    """
    if len({s.query_class for s in samples}) != 1:
        raise LlafsError("to be merged, answers must be about one and the same class.")
    voting = [s for s in samples if s.ranked]
    lost = len(samples) - len(voting)
    without = (f"{lost} of {len(samples)} samples named no class and have no vote",) if voting and lost else ()
    names = list(dict.fromkeys(name for s in voting for name in s.names))
    ranks = {n: np.mean([s.names.index(n) if n in s.names else len(s.names) for s in voting]) for n in names}
    scores = {n: float(np.mean([s.scores.get(n, 0.0) for s in voting])) for n in names}
    reasons = {r.name: r.reason for s in reversed(samples) for r in s.ranked if r.reason}
    order = sorted(names, key=lambda n: (ranks[n], -scores[n]))
    ranked = tuple(RelatedClass(n, scores[n], reasons.get(n, "")) for n in order)
    by = samples[0].provenance + (f" ({len(samples)} samples, by mean rank)" if len(samples) > 1 else "")
    merged = joined(replace(samples[0], ranked=ranked, provenance=by), samples)
    return replace(merged, notes=(*merged.notes, *without))


def joined(answer: RelatedClasses, asked: Sequence[RelatedClasses], *notes: str) -> RelatedClasses:
    """`answer`, with all that was said, noted and paid for in the answers that led to it."""
    return replace(
        answer,
        source="live" if any(a.source == "live" for a in asked) else asked[0].source,
        raw="\n\n".join(a.raw for a in asked),
        dropped=tuple(d for a in asked for d in a.dropped),
        notes=tuple(dict.fromkeys((*notes, *(n for a in asked for n in a.notes)))),
        calls=tuple(c for a in asked for c in a.calls),
    )


def relation_matrix(related: Mapping[str, RelatedClasses], columns: Sequence[str]) -> np.ndarray:
    """[classes asked about, columns] scores in [0, 1]; 0 where an answer does not name the column's class."""
    rows = [a.scores for a in related.values()]
    return np.array([[scores.get(c, 0.0) for c in columns] for scores in rows]).reshape(len(rows), len(columns))


def save_related(run: RunFolder, related: Mapping[str, RelatedClasses], fold: int) -> None:
    """Write `related_classes.json`: novel class → its related base classes, with raw answer, provenance and cost."""
    with run.writing("related_classes.json", {"dataset": run.dataset, "fold": fold}) as path:
        write_json(path, {name: asdict(answer) for name, answer in related.items()})


def load_related(run: RunFolder) -> dict[str, RelatedClasses]:
    """Read `related_classes.json` and check that it was made for the run's fold."""
    path = run.require("related_classes.json", dataset=run.dataset, fold=run.fold)
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {name: _from_dict(entry) for name, entry in stored.items()}


def _from_dict(entry: dict) -> RelatedClasses:
    parts = {
        "ranked": tuple(RelatedClass(**r) for r in entry["ranked"]),
        "dropped": tuple(entry["dropped"]),
        "notes": tuple(entry["notes"]),
        "calls": tuple(Call(**c) for c in entry["calls"]),
    }
    return RelatedClasses(**entry | parts)
