"""`llafs demo`: what comes with the package is current, and the first command after the installation works anywhere."""

import io
import json
import re
import runpy
import shlex
import webbrowser
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llafs_lib import LLaFS
from llafs_lib.tools import demo
from llafs_lib.tools.cli import _parser, main
from llafs_lib.tools.demo import ARCHIVE, BANK, FIGURE, NEXT, QUERY, WORD, unpacked

SCRIPTS = Path(__file__).resolve().parents[2] / "data_scripts"


@pytest.fixture(autouse=True)
def opened(monkeypatch, in_tmp):
    """What was opened on the desktop, which these tests do not have."""
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(demo, "has_desktop", lambda: False)
    return opened


def test_it_writes_the_chain_and_says_what_to_type_next(capsys, opened):
    assert main(["demo"]) == 0
    with Image.open(FIGURE) as figure:
        assert min(figure.size) > 500 and len(figure.convert("RGB").getcolors(1 << 24)) > 1000
    said = capsys.readouterr().out
    assert f"{WORD} looks like: zebra" in said and f"written: {FIGURE}" in said and said.rstrip().endswith(NEXT)
    assert opened == [], "there is no desktop"


def test_what_it_says_to_type_next_is_understood():
    for command in re.findall(r"^  llafs (.*)$", NEXT, re.MULTILINE):
        assert callable(_parser().parse_args(shlex.split(command)).command)


def test_it_opens_the_image_on_a_desktop(monkeypatch, opened, tmp_path):
    monkeypatch.setattr(demo, "has_desktop", lambda: True)
    assert main(["demo", "-o", "a b.png", "--no-open"]) == 0 and opened == []
    assert main(["demo", "-o", "a b.png"]) == 0 and opened == [(tmp_path / "a b.png").as_uri()]


@pytest.mark.parametrize(
    ("environment", "platform", "there"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "darwin", True),
        ({}, "win32", True),
    ],
)
def test_where_there_is_a_desktop(monkeypatch, environment, platform, there):
    monkeypatch.undo()
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(demo.sys, "platform", platform)
    assert demo.has_desktop() is there


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("chain.txt", r"must end in \.png"),
        ("chain", r"must end in \.png"),
        ("file/chain.png", "file/chain.png cannot be written .* with -o"),
        ("folder.png", "folder.png cannot be written .* with -o"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(tmp_path, capsys, output, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert main(["demo", "-o", output]) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err) and len(said.err.splitlines()) == 1


def test_a_folder_that_cannot_be_written_sends_it_to_the_one_for_temporary_files(monkeypatch):
    assert demo._default_output() == Path(FIGURE)
    monkeypatch.setattr(demo.os, "access", lambda *_: False)
    assert demo._default_output() == Path(demo.tempfile.gettempdir()) / FIGURE


# --- what comes with the package -------------------------------------------------------------------------------------


def test_the_bank_is_small_and_shows_no_such_word():
    assert ARCHIVE.stat().st_size < 1e6
    with unpacked() as folder:
        model = LLaFS.from_run(folder / BANK)
        found = model.segment(folder / QUERY, WORD)
        places = [p for p in folder.rglob("*.json") if str(Path.home()) in p.read_text() or "/tmp" in p.read_text()]
    assert WORD not in model.bank.classes and found.related.source == "recorded" and not found.notes
    assert set(found.related.names) <= set(model.bank.classes) and 0.05 < found.mask.mean() < 0.4
    assert min(model.bank.counts().values()) >= 2 and not places
    assert not folder.exists()


@pytest.mark.slow
def test_it_is_what_the_script_makes(monkeypatch, tmp_path):
    """If it is not, because scenes, weights or the bank's format have changed: run data_scripts/make_demo.py."""
    monkeypatch.syspath_prepend(SCRIPTS)
    made = tmp_path / "made.zip"
    assert runpy.run_path(str(SCRIPTS / "make_demo.py"))["main"](["--out", str(made)]) == 0
    with zipfile.ZipFile(ARCHIVE) as shipped, zipfile.ZipFile(made) as fresh:
        assert shipped.namelist() == fresh.namelist()
        for name in shipped.namelist():
            assert_alike(name, shipped.read(name), fresh.read(name))


def assert_alike(name, shipped, fresh):
    """Equal but for the last digits, which depend on the machine and on who compresses images."""
    if name.endswith((".jpg", ".png")):
        one, other = (np.asarray(Image.open(io.BytesIO(data)), float) for data in (shipped, fresh))
        assert one.shape == other.shape and np.abs(one - other).mean() < 2, name
    elif name.endswith(".npy"):
        one, other = (np.load(io.BytesIO(data)) for data in (shipped, fresh))
        np.testing.assert_allclose(one, other, atol=2e-3, err_msg=name)
    else:
        one, other = (json.loads(data) for data in (shipped, fresh))
        for about in (one, other):
            for hashes in ("seal", "columns"):  # of the last digits, too
                about.pop(hashes, None)
            for kind in ("novel", "own"):
                for figure in ("iou", "auc", "threshold") if "calibration" in about else ():
                    about["calibration"][kind][figure] = pytest.approx(about["calibration"][kind][figure], rel=0.1)
        assert one == other, name
