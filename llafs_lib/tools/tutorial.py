"""Run the notebooks: parameters checked first, finished work reused, nothing half-written.

A notebook is run again only if something that decides its result has changed: its own cells, its parameters, the
library, the data set, an artifact it reads, or one that it wrote and that is gone.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llafs_lib.artifacts import NOTEBOOKS, ROOMS, RunFolder, file_hash, library_digest, write_json
from llafs_lib.classes import DATASETS, did_you_mean, novel_classes
from llafs_lib.errors import LlafsError
from llafs_lib.threads import share_cores

if TYPE_CHECKING:
    from llafs_lib.language.asking import Asker

SEGMENTERS = ("hsnet", "repri", "prototype")
CELL_TIMEOUT = 4 * 3600  # seconds; a cell that takes longer has hung


class ParameterError(LlafsError):
    """An unknown parameter, or an impossible value."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The parameters of a run, checked. Every notebook takes those it needs.

    Raises:
        ParameterError: an impossible value; the message lists the possible ones.
    """

    dataset: str = "toy"
    fold: int = 0
    shots: int = 5
    seed: int = 0
    backbone: str = "auto"  # "small" for toy, "mobilenet_v2" for photographs
    budget: str = "small"  # "tiny", "small" or "full": see llafs_lib.vision.recipes
    segmenters: str = "hsnet,repri,prototype"  # that notebook 05 asks
    queries: int = 150  # at most this many questions in notebook 05; 0 asks all there are
    novel_in_train: str = "background"  # "background", "ignore" or "drop": see llafs_lib.data.folds.make_fold
    hold_out: bool = True  # keep some base classes out of training, to choose a model on
    compare_losses: bool = True  # notebook 02, section 11: three losses, three seeds; half of its time on toy
    llm: str = ""  # the model to ask which classes look alike; "" replays recorded answers and needs no key
    llm_mode: str = "auto"  # "auto", "replay" or "refresh": see llafs_lib.language.asking.Asker
    llm_budget: float = 0.0  # US dollars that asking may cost; 0 sets no limit
    runs: str = "runs"

    def __post_init__(self) -> None:
        from llafs_lib.data.folds import NOVEL_IN_TRAIN
        from llafs_lib.language.asking import MODES
        from llafs_lib.vision.backbone import BACKBONES
        from llafs_lib.vision.recipes import recipe_for

        _one_of("dataset", self.dataset, DATASETS)
        _one_of("novel_in_train", self.novel_in_train, NOVEL_IN_TRAIN)
        _one_of("llm_mode", self.llm_mode, MODES)
        if self.llm_mode == "refresh" and not self.llm:
            raise ParameterError("llm_mode 'refresh' asks a model anew: name one as llm.")
        if isinstance(self.llm_budget, bool) or not 0 <= self.llm_budget < float("inf"):
            raise ParameterError(f"llm_budget is US dollars from 0 (no limit), not {self.llm_budget!r}.")
        for name in self.segmenters.split(","):
            _one_of("segmenters", name, SEGMENTERS)
        for name in ("hold_out", "compare_losses"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"{name} must be True or False, not {getattr(self, name)!r}.")
        for name, low in (("fold", 0), ("shots", 1), ("seed", 0), ("queries", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ParameterError(f"{name} must be a whole number from {low}, not {value!r}.")
        try:
            novel_classes(self.dataset, self.fold)
            recipe_for(self.budget, self.dataset)
        except LlafsError as error:
            raise ParameterError(str(error)) from None
        if self.backbone == "auto":
            object.__setattr__(self, "backbone", "small" if self.dataset == "toy" else "mobilenet_v2")
        _one_of("backbone", self.backbone, BACKBONES)
        if self.backbone == "small" and self.dataset != "toy":
            raise ParameterError("backbone 'small' is trained on toy; photographs need one with ImageNet weights.")

    @property
    def run(self) -> RunFolder:
        """The run folder of these settings."""
        return RunFolder(self.runs, self.dataset, self.fold)

    def asker(self, api_key: str | None = None) -> Asker:
        """Who is asked which classes look alike."""
        from llafs_lib.language.asking import Asker

        return Asker(self.llm or None, mode=self.llm_mode, budget=self.llm_budget or None, api_key=api_key)

    @property
    def model(self) -> dict[str, Any]:
        """What decides the trained model: recorded in its manifest, and required of it by later notebooks."""
        return {k: getattr(self, k) for k in ("dataset", "fold", "seed", "backbone", "budget")}


def _one_of(name: str, value: Any, known: Iterable[str]) -> None:
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise ParameterError(f"{name}={value!r} is unknown: choose one of {', '.join(known)}.{hint}")


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse parameter names that are not known.

    Raises:
        ParameterError: names the first unknown one and the closest known one.
    """
    for name in given:
        _one_of("parameter", name, known)


