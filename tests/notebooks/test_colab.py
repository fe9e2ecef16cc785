"""A Colab user's way: a stamped notebook in a folder with nothing else, on a machine that has Colab's packages.

The environment is Python 3.13 with the versions of colab.txt. What cannot be had is stood in for: a `google.colab` that
the kernel has imported at its start, as there, and a repository on this machine in place of the one on GitHub.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llafs_lib.artifacts import SERIES, number_of
from llafs_lib.tools.colab import stamp
from llafs_lib.tools.tutorial import project_root

pytestmark = pytest.mark.slow

REPOSITORY = "some-owner/some-name"
FEW = {
    'budget = "small"': 'budget = "tiny"',
    "queries = 60": "queries = 5",
}
NOT_HANDED_ON = ("PYTHON", "VIRTUAL_ENV", "JUPYTER", "IPYTHON", "MPL", "GIT_", "OPENAI", "LLAFS")
GOOGLE_COLAB = {
    "__init__.py": "def load_ipython_extension(ipython):\n    pass\n",
    "userdata.py": """
import os

class SecretNotFoundError(Exception):
    pass

def get(key):
    if "SECRET_" + key not in os.environ:
        raise SecretNotFoundError(f"Secret {key} does not exist.")
    return os.environ["SECRET_" + key]
""",
}


def run(*command, **more) -> str:
    """What a command prints; its errors, if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@dataclass
class Machine:
    """Colab's virtual machine: its Python, its environment variables, and `content`, where a notebook starts."""

    python: Path
    content: Path
    environment: dict[str, str]

    def run(self, *command, **more) -> str:
        return run(self.python, *command, env=self.environment, **{"cwd": self.content, **more})

    def packages(self) -> dict[str, str]:
        listed = json.loads(self.run("-m", "pip", "list", "--format=json", "--disable-pip-version-check"))
        return {p["name"]: p["version"] for p in listed}

    def execute(self, notebook: dict, name: str) -> dict:
        """Run all cells of a notebook that lies alone in `content`, beside what earlier ones left there."""
        path = self.content / f"{name}.ipynb"
        path.write_text(json.dumps(notebook), encoding="utf-8")
        try:
            self.run("-m", "jupyter", "execute", "--inplace", path)
            return json.loads(path.read_text(encoding="utf-8"))
        finally:
            path.unlink()


