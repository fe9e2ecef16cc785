"""Which supports a model is shown: the rows of the source document, in both readings, and the controls beside them.

(a) zero annotation: base supports *instead* of true ones      `true 1`  →  `random 1`  →  `llm 1`
(b) augmentation: base supports *beside* true ones              `true 1`  →  `true 1 + random 5`  →  `true 1 + llm 5`

Controls: `shuffled` (the language model's lists, dealt to the wrong classes), `all` (every base class alike), a second
random draw (what differs by chance alone), and two answers that need no model (`everything`, `centre prior`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from llafs_lib.records import Episode
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Choice, K, Request, augment, select_supports
from llafs_lib.vision.prototype import best_threshold

SHOTS = (1, 5)
ADDED, ADDED_WEIGHT = 5, 0.3  # base supports beside true ones, and what each counts; see benchmarks/policies.py


@dataclass(frozen=True)
class Arm:
    """`k` supports by a policy; with `added`, also `ADDED` base supports by that one, of less weight.

    `draw` tells repeated draws of one arm apart.
    """

    policy: str
    k: K
    draw: int = 0
    added: str = ""

    def choose(self, bank: SupportBank, request: Request) -> list[Choice]:
        """The supports for one query, best first.

        Raises:
            LlafsError: there is none to be had.
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


def document_arms(shots: Sequence[int] = SHOTS) -> dict[str, Arm]:
    """Every row of the tables, by name. Those with all supports suit only models that take any number."""
    arms: dict[str, Arm] = {}
    for k in shots:
        arms |= {f"{p} {k}": Arm(p, k) for p in ("true", "random", "llm", "shuffled")}
        arms |= {f"true {k} + {p} {ADDED}": Arm("true", k, added=p) for p in ("random", "llm")}
        arms[f"random {k}, other draw"] = Arm("random", k, draw=1)
    arms["true 1, other draw"] = Arm("true", 1, draw=1)
    return arms | {f"{p} all": Arm(p, "all") for p in ("all", "llm", "shuffled")}


# --- answers that need no model ---------------------------------------------------------------------------------------


def predict_everything(episode: Episode, image: np.ndarray) -> np.ndarray:
    """The trivial floor: every pixel of `image` [H, W, 3] is foreground."""
    return np.ones(image.shape[:2], bool)


class CentrePrior:
    """Marks where objects usually are.

    Args:
        masks: of base classes, each [S, S] bool: their mean is cut at the threshold that suits them best.
    """

    def __init__(self, masks: list[np.ndarray]):
        usual = np.mean(masks, axis=0, dtype=np.float32)  # [S, S]
        usual /= max(usual.max(), 1e-9)
        self.marked = usual >= best_threshold([usual] * len(masks), masks)

    def __call__(self, episode: Episode, image: np.ndarray) -> np.ndarray:
        """Mask [H, W] bool for `image` [H, W, 3]."""
        small = torch.from_numpy(self.marked)[None, None].float()
        return F.interpolate(small, image.shape[:2], mode="bilinear")[0, 0].numpy() >= 0.5
