"""Sweeps with a real Ray and real kernels; only the notebooks are small ones."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from own_file import draw_own

from llafs_lib.artifacts import NOTEBOOKS, number_of
from llafs_lib.errors import LlafsError
from llafs_lib.settings import Settings
from llafs_lib.tools import sweep as sweeps
from llafs_lib.tools.cli import main
from llafs_lib.tools.cluster import Resources
from llafs_lib.tools.sweep import Sweep, dry_run, merge, numbers, run_sweep

NEEDS_RAY = "sweeps need Ray: pip install -e .[cluster]"
PARAMETERS = "dataset = 'toy'\nfold = 0\nseed = 0\nruns = 'runs'"
WORK = """
import json, os, time
from pathlib import Path

folder = Path(runs) / dataset / f"fold{fold}"
folder.mkdir(parents=True, exist_ok=True)
with open("executions.txt", "a") as file:
    file.write(f"BOOK seed{seed} fold{fold}\\n")
if Path(f"fail-BOOK-{fold}").exists():
    raise ValueError("this fold is broken")
time.sleep(SECONDS)
"""
ANSWERS = """
from dataclasses import asdict
from llafs_lib.artifacts import RunFolder, file_hash
from llafs_lib.evaluation.arms import EVERYTHING, Arm

run = RunFolder(runs, dataset, fold)
made_with = {"dataset": dataset, "fold": fold, "seed": seed, "backbone": "small", "budget": "small"}
query = {"class_name": f"class{fold}", "image_id": 1, "pixels": 100, "truth": 20}
arms = [EVERYTHING, *(Arm("HSNet", policy, 5) for policy in ("true", "llm", "random"))]
arms.append(Arm("HSNet", "random", 5, draw=1))
inters = dict(zip(arms, (20, 16, 12 + seed, 8, 9)))
counts = {a.name: [i, 20 if a is not EVERYTHING else 100, 0, 100] for a, i in inters.items()}
line = query | {"answers": counts, "at_400": counts, "supports": {}}
header = {"key": "", "arms": {a.name: asdict(a) for a in arms}}
results = {"shots": [5], "backbone": "small", "budget": "small", "absent": {}, "seconds": {"all": 1.0}}
log = folder / "queries.novel.jsonl"
log.write_text(json.dumps(header) + "\\n" + json.dumps(line) + "\\n")
results["log"] = {"file": log.name, "sha256": file_hash(log)}
with run.writing("results.json", made_with) as path:
    path.write_text(json.dumps(results))
with run.writing("examples.png", made_with) as path:
    path.write_bytes(b"05")
"""

WITH_MANIFESTS = ("queries.novel.jsonl", "results.json", "examples.png")


def notebook(name, made, seconds):
    number = number_of(name)
    code = WORK.replace("BOOK", number).replace("SECONDS", str(seconds))
    code += ANSWERS if number == "05" else ""
    code += "".join(f"(folder / {m!r}).write_bytes(b'{number}')\n" for m in made if m not in WITH_MANIFESTS)
    cells = [
        {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": source}
        for metadata, source in (({"tags": ["parameters"]}, PARAMETERS), ({}, code))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}


@pytest.fixture
def project(in_tmp):
    """A project whose notebooks take a moment and write their artifacts."""
    (in_tmp / "notebooks").mkdir()
    for name, (_, made) in NOTEBOOKS.items():
        seconds = 3 if number_of(name) == "02" else 0.1
        (in_tmp / "notebooks" / f"{name}.ipynb").write_text(json.dumps(notebook(name, made, seconds)))
    return in_tmp


def executions(project):
    return (project / "executions.txt").read_text().split("\n")[:-1]


def kernels_in(project, command="ipykernel"):
    """The kernels that run in a folder, by pid."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if command in (process / "cmdline").read_text() and (process / "cwd").resolve() == project.resolve():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def workers_in(project):
    """The processes of Ray that run notebooks in a folder, by pid."""
    return kernels_in(project, "ray::_run")


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.2)


def sweep_of(folds, seeds=(0,), only=()):
    return Sweep(Settings(), tuple(folds), tuple(seeds), only)


