"""The package as pip gives it to who only wants to segment: a wheel without extras, away from the repository."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from PIL import Image

from llafs_lib.tools.tutorial import project_root

pytestmark = pytest.mark.slow
NOT_NEEDED = {"ipykernel", "ipywidgets", "jupyterlab", "papermill", "ray", "pytest", "gradio"}


class Installed:
    """An environment with the wheel in it, and an empty folder to work in."""

    def __init__(self, home: Path, folder: Path):
        self.bin, self.folder = home / ("Scripts" if os.name == "nt" else "bin"), folder

    def run(self, *command: str) -> subprocess.CompletedProcess:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "LLAFS"))}
        program = [self.bin / command[0], *command[1:]]
        return subprocess.run(program, cwd=self.folder, env=kept, capture_output=True, text=True, timeout=300)

    def python(self, code: str) -> str:
        done = self.run("python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    work = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(work), "."]
    done = subprocess.run(build, cwd=project_root(), capture_output=True, text=True)
    if done.returncode and "connection broken" in done.stderr.lower():
        pytest.skip("no package registry in reach")
    assert done.returncode == 0, done.stderr
    (wheel,) = work.glob("llafs_notebooks-*.whl")
    subprocess.run([*pip, "install", "--target", str(work / "uv"), "uv"], check=True)  # a faster pip
    uv, home = str(work / "uv" / "bin" / "uv"), work / "home"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(home), str(wheel)], check=True)
    (work / "empty").mkdir()
    yield Installed(home, work / "empty")
    shutil.rmtree(home, ignore_errors=True)  # gigabytes, which pytest would keep for three runs more


def test_it_comes_without_what_only_notebooks_need(installed):
    listed = installed.python("import importlib.metadata as m; print(*[d.name.lower() for d in m.distributions()])")
    assert not NOT_NEEDED & set(listed.split())
    assert "torch" in listed and any("papermill" in r for r in requires("llafs-notebooks"))


def test_its_types_are_known_and_its_version_is_said(installed):
    where = Path(installed.python("import llafs_lib; print(llafs_lib.__file__)")).parent
    assert (where / "py.typed").is_file() and installed.bin.parent in where.parents
    version = installed.python("import llafs_lib; print(llafs_lib.__version__)")
    for command in (("llafs", "--version"), ("python", "-m", "llafs_lib", "--version")):
        assert version in installed.run(*command).stdout


def test_it_brings_a_trained_model(installed):
    load = "from llafs_lib.vision.hsnet import TOY_HSNET, HSNet; print(HSNet.load(TOY_HSNET)[1]['size'])"
    assert installed.python(load) == "161"


def test_its_first_command_shows_a_mask(installed):
    done = installed.run("llafs", "demo", "--no-open")
    assert done.returncode == 0, done.stderr
    assert (installed.folder / "llafs-demo.png").stat().st_size > 10_000 and "giraffe looks like: zebra" in done.stdout
    done = installed.run("llafs", "app")
    assert done.returncode == 2 and done.stderr == "llafs: the app needs Gradio: pip install 'llafs-notebooks[app]'.\n"


def test_it_segments(installed, finished_run):
    _, run, _ = finished_run
    shutil.copytree(run.path, installed.folder / "runs" / "toy" / "fold0")
    draw = "from llafs_lib.data.folds import open_dataset; s = open_dataset('toy').val; print(s.file(s.image_ids[0]))"
    image = installed.python(draw)
    done = installed.run("llafs", "segment", image, "giraffe", "-o", "found.png")
    assert done.returncode == 0, done.stderr
    with Image.open(installed.folder / "found.png") as mask, Image.open(installed.folder / image) as asked:
        assert mask.size == asked.size and {value for _, value in mask.getcolors()} <= {0, 255}
    assert "giraffe looks like" in done.stdout


def test_what_needs_notebooks_says_so_in_one_sentence(installed):
    for command in ("tutorial", "sweep"):
        done = installed.run("llafs", command)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stderr.startswith("llafs: ") and "notebooks" in done.stderr
