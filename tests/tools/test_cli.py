"""The command as a user mistypes it: one line that says what is wrong and what was probably meant; help that helps."""

import re

import pytest

from llafs_lib.tools import committed, tutorial
from llafs_lib.tools.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tutoril", "'tutoril' is unknown: choose one of tutorial, .*Did you mean 'tutorial'.*`llafs --help`"),
        ("tutorial --datset toy", "'--datset' is unknown to `llafs tutorial`. Did you mean '--dataset'"),
        ("tutorial --datset=toy", "'--datset' is unknown to `llafs tutorial`. Did you mean '--dataset'"),
        ("tutorial --novel-in-trian drop", "Did you mean '--novel-in-train'"),
        ("tutorial toy", "'toy' is unknown to `llafs tutorial`. See `llafs tutorial --help`"),
        ("tutorial --dataset coco_mini", "Did you mean 'coco-mini'"),
        ("tutorial --budget tny", "Did you mean 'tiny'"),
        ("tutorial --segmenters hsnet,repry", "Did you mean 'repri'"),
        ("tutorial --only 06", "--only: '06' is unknown: choose one of 0"),
        ("tutorial --only 01,06", "--only: '06' is unknown: choose one of 0"),
        ("tutorial --llm-mode reply", "'reply' is unknown: choose one of auto, replay, refresh. Did you mean 'replay'"),
        ("tutorial --hold-out maybe", "--hold-out: say yes or no, not 'maybe'"),
        ("tutorial --fold x", "--fold: .*'x'. See `llafs tutorial --help`"),
        ("sweep --foldz 0-1", "Did you mean '--folds'"),
        ("sweep --only 9", "--only: '9' is unknown"),
        ("ask girafe", "No recorded answer exists for 'girafe'. Did you mean 'giraffe'"),
        ("ask giraffe --dataset coco-minni", "Did you mean 'coco-mini'"),
        ("ask giraffe --mode refesh", "Did you mean 'refresh'"),
        ("segment", "required: image, CLASS. See `llafs segment --help`"),
        ("segment photo.jpg giraffe --method protoypes", "choose one of hsnet, prototypes. Did you mean 'prototypes'"),
        ("segment photo.jpg giraffe --metod prototypes", "Did you mean '--method'"),
        ("refresh 07", "'07' is unknown: choose one of 0"),
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
    monkeypatch.setattr(tutorial, "_execute", lambda book, *_: ran.append(book.stem[:2]))
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