def test_models_that_are_not_trained_are_asked_with_the_first_seed_only():
    def asked(segmenters, seeds):
        return [run.segmenters for run in Sweep(Settings(segmenters=segmenters), (0, 1), seeds).runs()]

    assert asked("hsnet,prototype,repri,insid3", (4, 2)) == ["hsnet,prototype,repri,insid3"] * 2 + ["hsnet,repri"] * 2
    assert asked("prototype,insid3", (0, 1)) == ["prototype,insid3"] * 4, "a run has to ask somebody"


@pytest.mark.parametrize(("text", "found"), [("0-3", [0, 1, 2, 3]), ("2", [2]), ("0,2", [0, 2]), ("0-1,3", [0, 1, 3])])
def test_numbers(text, found):
    assert numbers(text) == found


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "0,0", "3-1"])
def test_what_is_no_list_of_numbers(text):
    with pytest.raises(LlafsError):
        numbers(text)


def test_a_fold_that_does_not_exist_is_refused_before_anything_runs(project, capsys):
    assert main(["sweep", "--folds", "0-4", "--dry-run"]) == 2
    assert "0, 1, 2, 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--cpus", "0"), ("--gpus", "-1"), ("--retries", "-1"), ("--cpus", "nan")]
)
def test_impossible_resources(project, capsys, option, value):
    assert main(["sweep", "--dry-run", option, value]) == 2
    assert f"{option[2:]} must be a " in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_run(project):
    said = dry_run(sweep_of((0, 1), (0, 1)))
    assert "seed 1, fold 0: 01, 02, 02b, 03, 04, 05" in said
    assert said.endswith("4 of 4 runs to do") and not (project / "runs").exists()
    assert "seed 0, fold 1: 05" in dry_run(sweep_of((0, 1), only=("05",)))


@pytest.mark.slow
def test_one_node_of_two_is_killed(project):
    ray = pytest.importorskip("ray", reason=NEEDS_RAY)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    sweep, outcomes = sweep_of((0, 1, 2), only=("02", "05")), []
    driver = threading.Thread(target=lambda: outcomes.append(run_sweep(sweep, Resources(address=cluster.address))))
    try:
        driver.start()
        wait_for(lambda: (project / "executions.txt").is_file() and executions(project).count("02 seed0 fold0"), 90)
        wait_for(lambda: sum(line.startswith("02") for line in executions(project)) >= 2, 60)
        cluster.remove_node(second, allow_graceful=False)
        driver.join(240)
    finally:
        ray.shutdown()
        cluster.shutdown()
    (outcome,) = outcomes
    assert sorted(outcome.done) == ["seed 0, fold 0", "seed 0, fold 1", "seed 0, fold 2"] and not outcome.failed
    assert sweep.unfinished() == {}
    assert sum(line.startswith("02") for line in executions(project)) == 4, "the run that died was done again"
    assert sum(line.startswith("05") for line in executions(project)) == 3
    assert not list(project.glob("runs/**/*partial*")), "nothing is left half-written"
    wait_for(lambda: not kernels_in(project), 30)


@pytest.mark.slow
def test_a_killed_driver_s_sweep_redoes_only_what_is_unfinished(project):
    pytest.importorskip("ray", reason=NEEDS_RAY)
    command = [sys.executable, "-m", "llafs_lib", *"sweep --folds 0-1 --seeds 0 --only 02,05 --address local".split()]
    victim = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(project.glob("runs/sweep/seed0/toy/fold*/notebooks/05*.stamp.json")), 150)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    # Between two notebooks there is no kernel, but a worker.
    wait_for(lambda: not kernels_in(project) and not workers_in(project), 60)
    finished = [f for f in (0, 1) if f"seed 0, fold {f}" not in sweep_of((0, 1), only=("02", "05")).unfinished()]
    assert finished, "one run was finished before the kill"
    before = executions(project)
    again = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr[-2000:]
    redone = executions(project)[len(before) :]
    assert not [line for line in redone if any(f"fold{f}" in line for f in finished)]
    assert f"{2 - len(finished)} runs done, {len(finished)} were finished, 0 failed" in again.stdout
    assert "LLM base supports, 5" in again.stdout and "report: " in again.stdout
    page = (project / "runs" / "sweep" / "toy" / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", ""), "the page must not load anything"


@pytest.mark.slow
def test_a_run_that_fails_is_tried_again_and_then_listed(project, capsys):
    pytest.importorskip("ray", reason=NEEDS_RAY)
    (project / "fail-04-1").touch()
    sweep = sweep_of((0, 1), only=("02", "04", "05"))
    outcome = run_sweep(sweep, Resources(address="local", retries=1))
    assert outcome.done == ["seed 0, fold 0"] and list(outcome.failed) == ["seed 0, fold 1"]
    assert "this fold is broken" in outcome.failed["seed 0, fold 1"]
    assert "sweep.log" in outcome.failed["seed 0, fold 1"]
    assert executions(project).count("04 seed0 fold1") == 2, "once more"
    assert executions(project).count("02 seed0 fold1") == 1, "what was finished is kept"
    with pytest.raises(LlafsError, match="no seed has finished all folds"):
        merge(sweep, outcome.failed)
    (project / "fail-04-1").unlink()
    outcome = run_sweep(sweep, Resources(address="local"))
    assert outcome.skipped == ["seed 0, fold 0"] and outcome.done == ["seed 0, fold 1"]
    results = merge(sweep)
    assert results["folds"] == [0, 1] and results["n_queries"] == 2
    assert results["arms"]["HSNet: llm 5"]["miou"] == 60
    random = (8 + 9) / (20 + 20) * 100  # both draws count
    assert results["paired"]["HSNet: llm 5-HSNet: random 5"]["diff"] == 60 - random


@pytest.fixture
def ray(monkeypatch):
    """A Ray with four processors that nothing is started for."""
    fake = SimpleNamespace(is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 4.0})
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_more_than_the_cluster_has_is_refused(project, ray):
    with pytest.raises(LlafsError, match="asks for 1 CPUs and 8 GPUs"):
        run_sweep(sweep_of((0,)), Resources(gpus=8))


