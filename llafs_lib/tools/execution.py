"""Run one notebook with papermill: what it prints goes to a log, and its errors are told in a sentence."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from llafs_lib.artifacts import NOTEBOOKS
from llafs_lib.errors import LlafsError, refused
from llafs_lib.progress import bar
from llafs_lib.threads import share_cores

CELL_TIMEOUT = 4 * 3600  # seconds; a cell that takes longer has hung, but with the full budget training takes days


def project_root() -> Path:
    """The folder that holds `notebooks/`: the working directory, or the library's checkout."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / "notebooks" / f"{next(iter(NOTEBOOKS))}.ipynb").is_file():
            return root
    raise LlafsError(
        "there is no folder notebooks/ here: run this in a checkout of the project, "
        'after `pip install -e ".[notebooks]"` in it.'
    )


def execute(source: Path, output: Path, parameters: Mapping[str, Any], log: Path | None = None) -> None:
    """Execute a notebook from the project root.

    log: what the notebook prints goes there, while one line in the terminal says how far it is; None prints nothing.

    Raises:
        LlafsError: papermill is not installed, or a cell failed or hung; the message quotes the error.
    """
    papermill = import_extra("papermill", "notebooks")
    from traitlets.config import Config

    share_cores()  # the kernel inherits the environment
    os.environ["LLAFS_PROGRESS"] = "lines" if log else "none"  # how the kernel shows loops that take long
    watch = _Watch(source, log) if log else None
    try:
        with watch or nullcontext():
            papermill.execute_notebook(
                str(source),
                str(output),
                parameters=dict(parameters),
                kernel_name="python3",
                cwd=str(project_root()),
                start_timeout=600,  # seconds; on a busy machine a minute is too short
                execution_timeout=None if parameters.get("budget") == "full" else CELL_TIMEOUT,
                progress_bar=False,
                config=Config(
                    KernelManager={"transport_encryption": "auto"},  # or the kernel warns of its port
                    NotebookClient={"extra_arguments": ["--log-level=CRITICAL"]},  # or of Ctrl-C, with a traceback
                ),
                stdout_file=watch,
                stderr_file=watch,
                on_cell_start=watch.cell_starts if watch else None,
            )
    except papermill.exceptions.PapermillExecutionError as error:
        where = f"\nWhat ran so far is in {output.as_posix()}, what it printed in {log.as_posix()}." if log else ""
        raise LlafsError(f"{source.name}, cell {error.exec_count}: {error.ename}: {error.evalue}{where}") from None
    except Exception as error:  # a dead kernel or a timeout: nbclient has types of its own for these
        said = refused(error) or f"{type(error).__name__}: {error}"
        died = " Its process ended, as it does where the memory is short." if "ied" in said else ""
        raise LlafsError(f"{source.name} did not finish: {said}{died}") from error


def import_extra(module: str, extra: str) -> ModuleType:
    """A package that segmenting does not need.

    Raises:
        LlafsError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        how = f'run `pip install -e ".[{extra}]"` in a checkout of the project'
        raise LlafsError(f"this needs {module} ({error}): {how}.") from None


class _Watch:
    """Takes what a running notebook prints into its log, and shows how far it is and what it printed last."""

    def __init__(self, notebook: Path, log: Path):
        n_cells = len(json.loads(notebook.read_text(encoding="utf-8"))["cells"]) + 1  # papermill adds the parameters
        self.log = log.open("w", encoding="utf-8")
        shown = "{desc}: cell {n_fmt} of {total_fmt}, {elapsed}{postfix}"
        self.bar = bar(n_cells, notebook.stem, "cell", bar_format=shown)

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.log.close()

    def cell_starts(self, cell: Mapping[str, Any], cell_index: int) -> None:
        self.bar.n = cell_index + 1
        self._show("")

    def write(self, text: str) -> None:
        self.log.write(text)
        self._show(text.strip().rpartition("\n")[2])

    def flush(self) -> None:
        self.log.flush()

    def _show(self, line: str) -> None:
        self.bar.set_postfix_str(line, refresh=False)
        self.bar.update(0)
