"""Ask every arm the same questions. What arms share is computed once, and each query leaves a line in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.log import Asked, add_to, resume
from llafs_lib.evaluation.metrics import count, curve, squashed
from llafs_lib.progress import track
from llafs_lib.records import Episode, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Choice, Request, load_supports
from llafs_lib.vision.prototype import PrototypeSegmenter, combine
from llafs_lib.vision.segmenter import Segmenter

Floor = Callable[[Episode, np.ndarray], np.ndarray]  # (episode, query image [H, W, 3]) → mask [H, W] bool
LISTED = 20  # supports; of more, only the number is logged


@dataclass(frozen=True)
class Question:
    """An episode, and what may be used to answer it: a bank to choose supports from, and related classes.

    The fields are those of `Request`. Without a bank only `true` supports can be shown.
    """

    episode: Episode
    bank: SupportBank | None = field(default=None, repr=False)
    related: RelatedClasses | None = None
    others: Mapping[str, RelatedClasses] = field(default_factory=dict)
    exclude: frozenset[int] = frozenset()

    def request(self, query: np.ndarray) -> Request:
        """What a policy may look at, given the query image's embedding [C]."""
        return Request(self.episode, self.related, query, self.others, self.exclude)


# --- who is asked -----------------------------------------------------------------------------------------------------


class Model(Protocol):
    """What can be asked. `takes_all` says whether it can be shown every support of a bank at once."""

    takes_all: bool

    def answers(self, question: Question, image: np.ndarray, shown: Sequence[Sequence[Choice]]) -> list[np.ndarray]:
        """image [H, W, 3] uint8 and sets of supports → an answer for each set.

        An answer is a mask [H, W] bool, or a score map [H, W] in [0, 1] whose threshold is chosen afterwards.
        """
        ...


class ShownImages:
    """A segmenter that is shown images with masks: HSNet, RePRI.

    Args:
        read: (image id, class) → (image [H, W, 3] uint8, mask [H, W] bool).
    """

    takes_all = False

    def __init__(self, segmenter: Segmenter, read: Callable[[int, str], tuple[np.ndarray, np.ndarray]]):
        self.segmenter, self.read = segmenter, read

    def answers(self, question: Question, image: np.ndarray, shown: Sequence[Sequence[Choice]]) -> list[np.ndarray]:
        """The mask for each set. A support that stands in several sets is read once."""
        seen = {key: self.read(*key) for key in {(c.image_id, c.class_name) for choices in shown for c in choices}}
        sets = [load_supports(choices, lambda *key: seen[key]) for choices in shown]
        return [found.mask for found in self.segmenter.segment_each(image, sets, question.episode.class_name)]


class BankPrototypes:
    """Prototypes made of rows of support banks: any number of supports, none of whose images is read again.

    Args:
        segmenter: says how prototypes are used.
        banks: where the rows are looked for: the base classes', and the novel classes' own for true supports. They must
            have been described by the segmenter's features.
        as_scores: answer with score maps, not with masks cut at the segmenter's threshold.
    """

    takes_all = True

    def __init__(self, segmenter: PrototypeSegmenter, banks: Sequence[SupportBank], as_scores: bool = False):
        self.segmenter, self.banks, self.as_scores = segmenter, banks, as_scores
        self._row = {  # (image id, class) → (bank, row)
            (int(i), bank.class_of(row)): (bank, row) for bank in banks for row, i in enumerate(bank.image_ids)
        }

    def answers(self, question: Question, image: np.ndarray, shown: Sequence[Sequence[Choice]]) -> list[np.ndarray]:
        """The mask or the score map for each set."""
        found = self.segmenter.scores(image, map(self.prototypes, shown))
        return found if self.as_scores else [scores >= self.segmenter.threshold for scores in found]

    def prototypes(self, choices: Sequence[Choice]) -> tuple[np.ndarray, np.ndarray]:
        """Foreground and background prototype, each [C], of some supports with their weights."""
        found = [self._row[c.image_id, c.class_name] for c in choices]
        weights, parts = [], []
        for bank in self.banks:
            rows = np.array([row for b, row in found if b is bank], int)
            weights += [c.weight for c, (b, _) in zip(choices, found, strict=True) if b is bank]
            parts.append([bank.foreground[rows], bank.background[rows], bank.area[rows]])
        joined = map(np.concatenate, zip(*parts, strict=True))  # inside [K, C], outside [K, C], area [K]
        return combine(*joined, np.array(weights), self.segmenter.plain)


def arms_of(models: Mapping[str, Model], arms: Sequence[Arm]) -> list[Arm]:
    """Each arm with each model; arms with all supports only with models that take any number."""
    every = [(name, model, arm) for name, model in models.items() for arm in arms]
    return [replace(arm, model=name) for name, model, arm in every if model.takes_all or arm.k != "all"]


