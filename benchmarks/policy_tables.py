"""What `policies.py` asks, as arms, and the tables that it prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from policy_ideas import IDEAS, KEPT, SHARES, Drawn, augmented_arms
from policy_thresholds import Curves, Thresholds

from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.metrics import ConfusionCounts, miou
from llafs_lib.evaluation.statistics import Estimate, Estimator, queries_of
from llafs_lib.evaluation.tables import interval
from llafs_lib.retrieval.policies import POLICIES, RELATIONS

SHOTS = (1, 5, 20)
MODEL, RELATIVE, INSID3 = "prototype", "relative scores", "INSID3"
NUMBERS = (*SHOTS, "all")
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
    return [Drawn(RELATIVE, "true", k) for k in NUMBERS]


def idea_arms() -> list[Arm]:
    """One idea each, with what needs no annotation of the class."""
    return [Drawn(name, "llm", "all") for name in IDEAS]


def share_arms() -> list[Arm]:
    """True supports with other shares of the absolute score."""
    return [Drawn(name, "true", k) for name in SHARES for k in (1, 5)]


def insid3_arms() -> list[Arm]:
    """What INSID3 is shown."""
    return [Drawn(INSID3, policy, k) for policy in ("true", "llm", "random") for k in (1, 5)]


# --- tables ----------------------------------------------------------------------------------------------------------


class Figures:
    """mIoU and paired differences, with intervals, of arms that were asked the same queries."""

    def __init__(self, counts: Counts):
        first = next(iter(counts.values()))
        self.counts, self.estimator, self.queries = counts, Estimator(first), set(queries_of(first))

    def cell(self, arm: Arm) -> str:
        """mIoU of an arm; nothing if it was not asked."""
        return _shown(self.estimator.row([self.counts[arm]])) if arm in self.counts else ""

    def difference(self, a: Arm, b: Arm) -> str:
        """By how much `a` is better than `b`."""
        return _shown(self.estimator.difference([self.counts[a]], [self.counts[b]]), "+.1f")


def _shown(found: Estimate, form: str = ".1f") -> str:
    return f"{found.value:{form}} {interval(found.ci95, form)}".rstrip()


def print_policies(figures: Figures) -> None:
    """mIoU by policy and number of supports, then the differences that matter."""
    print("| policy | " + " | ".join(f"K = {k}" for k in NUMBERS) + " |\n|---|" + "---|" * len(NUMBERS))
    for policy in POLICIES:
        cells = [figures.cell(Drawn(MODEL, policy, k)) for k in NUMBERS]
        print(f"| {policy} | " + " | ".join(cells) + " |")
    of = {policy: {k: Drawn(MODEL, policy, k) for k in NUMBERS} for policy in POLICIES}
    llm, random, true, every = of["llm"], of["random"], of["true"], of["all"]["all"]
    clean_llm, clean_random = ({k: replace(arm, clean=True) for k, arm in arms.items()} for arms in (llm, random))
    pairs = [(of[p][k], random[k]) for p in POLICIES if p not in ("random", "all") for k in SHOTS]
    pairs += [(of[p]["all"], every) for p in ("true", *RELATIONS, "visual", "hybrid")]
    pairs += [(replace(random[k], draw=1), random[k]) for k in SHOTS]
    pairs += [(llm[k], of[p][k]) for p in ("text", "supercategory", "shuffled", "oracle") for k in (5, "all")]
    pairs += [(llm["all"], llm[5]), (llm[5], true[1]), (llm["all"], true[1]), (llm[5], true[5]), (true[5], true[1])]
    pairs += [(of["hybrid"][k], llm[k]) for k in (5, "all")]
    pairs += [(clean_llm[5], clean_random[5]), (clean_llm["all"], replace(every, clean=True))]
    pairs += [(clean_llm[k], llm[k]) for k in (5, "all")]
    print("\n| paired difference | mIoU |\n|---|---|")
    for a, b in pairs:
        print(f"| {a.supports} − {b.supports} | {figures.difference(a, b)} |")


def print_ideas(figures: Figures) -> None:
    """One idea a row, with its difference to what is kept."""
    print("\n| llm, all supports | mIoU | − kept |\n|---|---|---|")
    for idea in IDEAS:
        arm, kept = Drawn(idea, "llm", "all"), Drawn(KEPT, "llm", "all")
        print(f"| {idea} | {figures.cell(arm)} | {figures.difference(arm, kept)} |")


def print_relative(figures: Figures) -> None:
    """What true supports gain because they also say how similar the class is."""
    print("\n| true supports | relative scores alone | gain of the absolute ones |\n|---|---|---|")
    for arm in relative_arms():
        gain = figures.difference(replace(arm, model=MODEL), arm)
        print(f"| {arm.k} | {figures.cell(arm)} | {gain} |")


def print_augmented(figures: Figures) -> None:
    """True supports and base supports together, with the difference to the true ones alone."""
    print("\n| true supports and … | mIoU | − true alone |\n|---|---|---|")
    for arm in augmented_arms(MODEL):
        alone = Drawn(MODEL, "true", arm.k)
        print(f"| {arm.supports} | {miou(figures.counts[arm]):.1f} | {figures.difference(arm, alone)} |")


def print_insid3(figures: Figures) -> None:
    """INSID3 with its difference to prototypes of the same supports, then the differences that matter."""
    print("\n| INSID3 | mIoU | − prototypes |\n|---|---|---|")
    arms = {(arm.policy, arm.k): arm for arm in insid3_arms()}
    for arm in arms.values():
        against = figures.difference(arm, replace(arm, model=MODEL))
        print(f"| {arm.supports} | {figures.cell(arm)} | {against} |")
    for k in (1, 5):
        for other in ("random", "true"):
            print(f"| llm {k} − {other} {k} | {figures.difference(arms['llm', k], arms[other, k])} | |")


def print_choices(base: Sequence[Curves], thresholds: Thresholds) -> None:
    """What base classes say to the other choices: mIoU of their questions, in each fold at its best threshold."""
    print("\n| on base classes | " + " | ".join(f"fold {n}" for n in range(len(base))) + " | mean |")
    print("|---|" + "---|" * (len(base) + 1))
    true = [Drawn(model, "true", k) for k in (1, 5) for model in (RELATIVE, MODEL, *SHARES)]
    for arm in (*idea_arms(), *true):
        at = zip(base, thresholds[arm], strict=True)
        ious = [miou([c.at(threshold) for c in of_fold[arm]]) for of_fold, threshold in at]
        cells = " | ".join(f"{iou:.1f}" for iou in (*ious, sum(ious) / len(ious)))
        print(f"| {arm.name} | {cells} |")


def print_cost(tuned: Figures, at_base: Counts, by_half: Mapping[Arm, float], thresholds: Thresholds) -> None:
    """What it costs that thresholds know base classes only, on the queries that both sets of figures report."""
    others = {arm: replace(arm, model="at base") for arm in (*policy_arms(), *augmented_arms(MODEL))}
    counts = {o: [c for c in at_base[arm] if (c.class_name, c.image_id) in tuned.queries] for arm, o in others.items()}
    both = Figures({**tuned.counts, **counts})
    print("\n| supports | thresholds of base classes | tuned | mIoU − tuned |\n|---|---|---|---|")
    for arm, other in others.items():
        steps = ", ".join(f"{t:.2f}" for t in thresholds[arm])
        print(f"| {arm.supports} | {steps} | {by_half[arm]:.2f} | {both.difference(other, arm)} |")


def write_counts(path: Path, chosen_on: str, counts: Counts, threshold: Callable[[Arm, str], float | None]) -> None:
    """Append one JSON line per arm and query, so that anything can be analysed again.

    Args:
        chosen_on: what the thresholds were chosen on.
        threshold: that of an arm for queries about a class; None of one that has none.
    """
    with path.open("a", encoding="utf-8") as file:
        for arm, found in counts.items():
            for c in found:
                chosen = {"threshold": threshold(arm, c.class_name), "chosen_on": chosen_on}
                file.write(json.dumps({"arm": arm.name, **chosen, **vars(c)}) + "\n")
