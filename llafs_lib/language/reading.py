"""From text to the lists of names in it: JSON in any wrapping, else bullets, tables, headings, or names between commas.

A language model writes more than its answer: thoughts, drafts, the candidates once more, what it does not mean. Every
list keeps the words that introduce it, so that `parsing` can tell which one is the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

NAME_KEYS = ("class", "name", "category", "label", "object", "candidate")
SCORE_KEYS = ("score", "similarity", "confidence", "rating")
SCORED, NAMED, WRITTEN = 0, 1, 2  # forms of a list, the asked-for one first

_MARK = re.compile(
    r"[<\[◁]\s*(/?)\s*(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)[>\]▷]", re.I
)
_BRACKET = re.compile(r"[\[{]")
_FINAL = re.compile(r"<\|channel\|>\s*final\s*<\|message\|>")  # after which gpt-oss answers
_ITEM = re.compile(r"^([ \t]*)(?:\**\d+\s*[.):–-][ \t]*(?!\d)|[-*+•–◦▪‣●·][ \t]+)(.+)$")
_COUNTED = re.compile(r"^\W*(?!1\b)\d+\s*[.):]")  # an item that goes on with the numbers of those before it
_AFTERWARDS = "\n"  # stands in the place of words that introduce a list
_ROW = re.compile(r"^[ \t]*\|(?:[ \t]*\d+[ \t]*\|)?(.+?)\|?[ \t]*$")
_RULE = re.compile(r"^[ \t|:-]+$")
_HEADING = re.compile(r"^#+[ \t]+(.+)$")
_YAML = re.compile(
    rf"^([ \t]*-[ \t]*)(?:{'|'.join(NAME_KEYS)}):[ \t]*(.+)\n[ \t]+(?:{'|'.join(SCORE_KEYS)}):[ \t]*(\S+)", re.M
)
_BETWEEN_NAMES = re.compile(r"[,;]|\s(?:and|or|&)\s")
_AFTER_NAME = re.compile(r"\s[-–—]\s|[:(,|]")  # what may follow a name in an item
_JUST_A_SCORE = re.compile(r"[\s:(\-–—,|=]*(?:score[:=\s]*)?(\d[\d.,/ ]*%?)[\s)|.]*")
_TALK = re.compile(
    r"\b(?:i|i'm|you|it|they|we|is|are|has|have|can|could|would|too|with|but|sorry|sure|here|help)\b", re.I
)
# Words before a list that say that it is not the answer.
_NEGATED = re.compile(
    r"\b(?:not|no|non|never|unlike|cannot|dissimilar|different|exclud\w*|reject\w*|except\w*|ignor\w*|remov\w*"
    r"|dropp\w*|irrelevant|avoid\w*|wrong)\b|n['’]t\b",
    re.I,
)
_NOT_FINAL = re.compile(
    r"\b(?:draft\w*|candidates?|options|choices|given|input|vocabulary|initial\w*|first|examples?|context|thoughts?)\b",
    re.I,
)
_MOST_WORDS = 4  # of a name between commas


class Entry(NamedTuple):
    """A name as the model wrote it, what it gave as a score (None: nothing), and its reason."""

    name: str
    score: Any
    reason: str


@dataclass(frozen=True)
class NameList:
    """Names that stand together, the words that introduce them, and the form they have."""

    entries: tuple[Entry, ...]
    label: str
    form: int

    @property
    def is_negated(self) -> bool:
        """Whether its introduction says that these names are not meant."""
        return _NEGATED.search(self.label.replace("_", " ")) is not None

    @property
    def is_draft(self) -> bool:
        """Whether its introduction says that something else is the answer."""
        return _NOT_FINAL.search(self.label.replace("_", " ")) is not None


def lists_in(raw: str) -> list[list[NameList]]:
    """Every list of names in an answer, in order: those in JSON, then those in lines or else in sentences.

    An empty list in JSON counts: it says that nothing looks alike.
    """
    try:
        whole = json.loads(raw)  # before anything is taken away: a mark may stand inside a JSON string
    except (ValueError, RecursionError):
        whole = None
    if found := list(_in_value(whole, "")):
        return [found]
    text = strip_thinking(raw)
    return [_in_json(text), in_text(text)]


def strip_thinking(raw: str) -> str:
    """`raw` without what stands between <think> and </think> or such marks, also where only one of them is there."""
    if finals := list(_FINAL.finditer(raw)):
        raw = raw[finals[-1].end() :].partition("<|")[0]
    spoken, position, thinking = [], 0, False
    for mark in _MARK.finditer(raw):
        if mark[1] and not thinking:  # closed, but never opened: all that came before was thought
            spoken.clear()
        elif not mark[1] and not thinking:
            spoken.append(raw[position : mark.start()])
        position, thinking = mark.end(), not mark[1]
    return "".join([*spoken, "" if thinking else raw[position:]]).strip()


# --- JSON ------------------------------------------------------------------------------------------------------------


def first_json(text: str) -> dict | list | None:
    """The first JSON array or object in `text`; None if there is none."""
    return next((value for value, _, _ in _json_values(text)), None)


def _in_json(text: str) -> list[NameList]:
    """The lists in all JSON values of `text`. Objects outside any list are one: the list around them was cut off."""
    found, alone, label, end = [], [], "", 0
    for value, start, stop in _json_values(text):
        before = _introduction(text[end:start])
        end = stop
        if entry := _alone(value):
            alone.append(entry)
            label = label or before
        else:
            found += _in_value(value, before)
    return [*found, NameList(tuple(alone), label, _form(alone))] if alone else found


def _introduction(text: str) -> str:
    """The last words before a list: of its own sentence, without the fence."""
    text = re.sub(r"```\w*", " ", text).strip(' \t\n:*_[{"')
    return re.split(r"[.!?;\n]", text)[-1].strip()


def _json_values(text: str) -> Iterator[tuple[dict | list, int, int]]:
    """Every JSON array and object in `text`, with where it begins and ends, not looking inside those that are whole."""
    position = 0
    while bracket := _BRACKET.search(text, position):
        start = bracket.start()
        try:
            value, position = json.JSONDecoder().raw_decode(text, start)
            yield value, start, position
        except ValueError:
            position = start + 1
        except RecursionError:  # thousands of brackets in a row are no answer
            return


def _in_value(value: object, label: str) -> Iterator[NameList]:
    """The lists of names in a JSON value. In an object, the key before a list introduces it."""
    if isinstance(value, dict):
        if entry := _alone(value):
            yield NameList((entry,), label, _form([entry]))
        elif value and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value.values()):
            yield NameList(tuple(Entry(bare(k), v, "") for k, v in value.items()), label, SCORED)
        else:
            for key, inside in value.items():
                yield from _in_value(inside, f"{label} {key}")
    elif isinstance(value, list):
        entries = [entry for item in value if (entry := _entry(item))]
        if entries or not value:
            yield NameList(tuple(entries), label, _form(entries))


def _alone(value: object) -> Entry | None:
    """The entry that a whole JSON value is; None if it holds a list, which is what counts then."""
    inside = value.values() if isinstance(value, dict) else [value]
    return None if any(isinstance(v, list | dict) for v in inside) else _entry(value)


def _entry(item: object) -> Entry | None:
    """One name, with what the model said about it; None if `item` holds no name, or says that it does not count."""
    if isinstance(item, str):
        return Entry(bare(item), None, "") if bare(item) else None
    if not isinstance(item, dict) or False in [v for v in item.values() if isinstance(v, bool)]:
        return None
    name = next((item[k] for k in NAME_KEYS if isinstance(item.get(k), str)), "")
    score = next((item[k] for k in SCORE_KEYS if k in item), None)
    reason = item.get("reason")
    return Entry(bare(name), score, reason if isinstance(reason, str) else "") if bare(name) else None


def _form(entries: list[Entry]) -> int:
    return SCORED if entries and all(e.score is not None for e in entries) else NAMED


# --- text ------------------------------------------------------------------------------------------------------------


def in_text(text: str) -> list[NameList]:
    """The lists in the lines of `text`, or else in its sentences."""
    return _in_items(text) or _in_sentences(text)


def _in_items(text: str) -> list[NameList]:
    """The bulleted, numbered or tabled lines of `text`, else its headings; each group under the line above it.

    A blank line after items that stand close together ends a draft, or what is not meant. What follows may be the
    answer, if nothing else is.
    """
    lines = _YAML.sub(r"\1\2: \3", text).splitlines()
    found: list[tuple[int, str, str]] = []  # (indentation, item, the line above the group)
    label, headings, close, gap = "", [], 0, False
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        row, item, heading = _ROW.match(line), _ITEM.match(line), _HEADING.match(line)
        if not line.strip():
            gap = True
        elif _RULE.match(line) or row and "-" in following and _RULE.match(following):
            close *= 2  # the rule of a table, or the names of its columns
        elif row or item:
            if gap and close > 1 and _is_aside(label, "") and not _COUNTED.match(line):
                label = _AFTERWARDS
            close, gap = 1 if gap else close + 1, False
            found.append((0, row[1], label) if row else (len(item[1]), item[2], label))
        elif heading or line.rstrip(" *_").endswith(":") or (line.strip() and _is_aside(line, label)):
            label, close, gap = line, 0, False
            headings += [heading[1]] if heading else []
    if not found:
        entries = [entry for text in headings if (entry := _written(text))]
        return [NameList(tuple(entries), "", WRITTEN)] if entries else []
    outermost = min(indentation for indentation, _, _ in found)
    groups: dict[str, list[Entry]] = {}
    for indentation, written, above in found:
        if indentation == outermost and (entry := _written(written)):
            groups.setdefault(above, []).append(entry)
    return [NameList(tuple(e), above, WRITTEN + (above == _AFTERWARDS)) for above, e in groups.items()]


def _is_aside(line: str, label: str) -> bool:
    """Whether a line of text begins another list: it says what that is, or it ends one that does not count."""
    return line[:1].strip() != "" and any(words.search(t) for words in (_NEGATED, _NOT_FINAL) for t in (line, label))


def _in_sentences(text: str) -> list[NameList]:
    """The sentences of `text` that are nothing but names between commas, after a colon or alone.

    Lines of one name each, as some models answer, are one list.
    """
    found: list[NameList] = []
    for sentence in re.split(r"[.!?](?:\s|$)|\n", text):
        label, _, names = sentence.strip("[]{}` ").rpartition(":")
        entries = [Entry(bare(part), None, "") for part in _BETWEEN_NAMES.split(names) if bare(part)]
        if not entries or _TALK.search(names) or any(len(e.name.split()) > _MOST_WORDS for e in entries):
            continue
        if found and not label and not found[-1].label:
            found[-1] = NameList((*found[-1].entries, *entries), "", WRITTEN)
        else:
            found.append(NameList(tuple(entries), label, WRITTEN))
    return found


def _written(item: str) -> Entry | None:
    """An item's name, its score if that is all that follows, else what follows as its reason."""
    name = bare(item)
    rest = item.strip(" *_`\"'")[len(name) :].replace("*", "") if name else ""
    score = _JUST_A_SCORE.fullmatch(rest)
    return Entry(name, score[1].strip() if score else None, "" if score else rest.strip(" :–—-(),")) if name else None


def bare(item: str) -> str:
    """A name without markdown, quotes, an article, and whatever explanation follows it."""
    text = _AFTER_NAME.split(item.strip(" \t\r\n*_`\"'“”„«»[]{}"))[0].strip(" \t\r\n*_`\"'“”„«»[]{}.?!")
    return re.sub(r"^(?:an?|the)\s+", "", text, flags=re.IGNORECASE)
