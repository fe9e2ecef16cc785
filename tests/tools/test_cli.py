"""The command as a user mistypes it: one line that says what is wrong and what was probably meant; help that helps."""

import io
import re
import subprocess
import sys

import pytest
from PIL import Image

import llafs_lib
from llafs_lib.artifacts import number_of
from llafs_lib.evaluation import report
from llafs_lib.settings import Settings
from llafs_lib.tools import committed, execution, tutorial
from llafs_lib.tools.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tutoril", "'tutoril' is unknown: choose one of demo, tutorial, .*Did you mean 'tutorial'.*`llafs --help`"),
        ("tutorial --datset toy", "'--datset' is unknown to `llafs tutorial`. Did you mean '--dataset'"),
        ("tutorial --datset=toy", "'--datset' is unknown to `llafs tutorial`. Did you mean '--dataset'"),
        ("tutorial --novel-in-trian drop", "Did you mean '--novel-in-train'"),
        ("tutorial toy", "'toy' is unknown to `llafs tutorial`. See `llafs tutorial --help`"),
        ("tutorial --dataset coco_mini", "Did you mean 'coco-mini'"),
        ("tutorial --budget tny", "Did you mean 'tiny'"),
        ("tutorial --fold 7", "choose one of 0, 1, 2, 3"),
        ("tutorial --backbone vgg99", "backbone: 'vgg99' is unknown"),
        ("tutorial --segmenters hsnet,repry", "Did you mean 'repri'"),
        ("tutorial --only 07", "notebook '07' is unknown: choose one of 01"),
        ("tutorial --only 01,07", "notebook '07' is unknown: choose one of 01"),
        ("tutorial --llm-mode reply", "'reply' is unknown: choose one of auto, replay, refresh. Did you mean 'replay'"),
        ("tutorial --hold-out maybe", "--hold-out: say yes or no, not 'maybe'"),
        ("tutorial --fold x", "--fold: .*'x'. See `llafs tutorial --help`"),
        ("sweep --foldz 0-1", "Did you mean '--folds'"),
        ("sweep --only 9", "notebook '9' is unknown"),
        ("sweep --queries -1", "queries must be a whole number of at least 0"),
        ("ask girafe", "No recorded answer exists for 'girafe'. Did you mean 'giraffe'"),
        ("ask giraffe --dataset coco-minni", "Did you mean 'coco-mini'"),
        ("ask giraffe --llm-mode refesh", "Did you mean 'refresh'"),
        ("ask giraffe --budget 1", "'--budget' is unknown to `llafs ask`"),
        ("segment", "required: IMAGE, CLASS. See `llafs segment --help`"),
        ("segment photo.jpg giraffe --method protoypes", "choose one of hsnet, prototypes. Did you mean 'prototypes'"),
        ("segment photo.jpg giraffe --metod prototypes", "Did you mean '--method'"),
        ("refresh 07", "'07' is unknown: choose one of 00"),
        ("", "required: COMMAND. See `llafs --help`"),
    ],
)
def test_a_mistake_is_named_in_one_line(in_tmp, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(tutorial, "execute", lambda *a, **k: pytest.fail("a notebook was run"))
    monkeypatch.setattr(committed, "execute", lambda *a, **k: pytest.fail("a notebook was run"))
    assert main(arguments.split()) == 2
    said = capsys.readouterr()
    assert re.match(f"llafs: .*{message}", said.err) and len(said.err.splitlines()) == 1 and not said.out


@pytest.mark.parametrize("given", ["--only 01 --only 03", "--only 01,03", "--only 03,01"])
def test_only_takes_several(in_tmp, monkeypatch, given):
    ran = []
    monkeypatch.setattr(tutorial.Step, "run", lambda step: ran.append(number_of(step.notebook.stem)) or 0.0)
    assert main(["tutorial", *given.split()]) == 0
    assert ran == ["01", "03"]


def help_of(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_fits_a_terminal_and_its_examples_are_understood(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    commands = re.findall(r"^    (\w+) ", help_of("", capsys), re.MULTILINE)
    assert set(commands) >= {"tutorial", "sweep", "ask", "segment", "refresh"}
    for command in commands:
        said, _, below = help_of(command, capsys).partition("examples:")
        assert max(len(line) for line in said.splitlines()) <= 80 and "coco-\n" not in said, "no word is cut in two"
        for example in re.findall(r"^  llafs (.*)$", below, re.MULTILINE):
            assert example.split()[0] == command
            assert set(re.findall(r"--[\w-]+", example)) <= set(re.findall(r"--[\w-]+", said))
        assert below or command not in ("tutorial", "sweep", "ask", "segment")


def test_the_version_of_the_module_as_a_command():
    done = subprocess.run([sys.executable, "-m", "llafs_lib", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"llafs {llafs_lib.__version__}\n")


def test_ctrl_c_ends_in_one_line(in_tmp, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tutorial.Step, "run", interrupted)
    assert main(["tutorial"]) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_finished_tutorial_ends_with_its_paths(in_tmp, capsys, monkeypatch):
    monkeypatch.setattr(tutorial, "run_tutorial", lambda *_, **__: {"mIoU": 40})
    monkeypatch.setattr(report, "text_report", lambda results: f"found: {results}")
    assert main(["tutorial", "--fold", "2"]) == 0
    run = Settings(fold=2).run.path
    wanted = ["found: {'mIoU': 40}", "", f"report: {run / 'report.html'}", f"executed notebooks: {run / 'notebooks'}"]
    assert capsys.readouterr().out.strip().splitlines() == wanted


# --- an installation without extras ----------------------------------------------------------------------------------

EXTRAS = ("papermill", "nbclient", "nbformat", "ipykernel", "ipywidgets", "IPython", "jupyter_client", "ray")
WITHOUT_EXTRAS = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None  # importing it raises ImportError, as if it were not installed
from llafs_lib.tools.cli import main
assert main(["ask", "giraffe"]) == 0
assert main(["segment", sys.argv[1], "giraffe"]) == 2
from llafs_lib import LLaFS, plots
"""


@pytest.mark.slow
def test_without_extras_the_library_is_imported_asks_and_segments(in_tmp):
    Image.new("RGB", (64, 48)).save("photo.jpg")
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, "photo.jpg"], capture_output=True, text=True)
    assert done.returncode == 0 and "giraffe looks like: zebra" in done.stdout, done.stderr
    assert re.fullmatch("llafs: runs/toy/fold0 is not a run folder.*\n", done.stderr), "only the run is missing"


@pytest.mark.parametrize(("command", "missing"), [("tutorial", "papermill"), ("sweep", "papermill"), ("sweep", "ray")])
def test_a_missing_extra_is_named_in_one_sentence(in_tmp, capsys, monkeypatch, command, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main([command]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"llafs: .*{missing}.* run `pip install -e \"\.\[notebooks.*\]\"` in a checkout.*\.", said)


@pytest.mark.parametrize("command", ["tutorial", "sweep", "sweep --dry-run", "refresh", "stamp --repo a/b"])
def test_missing_notebooks_are_named_in_one_sentence(in_tmp, capsys, monkeypatch, command):
    monkeypatch.setattr(execution, "__file__", str(in_tmp / "site-packages" / "llafs_lib" / "tools" / "execution.py"))
    assert main(command.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("llafs: there is no folder notebooks/ here: run this in a checkout")


def test_a_terminal_that_is_not_utf_8_gets_escapes(monkeypatch, capsys):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["ask", "長頸鹿"]) == 2
    stream.flush()
    assert rb"'\u9577\u9838\u9e7f'" in stream.buffer.getvalue()
