"""The rows of the tables, as values: which model answers, and which supports it is shown.

The source document can be read in two ways, so both are asked:

(a) zero annotation: base supports *instead* of true ones      `true 1`  →  `random 1`  →  `llm 1`
(b) augmentation: base supports *beside* true ones              `true 1`  →  `true 1 + random 5`  →  `true 1 + llm 5`

What comes for free is asked, too: `supercategory` (COCO's own groups of classes) and `text` (classes whose names are
alike). The controls are `shuffled` (the language model's lists, dealt to the wrong classes), `all` (every base class
alike), and two floors that need no model: `everything` and `centre prior`.

Where chance decides which supports are shown, each query is answered `DRAWS` times, with other supports. The answers
count together (`over_draws`), and two draws compared with each other show what chance alone does (`null_pairs`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from llafs_lib.evaluation.metrics import ConfusionCounts, best_threshold, curve
from llafs_lib.evaluation.statistics import pooled
from llafs_lib.language.relations import by_supercategory, by_text, shuffled
from llafs_lib.records import Episode, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import ADDED, ADDED_WEIGHT, Choice, K, Request, augment, select_supports

DRAWS = 5  # of the supports of one query, where chance decides
LABELS = {  # in the order in which tables list them
    "true": "true supports (annotated)",
    "llm": "LLM base supports",
    "supercategory": "base supports of COCO's super-category",
    "text": "base supports with like names",
    "random": "random base supports",
    "shuffled": "another class's LLM list (control)",
    "all": "every base support (control)",
    "everything": "predict everything (floor)",
    "centre prior": "centre prior (floor)",
}
UNANSWERED = LABELS | {  # where no language model answered about any class
    "llm": "base supports with like names (no LLM answered)",
    "shuffled": "another class's like names (control)",
}


@dataclass(frozen=True)
class Arm:
    """One row of the tables: a model with `k` supports that a policy chooses.

    `added` names the policy by which `ADDED` base supports of less weight are shown beside them. `draw` counts the
    draws of one arm from 0. A floor has no model and no supports: its policy is its name.

    Code compares and looks up arms as values. The names below are made here alone, and only people read them.
    """

    model: str
    policy: str
    k: K = 0
    added: str = ""
    draw: int = 0

    @property
    def name(self) -> str:
        """What the arm is called: "HSNet: true 1 + llm 5", or "everything" for a floor."""
        return f"{self.model}: {self.supports}" if self.model else self.supports

    @property
    def supports(self) -> str:
        """The name without the model: "true 1 + llm 5", "random 5, draw 2"."""
        added = f" + {self.added} {ADDED}" if self.added else ""
        return f"{self.policy} {self.k}{added}{self._draw}" if self.k else self.policy

    @property
    def label(self) -> str:
        """The supports as a table calls them: "LLM base supports, 5"."""
        return self.labelled(LABELS)

    def labelled(self, labels: Mapping[str, str]) -> str:
        """`label` with other words for the policies, such as `UNANSWERED`."""
        shown = labels.get(self.policy, self.policy)
        if self.added:
            return f"{self.k} {self.policy} + {ADDED} {labels.get(self.added, self.added)}{self._draw}"
        return f"{shown}, {self.k}{self._draw}" if self.k else shown

    @property
    def _draw(self) -> str:
        return f", draw {self.draw + 1}" if self.draw else ""

    def choose(self, bank: SupportBank, request: Request) -> list[Choice]:
        """The supports for one query, best first.

        Raises:
            LlafsError: the policy finds none.
        """
        chosen = select_supports(self.policy, bank, self._redrawn(request), self.k, self.draw)
        if not self.added:
            return chosen
        return augment(chosen, select_supports(self.added, bank, request, ADDED, self.draw), ADDED_WEIGHT)

    def _redrawn(self, request: Request) -> Request:
        """Another draw shows other true supports of the episode, and is dealt another class's list."""
        ids = request.episode.support_ids
        start = self.draw * self.k % len(ids) if self.policy == "true" and self.k != "all" and ids else 0
        episode = replace(request.episode, support_ids=ids[start:] + ids[:start])
        dealt = request.others.get(f"{self.policy}{self._draw}")
        others = {**request.others, self.policy: dealt} if dealt else request.others
        return replace(request, episode=episode, others=others)


EVERYTHING, CENTRE_PRIOR = Arm("", "everything"), Arm("", "centre prior")
FLOORS = (EVERYTHING, CENTRE_PRIOR)


def models_of(arms: Iterable[Arm]) -> list[str]:
    """The models of some arms, in their order."""
    return list(dict.fromkeys(arm.model for arm in arms if arm.model))


def document_arms(shots: Sequence[int] = (1, 5)) -> list[Arm]:
    """The supports of every row of the tables, for a model to be named; see `runner.arms_of`."""
    once = [Arm("", policy, k) for k in shots for policy in ("llm", "supercategory", "text")]
    once += [Arm("", "true", k, added="random") for k in shots]
    once += [Arm("", "true", k, added="llm") for k in shots if k > 1]
    once += [Arm("", policy, "all") for policy in ("all", "llm", "supercategory", "text")]
    by_chance = [Arm("", policy, k) for k in shots for policy in ("true", "random", "shuffled")]
    by_chance += [Arm("", "true", 1, added="llm"), Arm("", "shuffled", "all")]
    return once + [replace(arm, draw=draw) for arm in by_chance for draw in range(DRAWS)]


