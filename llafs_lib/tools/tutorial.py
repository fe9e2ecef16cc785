"""Run the notebooks: parameters are checked first, finished work is reused, nothing is left half-written.

A notebook is run again only if something that decides its result has changed: its own cells, its parameters, the
rooms of the library that it uses, the data set, an artifact that it reads, or one that it wrote.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from llafs_lib.artifacts import (
    MADE_BY,
    NOTEBOOKS,
    ROOMS,
    discard,
    file_hash,
    library_digest,
    number_of,
    read_json,
    run_again,
    write_json,
)
from llafs_lib.classes import DATASETS
from llafs_lib.errors import LlafsError
from llafs_lib.seals import digest_of
from llafs_lib.settings import Settings, unknown
from llafs_lib.sharing import held
from llafs_lib.tools.execution import execute, project_root
from llafs_lib.tools.trained import TRAINING, take_models

PAPERMILLS_OWN = ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")  # what `papermill --inject-paths` adds


def checked(settings: Settings) -> Settings:
    """The same settings, once it is known that `vision` has such a backbone and a training for them.

    Raises:
        LlafsError: it has not; the message lists what there is.
    """
    from llafs_lib.vision.backbone import BACKBONES
    from llafs_lib.vision.recipes import recipe_for
    from llafs_lib.vision.timm_nets import is_known

    recipe_for(settings.budget, settings.dataset)
    if settings.backbone not in BACKBONES and not is_known(settings.backbone):
        raise LlafsError(f"backbone: {unknown(settings.backbone, BACKBONES)}")
    return settings


def check_own_data(settings: Settings, folds: Iterable[int] | None = None) -> None:
    """Open data of one's own and make the folds, so that what is wrong with them is said before a notebook runs.

    Args:
        folds: which; None means that of `settings`.

    Raises:
        LlafsError: the data cannot be read, do not fill such a fold, or have a class whose name is not fit to be sent
            to a language model.
    """
    if settings.own:
        from llafs_lib.data.folds import make_fold, open_dataset
        from llafs_lib.language.prompts import check_class_name

        data = open_dataset(settings.dataset, settings.images, settings.val, settings.min_area)
        for name in data.classes:
            check_class_name(name)
        for fold in [settings.fold] if folds is None else folds:
            make_fold(data, fold, settings.novel_in_train, settings.hold_out)


def folds_of(settings: Settings) -> range:
    """All folds of the data set of these settings."""
    if not settings.own:
        return range(DATASETS[settings.dataset].n_folds)
    from llafs_lib.data.folds import open_dataset

    data = open_dataset(settings.dataset, settings.images, settings.val, settings.min_area)
    return range(data.benchmark.n_folds)


def settings_from(namespace: Mapping[str, Any], also: Sequence[str] = ()) -> Settings:
    """The checked settings of the notebook whose `globals()` this is.

    `also`: parameters that only this notebook has, which it looks at itself.

    Papermill only warns of a parameter that the notebook does not have, and the run would go on without it. So this
    looks at the cell that papermill injected and refuses such a name.

    Raises:
        LlafsError: an unknown parameter or an impossible value.
    """
    own = {f.name: namespace[f.name] for f in fields(Settings) if f.name in namespace and f.name not in also}
    for cell in namespace.get("In", []):
        if cell.startswith("# Parameters\n"):  # how papermill begins an injected cell
            for name in _assigned(cell):
                if name not in own and name not in also and name not in PAPERMILLS_OWN:
                    raise LlafsError(f"parameter {unknown(name, (*own, *also))}")
    return checked(Settings(**own))


def _assigned(code: str) -> dict[str, ast.expr]:
    """The names that a cell of parameters assigns, and to what."""
    nodes = [node for node in ast.parse(code).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: node.value for node in nodes}


def versions() -> str:
    """One line for the top of a notebook: what it runs with, and on what."""
    import platform

    import torch

    from llafs_lib import __version__

    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {threads} thread{'s'[: threads > 1]}"
    return f"llafs_lib {__version__} | Python {platform.python_version()} | torch {torch.__version__} | {device}"


@contextmanager
def in_root(settings: Settings) -> Iterator[Settings]:
    """The same settings, with this process in the project's root, where the kernels work and the data lie.

    Relative `runs` and `LLAFS_DATA` are still meant from where it was.
    """
    root, data = project_root(), os.environ.get("LLAFS_DATA")
    if Path.cwd() == root:
        yield settings
        return
    settings = replace(settings, runs=os.path.abspath(settings.runs))
    if data:
        os.environ["LLAFS_DATA"] = os.path.abspath(data)
    try:
        with chdir(root):
            yield settings
    finally:
        if data:
            os.environ["LLAFS_DATA"] = data


def notebook_parameters(notebook: Path) -> dict[str, Any]:
    """The parameters that a notebook has, with their defaults: what its cell tagged `parameters` assigns."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assigned = _assigned("".join(tagged[0]["source"])) if tagged else {}
    return {name: ast.literal_eval(value) for name, value in assigned.items()}


