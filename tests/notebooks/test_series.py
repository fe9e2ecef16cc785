"""`make tutorial` as the README has it, with hardly a parameter at its default: on photographs where there are any."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from llafs_lib.tools.tutorial import project_root

pytestmark = pytest.mark.slow
ODD = "BUDGET=tiny QUERIES=10 FOLD=2 SHOTS=1 SEED=3 NOVEL_IN_TRAIN=ignore HOLD_OUT=no COMPARE_LOSSES=no"
ODD += " SEGMENTERS=prototype,insid3 LLM_MODE=replay LLM_BUDGET=1"


def test_make_tutorial_with_other_parameters(tmp_path):
    root = project_root()
    if not shutil.which("make") or not sys.prefix.startswith(str(root / ".venv")):
        pytest.skip("`make tutorial` runs in .venv, and these tests do not")
    dataset = "coco-mini" if os.environ.get("LLAFS_DATA") else "toy"
    installed = ["-o", ".venv/.installed-notebooks"]  # or make would install anew below the tests that run beside it
    command = ["make", *installed, "tutorial", f"DATASET={dataset}", f"RUNS={tmp_path}", *ODD.split()]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / dataset / "fold2"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["n_queries"] == 10 and results["shots"] == [1] and results["seed"] == 3
    assert {name.partition(":")[0] for name in results["arms"] if ":" in name} == {"Prototype", "INSID3"}
    assert done.stdout.count(": run (not run yet)") == 7 and str(folder / "report.html") in done.stdout
