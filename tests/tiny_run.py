"""A run of the notebooks on the tiny budget, as `llafs tutorial` makes it; see `finished_run` in conftest.py."""

import os
import re
import signal
import subprocess
import sys
import time

import nbformat

from llafs_lib.artifacts import RunFolder
from llafs_lib.tools.tutorial import project_root

QUERIES = 20
SOLUTION = re.compile(r"<summary>Solution</summary>\n\n```python\n(.*?)```", re.DOTALL)


def workplace(root):
    """A project folder in `root` whose notebooks end with the solutions of their exercises; its folder of runs."""
    source = project_root()
    for name in ("llafs_lib", "docs", "data"):
        if (source / name).is_dir():  # data is not there in a new checkout, and is drawn
            (root / name).symlink_to(source / name)
    (root / "notebooks").mkdir()
    for path in sorted((source / "notebooks").glob("0*.ipynb")):
        book = nbformat.read(path, as_version=4)
        texts = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
        solutions = [s for text in texts for s in SOLUTION.findall(text)]
        book.cells += [nbformat.v4.new_code_cell(s) for s in solutions]
        nbformat.write(book, root / "notebooks" / path.name)
    return root / "runs"


def command(runs, *more):
    base = [sys.executable, "-m", "llafs_lib", "tutorial", "--budget", "tiny", "--queries", str(QUERIES)]
    return [*base, "--runs", str(runs), *more]


def tutorial(runs, *more):
    done = subprocess.run(command(runs, *more), cwd=runs.parent, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


def kill_while_training(runs):
    """Start a run and kill its driver with SIGKILL while notebook 02 is training HSNet."""
    folder = RunFolder(runs, "toy", 0)
    driver = subprocess.Popen(command(runs), cwd=runs.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for((folder.path / "checkpoints" / "hsnet.safetensors").is_file, 300)
    kernels = children_of(driver.pid)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not any(is_running(k) for k in kernels), 60)  # a kernel notices that its parent is gone
    return folder


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.1)


def children_of(pid):
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in children.split()]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
