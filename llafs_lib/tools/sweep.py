"""Many runs of the series, one Ray task each, and one report of them all.

    llafs sweep --dataset coco-mini --folds 0-3 --seeds 0-2

A run is notebooks 01 to 05, with 02b, for one fold and one training seed, in a folder of its own:

    runs/sweep/seed1/coco-mini/fold2/     a run, with its notebooks, their logs and sweep.log
    runs/sweep/coco-mini/                 the merged results and report.html

Finished runs are skipped; failed ones are tried again and then listed. A task whose machine dies is started on another
one and goes on after the last notebook that was finished. A run's folder is locked while it is written (`sharing`):
another task waits. All machines of a cluster must see the project's folder under one path.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llafs_lib.artifacts import MADE_BY, NOTEBOOKS, number_of, replacing, write_json
from llafs_lib.errors import LlafsError, told
from llafs_lib.progress import bar
from llafs_lib.settings import Settings, data_name
from llafs_lib.tools.cluster import Resources, cluster, environment
from llafs_lib.tools.execution import import_extra
from llafs_lib.tools.tutorial import Step, check_own_data, checked, notebooks, run_tutorial

if TYPE_CHECKING:
    from llafs_lib.evaluation.log import Asked

TRAINED = ("hsnet", "repri")  # the segmenters that another training seed changes
MERGED = tuple(name for name, (_, made) in NOTEBOOKS.items() if made)  # those that leave something for the report


def numbers(text: str) -> list[int]:
    """ "0-3" → [0, 1, 2, 3], "0,2" → [0, 2].

    Raises:
        LlafsError: anything else.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise LlafsError(f"{told(text)} is not a list of whole numbers such as 0-3 or 0,2.")
        if len(last or first) > 10 or int(last or first) - int(first) > 10_000:
            raise LlafsError(
                f"{told(text)} names numbers that are too large or too many: sweep at most 10,000 in a row."
            )
        found += range(int(first), int(last or first) + 1)
    if len(set(found)) < len(found) or not found:
        raise LlafsError(f"{told(text)} names a number twice, or none.")
    return found


@dataclass(frozen=True)
class Sweep:
    """Which runs: `settings` for every fold and every training seed.

    only: numbers of notebooks, such as ("05",): run just these where they are not up to date.
    trained: another folder of runs, whose models are taken instead of training (see `tools.trained`).
    """

    settings: Settings
    folds: tuple[int, ...] = (0, 1, 2, 3)
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = ()
    trained: str = ""

    @property
    def folder(self) -> Path:
        """Where the merged results lie: those of the last sweep of this data set, whichever folds and seeds it had."""
        return Path(self.settings.runs) / "sweep" / data_name(self.settings.dataset)

    @property
    def evaluates(self) -> bool:
        """Whether the notebook is among them whose results are merged."""
        return not self.only or number_of(MADE_BY["results.json"]) in self.only

    def runs(self) -> list[Settings]:
        """The settings of each run, seed by seed."""
        return [
            replace(self.settings, fold=fold, seed=seed, runs=_runs_of(self.settings.runs, seed), segmenters=asked)
            for seed, asked in zip(self.seeds, self._segmenters(), strict=True)
            for fold in self.folds
        ]

    def _segmenters(self) -> list[str]:
        """Whom each seed asks: only the first asks models that are not trained, since all seeds would get the same."""
        asked = self.settings.segmenters
        trained = ",".join(name for name in asked.split(",") if name in TRAINED)
        return [asked, *[trained or asked] * (len(self.seeds) - 1)]

    def unfinished(self) -> dict[str, list[str]]:
        """Name of a run → the numbers of the notebooks that have to run, for those runs that are not finished."""
        check_own_data(checked(self.settings), self.folds)
        left = {
            name_of(run): [number_of(book.stem) for book in notebooks(self.only, MERGED) if Step(book, run).why_run()]
            for run in self.runs()
        }
        return {name: books for name, books in left.items() if books}


def _runs_of(runs: str, seed: int) -> str:
    """The folder of a sweep's runs with one seed."""
    return str(Path(runs) / "sweep" / f"seed{seed}")


def name_of(settings: Settings) -> str:
    """What a run is called: "seed 1, fold 2"."""
    return f"seed {settings.seed}, fold {settings.fold}"


@dataclass
class Outcome:
    """What a sweep did: the runs that were finished before, that were run now, and that failed, with their error."""

    skipped: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_sweep(sweep: Sweep, resources: Resources | None = None) -> Outcome:
    """Run what is not finished, as Ray tasks.

    Raises:
        LlafsError: papermill or Ray is not installed, there is no cluster at the address, or it is too small.
    """
    resources = resources or Resources()
    left = sweep.unfinished()
    outcome = Outcome(skipped=[name_of(run) for run in sweep.runs() if name_of(run) not in left])
    if not left:
        return outcome
    import_extra("papermill", "notebooks")  # every run needs it: better missed here than in a worker
    with cluster(resources) as ray, bar(len(left), "sweep", "run") as progress:
        options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus, "max_retries": resources.retries}
        task = ray.remote(retry_exceptions=True, **options)(_run)
        threads, place, given = max(int(resources.cpus), 1), os.getcwd(), environment()
        runs = {name_of(run): run for run in sweep.runs()}
        models = {name: sweep.trained and _runs_of(sweep.trained, run.seed) for name, run in runs.items()}
        pending = {
            task.remote(place, asdict(runs[name]), sweep.only, threads, given, models[name]): name for name in left
        }
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            name = pending.pop(ready)
            try:
                ray.get(ready)
                outcome.done.append(name)
            except ray.exceptions.RayTaskError as failed:
                outcome.failed[name] = str(failed.cause)
            except ray.exceptions.RayError as lost:  # its machine died more often than it may be tried again
                outcome.failed[name] = f"{type(lost).__name__}: {str(lost).splitlines()[0]}"
            progress.update()
    return outcome


