"""Ask every arm the same questions: what arms share is computed once, and each query leaves one line in a log.

The log makes long work survive a kill: what it holds is not computed again. It is also the raw result: every table can
be made again from it, without a model.

    {"key": …}                                                      what decides the answers
    {"class_name": "giraffe", "image_id": 7, "pixels": …, "truth": …, "answers": {…}, "at_400": {…}, "supports": {…}}

`answers` holds [inter, union, inter_bg, union_bg] by arm at the image's own size, `at_400` the same squashed to
400 × 400, `supports` which [image id, class, weight] an arm showed (how many, if it showed more than 20).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.metrics import ConfusionCounts, count, squashed
from llafs_lib.evaluation.models import Model
from llafs_lib.progress import track
from llafs_lib.records import Episode, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Choice, Request

Answerer = Callable[[Episode, np.ndarray], np.ndarray]  # (episode, query image [H, W, 3]) → mask [H, W] bool
LISTED = 20  # supports; of more, only the number is logged


@dataclass
class Asked:
    """One query and all answers to it: arm → counts, at the image's own size and squashed to 400 × 400."""

    class_name: str
    image_id: int
    pixels: int  # of the query that are not void
    truth: int  # of them the class's
    answers: dict[str, ConfusionCounts] = field(default_factory=dict)
    at_400: dict[str, ConfusionCounts] = field(default_factory=dict)
    supports: dict[str, list | int] = field(default_factory=dict)

    @property
    def area(self) -> float:
        """The share of the image that the class covers, in [0, 1]."""
        return self.truth / max(self.pixels, 1)

    def line(self) -> str:
        """As the log has it."""
        counts = {
            name: {arm: [c.inter, c.union, c.inter_bg, c.union_bg] for arm, c in getattr(self, name).items()}
            for name in ("answers", "at_400")
        }
        facts = {name: getattr(self, name) for name in ("class_name", "image_id", "pixels", "truth")}
        return json.dumps(facts | counts | {"supports": self.supports}, ensure_ascii=False)

    @classmethod
    def of(cls, line: str) -> Asked:
        """The query that a line of the log describes."""
        entry = json.loads(line)
        query = entry["class_name"], entry["image_id"]
        for name in ("answers", "at_400"):
            entry[name] = {arm: ConfusionCounts(*query, *counts) for arm, counts in entry[name].items()}
        return cls(**entry)


