"""From whatever a language model wrote to a ranked tuple of known classes.

    lists_in (reading) → the list that answers → look every name up → bring the scores to 0–1 → rank

Only classes of the given vocabulary come out, so nothing an answer says can reach further than a class name.
"""

from __future__ import annotations

import functools
import json
import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from llafs_lib.classes import ALIASES, find_class, normalise
from llafs_lib.errors import LlafsError
from llafs_lib.language.prompts import MAX_NAMES_IN_ANSWER
from llafs_lib.language.reading import WRITTEN, Entry, NameList, first_json, in_text, lists_in
from llafs_lib.records import RelatedClass

_REFUSED = re.compile(r"^\W*(?:no|not|none|never|excluded|rejected|✗|❌)\b", re.I)  # said about one item
_SET_PHRASE = re.compile(r"^(?:(?:an?|the|some)\s+)?(?:pair|set|kind|type|piece|slice)s?\s+of\s+", re.I)
_IRREGULAR = {"people": "person", "mice": "mouse", "knives": "knife"}
_SHOWN = 64  # characters of a name in a message
_PRIVATE_USE, _MOST_STAND_INS = 0xF0000, 65_534  # characters that mean nothing by themselves


class ParseError(LlafsError):
    """An answer from which no class of the vocabulary could be read.

    `rejects` are the names that it gave instead, `dropped` says of each why it does not count. `says_none`: the answer
    was understood, and says that nothing looks alike.
    """

    def __init__(
        self, message: str, rejects: tuple[str, ...] = (), dropped: tuple[str, ...] = (), says_none: bool = False
    ) -> None:
        super().__init__(message)
        self.rejects, self.dropped, self.says_none = rejects, dropped, says_none