# --- which notebooks have to run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One notebook of a run."""

    notebook: Path
    settings: Settings

    @property
    def folder(self) -> Path:
        """Where the executed notebook lies, with its log and the stamp that says what it was made from."""
        return self.settings.run.path / "notebooks"

    @property
    def stamp(self) -> Path:
        """What decided the last run (`cause`), what it made, and how many seconds it took."""
        return self.folder / f"{self.notebook.stem}.stamp.json"

    @functools.cached_property
    def parameters(self) -> dict[str, Any]:
        """Those settings that the notebook has as parameters. Parameters that only it has keep their defaults."""
        chosen = asdict(self.settings)
        return {name: chosen[name] for name in notebook_parameters(self.notebook) if name in chosen}

    def why_run(self) -> str | None:
        """Why the notebook has to run, in a few words; None if its last run still stands."""
        then, made = self._last("cause"), self._last("made")
        if not then or made.keys() != set(NOTEBOOKS[self.notebook.stem][1]):  # there is no stamp, or it was cut off
            return "not run yet"
        for name, value in self._cause().items():
            if then.get(name) != value:
                return f"{name} has changed"
        for name, value in made.items():
            if _hash_or_none(self.settings.run.path / name) != value:
                return f"{name} is missing or has changed"
        return None

    def _last(self, part: str) -> dict[str, Any]:
        """A part of the stamp; empty where there is no stamp, or it was cut off."""
        found = read_json(self.stamp).get(part)
        return found if isinstance(found, dict) else {}

    def _check_read(self) -> None:
        """Compare what the notebook reads with what the series left, where it ran the notebook that made it.

        Raises:
            LlafsError: an artifact is not what that notebook made: damaged, or another run's.
        """
        for name in NOTEBOOKS[self.notebook.stem][0]:
            maker, path = replace(self, notebook=Path(f"{MADE_BY[name]}.ipynb")), self.settings.run.path / name
            left = maker._last("made").get(name)
            if left is not None and left != _hash_or_none(path):
                raise LlafsError(
                    f"{path} is not what notebook {MADE_BY[name]} made here: {run_again(name)}. If you made it by hand "
                    f"and mean it, remove {maker.stamp}."
                )

    def take(self, trained: str) -> str:
        """Take what the notebook would make from the same run in another folder of runs; return where that lies."""
        source = replace(self.settings, runs=trained).run
        cause, names = self._cause(), NOTEBOOKS[self.notebook.stem][1]
        take_models(names, self.settings, source)
        self._keep_stamp(cause, 0.0)
        return source.path.as_posix()

    def run(self) -> float:
        """Execute the notebook and return the seconds it took. Its output is renamed only when it has succeeded."""
        self._check_read()
        self.folder.mkdir(parents=True, exist_ok=True)
        discard(self.stamp)
        cause = self._cause()  # before the run: an edit that is made meanwhile is not in its result
        partial = self.folder / f"{self.notebook.stem}.partial.ipynb"  # kept if a cell fails: it shows what ran
        started = time.monotonic()
        # What belongs to no fold, the user's own images, lies beside the folders of all runs.
        with nullcontext() if NOTEBOOKS[self.notebook.stem][1] else held(Path(self.settings.runs), wait=True):
            execute(self.notebook, partial, self.parameters, log=self.folder / f"{self.notebook.stem}.log")
        os.replace(partial, self.folder / self.notebook.name)
        cause["the data set"] = self._data_digest()  # notebook 01 draws `toy` if it was not there
        return self._keep_stamp(cause, round(time.monotonic() - started, 1))

    def _keep_stamp(self, cause: Mapping[str, str], seconds: float) -> float:
        made = {name: _hash_or_none(self.settings.run.path / name) for name in NOTEBOOKS[self.notebook.stem][1]}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.stamp, {"cause": dict(cause), "made": made, "seconds": seconds})
        return seconds

    def _cause(self) -> dict[str, str]:
        """Hashes of all that decides the result, by what to call it."""
        cells = json.loads(self.notebook.read_text(encoding="utf-8"))["cells"]
        cause = {
            "the notebook": digest_of([(c["cell_type"], "".join(c["source"])) for c in cells]),
            # Where the run lies decides nothing: its folder may be moved or named in another way.
            "a parameter": digest_of(sorted((k, v) for k, v in self.parameters.items() if k != "runs")),
            "the library": library_digest(ROOMS[self.notebook.stem]),
            "the data set": self._data_digest(),
        }
        reads, _ = NOTEBOOKS[self.notebook.stem]
        return cause | {name: _hash_or_none(self.settings.run.path / name) for name in reads}

    def _data_digest(self) -> str:
        from llafs_lib.data.folds import source_files

        return digest_of([_hash_or_none(path) for path in source_files(self.settings.dataset, self.settings.val)])