class Asking:
    """Several models, each with the supports of every arm: what is asked about one query is asked together.

    The arms are called "HSNet: llm 5". A query is embedded once, supports are chosen once for all models, and what the
    arms of a model share is computed once (`Segmenter.segment_each`).

    Args:
        models: by name.
        arms: by name; those with all supports are only for models that take any number.
        bank: of base classes, to choose from.
        related: class → the language model's related classes.
        others: class → policy → related classes of other kinds (`Request.others`).
        embed_query: image [H, W, 3] → unit vector [C].
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        arms: Mapping[str, Arm],
        bank: SupportBank,
        related: Mapping[str, RelatedClasses],
        others: Mapping[str, Mapping[str, RelatedClasses]],
        embed_query: Callable[[np.ndarray], np.ndarray],
    ):
        self.models, self.arms, self.bank = models, arms, bank
        self.related, self.others, self.embed_query = related, others, embed_query
        self.names = [f"{model}: {arm}" for model in models for arm in self._of(model)]

    def _of(self, model: str) -> list[str]:
        return [name for name, arm in self.arms.items() if self.models[model].takes_all or arm.k != "all"]

    def choose(self, episode: Episode, image: np.ndarray, arms: Sequence[str]) -> dict[str, list[Choice]]:
        """arm → its supports for one query."""
        name = episode.class_name
        request = Request(episode, self.related[name], self.embed_query(image), self.others.get(name, {}))
        return {arm: self.arms[arm].choose(self.bank, request) for arm in arms}

    def __call__(
        self, episode: Episode, image: np.ndarray, names: Sequence[str]
    ) -> Iterator[tuple[str, np.ndarray, list[Choice]]]:
        """(name, mask [H, W] bool, supports) for each of `names`."""
        wanted = {m: [arm for arm in self._of(m) if f"{m}: {arm}" in names] for m in self.models}
        chosen = self.choose(episode, image, [arm for arm in self.arms if any(arm in w for w in wanted.values())])
        for model, arms in wanted.items():
            masks = self.models[model].masks(image, [chosen[arm] for arm in arms], episode.class_name)
            for arm, mask in zip(arms, masks, strict=True):
                yield f"{model}: {arm}", mask, chosen[arm]


def evaluate(
    episodes: Sequence[Episode],
    arms: Mapping[str, Answerer],
    read_query: Callable[[Episode], tuple[np.ndarray, np.ndarray, np.ndarray]],
    log: Path,
    key: str,
    together: Asking | None = None,
) -> list[Asked]:
    """Ask every arm about every episode; predictions are scored at the query's own size and at 400 × 400.

    Args:
        arms: name → arm, each asked alone.
        read_query: episode → (image [H, W, 3] uint8, truth [H, W] bool, void [H, W] bool).
        log: what it holds of an earlier, interrupted run with the same `key` is kept.
        key: everything that decides the answers (library, models, supports, seeds), as one string.
        together: models and arms that share work, asked about each query at once.

    Returns: one entry per episode, in their order.

    Raises:
        LlafsError: a query is asked about twice.
    """
    if len({(e.class_name, e.query_id) for e in episodes}) < len(episodes):
        raise LlafsError("a query stands twice among the episodes: ask about each (class, image) pair once.")
    names = [*arms, *(together.names if together else ())]
    done = _resume(log, key)
    with log.open("a", encoding="utf-8") as file:
        for episode in track(episodes, "evaluating", "query"):
            query = episode.class_name, episode.query_id
            missing = [n for n in names if query not in done or n not in done[query].answers]
            if missing:
                answered = _ask(episode, missing, arms, together, *read_query(episode))
                file.write(answered.line() + "\n")
                file.flush()
                _merge(done, answered)
    found = [done[e.class_name, e.query_id] for e in episodes]
    for asked in found:  # in the order of the arms, without those of an earlier list
        asked.answers, asked.at_400 = ({n: counts[n] for n in names} for counts in (asked.answers, asked.at_400))
    return found


def _ask(
    episode: Episode,
    names: Sequence[str],
    arms: Mapping[str, Answerer],
    together: Asking | None,
    image: np.ndarray,
    truth: np.ndarray,
    void: np.ndarray,
) -> Asked:
    name, image_id = episode.class_name, episode.query_id
    asked = Asked(name, image_id, int((~void).sum()), int((truth & ~void).sum()))
    small_truth, small_void = squashed(truth), squashed(void)

    def score(arm: str, mask: np.ndarray) -> None:
        asked.answers[arm] = count(mask, truth, name, image_id, void)
        asked.at_400[arm] = count(squashed(mask), small_truth, name, image_id, small_void)

    for arm in (n for n in names if n in arms):
        score(arm, arms[arm](episode, image))
    of_models = [n for n in names if n not in arms]
    for arm, mask, chosen in together(episode, image, of_models) if of_models else ():
        score(arm, mask)
        listed = [[c.image_id, c.class_name, round(c.weight, 4)] for c in chosen]
        asked.supports[arm.split(": ")[1]] = listed if len(listed) <= LISTED else len(listed)
    return asked


def counts_of(asked: Sequence[Asked], at_400: bool = False) -> dict[str, list[ConfusionCounts]]:
    """arm → its counts, in the order of the queries."""
    answers = [a.at_400 if at_400 else a.answers for a in asked]
    return {name: [counts[name] for counts in answers] for name in answers[0]} if answers else {}


def read_log(log: Path) -> list[Asked]:
    """All that a finished log holds, without asking anybody.

    Raises:
        LlafsError: there is none, or it is not such a log.
    """
    try:
        done: dict[tuple[str, int], Asked] = {}
        for line in log.read_text(encoding="utf-8").splitlines()[1:]:
            _merge(done, Asked.of(line))
        return list(done.values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LlafsError(f"{log} is not the log of an evaluation ({error}): run notebook 05 again.") from error


def _merge(done: dict[tuple[str, int], Asked], asked: Asked) -> None:
    query = asked.class_name, asked.image_id
    if query not in done:
        done[query] = asked
        return
    for part in ("answers", "at_400", "supports"):
        getattr(done[query], part).update(getattr(asked, part))


def _resume(log: Path, key: str) -> dict[tuple[str, int], Asked]:
    """What an earlier run with the same key left; a log of another run is started anew, a cut-off last line dropped."""
    lines = log.read_text(encoding="utf-8").split("\n") if log.is_file() else []
    header = json.dumps({"key": key})
    whole = lines[1:-1]  # what follows the last line break is empty or cut off
    if not lines or lines[0] != header:
        log.parent.mkdir(parents=True, exist_ok=True)
        whole = []
    if lines[:-1] != [header, *whole] or lines[-1]:
        partial = log.with_name(f".{log.name}.partial")
        partial.write_text("\n".join([header, *whole]) + "\n", encoding="utf-8")
        os.replace(partial, log)
    done: dict[tuple[str, int], Asked] = {}
    for line in whole:
        _merge(done, Asked.of(line))
    return done
