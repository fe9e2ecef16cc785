"""The ways to install without make: environment.yml, Dockerfile and the dev container say what pyproject.toml says.

Neither conda nor a container engine is needed: what is checked is what can be read, and what pip would do.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from llafs_lib.tools.cli import main
from llafs_lib.tools.tutorial import project_root

ROOT = project_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = SpecifierSet(PROJECT["requires-python"])
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def pip_lines():
    (pip,) = [d["pip"] for d in ENVIRONMENT["dependencies"] if isinstance(d, dict)]
    return pip


def test_conda_gives_python_and_pip():
    rattler = pytest.importorskip("rattler", reason="conda's specs are read by py-rattler: pip install -e .[dev]")
    specs = [rattler.MatchSpec(d, strict=True) for d in ENVIRONMENT["dependencies"] if isinstance(d, str)]
    assert [str(spec.name.normalized) for spec in specs] == ["python", "pip"]
    assert PYTHONS.contains(str(specs[0].version).removesuffix(".*"))
    assert ENVIRONMENT["channels"] == ["conda-forge"]


def test_pip_gives_what_make_installs():
    (installs,) = re.findall(r"^\t.*pip install (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(installs)
    assert pip_lines() == ["-e .[dev]"]  # what make test needs, and with it all that the other targets need
    assert shlex.split(pip_lines()[0]) == [w.replace("$*", "dev") for w in words[words.index("-e") :]]


def test_pip_takes_the_line_and_needs_nothing_beyond_what_make_installed(tmp_path):
    """Conda hands the lines to pip as a file of requirements, in the folder of environment.yml; so does this."""
    (tmp_path / "requirements.txt").write_text("\n".join(pip_lines()), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--dry-run", "--report", str(tmp_path / "report.json"), "-r", str(tmp_path / "requirements.txt")]
    done = subprocess.run(pip, cwd=ROOT, capture_output=True, text=True)
    if done.returncode and "connection broken" in done.stderr:
        pytest.skip("no package registry in reach: pip says 'connection broken'")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["install"]
    (project,) = [item for item in found if item["metadata"]["name"] == PROJECT["name"]]
    assert project["download_info"]["dir_info"] == {"editable": True}
    assert set(project["requested_extras"]) == {"dev"}
    missing = [item["metadata"]["name"] for item in found if item is not project]
    assert not missing, "not what is installed here with pip install -e .[dev]"


def instructions(kind):
    """What follows `kind` on the lines of the Dockerfile, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{kind} (.*)", text, re.MULTILINE)


def container():
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    return json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))  # its format allows comments, json does not


def test_the_images_python_will_do():
    image, stage = instructions("FROM")[0].split(" AS ")
    assert PYTHONS.contains(re.fullmatch(r"python:([\d.]+)-slim", image)[1])
    assert instructions("FROM")[1:] == [stage] and container()["build"]["target"] == stage


def test_what_is_copied_into_the_image_exists():
    copied = [word for line in instructions("COPY") for word in line.split()[1:-1]]
    assert {"llafs_lib", "notebooks", PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)
    assert not [path for path in copied if not (ROOT / path).exists()]


def test_the_image_installs_an_extra_that_there_is():
    (extras,) = re.findall(r'-e "\.\[(.*?)\]"', "\n".join(instructions("RUN")))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_image_gets_the_known_good_versions():
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert len(installs) == 2 and all("-c constraints.txt" in line for line in installs)
    order = re.findall(r"^(?:COPY .*constraints\.txt|RUN pip)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert order[0].startswith("COPY"), "a layer needs the file that it reads"


def test_the_known_good_versions_are_versions_of_all_that_is_listed_and_allowed():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(re.fullmatch(r"([\w.-]+)==(\d[\w.]*)", line).groups() for line in lines if line[0] != "#")
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    listed = [Requirement(r) for r in [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]]
    for one in listed:
        assert one.name == PROJECT["name"] or one.specifier.contains(pins[canonicalize_name(one.name)]), one


def test_nobody_is_root_and_data_lie_where_the_library_looks():
    assert instructions("USER") == ["llafs"] and container()["remoteUser"] == "llafs"
    assert instructions("ENV") == ["LLAFS_DATA=/data"] and container()["containerEnv"] == {"LLAFS_DATA": "/data"}
    assert "target=/data," in container()["mounts"][0]


def test_one_port():
    (port,) = instructions("EXPOSE")
    assert f"--port={port}" in json.loads(instructions("CMD")[0]) and container()["forwardPorts"] == [int(port)]


def test_the_commands_exist(capsys):
    """`make TARGET` and `llafs …` in both files, comments included."""
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in ("Dockerfile", ".devcontainer/devcontainer.json")]
    targets = set(re.findall(r"\bmake ([\w./-]+)", texts[1]))
    assert targets >= {"tutorial", "test", "lab", ".venv/.installed-dev"}
    dry = subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    (command,) = re.findall(r"\bllafs (tutorial .*?)  ", texts[0])
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0 and "--budget" in capsys.readouterr().out


@pytest.fixture
def suite(tmp_path):
    """A suite that groups its tests as this one does; a function that runs it with these options of pytest."""
    for name in ("test_a", "test_b", "test_sweep"):
        (tmp_path / f"{name}.py").write_text("def test_1(): pass\ndef test_2(): pass\ndef test_3(): pass\n")
    (tmp_path / "conftest.py").write_text("from groups import pytest_collection_modifyitems\n")
    base = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}

    def run(*options):
        command = [*base, *options, str(tmp_path)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_tests_can_be_read_with_pytest_alone(suite):
    """Colab, and whoever installs pytest by hand, has no pytest-xdist."""
    read = suite("-p", "no:xdist", "--collect-only")
    assert read.index("test_sweep.py") < read.index("test_a.py") < read.index("test_b.py"), "the longest first"


def test_one_process_takes_all_tests_of_a_file(suite):
    """What a file's tests share, a server's journal or a run of minutes, is made once and disturbed by no other."""
    options = re.findall(r"-n 2 [^$\n]*", (ROOT / "Makefile").read_text(encoding="utf-8"))[0].split()
    passed = set(re.findall(r"\[(gw\d)\].*PASSED (\S+?\.py)", suite("-vv", *options)))
    assert sorted(file for _, file in passed) == ["test_a.py", "test_b.py", "test_sweep.py"]