@dataclass(frozen=True)
class Panel:
    """Who is asked: `arms` of `models`, by the models' names, and `floors`.

    A query is embedded once, supports are chosen once for all models, and what the arms of a model share is computed
    once (`Segmenter.segment_each`). `embed` maps an image [H, W, 3] to a unit vector [C]; without it only `true`
    supports can be chosen.

    Raises:
        LlafsError: an arm's model is not among `models`.
    """

    models: Mapping[str, Model] = field(default_factory=dict)
    arms: Sequence[Arm] = ()
    floors: Mapping[Arm, Floor] = field(default_factory=dict)
    embed: Callable[[np.ndarray], np.ndarray] | None = None

    def __post_init__(self) -> None:
        unknown = [arm.name for arm in self.arms if arm.model not in self.models]
        if unknown:
            raise LlafsError(f"no model for arm {unknown[0]!r}: the panel's models are {', '.join(self.models)}.")

    def ask(
        self, question: Question, image: np.ndarray, arms: Sequence[Arm]
    ) -> Iterator[tuple[Arm, np.ndarray, list[Choice]]]:
        """(arm, answer [H, W], supports) for each of `arms`, which are some of the panel's."""
        for arm in (a for a in arms if a in self.floors):
            yield arm, self.floors[arm](question.episode, image), []
        of_models = [a for a in arms if a not in self.floors]
        if not of_models:
            return
        request = question.request(np.empty(0) if self.embed is None else self.embed(image))
        without_model = dict.fromkeys(replace(arm, model="") for arm in of_models)  # chosen once for all models
        chosen = {arm: arm.choose(question.bank, request) for arm in without_model}
        for name, model in self.models.items():
            own = {arm: chosen[replace(arm, model="")] for arm in of_models if arm.model == name}
            sets = {_shown(choices): choices for choices in own.values()}  # where two arms show the same, ask once
            answers = dict(zip(sets, model.answers(question, image, list(sets.values())) if sets else (), strict=True))
            yield from ((arm, answers[_shown(choices)], choices) for arm, choices in own.items())


def _shown(choices: Sequence[Choice]) -> tuple:
    return tuple((c.image_id, c.class_name, c.weight) for c in choices)


# --- asking -----------------------------------------------------------------------------------------------------------


def evaluate(
    questions: Sequence[Question],
    panel: Panel,
    read_query: Callable[[Episode], tuple[np.ndarray, np.ndarray, np.ndarray]],
    log: Path | None = None,
    key: str = "",
) -> list[Asked]:
    """Ask every arm every question. Masks are scored at the query's own size and at 400 × 400, score maps as curves.

    Args:
        read_query: episode → (image [H, W, 3] uint8, truth [H, W] bool, void [H, W] bool).
        log: what it holds of an earlier, interrupted run with the same `key` is kept. None writes none.
        key: everything that decides the answers (library, models, supports, seeds), as one string.

    Returns: one entry per question, in their order.

    Raises:
        LlafsError: a query is asked about twice, or a score map is to be logged.
    """
    queries = [(q.episode.class_name, q.episode.query_id) for q in questions]
    if len(set(queries)) < len(queries):
        raise LlafsError("a query stands twice among the questions: ask about each (class, image) pair once.")
    arms = [*panel.floors, *panel.arms]
    done = resume(log, key, arms) if log else {}
    for query, question in zip(queries, track(questions, "evaluating", "query"), strict=True):
        missing = [arm for arm in arms if query not in done or arm not in done[query].answers]
        if missing:
            asked = _ask(question, panel, missing, *read_query(question.episode))
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(asked.line(key) + "\n")
            add_to(done, asked)
    found = [done[query] for query in queries]
    for asked in found:  # in the order of the arms, without those of an earlier list
        asked.answers = {arm: asked.answers[arm] for arm in arms}
        asked.at_400 = {arm: asked.at_400[arm] for arm in arms if arm in asked.at_400}
    return found


def _ask(
    question: Question, panel: Panel, arms: Sequence[Arm], image: np.ndarray, truth: np.ndarray, void: np.ndarray
) -> Asked:
    query = question.episode.class_name, question.episode.query_id
    asked = Asked(*query, int((~void).sum()), int((truth & ~void).sum()))
    small_truth, small_void = squashed(truth), squashed(void)
    for arm, answer, shown in panel.ask(question, image, arms):
        if answer.dtype == bool:
            asked.answers[arm] = count(answer, truth, *query, void)
            asked.at_400[arm] = count(squashed(answer), small_truth, *query, small_void)
        else:
            asked.answers[arm] = curve(answer, truth, *query, void)
        if shown:
            listed = [[c.image_id, c.class_name, round(c.weight, 4)] for c in shown]
            asked.supports[arm.supports] = listed if len(listed) <= LISTED else len(listed)
    return asked


def counts_of(asked: Sequence[Asked], at_400: bool = False) -> dict[Arm, list]:
    """Arm → its counts, or its curves where it answered with score maps, in the order of the queries."""
    answers = [a.at_400 if at_400 else a.answers for a in asked]
    return {arm: [counts[arm] for counts in answers] for arm in answers[0]} if answers else {}