def test_no_cluster_at_the_address(project, ray):
    ray.is_initialized = lambda: False
    with pytest.raises(LlafsError, match="no Ray cluster answers"):
        run_sweep(sweep_of((0,)), Resources(address="127.0.0.1:1"))


def test_a_ray_that_does_not_start_is_one_sentence(project, ray):
    def init(**_):
        raise RuntimeError("The current node timed out during startup.\nmore")

    ray.is_initialized, ray.init = lambda: False, init
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        LlafsError, match=r"Ray did not start \(The current node timed out during startup.\): run again"
    ):
        run_sweep(sweep_of((0,)), Resources(address="local"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sweep_without_the_evaluation_merges_nothing(project, monkeypatch, capsys):
    monkeypatch.setattr(sweeps, "run_sweep", lambda *_: sweeps.Outcome(done=["seed 0, fold 0"]))
    monkeypatch.setattr(sweeps, "merge", lambda *_: pytest.fail("nothing was evaluated"))
    assert main("sweep --folds 0 --seeds 0 --only 01,03".split()) == 0
    assert capsys.readouterr().out.endswith("1 runs done, 0 were finished, 0 failed\n")


@pytest.mark.parametrize("runs", ["a-file", "/dev/null", "x" * 300])
def test_runs_that_cannot_be_written_are_refused_before_ray_starts(project, monkeypatch, capsys, runs):
    (project / "a-file").touch()
    monkeypatch.setattr(sweeps, "run_sweep", lambda *_: pytest.fail("it was run"))
    assert main(["sweep", "--folds", "0", "--runs", runs]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_run_of_a_sweep_is_the_notebooks_that_leave_something(project, monkeypatch):
    asked = []
    monkeypatch.setattr(sweeps, "run_tutorial", lambda settings, only, **_: asked.append(list(only)))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for only in ((), ("05",)):
        sweeps._run(str(project), {}, only, 1, {}, "")
    assert asked == [["01", "02", "02b", "03", "04", "05"], ["05"]]


def test_a_sweep_of_ones_own_data_has_the_folds_that_there_are(in_tmp, capsys):
    path = str(draw_own(in_tmp, [(c,) for c in ("hen", "pony") for _ in range(3)]))
    assert main(["sweep", "--dataset", path, "--dry-run", "--seeds", "0"]) == 0
    said = capsys.readouterr().out
    assert "seed 0, fold 1: 01, 02, 02b, 03, 04, 05" in said and "2 of 2 runs to do" in said
    assert re.fullmatch(r"runs/sweep/objects-[0-9a-f]{4}", Sweep(Settings(dataset=path)).folder.as_posix())
    assert main(["sweep", "--dataset", path, "--dry-run", "--folds", "0-3"]) == 2
    assert "fill only 2 folds, so fold must be 0 or 1, not 2" in capsys.readouterr().err
