"""From a class to its answer: recorded or asked, in parts where the question is long, with one repair turn.

Everything a model said is kept before it is looked at, so nothing that was paid for is lost.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import TYPE_CHECKING

from llafs_lib.classes import COCO_CLASSES, DATASETS, find_class, normalise
from llafs_lib.errors import LlafsError
from llafs_lib.language.parsing import ParseError, Reading, parse_related
from llafs_lib.language.prompts import MAX_NAMES_IN_ANSWER, Question, check_class_name
from llafs_lib.language.relations import by_text, joined, merge_by_mean_rank
from llafs_lib.language.replay import ReplayMiss, claimed, find, is_edited, save
from llafs_lib.language.server import Server
from llafs_lib.progress import track
from llafs_lib.records import Call, RelatedClasses

if TYPE_CHECKING:  # importing openai takes a second, and a replay does not need it
    from llafs_lib.language.asking import Asker
    from llafs_lib.language.client import Client

# The lists of classes that are asked about as a part of COCO's: one recorded answer serves all of them.
WITH_COCO_NAMES = {b.classes for b in DATASETS.values() if set(b.classes) <= set(COCO_CLASSES)}
ENOUGH = 2  # classes that may be used: with fewer left of an answer, it is asked for over these classes alone
FINISHED = {  # the reasons why an answer ended that are worth a note
    "length": "the answer was cut off; what was whole in it is used",
    "content_filter": "the answer was withheld by the server's content filter",
    "refusal": "the model refused to answer",
}
WITHHELD = ("content_filter", "refusal")  # asking again will not give such an answer


class Dialogue:
    """One call of `Asker.related_to_each`: its threads share the connection to the server.

    Args:
        vocabulary: the classes that an answer may name.
        base: those of them that may be used; None for all.
    """

    def __init__(self, asker: Asker, vocabulary: tuple[str, ...], base: Iterable[str] | None):
        self.asker, self.vocabulary = asker, tuple(dict.fromkeys(vocabulary))
        usable = set(self.vocabulary if base is None else base)
        self.allowed = tuple(c for c in self.vocabulary if c in usable)
        self.over = COCO_CLASSES if self.vocabulary in WITH_COCO_NAMES else self.vocabulary
        self.stop = threading.Event()  # once it is set, nothing more is asked
        self._client: Client | None = None
        self._connecting = threading.Lock()

    def answers(self, names: list[str]) -> tuple[dict[str, RelatedClasses], dict[str, LlafsError]]:
        """What was answered, and for the other classes why not, several at once."""
        answers: dict[str, RelatedClasses] = {}
        failures: dict[str, LlafsError] = {}

        def answer(name: str) -> None:
            if any(is_for_all(error) for error in list(failures.values())):
                return
            try:
                answers[name] = self._related(name)
            except LlafsError as error:
                failures[name] = error

        asker = self.asker
        live = asker.model is not None and asker.mode != "replay" and len(names) > 1
        pool = ThreadPoolExecutor(asker.at_once)
        try:
            done = as_completed([pool.submit(answer, name) for name in names])
            for _ in track(names, f"asking {asker.model}", "class") if live else names:
                next(done).result()
        finally:  # also after Ctrl-C: what is on its way is given up
            self.stop.set()
            pool.shutdown(cancel_futures=True)
            if self._client is not None:
                self._client.close()
        return answers, failures

    def _related(self, name: str) -> RelatedClasses:
        """The answer about one class: of several samples merged, restricted to what may be used, or replaced."""
        question = self._question(check_class_name(name))
        answer = self._sampled(question, name, self.over)
        usable = answer.restrict_to(self.allowed)
        if len(usable.ranked) < min(ENOUGH, len(answer.ranked)):
            usable = self._over_the_usable(question, answer, usable)
        if usable.ranked:
            return usable
        # Text similarity in the place of an answer that cannot be used, with all that is known about that answer.
        text = by_text(name, self.allowed)
        why = "names only classes that may not be used" if answer.ranked else "names no class of the list"
        provenance = f"{text.provenance}, because this answer {why}: {usable.provenance}"
        said = f"the related classes come from the {text.provenance}, because the answer {why}"
        notes = (*usable.notes, said, *text.notes)
        return replace(usable, ranked=text.ranked, source="fallback", provenance=provenance, notes=notes)

    def _question(self, name: str) -> Question:
        """The question to ask; without a model the one over COCO's classes, where only that has a recorded answer."""
        asker = self.asker
        temperature = None if asker.model is None else asker.temperature
        questions = []
        for candidates in dict.fromkeys((self.over, COCO_CLASSES)):
            itself = find_class(name, candidates)
            known_as = itself or find_class(name, COCO_CLASSES) or normalise(name)
            questions.append(Question(asker.prompt, known_as, _without(itself, candidates), asker.model, temperature))
        if asker.model is not None:
            return questions[0]
        # The package's recordings first: what a model was once asked here must not change what is replayed without one.
        for cache in (None, asker.cache):
            for question in questions:
                if found := find(question.parts()[0].request, cache):
                    # All parts of a long question are replayed from one model.
                    asked = {k: found["request"][k] for k in ("model", "temperature")} if question.is_long else {}
                    return replace(question, **asked)
        return questions[0]

    def _sampled(self, question: Question, name: str, among: tuple[str, ...]) -> RelatedClasses:
        samples = [replace(question, sample=i) for i in range(self.asker.samples)]
        return merge_by_mean_rank([self._answer(sample, name, among) for sample in samples])

    def _over_the_usable(self, question: Question, answer: RelatedClasses, usable: RelatedClasses) -> RelatedClasses:
        """The answer over the classes that may be used alone, where the one over all leaves next to none of them."""
        gone = ", ".join(c for c in answer.names if c not in self.allowed)
        said = f"of the {len(answer.ranked)} classes in the answer, these may not be used here: {gone}"
        usable = replace(usable, notes=(*usable.notes, said))
        candidates = _without(find_class(question.class_name, self.vocabulary), self.allowed)
        if not candidates or candidates == question.candidates:
            return usable
        try:
            again = self._sampled(replace(question, candidates=candidates), usable.query_class, candidates)
        except ReplayMiss:
            return usable
        how = f"asked once more, over the {len(candidates)} that may be used"
        return joined(again if again.ranked else usable, [replace(usable, notes=(*usable.notes, how)), again])

    def _answer(self, question: Question, name: str, among: tuple[str, ...]) -> RelatedClasses:
        """The classes of `among` that the answer to `question` names; none if it names none, even asked twice.

        More candidates than one question holds are asked in parts. What these name is asked once more, in a question
        of its own, so that the scores are of one scale. If that names nothing, the parts' scores decide.
        """
        parts = question.parts()
        if len(parts) == 1:
            return self._short(question, name, among)
        asked = [self._answer(part, name, part.candidates) for part in parts]
        naming = [a for a in asked if a.ranked]
        best = {c for a in naming for c in a.names}
        finalists = tuple(c for c in question.candidates if c in best)
        how = f"{len(question.candidates):,} names are more than one question holds: asked in {len(parts)} parts"
        how += f", {len(parts) - len(naming)} of which named nothing" if len(naming) < len(parts) else ""
        if len(naming) > 1:
            asked.append(self._answer(replace(question, candidates=finalists), name, finalists))
            how += f", then over the {len(finalists)} names that these gave"
        ranked = asked[-1].ranked if len(naming) > 1 else ()
        if not ranked:
            ranked = sorted((r for a in naming for r in a.ranked), key=lambda r: -r.score)[:MAX_NAMES_IN_ANSWER]
            how += ", which named nothing; the parts' scores are used" if len(naming) > 1 else ""
        return joined(replace(asked[0], ranked=tuple(ranked)), asked, how)

    def _short(self, question: Question, name: str, among: tuple[str, ...]) -> RelatedClasses:
        """The answer to a question that is asked as a whole, and of the repair turn where there was one."""
        first, problem = self._turn(question, name, among)
        if problem is None or problem.says_none:
            return first
        try:
            second, _ = self._turn(question.repaired(first.raw, problem.rejects), name, among)
        except ReplayMiss:
            return first
        first = replace(first, notes=(*first.notes, "the first answer named no candidate; asked once more"))
        return joined(replace(second, provenance=first.provenance), [first, second])

    def _turn(self, question: Question, name: str, among: tuple[str, ...]) -> tuple[RelatedClasses, ParseError | None]:
        """One answer, and the error if it names nothing, though another one might."""
        recording, is_new = self._recording(question)
        response, model, problem = recording["response"], recording["request"]["model"], None
        try:
            reading = parse_related(response["text"], question.class_name, among)
        except ParseError as error:
            reading = Reading((), error.dropped, ())
            problem = None if response.get("finish_reason") in WITHHELD else error
        usage = response.get("usage") or {}
        call = Call(model, usage.get("prompt_tokens"), usage.get("completion_tokens"), is_new)
        answer = RelatedClasses(
            query_class=name,
            ranked=reading.ranked,
            source="live" if is_new else "recorded",
            provenance=recording["provenance"],
            raw=response["text"],
            dropped=reading.dropped,
            notes=(*_notes(recording, question), *reading.notes),
            calls=(call,) if model else (),
        )
        return answer, problem

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


