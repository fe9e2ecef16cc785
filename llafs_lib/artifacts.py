"""Run folders: what one notebook leaves for the next, written whole or not at all.

`runs/<dataset>/fold<k>/` holds one file or folder per artifact and beside each a manifest that says how it was made.
Each is written under a temporary name and moved into place, so a kill never leaves half of one. A missing or unfit
artifact is never rebuilt behind the reader's back: the error names the notebook to run.
"""

from __future__ import annotations

import ast
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

import psutil

from llafs_lib import __version__
from llafs_lib.errors import LlafsError, writing_to
from llafs_lib.threads import threads_in_use

# notebook → (artifacts it reads, artifacts it writes). This table is the whole wiring between the notebooks.
NOTEBOOKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "01_data_folds": ((), ("folds.json",)),
    "02_backbone_training": (("folds.json",), ("hsnet.safetensors",)),
    "02b_other_segmenters": (("folds.json", "hsnet.safetensors"), ("repri.safetensors", "vision.json")),
    "03_llm_prompting": (("folds.json",), ("related_classes.json",)),
    "04_retrieval_scoring": (
        ("folds.json", "hsnet.safetensors", "related_classes.json"),
        ("support_bank", "calibration.json"),
    ),
    "05_full_evaluation": (
        (
            *("folds.json", "hsnet.safetensors", "repri.safetensors"),
            *("related_classes.json", "support_bank", "calibration.json"),
        ),
        ("queries.novel.jsonl", "episodes.csv", "results.json", "results.md", "examples.png", "report.html"),
    ),
    "06_your_own_images": ((), ()),  # begins anew, with a user's own files
}
SERIES = ("00_start_here", *NOTEBOOKS)  # the first is read before all others and leaves nothing
MADE_BY: dict[str, str] = {name: book for book, (_, made) in NOTEBOOKS.items() for name in made}

# Which rooms decide what a notebook leaves. An edit anywhere else (a tool, a figure) invalidates nothing.
MODELS = ("classes", "records", "data", "vision")
METHOD = (*MODELS, "language", "retrieval", "evaluation", "pipeline")
ROOMS: dict[str, tuple[str, ...]] = {
    "01_data_folds": ("classes", "records", "data"),
    "02_backbone_training": MODELS,
    "02b_other_segmenters": MODELS,
    "03_llm_prompting": ("classes", "records", "data", "language"),
    "04_retrieval_scoring": METHOD,
    "05_full_evaluation": METHOD,
    "06_your_own_images": (*METHOD, "answering", "bank_folder", "opening", "outputs", "writing"),
}
KEPT = " Or ask trained models about these images, in a new folder of runs: `--trained RUNS --runs OTHER`."
_DECIDES = (".py", ".json", ".safetensors")  # endings of the files that decide

_PACKAGES = ("torch", "torchvision", "numpy", "pycocotools", "openai", "accelerate")


def number_of(book: str) -> str:
    """The number of a notebook, by which it is called: "02b_other_segmenters" → "02b"."""
    return book.partition("_")[0]


