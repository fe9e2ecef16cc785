"""From one question to its answer: recorded or asked, in parts where it is long, with one repair turn.

Everything a model said is kept before it is looked at, so nothing that was paid for is lost.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llafs_lib.language.parsing import ParseError, Reading, parse_related
from llafs_lib.language.prompts import MAX_NAMES_IN_ANSWER, Question
from llafs_lib.language.replay import ReplayMiss, claimed, find, is_edited, save
from llafs_lib.language.server import Server
from llafs_lib.records import Call, RelatedClasses

if TYPE_CHECKING:  # importing openai takes a second, and a replay does not need it
    from llafs_lib.language.asking import Asker
    from llafs_lib.language.client import Client

WITHHELD = ("content_filter", "refusal")  # finish reasons of an answer that asking again will not give


class Dialogue:
    """Puts questions as an `Asker` is set. Its threads share one, with one connection to the server.

    Args:
        over: the classes that the whole question is about, for the hint of what is missing.
    """

    def __init__(self, asker: Asker, over: tuple[str, ...]):
        self.asker, self.over = asker, over
        self.stop = threading.Event()  # once it is set, nothing more is asked
        self._client: Client | None = None
        self._connecting = threading.Lock()

    def close(self) -> None:
        """Give up what is on its way."""
        self.stop.set()
        if self._client is not None:
            self._client.close()

    def answer(self, question: Question, name: str, among: tuple[str, ...]) -> RelatedClasses:
        """The classes of `among` that the answer to `question` names; none if it names none, even asked twice.

        More candidates than one question holds are asked in parts. What these name is asked once more, in a question
        of its own, so that the scores are of one scale. If that names nothing, the parts' scores decide.

        Raises:
            ReplayMiss, LLMError: see `Asker.related`.
        """
        parts = question.parts()
        if len(parts) == 1:
            return self._short(question, name, among)
        asked = [self.answer(part, name, part.candidates) for part in parts]
        naming = [a for a in asked if a.ranked]
        best = {c for a in naming for c in a.names}
        finalists = tuple(c for c in question.candidates if c in best)
        how = f"{len(question.candidates):,} names are more than one question holds: asked in {len(parts)} parts"
        how += f", {len(parts) - len(naming)} of which named nothing" if len(naming) < len(parts) else ""
        if len(naming) > 1:
            asked.append(self.answer(replace(question, candidates=finalists), name, finalists))
            how += f", then over the {len(finalists)} names that these gave"
        ranked = asked[-1].ranked if len(naming) > 1 else ()
        if not ranked:
            ranked = sorted((r for a in naming for r in a.ranked), key=lambda r: -r.score)[:MAX_NAMES_IN_ANSWER]
            how += ", which named nothing; the parts' scores are used" if len(naming) > 1 else ""
        return joined(replace(asked[0], ranked=tuple(ranked)), asked, how)

    def _short(self, question: Question, name: str, among: tuple[str, ...]) -> RelatedClasses:
        """The answer to a question that is asked as a whole, and of the repair turn where there was one."""
        turns = [self._recording(question)]
        reading, problem = _read(question, turns[0][0], among)
        notes = (*_notes(turns[0][0], question), *reading.notes)
        if problem and not problem.says_none and (repair := self._repair(question, turns[0][0], problem.rejects)):
            turns.append(repair)
            first, (reading, problem) = reading, _read(question, repair[0], among)
            reading = replace(reading, dropped=(*first.dropped, *reading.dropped))
            notes = (*notes, "the first answer named no candidate; asked once more", *_notes(repair[0], question))
            notes = (*notes, *reading.notes)
        return RelatedClasses(
            query_class=name,
            ranked=reading.ranked,
            source="live" if any(now for _, now in turns) else "recorded",
            provenance=turns[0][0]["provenance"],
            raw="\n\n".join(recording["response"]["text"] for recording, _ in turns),
            dropped=reading.dropped,
            notes=notes,
            calls=tuple(_call(recording, now) for recording, now in turns if recording["request"]["model"]),
        )

    def _recording(self, question: Question) -> tuple[dict, bool]:
        """The recorded answer to a question, which is asked if there is none; and whether it was asked just now."""
        asker = self.asker
        if recording := self._found(question):
            return recording, False
        if asker.model is None or asker.mode == "replay":
            raise ReplayMiss(question, self.over, asker.is_plain)
        with claimed(question.request, asker.cache, self.stop):
            if recording := self._found(question):  # another process was faster
                return recording, False
            recording = self._connected().ask(question, asker.max_tokens)
            if asker.cache is not None:
                save(recording, asker.cache)
            return recording, True

    def _repair(self, question: Question, recording: dict, rejects: tuple[str, ...]) -> tuple[dict, bool] | None:
        """The repair turn; None where none was recorded and none may be asked for, or the answer was withheld."""
        if recording["response"].get("finish_reason") in WITHHELD:
            return None
        try:
            return self._recording(question.repaired(recording["response"]["text"], rejects))
        except ReplayMiss:
            return None

    def _found(self, question: Question) -> dict | None:
        """What is recorded. An answer that was cut off does not count where more tokens may be spent on it now."""
        asker = self.asker
        found = None if asker.mode == "refresh" else find(question.request, asker.cache)
        if found and asker.model and asker.mode != "replay" and found["response"].get("finish_reason") == "length":
            limit = _limit(found) or math.inf
            return None if (asker.max_tokens or math.inf) > limit else found
        return found

    def _connected(self) -> Client:
        with self._connecting:
            if self._client is None:
                from llafs_lib.language.client import Client

                asker = self.asker
                server = Server.find(asker.base_url, asker.api_key, timeout=asker.timeout, retries=asker.retries)
                self._client = Client(server, asker._budget, self.stop)
            return self._client


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


def _read(question: Question, recording: dict, among: tuple[str, ...]) -> tuple[Reading, ParseError | None]:
    """What was understood of an answer, and the error if that is nothing."""
    try:
        return parse_related(recording["response"]["text"], question.class_name, among), None
    except ParseError as problem:
        return Reading((), problem.dropped, ()), problem


def _notes(recording: dict, question: Question) -> tuple[str, ...]:
    """What did not go as planned in one call."""
    finish = recording["response"].get("finish_reason")
    sent = recording.get("sent") or {"temperature": question.temperature}
    said = {
        "length": "the answer was cut off; what was whole in it is used",
        "content_filter": "the answer was withheld by the server's content filter",
        "refusal": "the model refused to answer",
    }
    limit = _limit(recording)
    used = (recording["response"].get("usage") or {}).get("completion_tokens") or 0
    ignored = (f"the server ignored the limit of {limit} tokens: it counted {used}",) if limit and used > limit else ()
    dropped = question.temperature is not None and sent.get("temperature") is None
    refused = ("the model takes no temperature; its own was used",) if dropped else ()
    edited = ("the recorded answer was edited after it was given",) if is_edited(recording) else ()
    return (*((said[finish],) if finish in said else ()), *refused, *ignored, *edited)


def _limit(recording: dict) -> int | None:
    """The most tokens that an answer was allowed; None if that was left to the server."""
    sent = recording.get("sent") or {}
    return sent.get("max_completion_tokens") or sent.get("max_tokens")


def _call(recording: dict, live: bool) -> Call:
    usage = recording["response"].get("usage") or {}
    return Call(recording["request"]["model"], usage.get("prompt_tokens"), usage.get("completion_tokens"), live)