def possible(arms: Iterable[Arm], novel: Sequence[str], base: Sequence[str]) -> list[Arm]:
    """Those of some arms that can be asked about the classes `novel`, with supports of the classes `base`.

    A list can only be dealt where there are two classes, and classes of one's own belong to no super-category.
    """
    makes = {"supercategory": by_supercategory, "text": by_text}
    impossible = {policy for policy, make in makes.items() if not any(make(c, base).ranked for c in novel)}
    impossible |= {"shuffled"} if len(novel) < 2 else set()
    return [arm for arm in arms if arm.policy not in impossible]


def dealt(related: Mapping[str, RelatedClasses]) -> dict[str, dict[str, RelatedClasses]]:
    """Class → the answers about other classes that are dealt to it, one for each draw of `shuffled`, by its name.

    They are what `Question.others` takes. Where there is no other class, nothing is dealt.
    """
    if len(related) < 2:
        return {name: {} for name in related}
    deals = {Arm("", "shuffled", draw=draw)._draw: shuffled(related, seed=draw) for draw in range(DRAWS)}
    return {name: {f"shuffled{draw}": deal[name] for draw, deal in deals.items()} for name in related}


# --- what is compared -------------------------------------------------------------------------------------------------

Answers = Mapping[Arm, Sequence[ConfusionCounts]]
Pair = tuple[Arm, Arm]


def over_draws(answers: Answers) -> dict[Arm, list[ConfusionCounts]]:
    """The answers of each arm's draws as one: the pixels of all draws of a query are added up."""
    draws: dict[Arm, list[Sequence[ConfusionCounts]]] = {}
    for arm, counts in answers.items():
        draws.setdefault(replace(arm, draw=0), []).append(counts)
    return {arm: pooled(runs) for arm, runs in draws.items()}


def claims(model: str, k: int) -> dict[str, Pair]:
    """The six comparisons that decide what may be said, with `k` supports; all others only explore.

    They were chosen before today's models were asked. Some of them were known of the models of version 0.1.
    """
    llm, one = Arm(model, "llm", k), Arm(model, "true", 1)
    against = {"random ones": "random", "those of the super-category": "supercategory"}
    against |= {"those with like names": "text", "those on another class's list": "shuffled"}
    found = {f"LLM-chosen supports beat {words}": (llm, Arm(model, policy, k)) for words, policy in against.items()}
    found["LLM-chosen supports beat one true support"] = (llm, one)
    found["LLM-chosen supports help beside one true support"] = (replace(one, added="llm"), one)
    return found


def document_claims(model: str, k: int) -> dict[str, Pair]:
    """What the source document claims, read in both ways, with `k` supports."""
    true, random, llm = (Arm(model, policy, k) for policy in ("true", "random", "llm"))
    with_random, with_llm = replace(true, added="random"), replace(true, added="llm")
    return {
        "random supports improve on the baseline (+1.3), instead of true ones": (random, true),
        "LLM supports improve on the baseline (+5.2), instead of true ones": (llm, true),
        "LLM supports beat random ones (+3.9), instead of true ones": (llm, random),
        "random supports improve on the baseline (+1.3), beside true ones": (with_random, true),
        "LLM supports improve on the baseline (+5.2), beside true ones": (with_llm, true),
        "LLM supports beat random ones (+3.9), beside true ones": (with_llm, with_random),
    }


def document_pairs(arms: Iterable[Arm], shots: Sequence[int]) -> list[Pair]:
    """Every difference that is reported, of every model among `arms`: claims, controls, and what explores."""
    arms, pairs = {replace(arm, draw=0) for arm in arms}, []
    for model in models_of(arms):
        pairs += claims(model, max(shots)).values()
        for k in shots:
            pairs += document_claims(model, k).values()
            true, random, llm = (Arm(model, policy, k) for policy in ("true", "random", "llm"))
            pairs += [(Arm(model, policy, k), random) for policy in ("llm", "supercategory", "text", "shuffled")]
            pairs += [(arm, floor) for arm in (llm, true) for floor in FLOORS]
        every, *related = (Arm(model, policy, "all") for policy in ("all", "llm", "supercategory", "text", "shuffled"))
        pairs += [(arm, every) for arm in related] + [(related[0], arm) for arm in related[1:]]
        pairs += [(related[0], Arm(model, "true", 1)), (every, Arm(model, "random", max(shots)))]
    return [pair for pair in dict.fromkeys(pairs) if set(pair) <= arms]


def null_pairs(arms: Iterable[Arm]) -> list[Pair]:
    """Any two draws of as many random supports for the same model: how far they differ is what chance alone does."""
    random = [arm for arm in arms if arm.policy == "random" and arm.k]
    return [(a, b) for a, b in itertools.combinations(random, 2) if replace(a, draw=0) == replace(b, draw=0)]


# --- floors: answers that need no model -------------------------------------------------------------------------------


def predict_everything(episode: Episode, image: np.ndarray) -> np.ndarray:
    """The trivial floor: every pixel of `image` [H, W, 3] is foreground."""
    return np.ones(image.shape[:2], bool)


class CentrePrior:
    """Marks where objects usually are.

    Args:
        masks: of base classes, each [S, S] bool. Their mean is cut at the threshold that suits them best.
    """

    def __init__(self, masks: list[np.ndarray]):
        usual = np.mean(masks, axis=0, dtype=np.float32)  # [S, S]
        usual /= max(usual.max(), 1e-9)
        self.marked = usual >= best_threshold([curve(usual, mask, f"mask {n}") for n, mask in enumerate(masks)])

    def __call__(self, episode: Episode, image: np.ndarray) -> np.ndarray:
        """Mask [H, W] bool for `image` [H, W, 3]."""
        small = torch.from_numpy(self.marked)[None, None].float()  # [S, S] → [1, 1, S, S]
        return F.interpolate(small, image.shape[:2], mode="bilinear")[0, 0].numpy() >= 0.5
