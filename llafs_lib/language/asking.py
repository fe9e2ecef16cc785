"""The one entry point of this room: which classes look like this one?

recorded answer → else a live one → parse → one repair turn where nothing in it was usable → else text similarity

`Asker` does it for one class or for all of a fold, and counts what it costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llafs_lib.errors import LlafsError
from llafs_lib.language.cost import MAX_TOKENS, Budget, Price, load_prices
from llafs_lib.language.dialogue import Dialogue, is_for_all
from llafs_lib.language.prompts import CONSTRAINED, ClassNameError, Prompt
from llafs_lib.language.relations import by_text
from llafs_lib.language.replay import DEFAULT_CACHE, ReplayMiss
from llafs_lib.records import RelatedClasses
from llafs_lib.settings import LLM_MODES


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
        budget: US dollars that this object may spend, with all threads and processes that share it (as a fork or a
            pickled copy); 0 sets no limit. Another object has a budget of its own. See `cost.Budget`.
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
    def is_plain(self) -> bool:
        """Whether `llafs ask` puts the same questions, and keeps the answers in the same place."""
        at_zero = self.model is None or self.temperature == 0
        plain = self.prompt == CONSTRAINED and self.samples == 1 and at_zero
        return plain and self.cache is not None and Path(self.cache) == DEFAULT_CACHE

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
            vocabulary: the classes that the answer may name; more than 200 are asked about in parts. For a data set
                with COCO's names the question is put over all of COCO's, so that one recorded answer serves every
                such data set and fold.
            base: keep these only (a fold's base classes); None keeps all of `vocabulary`. Where they keep next to
                nothing of an answer, it is asked for once more over these classes alone.

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
        answers, failures = Dialogue(self, tuple(vocabulary), base).answers(names)
        hopeless = [error for error in failures.values() if is_for_all(error)]
        if failures and (len(names) == 1 or (hopeless and not answers)):
            raise next(iter(hopeless or failures.values()))
        if failures:
            answered, failed = ({n: some[n] for n in names if n in some} for some in (answers, failures))
            raise Unanswered(answered, failed, len(names))
        return {name: answers[name] for name in names}


def related_or_words(
    asker: Asker, class_names: Iterable[str], vocabulary: tuple[str, ...], base: Iterable[str] | None = None
) -> dict[str, RelatedClasses]:
    """`Asker.related_to_each`; where no answer is recorded and no model is asked, like names stand in for an answer.

    The source of such a stand-in is "fallback", and its first note says what it is. It may name no class at all.

    Raises:
        LLMError: a model is to be asked and does not answer.
    """
    names, base = list(dict.fromkeys(class_names)), None if base is None else tuple(base)
    allowed = tuple(c for c in vocabulary if base is None or c in base)
    answers: dict[str, RelatedClasses] = {}
    try:
        return asker.related_to_each(names, vocabulary, base)
    except (ReplayMiss, ClassNameError):  # the only class, or the first of several
        pass
    except Unanswered as error:
        if any(not isinstance(failure, ReplayMiss | ClassNameError) for failure in error.failures.values()):
            raise
        answers = error.answers
    said = "no answer is recorded and no model was asked, so the related classes are those with like names"
    for name in names:
        if name not in answers:
            words = by_text(name, allowed)
            nothing = () if words.ranked else ("no base class has a name like it, so any base class stands in",)
            answers[name] = replace(words, source="fallback", notes=(said, *words.notes, *nothing))
    return {name: answers[name] for name in names}