def _hash_or_none(path: Path) -> str:
    return file_hash(path) if path.is_file() or path.is_dir() else ""


def notebooks(only: Sequence[str] = (), names: Iterable[str] = NOTEBOOKS) -> list[Path]:
    """The committed notebooks, in order: all of `names`, or those with the numbers `only`, such as "03".

    Raises:
        LlafsError: there is no notebook with such a number.
    """
    by_number = {number_of(name): project_root() / "notebooks" / f"{name}.ipynb" for name in names}
    for number in only:
        if number not in by_number:
            raise LlafsError(f"notebook {unknown(number, by_number)}")
    return [path for number, path in by_number.items() if not only or number in only]


# --- running them ----------------------------------------------------------------------------------------------------


def run_tutorial(
    settings: Settings, only: Sequence[str] = (), again: bool = True, wait: bool = False, trained: str = ""
) -> dict[str, Any] | None:
    """Run the notebooks in order, reusing what is unchanged; return `results.json` if notebook 05 was among them.

    Args:
        only: numbers such as "04": run just these.
        again: run these whatever their state; False reuses what is unchanged among them, too.
        wait: for another process that writes to this run's folder; else it is an error.
        trained: another folder of runs, whose models are taken instead of training (see `tools.trained`).

    Raises:
        LlafsError: a notebook failed; the message quotes its error and says where its output and its log lie. Or the
            folder is in use, or cannot be written.
    """
    with in_root(settings) as settings:
        steps = [Step(notebook, checked(settings)) for notebook in notebooks(only)]
        check_own_data(settings)
        print(", ".join(f"{k} {v}" for k, v in asdict(settings).items() if v != ""), flush=True)
        asked = only and again
        with held(settings.run.path, wait) if asked or any(step.why_run() for step in steps) else nullcontext():
            for step in steps:
                reason = "asked for" if asked else step.why_run()
                if not reason:
                    done = "reused, nothing it depends on has changed"
                elif trained and step.notebook.stem in TRAINING:
                    done = f"not run, its models are those of {step.take(trained)}"
                else:
                    done = f"run ({reason}), {step.run():.0f} s"
                print(f"{step.notebook.stem}: {done}", flush=True)
        if not any("results.json" in NOTEBOOKS[step.notebook.stem][1] for step in steps):
            return None
        return json.loads((settings.run.path / "results.json").read_text(encoding="utf-8"))