def is_for_all(error: LlafsError) -> bool:
    """Whether the next question would fail in the same way."""
    return getattr(error, "for_all", False)


def _without(itself: str | None, candidates: tuple[str, ...]) -> tuple[str, ...]:
    """The `candidates` but the class itself, in whatever spelling."""
    return tuple(c for c in candidates if itself is None or normalise(c) != normalise(itself))


def _notes(recording: dict, question: Question) -> list[str]:
    """What did not go as planned in one call."""
    response, limit = recording["response"], _limit(recording)
    sent = recording.get("sent") or {"temperature": question.temperature}
    used = (response.get("usage") or {}).get("completion_tokens") or 0
    notes = [FINISHED[response["finish_reason"]]] if response.get("finish_reason") in FINISHED else []
    if question.temperature is not None and sent.get("temperature") is None:
        notes.append("the model takes no temperature; its own was used")
    if limit and used > limit:
        notes.append(f"the server ignored the limit of {limit} tokens: it counted {used}")
    if is_edited(recording):
        notes.append("the recorded answer was edited after it was given")
    return notes


def _limit(recording: dict) -> int | None:
    """The most tokens that an answer was allowed; None if that was left to the server."""
    sent = recording.get("sent") or {}
    return sent.get("max_completion_tokens") or sent.get("max_tokens")
