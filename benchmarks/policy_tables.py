"""What `policies.py` asks, as arms, and the tables that it prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from policy_ideas import IDEAS, KEPT, Drawn, augmented_arms

from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.metrics import ConfusionCounts, miou
from llafs_lib.evaluation.statistics import Estimate, Estimator
from llafs_lib.evaluation.tables import interval
from llafs_lib.retrieval.policies import POLICIES, RELATIONS

SHOTS = (1, 5, 20)
MODEL, RELATIVE, INSID3 = "prototype", "relative scores", "INSID3"
Counts = Mapping[Arm, Sequence[ConfusionCounts]]

# --- arms ------------------------------------------------------------------------------------------------------------


def policy_arms() -> list[Arm]:
    """Every policy with every number of supports; the null test and `clean` for some."""
    arms = [Drawn(MODEL, policy, k) for policy in POLICIES if policy != "all" for k in SHOTS]
    arms += [Drawn(MODEL, policy, "all") for policy in ("all", "true", *RELATIONS, "visual", "hybrid")]
    arms += [Drawn(MODEL, "random", k, draw=1) for k in SHOTS]
    clean = (("llm", 5), ("random", 5), ("llm", "all"), ("all", "all"))
    return arms + [Drawn(MODEL, policy, k, clean=True) for policy, k in clean]


def relative_arms() -> list[Arm]:
    """True supports scored as look-alikes are, by the image's own range alone."""
    return [Drawn(RELATIVE, "true", k) for k in (*SHOTS, "all")]


def insid3_arms() -> list[Arm]:
    """What INSID3 is shown."""
    return [Drawn(INSID3, policy, k) for policy in ("true", "llm", "random") for k in (1, 5)]


# --- tables ----------------------------------------------------------------------------------------------------------


def _cell(counts: Counts, arm: Arm, estimator: Estimator) -> str:
    return _shown(estimator.row([counts[arm]])) if arm in counts else ""


def _difference_of(counts: Counts, a: Arm, b: Arm, estimator: Estimator) -> str:
    return _shown(estimator.difference([counts[a]], [counts[b]]), "+.1f")


def _shown(found: Estimate, form: str = ".1f") -> str:
    return f"{found.value:{form}} {interval(found.ci95, form) if found.ci95 else ''}".rstrip()


def print_policies(counts: Counts, estimator: Estimator) -> None:
    """mIoU by policy and number of supports, then the differences that matter."""
    numbers = (*SHOTS, "all")
    print("| policy | " + " | ".join(f"K = {k}" for k in numbers) + " |\n|---|" + "---|" * len(numbers))
    for policy in POLICIES:
        cells = [_cell(counts, Drawn(MODEL, policy, k), estimator) for k in numbers]
        print(f"| {policy} | " + " | ".join(cells) + " |")
    llm, random = ({k: Drawn(MODEL, policy, k) for k in numbers} for policy in ("llm", "random"))
    text, every = {k: Drawn(MODEL, "text", k) for k in numbers}, Drawn(MODEL, "all", "all")
    clean_llm, clean_random = ({k: replace(arm, clean=True) for k, arm in arms.items()} for arms in (llm, random))
    pairs = [(Drawn(MODEL, p, k), random[k]) for p in POLICIES if p not in ("random", "all") for k in SHOTS]
    pairs += [(Drawn(MODEL, p, "all"), every) for p in ("true", *RELATIONS, "visual", "hybrid")]
    pairs += [(replace(random[k], draw=1), random[k]) for k in SHOTS]
    pairs += [(llm["all"], llm[5]), (llm[5], text[5]), (llm["all"], text["all"]), (clean_llm[5], clean_random[5])]
    pairs += [(clean_llm["all"], replace(every, clean=True)), *((clean_llm[k], llm[k]) for k in (5, "all"))]
    print("\n| paired difference | mIoU |\n|---|---|")
    for a, b in pairs:
        print(f"| {a.supports} − {b.supports} | {_difference_of(counts, a, b, estimator)} |")


def print_ideas(counts: Counts, estimator: Estimator) -> None:
    """One idea a row, with its difference to what is kept."""
    print("\n| llm, all supports | mIoU | − kept |\n|---|---|---|")
    for idea in IDEAS:
        arm, kept = Drawn(idea, "llm", "all"), Drawn(KEPT, "llm", "all")
        print(f"| {idea} | {_cell(counts, arm, estimator)} | {_difference_of(counts, arm, kept, estimator)} |")


def print_relative(counts: Counts, estimator: Estimator) -> None:
    """What true supports gain because they also say how similar the class is."""
    print("\n| true supports | relative scores alone | gain of the absolute ones |\n|---|---|---|")
    for arm in relative_arms():
        gain = _difference_of(counts, replace(arm, model=MODEL), arm, estimator)
        print(f"| {arm.k} | {_cell(counts, arm, estimator)} | {gain} |")


def print_augmented(counts: Counts, estimator: Estimator) -> None:
    """True supports and base supports together, with the difference to the true ones alone."""
    print("\n| true supports and … | mIoU | − true alone |\n|---|---|---|")
    for arm in augmented_arms(MODEL):
        alone = Drawn(MODEL, "true", arm.k)
        print(f"| {arm.supports} | {miou(counts[arm]):.1f} | {_difference_of(counts, arm, alone, estimator)} |")


def print_insid3(counts: Counts, estimator: Estimator) -> None:
    """INSID3 with its difference to prototypes of the same supports, then the differences that matter."""
    print("\n| INSID3 | mIoU | − prototypes |\n|---|---|---|")
    arms = {(arm.policy, arm.k): arm for arm in insid3_arms()}
    for arm in arms.values():
        against = _difference_of(counts, arm, replace(arm, model=MODEL), estimator)
        print(f"| {arm.supports} | {_cell(counts, arm, estimator)} | {against} |")
    for k in (1, 5):
        for other in ("random", "true"):
            print(f"| llm {k} − {other} {k} | {_difference_of(counts, arms['llm', k], arms[other, k], estimator)} | |")


def write_counts(path: Path, counts: Counts, thresholds: Mapping[Arm, float | None]) -> None:
    """One JSON line per arm and query, so that anything can be analysed again."""
    with path.open("w", encoding="utf-8") as file:
        for arm, found in counts.items():
            for c in found:
                file.write(json.dumps({"arm": arm.name, "threshold": thresholds[arm], **vars(c)}) + "\n")
