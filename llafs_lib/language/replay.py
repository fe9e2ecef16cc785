"""Recorded answers: those in the package, and those that a live model gave before. All are files to be read.

    recorded/<prompt>-v<version>/<class>--<key>.json         in the package; no API gave them
    data/llm_cache/<prompt>-v<version>/<class>--<key>.json   live answers

The key is a hash of the canonical request (`Question.request`). What is kept is the answer as given, never what was
parsed from it: a better parser improves old answers too. Neither API keys nor headers are kept. A second hash, of the
answer's text, shows whether somebody edited it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from llafs_lib.artifacts import replacing
from llafs_lib.classes import COCO_CLASSES, PASCAL_CLASSES, did_you_mean, normalise
from llafs_lib.errors import LlafsError
from llafs_lib.language.prompts import Question
from llafs_lib.language.server import LLMError
from llafs_lib.seals import digest_of

SCHEMA_VERSION = 2
DEFAULT_CACHE = Path("data/llm_cache")
RECORDED = Path(__file__).parent / "recorded"


class ReplayMiss(LlafsError):
    """No recorded answer, and no model was to be asked. What the message says to do cures that.

    `over` is what the whole question is about. `plain` says whether `llafs ask` would put the same question.
    """

    def __init__(self, question: Question, over: tuple[str, ...], plain: bool = True) -> None:
        self.class_name = name = question.class_name
        model = question.model
        hint = "" if model else did_you_mean(name, COCO_CLASSES)
        by, shown = f" by {model}" if model else "", model or "MODEL"
        server = "OPENAI_API_KEY (or OPENAI_BASE_URL for a server of your own)"
        dataset = {COCO_CLASSES: "", PASCAL_CLASSES: " --dataset pascal-5i"}.get(over)
        if dataset is None:
            asking = f"give --llm {shown}" + (" without --llm-mode replay" if model else "")
            alike = ",".join([c for c in over if c != name and not set(c) & set(",=")][:2])
            cure = f'To ask a model about the {len(over):,} classes at hand, set {server} and {asking} (llm="{shown}").'
            cure += f" To name look-alikes yourself, segment with such as --related {_quoted(alike)} (related=[…])."
        else:
            cure = f'To record one, set {server} and ask once with mode="auto" and model="<name of a model>"'
            cure += f": `llafs ask {_quoted(name)} --llm {shown}{dataset}`." if plain else "."
        super().__init__(f"No recorded answer{by} exists for {name!r}.{hint} {cure}")


def _quoted(text: str) -> str:
    """`text` as one word of a command line."""
    return json.dumps(text, ensure_ascii=False) if not set(text) & set('"$`\\!') else shlex.quote(text)


def make_recording(request: dict, response: dict, sent: dict | None, provenance: str, recorded_on: str | None) -> dict:
    """A recording: what was asked, what came back, where from, and when (ISO date, or None if unknown).

    `sent` holds the settings that the server took in the end: it may have refused a response format or a temperature.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "request": request,
        "response": response,
        "text_sha256": _hash(response["text"]),
        "sent": sent,
        "provenance": provenance,
        "recorded_on": recorded_on,
    }


def find(request: dict, cache: Path | str | None = DEFAULT_CACHE) -> dict | None:
    """The recording that answers `request` (see `Question.request`): the package's, else the cache's, or None.

    A request that names no model is answered by any model's recording in the cache.

    Raises:
        LLMError: if a file cannot be read.
    """
    for folder in (RECORDED, *([Path(cache)] if cache is not None else [])):
        own = path_of(request, folder)
        paths = [own] if own.is_file() else []
        if request["model"] is None:
            paths += sorted(set(own.parent.glob(f"{slug(request['class'])}--*.json")) - {own})
        for path in paths:
            recording = _read(path)
            asked = recording["request"]
            any_model = {} if request["model"] else {k: asked[k] for k in ("model", "temperature")}
            if asked == request | any_model:
                return recording
    return None


def is_edited(recording: dict) -> bool:
    """Whether the answer is not the one that was given. Of recordings from before there was a hash, nobody knows."""
    now = _hash(recording["response"]["text"])
    return recording.get("text_sha256", now) != now


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def path_of(request: dict, folder: Path | str) -> Path:
    """The file in `folder` in which the answer to a canonical request is kept."""
    key = digest_of(request)
    return Path(folder) / f"{request['prompt']}-v{request['version']}" / f"{slug(request['class'])}--{key}.json"


def save(recording: dict, folder: Path | str) -> Path:
    """Write `recording` into the cache `folder` and return its path. Other readers see all of it or nothing.

    Raises:
        LLMError: if the folder cannot be written.
    """
    path = path_of(recording["request"], folder)
    with _writable(path), replacing(path) as partial:
        # "backslashreplace" turns half a surrogate pair, which UTF-8 cannot hold, into its JSON escape
        partial.write_text(as_text(recording), encoding="utf-8", errors="backslashreplace")
    return path


@contextmanager
def claimed(request: dict, folder: Path | str | None, stop: threading.Event | None = None) -> Iterator[None]:
    """Hold the answer to one request: who else wants it, a thread or a process, waits and then finds it in the cache.

    The system lets go of a lock when its process ends, however it ends. Nobody waits any longer once `stop` is set.

    Raises:
        LLMError: the folder cannot be written, which is found out here, before anything is paid for.
    """
    if folder is None:
        yield
        return
    path, stop = path_of(request, folder), stop or threading.Event()
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(None, "the folder cannot be written")
        if path.is_dir():
            raise IsADirectoryError(None, "a folder stands in its place")
        locks = Path(folder) / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{path.stem.rpartition('--')[2]}.lock", thread_local=False)
    while not lock.is_locked and not stop.is_set():
        try:
            with _writable(path):
                lock.acquire(blocking=False)
        except Timeout:
            stop.wait(0.05)
    try:
        yield
    finally:
        lock.release()


def as_text(recording: dict) -> str:
    """A recording as the text of its file: the same recording always makes the same bytes."""
    return json.dumps(recording, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def slug(class_name: str) -> str:
    """A class name as a file name: `"Wine Glass"` → `"wine-glass"`. Names in other scripts may share one."""
    return re.sub(r"[^a-z0-9]+", "-", normalise(class_name)).strip("-")


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Turn a failed write at `path` into one sentence."""
    try:
        yield
    except Timeout:  # an OSError too, but it says that the lock is held
        raise
    except OSError as error:
        raise LLMError(
            f"The answer cannot be kept in {path} ({error.strerror}); set cache to a writable folder.", for_all=True
        ) from error


def _read(path: Path) -> dict:
    try:
        recording = json.loads(path.read_text(encoding="utf-8"))
        request, texts = recording["request"], (recording["response"]["text"], recording["provenance"])
        usable = recording["schema_version"] == SCHEMA_VERSION and all(isinstance(text, str) for text in texts)
        named = path_of(request, path.parents[1])
        usable = usable and {"model", "temperature"} <= request.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        usable = False
    if not usable:
        raise LLMError(f"The recorded answer {path} cannot be read; delete this file and ask again.")
    if named != path:
        raise LLMError(
            f"The recorded answer {path} is not to the question that its name stands for: its request was edited, or "
            f"the file renamed. Put it back, or delete this file and ask again."
        )
    return recording
