"""Parameters are refused before anything runs; what is unchanged is not run again."""

import ast
import json
import os
import re
import threading
from pathlib import Path

import pytest
from own_file import draw_own

from llafs_lib import progress
from llafs_lib.artifacts import NOTEBOOKS, SERIES, number_of
from llafs_lib.errors import LlafsError
from llafs_lib.settings import Settings
from llafs_lib.sharing import held
from llafs_lib.threads import threads
from llafs_lib.tools import execution, tutorial
from llafs_lib.tools.cli import main
from llafs_lib.tools.tutorial import settings_from


def test_a_notebook_refuses_an_injected_parameter_that_it_does_not_have():
    namespace = {"dataset": "toy", "fold": 0, "In": ["", "# Parameters\nflod = 2\n"]}
    with pytest.raises(LlafsError, match="'flod' is unknown.*Did you mean 'fold'"):
        settings_from(namespace)
    assert settings_from(namespace | {"In": ["", "# Parameters\nfold = 0\n"]}) == Settings()
    with pytest.raises(LlafsError, match="no recipe for budget='full' on dataset='toy'"):
        settings_from({"budget": "full"})


def test_what_papermill_injects_of_its_own_passes():
    paths = "PAPERMILL_INPUT_PATH = 'a.ipynb'\nPAPERMILL_OUTPUT_PATH = '/b/c.ipynb'\n"
    namespace = {"dataset": "toy", "fold": 0, "In": ["", f"# Parameters\nfold = 0\n{paths}"]}
    assert settings_from(namespace) == Settings()
    with pytest.raises(LlafsError, match="'PAPERMILL_INPUT_PAHT' is unknown"):
        settings_from(namespace | {"In": ["", "# Parameters\nPAPERMILL_INPUT_PAHT = 'a.ipynb'\n"]})


@pytest.mark.parametrize("name", SERIES)
def test_every_notebook_refuses_what_papermill_injects_and_it_does_not_have(name):
    papermill = pytest.importorskip("papermill", reason="notebooks need papermill: pip install -e .[notebooks]")
    path = tutorial.project_root() / "notebooks" / f"{name}.ipynb"
    book = papermill.parameterize.parameterize_notebook(papermill.iorw.load_notebook_node(str(path)), {"flod": 2})
    cells = [cell.source for cell in book.cells if cell.cell_type == "code"]
    (injected,) = [n for n, source in enumerate(cells) if "flod" in source]
    assert any("settings_from(globals()" in source for source in cells[injected:])
    with pytest.raises(LlafsError, match="'flod' is unknown"):
        settings_from(tutorial.notebook_parameters(path) | {"flod": 2, "In": cells}, also_in(cells))


def also_in(cells):
    """The parameters that only this notebook has, as it says them to `settings_from`."""
    (call,) = re.findall(r"settings_from\(globals\(\)(?:, also=(.*))?\)\n", "\n".join(cells))
    return ast.literal_eval(call or "()")


def test_a_parameter_that_only_one_notebook_has_is_left_to_it():
    namespace = {"dataset": "toy", "word": "okapi", "In": ["", "# Parameters\nword = 'okapi'\n"]}
    assert settings_from(namespace, also=("word",)) == Settings()
    with pytest.raises(LlafsError, match="parameter 'word' is unknown"):
        settings_from(namespace)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_notebook_is_given_the_settings_that_it_has_as_parameters(name):
    step = tutorial.Step(tutorial.project_root() / "notebooks" / f"{name}.ipynb", Settings(runs="elsewhere", seed=3))
    given = step.parameters
    assert given.keys() <= tutorial.notebook_parameters(step.notebook).keys() and given["runs"] == "elsewhere"


@pytest.mark.parametrize("arguments", [["--fold", "7"], ["--dataset", "imagenet"], ["--backbone", "vgg99"]])
def test_the_command_refuses_before_anything_runs(arguments, capsys, monkeypatch):
    monkeypatch.setattr(tutorial, "execute", lambda *a, **k: pytest.fail("a notebook was run"))
    assert main(["tutorial", *arguments]) == 2
    assert capsys.readouterr().err.startswith("llafs: ")


@pytest.mark.parametrize(
    ("shown", "more", "message"),
    [
        ([("hen",)] * 4, [], "has one class, 'hen', and no fold can be made of it"),
        ([("hen",)] * 3 + [("pony",)] * 3, ["--fold", "2"], "fill only 2 folds, so fold must be 0 or 1, not 2"),
        ([("hen",)] * 3 + [("p" * 70,)] * 3, [], "at most 64 characters"),
        ([("hen",)] * 3 + [("pony",)] * 3, ["--val", "no.json"], "no.json do not exist"),
    ],
)
def test_what_is_wrong_with_ones_own_data_is_said_before_anything_runs(
    shown, more, message, in_tmp, capsys, monkeypatch
):
    monkeypatch.setattr(tutorial, "execute", lambda *a, **k: pytest.fail("a notebook was run"))
    assert main(["tutorial", "--dataset", str(draw_own(in_tmp, shown)), *more]) == 2
    said = capsys.readouterr().err.strip().rpartition("llafs: ")[2]
    assert message in said and "\n" not in said