def _run(
    place: str,
    settings: Mapping[str, Any],
    only: Sequence[str],
    threads: int,
    environment: Mapping[str, str],
    trained: str,
) -> None:
    """One run, in a Ray worker. What it prints goes to `sweep.log` in its folder; an error ends it, and Ray retries."""
    os.chdir(place)
    os.environ.update(environment, OMP_NUM_THREADS=str(threads))
    chosen = Settings(**settings)
    log_path = chosen.run.path / "sweep.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("a", encoding="utf-8") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:  # what a task before this one finished is not done again
                books = only or [number_of(name) for name in MERGED]
                run_tutorial(chosen, books, again=False, wait=True, trained=trained)
            except Exception as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                raise LlafsError(f"{error} (see {log_path.as_posix()})") from None  # every worker can send this one


# --- before and after ------------------------------------------------------------------------------------------------


def dry_run(sweep: Sweep) -> str:
    """What would be run: for each run the numbers of its notebooks that are not up to date."""
    names, left = [name_of(run) for run in sweep.runs()], sweep.unfinished()
    lines = [f"{name}: {', '.join(left.get(name, ['finished']))}" for name in names]
    return "\n".join([*lines, f"{len(left)} of {len(names)} runs to do"])


def merge(sweep: Sweep, failed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """One result of all finished runs, written to the sweep's folder with its tables and `report.html`.

    The classes of all folds stand side by side. The answers of trainings with other seeds are pooled, query by query.

    Raises:
        LlafsError: no seed has finished all folds, or a file of a run is damaged or of another run.
    """
    from llafs_lib.evaluation.report import html_report, markdown_report
    from llafs_lib.evaluation.summary import merged

    runs, asked, failed = _read(sweep, failed or {})
    seeds = [seed for seed in sweep.seeds if all((seed, fold) in asked for fold in sweep.folds)]
    whole = {run: own for run, own in asked.items() if run[0] in seeds}
    if not whole:
        why = next(iter(failed.values()), "")
        raise LlafsError(f"no seed has finished all folds, so there is nothing to merge yet. {why}".rstrip())
    results = {
        "dataset": data_name(sweep.settings.dataset),
        "folds": list(sweep.folds),
        "seeds": seeds,
        **merged(whole, list(runs.values())),
        "seconds": {name: round(sum(run["seconds"].values()), 1) for name, run in runs.items()},
        "failed": failed,
    }
    figures = _figures(sweep, results, whole)  # before anything is written: a run may lack its examples
    write_json(sweep.folder / "results.json", results)
    for name, text in {"results.md": markdown_report(results), "report.html": html_report(results, figures)}.items():
        with replacing(sweep.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return results


Runs = dict[tuple[int, int], "list[Asked]"]  # by (seed, fold): what a run was asked


def _read(sweep: Sweep, failed: Mapping[str, str]) -> tuple[dict[str, Any], Runs, dict[str, str]]:
    """Run → its results, (seed, fold) → the answers of it, and run → why it is not among them."""
    from llafs_lib.evaluation.log import read_log

    runs: dict[str, Any] = {}
    asked: Runs = {}
    failed = dict(failed)
    for settings in sweep.runs():
        name, folder = name_of(settings), settings.run.path
        if name in failed:
            continue
        if not (folder / "results.json").exists():
            failed[name] = f"{folder / 'results.json'} is missing: run `llafs sweep` again."
            continue
        found = settings.run.require("results.json", **settings.model)
        runs[name] = json.loads(found.read_text(encoding="utf-8"))
        log = read_log(folder / "queries.novel.jsonl", runs[name]["log"]["sha256"])
        asked[settings.seed, settings.fold] = log
    return runs, asked, failed


def _figures(sweep: Sweep, results: Mapping[str, Any], asked: Runs) -> dict[str, Any]:
    """Title → figure, or the bytes of one, for the report. Single queries are shown of the first seed only."""
    from llafs_lib import plots
    from llafs_lib.evaluation.arms import EVERYTHING, Arm, models_of
    from llafs_lib.evaluation.tables import arms_in

    model, k = models_of(arms_in(results))[0], max(results["shots"])
    shown, first = [Arm(model, policy, k) for policy in ("true", "llm", "random")], results["seeds"][0]
    one_seed = [query for (seed, _), own in asked.items() if seed == first for query in own]
    figures = {
        "The six claims: differences of mIoU with their 95% intervals": plots.claims(results),
        "mIoU of every arm, 95% intervals": plots.arm_intervals(results),
        f"IoU of each class, {model}": plots.per_class(results, shown),
        f"IoU by the size of the object, {model}": plots.iou_by_area(one_seed, [EVERYTHING, *shown]),
    }
    for settings in (s for s in sweep.runs() if s.seed == first):
        title = f"Fold {settings.fold}: best, middling and worst query of the LLM arm"
        figures[title] = settings.run.require("examples.png", **settings.model).read_bytes()
    return figures
