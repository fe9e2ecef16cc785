"""Arms on identical queries: every policy answers the same questions, one line per answer in a log.

The log makes long work survive a kill: what it holds is not computed again. It is also the raw result, from which every
table can be made again without a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from llafs_lib.evaluation.metrics import ConfusionCounts, count
from llafs_lib.progress import track
from llafs_lib.records import Episode, RelatedClasses
from llafs_lib.retrieval.bank import SupportBank
from llafs_lib.retrieval.policies import Request, load_supports, select_supports
from llafs_lib.vision.segmenter import Segmenter

Arm = Callable[[Episode, np.ndarray], np.ndarray]  # (episode, query image [H, W, 3]) → mask [H, W] bool


def predict_everything(episode: Episode, image: np.ndarray) -> np.ndarray:
    """The trivial floor: every pixel is foreground."""
    return np.ones(image.shape[:2], bool)


def policy_arm(
    policy: str,
    segmenter: Segmenter,
    bank: SupportBank,
    related: Mapping[str, RelatedClasses],
    embed_query: Callable[[np.ndarray], np.ndarray],
    read_support: Callable[[int, str], tuple[np.ndarray, np.ndarray]],
    shots: int,
    seed: int,
) -> Arm:
    """An arm that segments with `shots` supports chosen by a retrieval policy.

    Args:
        related: novel class → its related base classes.
        embed_query: image [H, W, 3] → unit vector [C].
        read_support: (picture id, class) → (image, mask [H, W] bool).
    """

    def arm(episode: Episode, image: np.ndarray) -> np.ndarray:
        request = Request(episode, related[episode.class_name], embed_query(image))
        choices = select_supports(policy, bank, request, shots, seed)
        return segmenter.segment(image, load_supports(choices, read_support), episode.class_name).mask

    return arm


def evaluate(
    episodes: Sequence[Episode],
    arms: Mapping[str, Arm],
    read_query: Callable[[Episode], tuple[np.ndarray, np.ndarray, np.ndarray]],
    log: Path,
    key: str,
) -> dict[str, list[ConfusionCounts]]:
    """Ask every arm about every episode; predictions are scored at the query's own size.

    Args:
        arms: name → arm. All arms of one query run after one another, so that its features are computed once.
        read_query: episode → (image [H, W, 3] uint8, truth [H, W] bool, void [H, W] bool).
        log: one JSON line per (query, arm). Lines of an earlier, interrupted run are kept if its `key` was the same.
        key: everything that decides the answers (library, model, supports, shots, seed), as one string.

    Returns: arm → counts, in the order of `episodes`.
    """
    done = _read_log(log, key)
    counts: dict[str, list[ConfusionCounts]] = {name: [] for name in arms}
    with log.open("a", encoding="utf-8") as file:
        for episode in track(episodes, "evaluating", "query"):
            missing = [name for name in arms if (name, episode.class_name, episode.query_id) not in done]
            image, truth, void = read_query(episode) if missing else (None, None, None)
            for name in missing:
                result = count(arms[name](episode, image), truth, episode.class_name, episode.query_id, void)
                done[name, episode.class_name, episode.query_id] = result
                file.write(json.dumps({"arm": name, **asdict(result)}) + "\n")
            file.flush()
            for name in arms:
                counts[name].append(done[name, episode.class_name, episode.query_id])
    return counts


def _read_log(log: Path, key: str) -> dict[tuple[str, str, int], ConfusionCounts]:
    """What an earlier run with the same key left; a log of another run is started anew, a cut-off last line dropped."""
    lines = log.read_text(encoding="utf-8").split("\n") if log.is_file() else []
    header = json.dumps({"key": key})
    if not lines or lines[0] != header:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(header + "\n", encoding="utf-8")
        return {}
    whole, done = [header], {}
    for line in lines[1:-1]:  # what follows the last line break is empty or cut off
        entry = json.loads(line)
        arm = entry.pop("arm")
        done[arm, entry["class_name"], entry["image_id"]] = ConfusionCounts(**entry)
        whole.append(line)
    log.write_text("\n".join(whole) + "\n", encoding="utf-8")
    return done