def test_a_changed_file_of_ones_own_runs_what_depends_on_it(in_tmp):
    train, val = (draw_own(in_tmp, [("hen",), ("pony",)], file=f"{n}.json", seed=n) for n in (0, 1))
    book = tutorial.project_root() / "notebooks" / "01_data_folds.ipynb"
    step = tutorial.Step(book, Settings(dataset=str(train), val=str(val)))
    before = step._cause()["the data set"]
    assert before == step._cause()["the data set"] and step.parameters["val"] == str(val)
    val.write_text(val.read_text() + " ")
    assert before != step._cause()["the data set"]


@pytest.fixture
def project(in_tmp, monkeypatch):
    """Notebooks without cells, "executed" by writing their artifacts."""
    books = in_tmp / "notebooks"
    books.mkdir()
    tagged = {
        "cell_type": "code",
        "metadata": {"tags": ["parameters"]},
        "source": ["dataset = 'toy'\n", "fold = 0\n", "runs = 'runs'"],
    }
    for name in NOTEBOOKS:
        (books / f"{name}.ipynb").write_text(json.dumps({"cells": [tagged]}))
    ran = []

    def execute(source, output, parameters, log=None):
        ran.append(number_of(source.stem))
        output.write_text("executed")
        for artifact in NOTEBOOKS[source.stem][1]:
            with settings.run.writing(artifact, parameters) as path:
                path.write_text(json.dumps({"made by": source.stem}))

    settings = Settings()
    monkeypatch.setattr(tutorial, "execute", execute)

    def run(only=()):
        ran.clear()
        tutorial.run_tutorial(settings, only)
        return " ".join(ran)

    return settings, run


def test_a_second_run_reuses_everything(project, capsys):
    _, run = project
    assert run() == "01 02 02b 03 04 05 06"
    capsys.readouterr()
    assert run() == ""
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 8 and all(": reused, " in line for line in said[1:]), "one line a notebook"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}", b'{"cause": 3, "made": {}}'])
def test_a_damaged_stamp_counts_as_none(project, content):
    settings, run = project
    run()
    (settings.run.path / "notebooks" / "01_data_folds.stamp.json").write_bytes(content)
    assert run() == "01"


def test_a_run_that_was_moved_is_reused(project, in_tmp):
    settings, run = project
    run()
    (in_tmp / settings.runs).rename(in_tmp / "moved")
    book = tutorial.project_root() / "notebooks" / "03_llm_prompting.ipynb"
    for runs in ("moved", str(in_tmp / "moved")):
        assert tutorial.Step(book, Settings(runs=runs)).why_run() is None


def test_relative_runs_are_meant_from_where_the_command_is_given(project, in_tmp, monkeypatch):
    settings, run = project
    monkeypatch.setenv("LLAFS_DATA", "data")
    run()
    (in_tmp / "elsewhere").mkdir()
    monkeypatch.setattr(tutorial, "project_root", lambda: in_tmp)
    monkeypatch.chdir("elsewhere")
    with tutorial.in_root(Settings(runs="../runs")) as seen:
        assert Path.cwd() == in_tmp and seen.run.path == in_tmp / settings.run.path
        assert os.environ["LLAFS_DATA"] == str(in_tmp / "elsewhere" / "data")
    assert Path.cwd() == in_tmp / "elsewhere" and os.environ["LLAFS_DATA"] == "data"
    given = []
    monkeypatch.setattr(tutorial, "execute", lambda source, output, parameters, log: given.append(parameters["runs"]))
    with pytest.raises(FileNotFoundError):  # nothing was executed
        tutorial.run_tutorial(Settings(runs="mine"), ["01"])
    assert given == [str(in_tmp / "elsewhere" / "mine")]
    assert (in_tmp / "elsewhere" / "mine" / "toy" / "fold0" / "notebooks").is_dir() and not (in_tmp / "mine").exists()


def test_a_run_that_another_process_writes_to_is_let_be(project, capsys):
    settings, run = project
    with held(settings.run.path):
        assert thread_of(run) == f"{settings.run.path} is in use by"
    run()
    with held(settings.run.path):
        assert thread_of(run) == "", "nothing has to be written"


def thread_of(run):
    """How the message begins with which it fails, in a thread of its own."""
    said = []

    def tried():
        try:
            run()
        except LlafsError as error:
            said.append(str(error).partition(" `")[0])

    thread = threading.Thread(target=tried)
    thread.start()
    thread.join()
    return "".join(said)


