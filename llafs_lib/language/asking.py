"""The one entry point of this room: which classes look like this one?

recorded answer → else a live one → parse → one repair turn where nothing in it was usable → else text similarity

`Asker` does it for one class or for all of a fold, and counts what it costs. Everything a model said is kept before it
is looked at, so nothing that was paid for is lost.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llafs_lib.classes import COCO_CLASSES, find_class, normalise
from llafs_lib.errors import LlafsError
from llafs_lib.language.cost import MAX_TOKENS, Budget, Price, load_prices
from llafs_lib.language.parsing import ParseError, Reading, parse_related
from llafs_lib.language.prompts import CONSTRAINED, Prompt, Question, check_class_name
from llafs_lib.language.relations import by_text, merge_by_mean_rank
from llafs_lib.language.replay import DEFAULT_CACHE, ReplayMiss, claimed, find, save
from llafs_lib.language.server import Server
from llafs_lib.progress import track
from llafs_lib.records import Call, RelatedClasses
from llafs_lib.settings import LLM_MODES

if TYPE_CHECKING:  # importing openai takes a second, and a replay does not need it
    from llafs_lib.language.client import Client

WITHHELD = ("content_filter", "refusal")  # finish reasons of an answer that asking again will not give


class Unanswered(LlafsError):
    """Some of several classes got no answer. `answers` holds those that did, `failures` the errors of the others."""

    def __init__(self, answers: Mapping[str, RelatedClasses], failures: Mapping[str, LlafsError], asked: int) -> None:
        self.answers, self.failures = dict(answers), dict(failures)
        name, first = next(iter(failures.items()))
        again = " What was answered is kept: run again to ask for the rest only."
        super().__init__(
            f"{asked - len(answers)} of {asked} classes got no answer, the first of them {name!r}: {first}"
            + ("" if isinstance(first, ReplayMiss) else again)
        )


@dataclass
class Asker:
    """Asks which classes look like others.

    Args:
        model: the model to ask, by the name that its server knows; None asks none and replays recorded answers.
        mode: "auto" looks for a recorded answer of `model` and asks if there is none; "replay" never asks; "refresh"
            always asks, and replaces what was recorded.
        prompt: the question that is put.
        cache: the folder where live answers are kept and looked for; None for neither.
        base_url, api_key: the server, if not OPENAI_BASE_URL's or OpenAI; its key, if not OPENAI_API_KEY.
        temperature: 0 asks for the likeliest answer; None leaves it to the server.
        samples: ask so many times (with a temperature above 0) and merge by mean rank.
        timeout, retries: seconds for each try, and further tries; see `server.Server`.
        at_once: the most calls on their way at any time.
        budget: US dollars that this object may spend, all its threads together; 0 sets no limit. Another object or
            process has a budget of its own. See `cost.Budget`.
        max_tokens: the most tokens of one answer; None means 2,000 if there is a budget, else the server decides.
        prices: model → `Price`; by default those of prices.json.
    """

    model: str | None = None
    mode: str = "auto"
    prompt: Prompt = CONSTRAINED
    cache: Path | str | None = DEFAULT_CACHE
    base_url: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    temperature: float | None = 0.0
    samples: int = 1
    timeout: float = 60.0
    retries: int = 2
    at_once: int = 8
    budget: float = 0.0
    max_tokens: int | None = None
    prices: Mapping[str, Price] | None = None
    _budget: Budget | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.mode not in LLM_MODES:
            raise LlafsError(f"mode must be one of {', '.join(LLM_MODES)}, not {self.mode!r}.")
        if self.mode == "refresh" and not self.model:
            raise LlafsError('mode "refresh" asks a model anew: give model="<name of a model>".')
        for name in ("samples", "at_once"):
            if getattr(self, name) < 1:
                raise LlafsError(f"{name} must be at least 1, not {getattr(self, name)}.")
        self.model = self.model or None
        if self.prices is None:
            self.prices = load_prices()
        if self.budget:
            self._budget = Budget(self.budget, self.prices)
            self.max_tokens = self.max_tokens or MAX_TOKENS

    @property
    def spent(self) -> float:
        """US dollars spent so far: for answers, and the most that lost requests may have cost. 0 without a budget."""
        return 0.0 if self._budget is None else self._budget.spent

    def related(
        self, class_name: str, vocabulary: tuple[str, ...], base: Iterable[str] | None = None
    ) -> RelatedClasses:
        """The classes that look like `class_name`, most alike first.

        Args:
            class_name: any name; of a class of COCO or PASCAL also an alias ("sofa").
            vocabulary: the classes that the answer may name. If all are COCO's, the question is put over all of
                COCO's, so that one recorded answer serves every data set and fold with COCO's names.
            base: keep these only (a fold's base classes); None keeps all of `vocabulary`.

        Returns: an answer without any usable name, even after asking twice, is replaced by text similarity: its
            `source` is then "fallback", and its `provenance` says why.

        Raises:
            ClassNameError: the name is not fit to be sent to a model.
            ReplayMiss: no answer is recorded and no model may be asked.
            LLMError: the model cannot be asked, gives no answer, or might cost more than is left of the budget.
        """
        return self.related_to_each([class_name], vocabulary, base)[class_name]

    def related_to_each(
        self, class_names: Iterable[str], vocabulary: tuple[str, ...], base: Iterable[str] | None = None
    ) -> dict[str, RelatedClasses]:
        """`related` for many classes, several at once, with a bar where a model is asked.

        An error that concerns one class does not stop the others; one that concerns all (no credit, a wrong key) does.

        Raises:
            Unanswered: some class got no answer; the answers of the others are in it, and kept in the cache.
        """
        names = list(dict.fromkeys(class_names))
        answers, failures = _Run(self, tuple(vocabulary), base).answers(names)
        hopeless = [error for error in failures.values() if _is_for_all(error)]
        if len(names) == 1 or (hopeless and not answers):
            for error in hopeless or failures.values():
                raise error
        if failures:
            answered, failed = ({n: some[n] for n in names if n in some} for some in (answers, failures))
            raise Unanswered(answered, failed, len(names))
        return {name: answers[name] for name in names}


class _Run:
    """One call of `Asker.related_to_each`: what its threads share."""

    def __init__(self, asker: Asker, vocabulary: tuple[str, ...], base: Iterable[str] | None):
        self.asker, self.vocabulary = asker, vocabulary
        self.allowed = set(vocabulary) & set(vocabulary if base is None else base)
        # One recorded answer over all of COCO's classes serves every data set with COCO's names.
        self.over = COCO_CLASSES if set(vocabulary) <= set(COCO_CLASSES) else vocabulary
        self.stop = threading.Event()
        self._client: Client | None = None
        self._connecting = threading.Lock()

    # --- many classes ---

    def answers(self, names: list[str]) -> tuple[dict[str, RelatedClasses], dict[str, LlafsError]]:
        """What was answered, and for the other classes why not, several at once."""
        answers: dict[str, RelatedClasses] = {}
        failures: dict[str, LlafsError] = {}

        def answer(name: str) -> None:
            if any(_is_for_all(error) for error in list(failures.values())):
                return
            try:
                answers[name] = self.related(name)
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

    # --- one class ---

    def related(self, name: str) -> RelatedClasses:
        """The answer about one class: of several samples merged, restricted to what may be used, or replaced."""
        question = self._question(check_class_name(name))
        samples = [self._answer(replace(question, sample=i), name) for i in range(self.asker.samples)]
        answer = merge_by_mean_rank(samples)
        usable = answer.restrict_to(self.allowed)
        if usable.ranked:
            return usable
        why = "names only classes that may not be used" if answer.ranked else "names no class of the list"
        return _fallback(usable, tuple(c for c in self.vocabulary if c in self.allowed), why)

    def _question(self, name: str) -> Question:
        """The question to ask; without a model the one over COCO's classes, where only that has a recorded answer."""
        asker = self.asker
        temperature = None if asker.model is None else asker.temperature
        questions = []
        for candidates in dict.fromkeys((self.over, COCO_CLASSES)):
            itself = find_class(name, candidates)
            known_as = itself or find_class(name, COCO_CLASSES) or normalise(name)
            others = tuple(c for c in candidates if c != itself)
            questions.append(Question(asker.prompt, known_as, others, asker.model, temperature))
        if asker.model is not None:
            return questions[0]
        # The package's recordings first: what a model was once asked here must not change what is replayed without one.
        return next((q for cache in (None, asker.cache) for q in questions if find(q.request, cache)), questions[0])

    def _answer(self, question: Question, name: str) -> RelatedClasses:
        """One sample: the recording of the answer, and of the repair turn where there was one, as ranked classes."""
        turns = [self._recording(question)]
        reading, problem = self._read(question, turns[0][0])
        notes = (*_notes(turns[0][0], question), *reading.notes)
        if problem and not problem.says_none and (repair := self._repair(question, turns[0][0], problem.rejects)):
            turns.append(repair)
            first, (reading, problem) = reading, self._read(question, repair[0])
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

    def _read(self, question: Question, recording: dict) -> tuple[Reading, ParseError | None]:
        """What was understood of an answer, and the error if that is nothing."""
        try:
            return parse_related(recording["response"]["text"], question.class_name, self.over), None
        except ParseError as problem:
            return Reading((), problem.dropped, ()), problem

    # --- one question ---

    def _recording(self, question: Question) -> tuple[dict, bool]:
        """The recorded answer to a question, which is asked if there is none; and whether it was asked just now."""
        asker = self.asker
        if recording := self._found(question):
            return recording, False
        if asker.model is None or asker.mode == "replay":
            raise ReplayMiss(question.class_name, asker.model, self.over)
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


def _is_for_all(error: LlafsError) -> bool:
    return getattr(error, "for_all", False)


def _fallback(answer: RelatedClasses, vocabulary: tuple[str, ...], why: str) -> RelatedClasses:
    """Text similarity in the place of an answer that cannot be used, with all that is known about that answer."""
    text = by_text(answer.query_class, vocabulary)
    provenance = f"{text.provenance}, because this answer {why}: {answer.provenance}"
    said = f"the related classes come from the {text.provenance}, because the answer {why}"
    notes = (*answer.notes, said, *text.notes)
    return replace(answer, ranked=text.ranked, source="fallback", provenance=provenance, notes=notes)


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
    return (*((said[finish],) if finish in said else ()), *refused, *ignored)


def _limit(recording: dict) -> int | None:
    """The most tokens that an answer was allowed; None if that was left to the server."""
    sent = recording.get("sent") or {}
    return sent.get("max_completion_tokens") or sent.get("max_tokens")


def _call(recording: dict, live: bool) -> Call:
    usage = recording["response"].get("usage") or {}
    return Call(recording["request"]["model"], usage.get("prompt_tokens"), usage.get("completion_tokens"), live)
