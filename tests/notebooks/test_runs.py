"""The notebooks for real, on the tiny budget: killed, resumed, reused, and refusing what does not fit."""

import json
import subprocess
import sys

import pytest
from tiny_run import tutorial, workplace

from llafs_lib.tools.tutorial import execute, project_root

pytestmark = pytest.mark.slow


def test_a_kill_leaves_nothing_half_written(killed_run):
    _, folder, left = killed_run
    assert folder.require("folds.json").is_file()
    assert "hsnet.safetensors" not in left and not [name for name in left if "partial.hsnet" in name]


def test_the_next_run_reuses_resumes_and_finishes(finished_run):
    _, folder, (code, out, err) = finished_run
    assert code == 0, err
    assert "01_data_folds: reused" in out
    assert "resumed after epoch" in (folder.path / "notebooks" / "02_backbone_training.log").read_text("utf-8")
    for label in ("random base supports", "LLM base supports", "true supports", "predict everything", "report.html"):
        assert label in out
    results = json.loads((folder.path / "results.json").read_text())
    of_models = {f"{m}: {a} 5" for m in ("HSNet", "RePRI", "Prototype") for a in ("random", "llm", "true")}
    assert {"everything", "centre prior"} | of_models <= set(results["arms"])
    assert results["paired"]["HSNet: llm 5-HSNet: random 5"]["ci95"] and results["peak_rss_mb"] < 4096
    log = (folder.path / "queries.novel.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(log) == 1 + results["n_queries"] and set(results["arms"]) < set(json.loads(log[1])["answers"])
    assert len(list((folder.path / "notebooks").glob("0*[a-z].ipynb"))) == 7
    assert not list((folder.path / "notebooks").glob("*.partial.ipynb"))


def test_three_claims_come_out_of_the_raw_answers_by_hand(finished_run):
    """The script shares no code with the library."""
    _, folder, _ = finished_run
    script = project_root() / "benchmarks" / "claims_by_hand.py"
    done = subprocess.run([sys.executable, script, folder.path], capture_output=True, text=True, check=True)
    paired = json.loads((folder.path / "results.json").read_text())["paired"]
    found = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert len(found) == 3 * 3, "three claims about three models"
    for name, difference in found.items():
        assert float(difference) == pytest.approx(paired[name]["diff"], abs=0.011), name


def test_a_second_run_reuses_everything(finished_run):
    runs, _, _ = finished_run
    code, out, _ = tutorial(runs)
    assert code == 0 and out.count("reused") == 7 and "LLM base supports" in out


def test_other_parameters_than_the_models_are_refused(finished_run):
    runs, _, _ = finished_run
    code, _, err = tutorial(runs, "--only", "04", "--seed", "5")
    assert code == 2 and "seed=0, not seed=5" in err


def test_the_first_notebook_needs_no_run_and_its_solutions_hold(in_tmp):
    workplace(in_tmp)
    execute(in_tmp / "notebooks" / "00_start_here.ipynb", in_tmp / "00.ipynb", {})
    cells = json.loads((in_tmp / "00.ipynb").read_text(encoding="utf-8"))["cells"]
    printed = ["".join(text for o in cell["outputs"] for text in o.get("text", [])) for cell in cells[-3:]]
    assert printed[:2] == ["67\n50\n", "IoU 0\n"], "what the exercises say to expect"
    assert [round(float(line.split()[1])) for line in printed[2].splitlines()] == [5, 8]