class RunFolder:
    """`<runs>/<dataset>/fold<k>/`, the folder that the notebooks of one run share.

    Args:
        runs: the folder of all runs, usually `"runs"`.
        dataset, fold: which run.
    """

    def __init__(self, runs: str | Path, dataset: str, fold: int):
        self.dataset, self.fold = dataset, fold
        self.path = Path(runs) / dataset / f"fold{fold}"
        self._opened = time.perf_counter()

    @classmethod
    def at(cls, path: str | Path) -> RunFolder:
        """Open a run folder by its path, such as `runs/toy/fold0`; it may have been moved or renamed since.

        Raises:
            LlafsError: there is no such folder, or neither the manifest of its folds nor its name says which run it is.
        """
        path = Path(path)
        run = cls(path.parent.parent, path.parent.name, 0)
        run.path = path
        made = run.parameters("folds.json")
        fold = str(made.get("fold", path.name.removeprefix("fold")))
        if not path.is_dir() or not fold.isdigit():
            raise LlafsError(
                f"{path} is not a run folder such as runs/toy/fold0: make one with `llafs tutorial`, or a bank of your "
                "own images with `llafs bank`."
            )
        run.dataset, run.fold = made.get("dataset", run.dataset), int(fold)
        return run

    def __repr__(self) -> str:
        return f"RunFolder({self.path.as_posix()!r})"

    @contextmanager
    def writing(self, name: str, parameters: Mapping[str, Any]) -> Iterator[Path]:
        """Yield a temporary path to write to; on leaving without an error it becomes the artifact `name`.

        The manifest is moved into place last, so a kill in between leaves an artifact that does not match its
        manifest, which `require` refuses.
        """
        with replacing(self.path / name) as partial:
            yield partial
            manifest = self._manifest(partial, parameters)
            for place in (self._manifest_path(name), *([] if partial.is_dir() else [self.path / name])):
                make_room(place)
        write_json(self._manifest_path(name), manifest)

    def record(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Write the manifest of an artifact that is in place already: one that is filled over several calls."""
        write_json(self._manifest_path(name), self._manifest(self.path / name, parameters))

    def require(self, name: str, **expected: Any) -> Path:
        """The path of a finished artifact made with the `expected` parameters.

        Raises:
            LlafsError: it is not there, was made with other parameters, or is not what its manifest describes; the
                message names the notebook that makes it.
        """
        path, again = self.path / name, run_again(name)
        if not path.exists():
            raise LlafsError(f"{path} is missing: {again} first.")
        try:
            found = file_hash(path)
        except OSError as error:
            raise LlafsError(f"{path} cannot be read ({error.strerror}): remove it and {again}.") from error
        if self.manifest(name).get("sha256") != found:
            raise LlafsError(f"{path} does not match its manifest (cut off or edited): {again} again.")
        for key, value in expected.items():
            made = self.parameters(name).get(key)
            if made != value:
                hint = KEPT if key == "data" else ""
                raise LlafsError(f"{path} was made with {key}={made!r}, not {key}={value!r}: {again}.{hint}")
        return path

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of an artifact; empty when there is none or it cannot be read."""
        return read_json(self._manifest_path(name))

    def parameters(self, name: str) -> dict[str, Any]:
        """What the manifest of an artifact says that it was made with; empty where it says nothing."""
        made = self.manifest(name).get("parameters")
        return made if isinstance(made, dict) else {}

    def _manifest_path(self, name: str) -> Path:
        return self.path / f"{name}.manifest.json"

    def _manifest(self, written: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "parameters": dict(parameters),
            "packages": package_versions(),
            "git_commit": git_commit(),
            "threads": threads_in_use(),
            "seconds_since_notebook_start": round(time.perf_counter() - self._opened, 1),
            "peak_rss_mb": peak_rss_mb(),
            "sha256": file_hash(written),
        }


def run_again(name: str) -> str:
    """What makes an artifact anew, in words."""
    book = MADE_BY.get(name, "that writes it")
    return f"run notebook {book} (`llafs tutorial --only {number_of(book)}` with the same parameters)"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there takes its place when the block ends without an error.

    So a reader never meets half a file, nor does a kill leave one. A folder can be written this way, too, where none
    stands at `path` yet. This is the one atomic writer of the library.

    Raises:
        Unwritable: the disk is full, or the place may not be written; the message says what to do.
    """
    partial = partial_of(path)
    try:
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path.parent)
            yield partial
            os.replace(partial, path)
    finally:
        discard(partial)


def partial_of(path: Path) -> Path:
    """The temporary name under which this thread writes what is to stand at `path`."""
    return path.with_name(f".{_here()}.{os.getpid()}.{threading.get_ident()}.partial.{path.name}")


@functools.cache
def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this machine were writing in a folder. Looked for once: a folder may be large."""
    with suppress(OSError):
        for partial in folder.glob(f".{_here()}.*.partial.*"):
            maker = partial.name.split(".")[2]
            if maker.isdecimal() and not psutil.pid_exists(int(maker)):
                discard(partial)


@functools.cache
def _here() -> str:
    """A short name of this machine, or of this container: process numbers mean nothing anywhere else."""
    with suppress(OSError):
        return hashlib.sha256(f"{platform.node()} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:6]
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def make_room(path: Path) -> None:
    """Remove an empty folder where a file of a run belongs.

    Raises:
        LlafsError: the folder is not empty.
    """
    with suppress(OSError):
        path.rmdir()
    if path.is_dir():
        raise LlafsError(f"{path} is a folder, where a file belongs: move it away, and run this again.")


def discard(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there and may be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no plain file, or something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}  # a pipe waits for ever
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; of a folder, of the names and hashes of its files.

    A file is read once in a process, unless it is written again.
    """
    if path.is_dir():
        listed = [f"{file.name} {file_hash(file)}" for file in sorted(path.iterdir())]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()
    stat = path.stat()
    if not S_ISREG(stat.st_mode):  # it would be waited for, or read, for ever
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    if time.time() - stat.st_ctime < 1:  # the clock of a file system is coarse: a second write might not be seen
        return _hash_of(path)
    return _hash_once(path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.lru_cache(4096)
def _hash_once(path: Path, *state: int) -> str:
    return _hash_of(path)


def _hash_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def library_digest(rooms: tuple[str, ...] = METHOD, root: Path = Path(__file__).parent) -> str:
    """A short hash of what some rooms of the library compute. Where it differs, so may the results.

    Their code counts without docstrings and comments; their data files (recorded answers, weights) count as they are.
    What makes the data files is left out (`data/toy`, the downloads): they are hashed wherever the data set matters.
    So is the HSNet that comes with the library, which no run reads.

    Args:
        rooms: such as "data", a folder, or "records", a file.
        root: the folder that holds the rooms.
    """
    files = [p for room in rooms for p in (root / f"{room}.py", *(root / room).rglob("*")) if p.suffix in _DECIDES]
    left_out = {root / "data" / name for name in ("toy", "download.py", "official.py", "unpacking.py")}
    left_out.add(root / "vision" / "toy_fold0_hsnet.safetensors")
    files = sorted(p for p in files if p.is_file() and not left_out & {p, *p.parents})
    described = [f"{p.relative_to(root).as_posix()} {_code_hash(p)}" for p in files]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]


def _code_hash(path: Path) -> str:
    if path.suffix != ".py":
        return file_hash(path)
    tree = _WithoutTexts().visit(ast.parse(path.read_text(encoding="utf-8")))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()  # ast.dump leaves comments and line numbers out


class _WithoutTexts(ast.NodeTransformer):
    """Takes out docstrings: a constant that stands alone does nothing."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else node


def peak_rss_mb() -> int:
    """The most memory that this process has held so far, in MB."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset // 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


@functools.cache
def package_versions() -> dict[str, str]:
    """The installed versions of the packages that decide a result."""
    return {"llafs-notebooks": __version__, **{name: importlib.metadata.version(name) for name in _PACKAGES}}


@functools.cache
def git_commit() -> str | None:
    """The commit of the library's checkout, or None for an installed copy."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.SubprocessError):
        return None