def python_3_13() -> Path:
    """An interpreter as on Colab; skips where there is none."""
    for candidate in (shutil.which("python3.13"), *sorted(Path.home().glob(".pyenv/versions/3.13*/bin/python"))):
        asked = candidate and subprocess.run([candidate, "-c", "import sys; print(sys.version)"], capture_output=True)
        if asked and asked.stdout.startswith(b"3.13."):  # pyenv's shims are there for versions that are not chosen
            return Path(candidate)
    pytest.skip("no Python 3.13, which Colab has, in PATH or ~/.pyenv/versions")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Gigabytes, which a folder of pytest would keep for three runs more."""
    if not os.environ.get("LLAFS_TEST_COLAB"):
        pytest.skip("Colab's packages are 3 GB to download: set LLAFS_TEST_COLAB=1, as .ci/run does")
    with tempfile.TemporaryDirectory(prefix="colab-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def uv(folder):
    """A faster pip, which keeps what it has unpacked and links it into the next environment."""
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", folder / "uv", "uv")
    return folder / "uv" / "bin" / "uv"


@pytest.fixture(scope="module")
def stamped(folder):
    """A repository of the files as they are here, stamped as its owner does it."""
    root, repository = project_root(), folder / "repository"
    if not (root / ".git").exists():
        pytest.skip("no git checkout, and the setup cell clones one")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=root)
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, repository / name)
    with contextlib.chdir(repository):
        stamp(REPOSITORY)
    run("git", "init", "--quiet", repository)
    run("git", "add", ".", cwd=repository)
    run("git", "-c", "user.name=owner", "-c", "user.email=owner@example.org", "commit", "-qm", "All", cwd=repository)
    return repository


@pytest.fixture(scope="module")
def colab(folder, uv, stamped):
    if sys.platform != "linux":
        pytest.skip("Colab is Linux, and its packages are for that")
    home = folder / "usr"
    run(uv, "venv", "--quiet", "--python", python_3_13(), home)
    listed = Path(__file__).with_name("colab.txt")
    run(uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", home / "bin" / "python", "-r", listed)
    package = next(home.glob("lib/python*/site-packages")) / "google" / "colab"
    package.mkdir(parents=True)
    for name, source in GOOGLE_COLAB.items():
        (package / name).write_text(source)
    (home / "etc" / "ipython").mkdir(parents=True)
    configured = 'get_config().InteractiveShellApp.extensions = ["google.colab"]\n'
    (home / "etc" / "ipython" / "ipython_config.py").write_text(configured)
    (folder / "content").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(NOT_HANDED_ON)} | {
        "HOME": str(folder / "root"),
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{stamped.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{REPOSITORY}",
    }
    return Machine(home / "bin" / "python", folder / "content", environment)


def notebook(root, name, changes):
    """A notebook without outputs, its parameters edited."""
    book = json.loads((root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        if "parameters" in cell["metadata"].get("tags", []):
            source = "".join(cell["source"])
            for old, new in changes.items():
                source = source.replace(old, new)
            cell["source"] = source
    return book


def outputs(book):
    return [output for cell in book["cells"] for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def series(colab, stamped):
    """The packages before, the notebooks as they were run one after the other, the packages after."""
    before = colab.packages()
    books = {name: colab.execute(notebook(stamped, name, FEW), name) for name in SERIES}
    return before, books, colab.packages()


def test_an_unstamped_notebook_says_what_it_lacks(colab, stamped):
    book = json.dumps(notebook(stamped, SERIES[0], {})).replace(
        f'REPOSITORY = \\"{REPOSITORY}\\"', 'REPOSITORY = \\"\\"'
    )
    with pytest.raises(AssertionError, match="write the OWNER/NAME on GitHub that this notebook is from"):
        colab.execute(json.loads(book), SERIES[0])
    assert not list(colab.content.iterdir())


def test_all_notebooks_run_in_order(colab, series):
    _, books, _ = series
    assert [p.name for p in colab.content.iterdir()] == ["llafs"], "all that is written lies in the clone"
    finished = colab.content / "llafs" / "runs" / "toy" / "fold0"
    assert json.loads((finished / "results.json").read_text())["n_queries"] == 5
    for name, book in books.items():
        printed = "".join("".join(o["text"]) for o in outputs(book) if o["output_type"] == "stream")
        assert "Python 3.13" in printed and "torch 2.11.0" in printed, name
        assert "image/png" in {kind for o in outputs(book) for kind in o.get("data", {})}, name


def test_the_widgets_are_shown(series):
    _, books, _ = series
    shown = {
        n
        for n, b in books.items()
        for o in outputs(b)
        if "application/vnd.jupyter.widget-view+json" in o.get("data", {})
    }
    assert {number_of(n) for n in shown} >= {"01", "02", "02b", "03", "04", "05"}


def test_no_package_that_was_there_is_replaced(series):
    before, _, after = series
    assert {name: after.get(name) for name in before} == before
    assert {"llafs-notebooks", "papermill"} <= set(after) - set(before)


def test_the_command_is_there_as_well(colab, series):
    asked = colab.run("-m", "llafs_lib", "ask", "giraffe", cwd=colab.content / "llafs")
    assert "giraffe looks like: zebra" in asked


def test_the_key_comes_from_colabs_secrets(colab, series):
    ask = "import google.colab; from llafs_lib.language.server import find_key; print(find_key())"
    colab.environment["SECRET_OPENAI_API_KEY"] = "a-secret"
    assert colab.run("-c", ask).strip() == "a-secret"
    del colab.environment["SECRET_OPENAI_API_KEY"]
    assert colab.run("-c", ask).strip() == "None"


def test_a_model_is_asked_with_colabs_openai(colab, series, uv, folder):
    """The room's tests of the connection, with openai 2; everywhere else they run with openai 3."""
    assert colab.packages()["openai"].startswith("2.")
    tools = folder / "tools"
    run(uv, "pip", "install", "--quiet", "--python", colab.python, "--target", tools, "pytest", "pytest-httpserver")
    tests = ["tests/language/test_client.py", "tests/language/test_server.py"]
    colab.environment["PYTHONPATH"] = str(tools)
    assert " passed" in colab.run("-m", "pytest", *tests, cwd=colab.content / "llafs")
    del colab.environment["PYTHONPATH"]
