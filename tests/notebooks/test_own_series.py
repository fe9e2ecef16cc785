"""The whole series on one's own COCO file: few classes, with names of all kinds that nobody has recorded."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from own_file import draw_own

from llafs_lib import LLaFS
from llafs_lib.errors import LlafsError
from llafs_lib.records import RelatedClass, RelatedClasses
from llafs_lib.settings import Settings
from llafs_lib.tools import tutorial

pytestmark = pytest.mark.slow
SCRIPT, MONEY, BOWL, ONCE = "<script>alert(1)</script>", "$5 & $10", "茶 bowl's", 'a "rare" thing'


@pytest.fixture(scope="module")
def place(tmp_path_factory, photographs):
    """A project folder with images of one's own, after `llafs tutorial` on them; what it printed."""
    root, there = tmp_path_factory.mktemp("project"), tutorial.project_root()
    for name in ("llafs_lib", "docs"):
        (root / name).symlink_to(there / name)
    shutil.copytree(there / "notebooks", root / "notebooks")
    draw_own(root / "own", [*((c,) for c in (SCRIPT, MONEY, BOWL) for _ in range(3)), (ONCE,)], first_id=2)
    return root, run(root, photographs)


def run(root, photographs):
    command = [sys.executable, "-m", "llafs_lib", "tutorial", "--dataset", "own/objects.json", "--fold", "1"]
    command += ["--budget", "tiny", "--queries", "4", "--shots", "2", "--segmenters", "prototype"]
    environment = {**os.environ, "LLAFS_DATA": str(photographs)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_notebooks_run_and_say_that_no_language_model_answered(place, photographs):
    root, printed = place
    (folder,) = (root / "runs").glob("objects-*/fold1")
    assert printed.count(": run (not run yet)") == 7
    assert "no usable answer of a language model about any class" in " ".join(printed.split())
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["dataset"] == folder.parent.name and results["unanswered"] == [MONEY]
    asked = json.loads((folder / "notebooks" / "03_llm_prompting.ipynb").read_text(encoding="utf-8"))
    said = [text for cell in asked["cells"] for o in cell.get("outputs", []) for text in o.get("text", [])]
    assert any(f"no usable answer of a language model about {MONEY}" in line for line in said)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "like names (no LLM answered)" in report and "<script" not in report
    assert run(root, photographs).count(": reused, ") == 7


def test_the_run_opens_from_anywhere_and_finds_its_data(place, photographs, monkeypatch, tmp_path):
    root, _ = place
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    monkeypatch.chdir(tmp_path)
    (folder,) = (root / "runs").glob("objects-*/fold1")
    model = LLaFS.from_run(folder, method="prototypes")
    photo = root / "own" / "images" / "0-4.png"
    assert model.segment(photo, SCRIPT).related.source == "itself"
    related = RelatedClasses(MONEY, (RelatedClass(BOWL, 0.9),), "live", "typed in")
    assert {s.class_name for s in model.segment(photo, MONEY, related=related).supports} == {BOWL}
    shutil.move(root / "own", root / "moved")
    try:
        with pytest.raises(LlafsError, match="own/objects.json .* is not there any more"):
            LLaFS.from_run(folder)
        again = LLaFS.from_run(folder, annotations=str(root / "moved" / "objects.json"))
        assert again.segment(root / "moved" / "images" / "0-4.png", BOWL).supports
    finally:
        shutil.move(root / "moved", root / "own")


def test_the_first_notebook_runs_as_well(place, photographs, monkeypatch):
    root, _ = place
    monkeypatch.setenv("LLAFS_DATA", str(photographs))
    monkeypatch.chdir(root)
    parameters = {"dataset": "own/objects.json", "fold": 2, "shots": 1}
    tutorial.execute(root / "notebooks" / "00_start_here.ipynb", root / "00.ipynb", parameters)
    assert "any base class stands in" in (root / "00.ipynb").read_text(encoding="utf-8")
    assert Settings(dataset="own/objects.json").run.path.as_posix().startswith("runs/objects-")
