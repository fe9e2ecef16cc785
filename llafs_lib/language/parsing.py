"""From whatever a language model wrote to a ranked tuple of known classes.

    strip_thinking → unfence → first_json, or else listed_names → look every name up → rank

Only classes of the given vocabulary come out, so nothing an answer says can reach further than a class name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from llafs_lib.classes import find_class
from llafs_lib.errors import LlafsError
from llafs_lib.records import RelatedClass

Entry = tuple[str, float | None, str]  # a name as the model wrote it, its score if it gave one, its reason

_NAME_KEYS = ("class", "name", "category")
_SCORE_KEYS = ("score", "similarity")
_LIST_ITEM = re.compile(r"^[ \t]*(?:\**\d+[.):][ \t]*(?!\d)|[-*•–][ \t]+)(.+)$", re.MULTILINE)
_BETWEEN_NAMES = re.compile(r"[,;:\n]|\.(?:\s|$)|\b(?:and|or)\b")
_AFTER_NAME = re.compile(r"\s[-–—]\s|[:(,]")  # what may follow a name in a list item
_BRACKET = re.compile(r"[\[{]")
_IRREGULAR = {"people": "person", "mice": "mouse", "knives": "knife"}


class ParseError(LlafsError):
    """An answer in which no class of the vocabulary could be found.

    `rejects` are the names that it gave instead, `dropped` says of each why it does not count.
    """

    def __init__(self, message: str, rejects: tuple[str, ...] = (), dropped: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.rejects, self.dropped = rejects, dropped


def parse_related(
    raw: str, query_class: str, vocabulary: tuple[str, ...]
) -> tuple[tuple[RelatedClass, ...], tuple[str, ...]]:
    """The classes of `vocabulary` that the answer `raw` names, best first, and what was dropped and why.

    Scores are clamped to [0, 1]; equal ones keep the order of the answer. If no class has a score, the i-th
    of n gets 1 − (i − 1) / n: from 1 down to 1/n in equal steps.

    Raises:
        ParseError: if no class of `vocabulary` other than `query_class` is found.
    """
    text = unfence(strip_thinking(raw))
    given = entries(first_json(text)) or [(name, None, "") for name in ([] if _is_json(text) else listed_names(text))]
    kept, dropped = _choose(given, query_class, vocabulary)
    if not kept:
        raise ParseError(
            f"The answer about {query_class!r} names no class of the list. It begins with {raw[:200]!r}.",
            rejects=tuple(written for written, _, _ in given),
            dropped=tuple(dropped),
        )
    ranked, unscored = _rank(kept)
    return tuple(ranked), (*dropped, *unscored)


def strip_thinking(raw: str) -> str:
    """`raw` without its <think> blocks, also where only one end of a block is there."""
    *closed, last = raw.split("</think>")
    spoken = [*(part for part in closed if "<think>" in part), last]
    return "".join(part.partition("<think>")[0] for part in spoken).strip()


def unfence(text: str) -> str:
    """The inside of the first ``` block, also of one that was cut off; `text` itself if there is none."""
    fenced = re.search(r"```(?:\w*\n)?(.*?)(?:```|\Z)", text, re.DOTALL)
    return fenced[1].strip() if fenced else text


def first_json(text: str) -> dict | list | None:
    """The first JSON value in `text` that names anything, or None. Of a list cut off: its whole objects."""
    values = [value for value in _json_values(text) if entries(value)]
    alone = [value for value in values if entries(value) == [_entry(value)]]
    if alone and alone[0] is values[0]:  # an object outside any list: the list around it never closed
        return alone
    return values[0] if values else None


def entries(value: object) -> list[Entry]:
    """What a JSON value names: in a list of names or objects, an object around one, or a single object."""
    if isinstance(value, list):
        return [entry for item in value if (entry := _entry(item))]
    if isinstance(value, dict):
        inside = next(filter(None, (entries(v) for v in value.values() if isinstance(v, list))), [])
        return inside or [alone for alone in [_entry(value)] if alone]
    return []


def listed_names(text: str) -> tuple[str, ...]:
    """The names in prose: its numbered or bulleted lines if any, else what commas and breaks divide."""
    items = _LIST_ITEM.findall(text) or _BETWEEN_NAMES.split(text)
    return tuple(name for item in items if (name := _bare(item)))


def _choose(given: list[Entry], query_class: str, vocabulary: tuple[str, ...]) -> tuple[list[Entry], list[str]]:
    """The entries that mean a class of `vocabulary`, under its name there, and what was dropped and why."""
    itself = _look_up(query_class, vocabulary)
    kept: dict[str, Entry] = {}
    dropped = []
    for written, score, reason in given:
        name = _look_up(written, vocabulary)
        if _look_up(written, (query_class,)) or (name and name == itself):
            dropped.append(f"{written[:64]}: the class itself")
        elif name is None:
            dropped.append(f"{written[:64]}: not in the list")
        elif name in kept:
            dropped.append(f"{written[:64]}: named before")
        else:
            kept[name] = (name, score, reason)
    return list(kept.values()), dropped


def _rank(kept: list[Entry]) -> tuple[list[RelatedClass], list[str]]:
    """The entries by falling score. Those without are dropped; if none has one, the rank decides."""
    if all(score is None for _, score, _ in kept):
        kept = [(name, 1 - i / len(kept), reason) for i, (name, _, reason) in enumerate(kept)]
    ranked = [RelatedClass(*entry) for entry in kept if entry[1] is not None]
    dropped = [f"{name}: its score is not a number" for name, score, _ in kept if score is None]
    return sorted(ranked, key=lambda r: -r.score), dropped


def _is_json(text: str) -> bool:
    """Whether all of `text` is JSON: one that names nothing ("[]") is an answer, not prose to look for names in."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_values(text: str) -> Iterator[dict | list]:
    """Every JSON array and object in `text`, from left to right, not looking inside those that are whole."""
    position = 0
    while bracket := _BRACKET.search(text, position):
        try:
            value, position = json.JSONDecoder().raw_decode(text, bracket.start())
            yield value
        except ValueError:
            position = bracket.start() + 1
        except RecursionError:  # thousands of brackets in a row are no answer
            return


def _entry(item: object) -> Entry | None:
    """One name, with what the model said about it; None if `item` holds no name."""
    if isinstance(item, str):
        return (_bare(item), None, "") if _bare(item) else None
    if not isinstance(item, dict):
        return None
    name = next((item[k] for k in _NAME_KEYS if isinstance(item.get(k), str)), "")
    score = next((item[k] for k in _SCORE_KEYS if k in item), None)
    reason = item.get("reason")
    return (_bare(name), _score(score), reason if isinstance(reason, str) else "") if _bare(name) else None


def _score(value: object) -> float | None:
    """A number, also one written as "0.7" or "70%", clamped to [0, 1]; None for anything else and for NaN."""
    if not isinstance(value, (int, float, str)):
        return None
    text = str(value).strip()
    try:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else min(max(number, 0.0), 1.0)


def _bare(item: str) -> str:
    """A name without markdown, quotes, an article, and whatever explanation follows it."""
    text = _AFTER_NAME.split(item.strip(" \t\r\n*_`\"'[]{}"))[0].strip(" \t\r\n*_`\"'[]{}.?!")
    return re.sub(r"^(?:an?|the)\s+", "", text, flags=re.IGNORECASE)


def _look_up(name: str, vocabulary: tuple[str, ...]) -> str | None:
    """The class meant by `name`, or by a singular of it. A wrong singular is harmless: nobody lists it."""
    text = name.casefold()
    singulars = (_IRREGULAR.get(text, text), *(text.removesuffix(ending) for ending in ("s", "es")))
    return next((found for n in (name, *singulars) if (found := find_class(n, vocabulary))), None)
