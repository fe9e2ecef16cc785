"""`make`: a value behind it is passed on as it is and never run; the environment holds no parameter."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
TELL = """import json, sys; open("told", "w").write(json.dumps(sys.argv[1:]))"""
TELLER = f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{TELL}' \"$@\"\n"  # a first line takes no path with spaces
RUNNING = (
    "$(touch ran)",
    "`touch ran`",
    "$(shell touch ran)",
    "$$(touch ran)",
    "; touch ran;",
    "\ntouch ran\n",
    "& touch ran &",
)
PIECES = (
    *RUNNING,
    "'",
    '"',
    "\\",
    "$",
    "$HOME",
    "${HOME}",
    "#",
    "%",
    " ",
    "a b",
    "*",
    "~",
    "=",
    "--help",
    "é",
    "\t",
    ")",
    "(",
    ",",
)
values = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The Makefile, with programs that only write down what they were given."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv" / "bin").mkdir(parents=True)
    for program in ("llafs", "python"):
        (folder / ".venv" / "bin" / program).write_text(TELLER)
        (folder / ".venv" / "bin" / program).chmod(0o755)
    for stamp in ("notebooks", "dev"):
        (folder / ".venv" / f".installed-{stamp}").touch()
    return folder


def make(folder, *words, **environment):
    """What `make` passed on, and what it said."""
    (folder / "told").unlink(missing_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(["make", "-s", *words], cwd=folder, env=clean | environment, capture_output=True, text=True)
    told = json.loads((folder / "told").read_text()) if (folder / "told").exists() else None
    return told, done.stderr


@given(values, values)
@settings(max_examples=20, deadline=None)
def test_a_value_is_passed_on_and_not_run(project, one, other):
    told, said = make(project, "tutorial", f"LLM={one}", f"DATASET={other}")
    # make itself takes blanks away that stand before a value
    wanted = [f"--{name}={value.lstrip()}" for name, value in (("dataset", other), ("llm", one)) if value.strip()]
    assert told == ["tutorial", *wanted], said
    assert not (project / "ran").exists()


@pytest.mark.parametrize("value", RUNNING)
def test_nor_is_one_that_says_which_tests_to_run(project, value):
    make(project, "test", f"TESTS=tests/data {value}")
    assert not (project / "ran").exists()


def test_what_lies_in_the_environment_is_no_parameter(project):
    (names,) = re.findall(r"^PARAMETERS := (.*)$", (ROOT / "Makefile").read_text().replace("\\\n", " "), re.MULTILINE)
    lying_about = dict.fromkeys([*names.split(), "TESTS", "VENV"], "`touch ran`")
    assert make(project, "tutorial", "SEED=3", **lying_about)[0] == ["tutorial", "--seed=3"]
    assert make(project, "test", **lying_about)[0][-1] == "not slow"
    assert not (project / "ran").exists()


def test_an_unknown_parameter_is_refused_before_anything_runs(project):
    for target in ("tutorial", "test"):
        told, said = make(project, target, "SED=$(shell touch ran)")
        assert told is None and "unknown parameter SED; there are DATASET" in said
    assert not (project / "ran").exists()