def versions() -> str:
    """One line for the top of a notebook: what it runs with, and on what."""
    import platform

    import torch

    from llafs_lib import __version__

    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {threads} thread{'s'[: threads > 1]}"
    return f"llafs_lib {__version__} | Python {platform.python_version()} | torch {torch.__version__} | {device}"


def settings_from(namespace: Mapping[str, Any]) -> Settings:
    """The checked settings of the notebook whose `globals()` this is.

    Papermill only warns of a parameter that the notebook does not have, and the run would go on without it. This looks
    at the cell that papermill injected and refuses such a name.
    """
    known = [f.name for f in dataclasses.fields(Settings)]
    own = [name for name in known if name in namespace]
    for cell in namespace.get("In", []):
        if cell.startswith("# Parameters\n"):  # how papermill begins an injected cell
            targets = [t for node in ast.parse(cell).body if isinstance(node, ast.Assign) for t in node.targets]
            check_names([t.id for t in targets if isinstance(t, ast.Name)], own)
    return Settings(**{name: namespace[name] for name in own})


# --- which notebooks need to run -------------------------------------------------------------------------------------


def project_root() -> Path:
    """The folder that holds `notebooks/`: the working directory, or the library's checkout."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / "notebooks" / f"{next(iter(NOTEBOOKS))}.ipynb").is_file():
            return root
    raise LlafsError("the notebooks are not here: run this in a checkout of the project.")


def notebook_parameters(notebook: Path) -> list[str]:
    """The names assigned in the cell tagged `parameters`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    source = "".join(tagged[0]["source"]) if tagged else ""
    return [t.id for node in ast.parse(source).body if isinstance(node, ast.Assign) for t in node.targets]