@dataclass(frozen=True)
class Reading:
    """What was understood of an answer: its classes, best first; what was dropped and why; what was not as asked."""

    ranked: tuple[RelatedClass, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


def parse_related(raw: str, query_class: str, vocabulary: tuple[str, ...]) -> Reading:
    """The classes of `vocabulary` that the answer `raw` names.

    Equal scores keep the order of the answer. If no class has a score, or it is not certain what the scores mean, the
    i-th of n gets 1 − (i − 1) / n: from 1 down to 1/n in equal steps. More classes than were asked for are cut.

    Raises:
        ParseError: if no class of `vocabulary` other than `query_class` is found.
    """
    text, stand_ins = _with_stand_ins(raw, (*vocabulary, query_class))
    names = tuple(stand_ins.get(c, c) for c in vocabulary)
    written = str.maketrans({char: name for name, char in stand_ins.items()})

    def plain(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(text.translate(written) for text in texts)

    chosen, notes = _answering(lists_in(text), names)
    kept, dropped = _choose(chosen.entries if chosen else (), stand_ins.get(query_class, query_class), names)
    if not kept:
        raise ParseError(
            f"The answer about {query_class!r} names no class of the list. It begins with {raw[:200]!r}.",
            rejects=plain(entry.name for entry in chosen.entries) if chosen else (),
            dropped=plain(dropped),
            says_none=chosen is not None and not chosen.entries,
        )
    ranked, unscored, about_scores = _rank(kept)
    notes = [*notes, *about_scores]
    if len(ranked) > MAX_NAMES_IN_ANSWER:
        notes.append(f"the answer names {len(ranked)} classes; the first {MAX_NAMES_IN_ANSWER} are used")
    best = [(r.name.translate(written), r.score, r.reason.translate(written)) for r in ranked[:MAX_NAMES_IN_ANSWER]]
    return Reading(tuple(RelatedClass(*r) for r in best), plain((*dropped, *unscored)), plain(notes))


# --- names that are no plain words -----------------------------------------------------------------------------------


def _with_stand_ins(raw: str, names: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """`raw` with one character for each of those `names` in it that would be cut in reading; and these, with theirs.

    Such are "fork, plastic", "bat (animal)", 'monitor 24"', "salt and pepper". Longer names go first.
    """
    patterns = _cut_in_reading(names, first_json(raw) is not None)
    chars = {name: chr(_PRIVATE_USE + number) for number, name in enumerate(patterns)}
    seen = raw.casefold()
    for name, (part, pattern) in patterns.items():
        if part in seen:
            raw = pattern.sub(lambda match, name=name: chars.get(match[0], chars[name]), raw)
    return raw, chars


@functools.lru_cache(maxsize=64)
def _cut_in_reading(names: tuple[str, ...], in_json: bool) -> dict[str, tuple[str, re.Pattern[str]]]:
    """Each name that the readers of lists would cut → a part of it, and what finds it as text or inside of JSON."""
    found = {}
    for name in sorted(set(names), key=lambda n: (-len(n), n))[:_MOST_STAND_INS]:
        if not name.isalpha() and [e.name for listed in in_text(name) for e in listed.entries] != [name]:
            words = re.split(r"[\s_-]+", name.strip())
            forms = [{json.dumps(w, ensure_ascii=a)[1:-1] for a in (True, False)} if in_json else {w} for w in words]
            either = ("|".join(map(re.escape, sorted(f))) for f in forms)
            pattern = r"(?<!\w)" + r"[\s_-]+".join(f"(?:{e})" for e in either) + r"(?!\w)"
            found[name] = max(re.findall("[a-z0-9]*", name.casefold()), key=len), re.compile(pattern, re.I)
    return found


# --- which list ------------------------------------------------------------------------------------------------------


def _answering(ways: list[list[NameList]], vocabulary: tuple[str, ...]) -> tuple[NameList | None, list[str]]:
    """The list that answers the question, and a note if another one might.

    Lists of what is not meant never count, and drafts count only if there is nothing else. JSON goes before text, a
    better form before a worse one, and among equals the last list wins.
    """
    meant = [[x for x in lists if not x.is_negated and not _restates(x, vocabulary)] for lists in ways]
    final = [[x for x in lists if not x.is_draft] for lists in meant]
    lists = next(filter(None, (*final, *meant)), [])
    named = [x for x in lists if x.entries] or lists
    if not named:
        return None, []
    best = [x for x in named if x.form == min(x.form for x in named)]
    names = {tuple(e.name.casefold() for e in x.entries) for x in best}
    notes = [f"the answer holds {len(names)} different lists; the last one is used"] if len(names) > 1 else []
    gone = [x.label[-_SHOWN:] for lists in ways for x in lists if x.is_negated]
    notes += [f"the list after {label!r} is left out" for label in dict.fromkeys(gone)]
    if best[-1].is_draft:
        notes.append(f"the only list is introduced by {best[-1].label[-_SHOWN:]!r}")
    elif best[-1].form > WRITTEN:
        notes.append("the list after a blank line is taken for the answer")
    return best[-1], notes


def _restates(listed: NameList, vocabulary: tuple[str, ...]) -> bool:
    """Whether a list repeats the candidates: it is long, and in their order."""
    if len(listed.entries) <= MAX_NAMES_IN_ANSWER or any(e.score is not None for e in listed.entries):
        return False
    found = [find_class(entry.name, vocabulary) for entry in listed.entries]
    places = [vocabulary.index(c) for c in dict.fromkeys(found) if c is not None]
    return len(places) > MAX_NAMES_IN_ANSWER and places == sorted(places)


# --- which classes ---------------------------------------------------------------------------------------------------


def _choose(
    given: tuple[Entry, ...], query_class: str, vocabulary: tuple[str, ...]
) -> tuple[dict[str, Entry], list[str]]:
    """Class of `vocabulary` → the entry that means it, and what was dropped and why."""
    itself = _look_up(query_class, vocabulary)
    kept: dict[str, Entry] = {}
    dropped = []
    for entry in given:
        name, shown = _look_up(entry.name, vocabulary), entry.name[:_SHOWN]
        is_itself = None not in (name, itself) and normalise(name) == normalise(itself)
        if is_itself or (name is None and _look_up(entry.name, (query_class,))):
            dropped.append(f"{shown}: the class itself")
        elif name is None:
            dropped.append(f"{shown}: not in the list")
        elif name in kept:
            dropped.append(f"{shown}: named before")
        elif _REFUSED.search(entry.reason) and entry.score is None:
            dropped.append(f"{shown}: the answer says no")
        else:
            kept[name] = entry
    return kept, dropped


def _look_up(name: str, vocabulary: tuple[str, ...]) -> str | None:
    """The class meant by `name`: as it stands, without signs that are no letters, or in another spelling."""
    if found := find_class(name, vocabulary):
        return found
    letters = "".join(c for c in name if unicodedata.category(c) not in ("Cf", "So", "Sk", "Cc") and c != "\ufe0f")
    text = _SET_PHRASE.sub("", letters.strip())
    spellings = (_by_singular(vocabulary).get(singular) for singular in _singulars(text))
    return find_class(text, vocabulary) or next((found for found in spellings if found), None)


@functools.lru_cache(maxsize=64)
def _by_singular(vocabulary: tuple[str, ...]) -> dict[str, str]:
    """Possible singular → class, of the classes and of their aliases; what comes first has it."""
    found: dict[str, str] = {}
    for name in (*vocabulary, *ALIASES):
        if meant := find_class(name, vocabulary):
            for singular in _singulars(name):
                found.setdefault(singular, meant)
    return found


def _singulars(name: str) -> tuple[str, ...]:
    """What may be the singular of a name, in one word: "tooth brushes" gives, among others, "toothbrush"."""
    text = normalise(name)
    word = _IRREGULAR.get(text, text).replace(" ", "")
    return word, *(word.removesuffix(ending) for ending in ("s", "es") if word.endswith(ending))


# --- which order -----------------------------------------------------------------------------------------------------


def _rank(kept: dict[str, Entry]) -> tuple[list[RelatedClass], list[str], list[str]]:
    """The classes by falling score, what has none, and what is to be said about the scores."""
    given = {name: _number(entry.score) for name, entry in kept.items()}
    without = [name for name, entry in kept.items() if entry.score is not None and given[name] is None]
    known = {name: score for name, score in given.items() if score is not None}
    unscored = [f"{name}: its score is not a number" for name in given if name not in known] if known else []
    scores, notes = _to_unit(known)
    if not known:
        scores = dict.fromkeys(kept)
        notes = ["no score is a number; the order of the answer is used"] if without else []
    order = sorted(scores, key=lambda name: -(known.get(name) or 0.0))
    if None in scores.values():
        scores = {name: 1 - i / len(order) for i, name in enumerate(order)}
    return [RelatedClass(name, scores[name], kept[name].reason) for name in order], unscored, notes


def _number(value: object) -> float | None:
    """A score as a number, also one written as "0.7", "0,7", "70%" or "7/10"; None for anything else and for NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip().replace(",", ".")
    try:
        whole, _, part = text.removesuffix("%").partition("/")
        number = float(whole) / (float(part) if part else 1) / (100 if text.endswith("%") else 1)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _to_unit(scores: dict[str, float]) -> tuple[dict[str, float | None], list[str]]:
    """Scores in [0, 1], or None for all where their scale is not certain; and a note if they were not given so."""
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    if 0 <= low and high <= 1:
        return dict(scores), []
    small = [s for s in scores.values() if 0 < s < 1]
    for top in (10, 100):
        if 0 <= low and top / 2 < high <= top and not small:
            return {n: s / top for n, s in scores.items()}, [f"the scores are taken as out of {top}"]
    return dict.fromkeys(scores), ["it is not certain what the scores mean; their order is used"]
