"""The rows of the tables, as values: which model answers, and which supports it is shown.

The source document can be read in two ways, so both are asked:

(a) zero annotation: base supports *instead* of true ones      `true 1`  →  `random 1`  →  `llm 1`
(b) augmentation: base supports *beside* true ones              `true 1`  →  `true 1 + random 5`  →  `true 1 + llm 5`

The controls are `shuffled` (the language model's lists, dealt to the wrong classes), `all` (every base class alike), a
second random draw (what differs by chance alone), and two floors that need no model: `everything` and `centre prior`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from llafs_lib.evaluation.metrics import best_threshold, curve
from llafs_lib.records import Episode
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import ADDED, ADDED_WEIGHT, Choice, K, Request, augment, select_supports

LABELS = {
    "true": "true supports (annotated)",
    "random": "random base supports",
    "llm": "LLM base supports",
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

    `added` names the policy by which `ADDED` base supports of less weight are shown beside them. `draw` tells repeated
    draws of one arm apart. A floor has no model and no supports: its policy is its name.

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
        """The name without the model: "true 1 + llm 5", "random 5, other draw"."""
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
        return {0: "", 1: ", other draw"}.get(self.draw, f", draw {self.draw + 1}")

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
        """True supports are an episode's own, in the order drawn: another draw begins at another one of them."""
        ids = request.episode.support_ids
        start = self.draw * self.k % len(ids) if self.policy == "true" and self.k != "all" and ids else 0
        return replace(request, episode=replace(request.episode, support_ids=ids[start:] + ids[:start]))


EVERYTHING, CENTRE_PRIOR = Arm("", "everything"), Arm("", "centre prior")
FLOORS = (EVERYTHING, CENTRE_PRIOR)


def models_of(arms: Iterable[Arm]) -> list[str]:
    """The models of some arms, in their order."""
    return list(dict.fromkeys(arm.model for arm in arms if arm.model))


def document_arms(shots: Sequence[int] = (1, 5)) -> list[Arm]:
    """The supports of every row of the tables, for a model to be named; see `runner.arms_of`."""
    arms: list[Arm] = []
    for k in shots:
        arms += [Arm("", policy, k) for policy in ("true", "random", "llm", "shuffled")]
        arms += [Arm("", "true", k, added=policy) for policy in ("random", "llm")]
        arms.append(Arm("", "random", k, draw=1))
    arms.append(Arm("", "true", 1, draw=1))
    return arms + [Arm("", policy, "all") for policy in ("all", "llm", "shuffled")]


def document_pairs(arms: Sequence[Arm], shots: Sequence[int]) -> list[tuple[Arm, Arm]]:
    """The differences that decide the document's claims, with their controls, of every model among `arms`."""
    pairs: list[tuple[Arm, Arm]] = []
    for model in models_of(arms):
        for k in shots:
            true, random, llm, shuffled = (Arm(model, policy, k) for policy in ("true", "random", "llm", "shuffled"))
            with_random, with_llm = (replace(true, added=policy) for policy in ("random", "llm"))
            pairs += [(llm, random), (shuffled, random), null_pair(random), (llm, true), (random, true)]
            pairs += [(with_random, true), (with_llm, true), (with_llm, with_random)]
            pairs += [(arm, floor) for arm in (llm, true) for floor in FLOORS]
        every, llm, shuffled = (Arm(model, policy, "all") for policy in ("all", "llm", "shuffled"))
        pairs += [(llm, every), (shuffled, every), (every, Arm(model, "random", max(shots)))]
        pairs += [(Arm(model, "llm", k), Arm(model, "true", 1)) for k in ("all", *shots)]
    return [pair for pair in dict.fromkeys(pairs) if set(pair) <= set(arms)]


def null_pair(arm: Arm) -> tuple[Arm, Arm]:
    """Two random draws of as many supports for the same model: how far they differ is what chance alone does."""
    return Arm(arm.model, "random", arm.k, draw=1), Arm(arm.model, "random", arm.k)


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