def _cause(notebook: Path, settings: Settings, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of all that decides a notebook's result, by what to call it."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    reads, _ = NOTEBOOKS[notebook.stem]
    cause = {
        "the notebook": _digest([(c["cell_type"], "".join(c["source"])) for c in cells]),
        "a parameter": _digest(sorted(parameters.items())),
        "the library": library_digest(ROOMS[notebook.stem]),
        "the data set": _data_digest(settings),
    }
    return cause | {name: _hash_or_none(settings.run.path / name) for name in reads}


def _data_digest(settings: Settings) -> str:
    from llafs_lib.data.folds import source_files

    return _digest([_hash_or_none(path) for path in source_files(settings.dataset)])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _hash_or_none(path: Path) -> str:
    return file_hash(path) if path.exists() else ""


def why_run(notebook: Path, settings: Settings, parameters: Mapping[str, Any]) -> str | None:
    """Why a notebook has to run, in a few words; None if its last run still stands."""
    stamp = _stamp_path(notebook, settings)
    if not stamp.is_file():
        return "not run yet"
    last = json.loads(stamp.read_text(encoding="utf-8"))
    for name, value in _cause(notebook, settings, parameters).items():
        if last["cause"].get(name) != value:
            return f"{name} has changed"
    for name, value in last["made"].items():
        if _hash_or_none(settings.run.path / name) != value:
            return f"{name} is missing or has changed"
    return None


def _stamp_path(notebook: Path, settings: Settings) -> Path:
    return settings.run.path / "notebooks" / f"{notebook.stem}.stamp.json"


# --- running them ----------------------------------------------------------------------------------------------------


def unfinished(settings: Settings, only: Sequence[str] = ()) -> list[str]:
    """The numbers of the notebooks, among all or `only` some, whose last run does not stand any more."""
    books = {name[:2]: project_root() / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS}
    parameters = {n: {p: getattr(settings, p) for p in notebook_parameters(b)} for n, b in books.items()}
    return [n for n, b in books.items() if (not only or n in only) and why_run(b, settings, parameters[n])]


def run_tutorial(settings: Settings, only: Sequence[str] = (), again: bool = True) -> dict[str, Any] | None:
    """Run the notebooks in order, reusing what is unchanged; return `results.json` if the last one ran.

    Args:
        only: numbers such as "04": run just these.
        again: whatever their state; False reuses what is unchanged among them, too.

    Raises:
        LlafsError: a notebook failed; the message quotes its error and says where its partial output lies.
    """
    root = project_root()
    print(", ".join(f"{k} {v}" for k, v in dataclasses.asdict(settings).items() if v != ""), flush=True)
    books = [root / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS if not only or name[:2] in only]
    for book in books:
        parameters = {n: getattr(settings, n) for n in notebook_parameters(book)}
        reason = "asked for" if only and again else why_run(book, settings, parameters)
        if reason is None:
            print(f"== {book.stem}: reused, nothing it depends on has changed", flush=True)
            continue
        print(f"== {book.stem}: running ({reason})", flush=True)
        started = time.monotonic()
        _execute(book, settings, parameters)
        print(f"== {book.stem}: done in {time.monotonic() - started:.0f} s\n", flush=True)
    results = settings.run.path / "results.json"
    if only and "05" not in only:
        return None
    return json.loads(results.read_text(encoding="utf-8"))


def _execute(notebook: Path, settings: Settings, parameters: Mapping[str, Any]) -> None:
    """Run one notebook with papermill; its output takes its final name only when it has succeeded."""
    output = settings.run.path / "notebooks" / notebook.name
    partial = output.with_suffix(".partial.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    stamp = _stamp_path(notebook, settings)
    stamp.unlink(missing_ok=True)
    cause = _cause(notebook, settings, parameters)  # before the run: what is edited meanwhile is not in it
    started = time.monotonic()
    execute(notebook, partial, parameters)
    os.replace(partial, output)
    _, makes = NOTEBOOKS[notebook.stem]
    made = {name: _hash_or_none(settings.run.path / name) for name in makes}
    cause["the data set"] = _data_digest(settings)  # notebook 01 draws `toy` if it was not there
    write_json(stamp, {"cause": cause, "made": made, "seconds": round(time.monotonic() - started, 1)})


def execute(source: Path, output: Path, parameters: Mapping[str, Any] | None, progress: str = "lines") -> None:
    """Execute a notebook from the project root and print what it prints.

    Raises:
        LlafsError: a cell failed or hung; the message quotes the error.
    """
    import papermill
    from traitlets.config import Config

    os.environ["LLAFS_PROGRESS"] = progress
    share_cores()  # the kernel inherits the environment
    try:
        papermill.execute_notebook(
            str(source),
            str(output),
            parameters=dict(parameters or {}),
            kernel_name="python3",
            cwd=str(project_root()),
            execution_timeout=CELL_TIMEOUT,
            progress_bar=False,
            config=Config(KernelManager={"transport_encryption": "auto"}),  # or the kernel warns of its loopback port
            stdout_file=sys.stdout if progress == "lines" else None,
        )
    except papermill.exceptions.PapermillExecutionError as error:
        raise LlafsError(
            f"{source.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"What ran so far is in {output.as_posix()}."
        ) from None
    except Exception as error:  # a dead kernel or a timeout: nbclient has types of its own for these
        raise LlafsError(f"{source.name} did not finish: {type(error).__name__}: {error}") from error