def test_a_missing_artifact_is_made_again_and_the_reason_is_given(project, capsys):
    settings, run = project
    run()
    (settings.run.path / "hsnet.safetensors").unlink()
    assert run() == "02", "made again, byte for byte: what depends on it still stands"
    assert "hsnet.safetensors is missing" in capsys.readouterr().out


def test_a_changed_artifact_runs_what_reads_it(project):
    settings, run = project
    run()
    with settings.run.writing("related_classes.json", {}) as path:
        path.write_text("{}")
    assert run() == "03", "the notebook that made it puts it back"


def test_a_changed_notebook_is_run(project):
    _, run = project
    run()
    book = tutorial.project_root() / "notebooks" / "04_retrieval_scoring.ipynb"
    content = json.loads(book.read_text())
    content["cells"].append({"cell_type": "code", "metadata": {}, "source": ["1 + 1"]})
    book.write_text(json.dumps(content))
    assert run() == "04"


def test_only_an_edit_of_what_decides_a_result_runs_a_notebook_again(project, edit_library):
    _, run = project
    run()
    edit_library("vision/losses.py", '"""Training losses."""', '"""The losses of training."""')
    edit_library("tools/colab.py", "import re\n", "import re\n\nEDITED = True\n")
    assert run() == ""
    edit_library("vision/losses.py", "IGNORE = 255", "IGNORE = 254")
    assert run() == "02 02b 04 05 06", "all but the notebooks that do not load vision"


def test_only_runs_one_whatever_its_state(project):
    _, run = project
    run()
    assert run(only=["03"]) == "03"
    assert run(only=["02b"]) == "02b"


def test_a_kernel_is_told_to_leave_the_machine_to_others_and_given_time_to_start(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("papermill.execute_notebook", lambda *a, **k: seen.update(os.environ, **k))
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "LLAFS_PROGRESS"):
        monkeypatch.setenv(name, "")  # so that the test ends with what it found
        monkeypatch.delenv(name)
    tutorial.execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {})
    assert seen["OMP_NUM_THREADS"] == str(threads()) and seen["OMP_WAIT_POLICY"] == "PASSIVE"
    assert seen["start_timeout"] >= 300


@pytest.mark.parametrize(("budget", "ends"), [("tiny", True), ("small", True), ("full", False)])
def test_training_for_days_is_not_taken_for_a_cell_that_hangs(tmp_path, monkeypatch, budget, ends):
    seen = {}
    monkeypatch.setattr("papermill.execute_notebook", lambda *a, **k: seen.update(k))
    monkeypatch.setattr(execution, "share_cores", lambda: None)
    monkeypatch.setenv("LLAFS_PROGRESS", "none")
    execution.execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {"budget": budget})
    assert (seen["execution_timeout"] is not None) == ends


def test_a_failing_notebook_leaves_no_final_output(project, monkeypatch):
    settings, run = project

    def fail(source, output, parameters, log=None):
        output.write_text("half")
        raise LlafsError("cell 3: ValueError")

    monkeypatch.setattr(tutorial, "execute", fail)
    with pytest.raises(LlafsError):
        run()
    left = {p.name for p in (settings.run.path / "notebooks").iterdir()}
    assert left == {"01_data_folds.partial.ipynb"}


def test_a_notebook_edited_while_it_runs_is_run_again(project, monkeypatch):
    _, run = project
    run()
    book = tutorial.project_root() / "notebooks" / "03_llm_prompting.ipynb"
    execute = tutorial.execute

    def edit(content):
        book.write_text(json.dumps({"cells": [*json.loads(book.read_text())["cells"], content]}))

    def execute_and_edit(source, output, parameters, log=None):
        execute(source, output, parameters)
        edit({"cell_type": "code", "metadata": {}, "source": ["2"]})

    edit({"cell_type": "code", "metadata": {}, "source": ["1"]})
    monkeypatch.setattr(tutorial, "execute", execute_and_edit)
    assert run() == "03"
    monkeypatch.setattr(tutorial, "execute", execute)
    assert run() == "03"
    assert run() == ""


def test_one_line_shows_how_far_a_notebook_is_and_its_log_keeps_the_rest(in_tmp, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOGGED", 0)
    notebook = in_tmp / "02_training.ipynb"
    notebook.write_text(json.dumps({"cells": [{}, {}]}))
    with execution._Watch(notebook, in_tmp / "02.log") as watch:
        watch.cell_starts(cell={}, cell_index=1)
        watch.write("loading\nepoch 4 of 10, loss 0.6\n")
    said = capsys.readouterr().err
    assert "02_training: cell 2 of 3, 00:00, epoch 4 of 10, loss 0.6" in said
    assert (in_tmp / "02.log").read_text() == "loading\nepoch 4 of 10, loss 0.6\n"
