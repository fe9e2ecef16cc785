"""By how much another training moves a figure, in points: what the interval of a single run has to include.

    python benchmarks/trainings.py coco-mini runs/sweep
    python benchmarks/trainings.py toy one_thread/sweep two_threads/sweep

Prints, model by model, the standard deviation between trainings that differ in nothing but their seed: of a fold's
rows, of a fold's claims, and of the claims of all folds together. `summary.TRAINED` holds the second of these. Of
several sweeps with the same seeds it prints the same for trainings that differ in nothing but the sweep, such as in
their number of threads.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from llafs_lib.evaluation.arms import claims, models_of, over_draws
from llafs_lib.evaluation.log import read_log
from llafs_lib.evaluation.metrics import miou
from llafs_lib.evaluation.runner import counts_of


def main(dataset, *sweeps):
    runs = {}  # (sweep, seed, fold) → arm → counts
    for done in sorted(path for sweep in sweeps for path in Path(sweep).glob(f"seed*/{dataset}/fold*/results.json")):
        answers = counts_of(read_log(done.with_name("queries.novel.jsonl")))
        runs[done.parents[3], done.parts[-4], done.parts[-2]] = over_draws(answers)
    if not runs:
        places = ", ".join(map(str, sweeps))
        sys.exit(f"no finished run of {dataset} in {places}: name a data set, then folders of sweeps")
    folds = len({fold for *_, fold in runs})
    print(f"{len(runs)} trainings of {folds} folds")
    for model in models_of(next(iter(runs.values()))):
        report(f"{model}, another seed", runs, folds, model, lambda sweep, seed, fold: (sweep, fold))
        if len(sweeps) > 1:
            report(f"{model}, another sweep", runs, folds, model, lambda sweep, seed, fold: (seed, fold))


def report(says, runs, folds, model, same):
    rows, differences = (rms(deviations(runs, same, pick(model))) for pick in (rows_of, claims_of))
    over = differences / folds**0.5
    print(f"{says}: rows {rows:.2f}, claims {differences:.2f} points a fold, {over:.2f} over {folds} folds")


def rows_of(model):
    return lambda run: {arm.name: miou(counts) for arm, counts in run.items() if arm.model == model}


def claims_of(model):
    def differences(run):
        k = max(arm.k for arm in run if arm.policy == "llm" and arm.k != "all")
        pairs = {says: pair for says, pair in claims(model, k).items() if run.keys() >= set(pair)}
        return {says: miou(run[a]) - miou(run[b]) for says, (a, b) in pairs.items()}

    return differences


def deviations(runs, same, figures):
    """The deviation of each figure between runs of which `same` says the same."""
    values = defaultdict(list)  # (same, figure) → one for each training
    for key, run in runs.items():
        for name, value in figures(run).items():
            values[same(*key), name].append(value)
    return [np.std(own, ddof=1) for own in values.values() if len(own) > 1]


def rms(values):
    return float(np.sqrt(np.mean(np.square(values)))) if values else float("nan")


if __name__ == "__main__":
    main(*sys.argv[1:])
