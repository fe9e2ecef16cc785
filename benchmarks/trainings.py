"""By how much another training moves a figure, in points: what the interval of a single run has to include.

    python benchmarks/trainings.py runs/sweep coco-mini

Prints, model by model, the standard deviation between trainings that differ in nothing but their seed: of a fold's
rows, of a fold's claims, and of the claims of all folds together. `summary.TRAINED` holds the second of these.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from llafs_lib.evaluation.arms import claims, models_of, over_draws
from llafs_lib.evaluation.log import read_log
from llafs_lib.evaluation.metrics import miou
from llafs_lib.evaluation.runner import counts_of


def main(sweep, dataset):
    runs = {}  # (seed, fold) → arm → counts
    for log in sorted(Path(sweep).glob(f"seed*/{dataset}/fold*/queries.novel.jsonl")):
        seed, fold = log.parts[-4].removeprefix("seed"), log.parts[-2].removeprefix("fold")
        runs[int(seed), int(fold)] = over_draws(counts_of(read_log(log)))
    folds = sorted({fold for _, fold in runs})
    print(f"{len(runs)} trainings of {len(folds)} folds")
    for model in models_of(next(iter(runs.values()))):
        rows, differences = (deviations(runs, folds, pick(model)) for pick in (rows_of, pairs_of))
        print(f"{model}: rows {rms(rows):.2f}, claims {rms(differences):.2f} points a fold", end=", ")
        print(f"{rms(differences) / len(folds) ** 0.5:.2f} over {len(folds)} folds")


def rows_of(model):
    return lambda run: {arm.name: miou(counts) for arm, counts in run.items() if arm.model == model}


def pairs_of(model):
    def differences(run):
        k = max(arm.k for arm in run if arm.policy == "llm" and arm.k != "all")
        return {says: miou(run[a]) - miou(run[b]) for says, (a, b) in claims(model, k).items()}

    return differences


def deviations(runs, folds, figures):
    """The deviation between a fold's trainings, of each figure in each fold."""
    values = defaultdict(list)  # (fold, figure) → one for each training
    for (_, fold), run in runs.items():
        for name, value in figures(run).items():
            values[fold, name].append(value)
    return [np.std(own, ddof=1) for own in values.values() if len(own) > 1]


def rms(values):
    return float(np.sqrt(np.mean(np.square(values)))) if values else float("nan")


if __name__ == "__main__":
    main(*sys.argv[1:])
