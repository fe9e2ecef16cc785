"""Recorded answers: those in the package, and those that a live model gave before. All are files to be read.

    recorded/<prompt>-v<version>/<class>.json                   in the package; no API gave them
    data/llm_cache/<prompt>-v<version>/<class>--<digest>.json   live answers; the digest tells requests apart

What is kept is the answer as given, never what was parsed from it: a better parser improves old answers too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from llafs_lib.classes import COCO_CLASSES, did_you_mean, normalise
from llafs_lib.errors import LlafsError

SCHEMA_VERSION = 1
DEFAULT_CACHE = Path("data/llm_cache")


class RecordingError(LlafsError):
    """A recorded answer that cannot be read or written."""


class ReplayMiss(LlafsError):
    """No recorded answer for a class, and no model was to be asked."""

    def __init__(self, class_name: str) -> None:
        hint = did_you_mean(class_name, COCO_CLASSES)
        super().__init__(
            f"No recorded answer exists for {class_name!r}.{hint} To ask a model, set OPENAI_API_KEY (or "
            f'OPENAI_BASE_URL for a local server) and use mode="auto" with model="<the name of a model>".'
        )


def make_recording(request: dict, response: dict, provenance: str, recorded_on: str | None) -> dict:
    """A recording: what was asked, what came back, where from, and when (ISO date, or None if unknown)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "request": request,
        "response": response,
        "provenance": provenance,
        "recorded_on": recorded_on,
    }


def find(request: dict, cache: Path | str | None = DEFAULT_CACHE) -> dict | None:
    """The recording that answers `request` (see `Prompt.request`): the package's, else the cache's, or None.

    Raises:
        RecordingError: if a file of the cache cannot be read.
    """
    return committed(request) or (cached(request, cache) if cache is not None else None)


def committed(request: dict) -> dict | None:
    """The package's own recording for the prompt and class of `request`, or None. No model decides it."""
    folder = resources.files("llafs_lib.language") / "recorded" / _folder(request)
    path = folder / f"{slug(request['class'])}.json"
    recording = _read(path) if path.is_file() else None
    return recording if recording and recording["request"]["class"] == request["class"] else None


def cached(request: dict, folder: Path | str) -> dict | None:
    """The recording in `folder` of just this request, or None. If it names no model, any model's will do."""
    for path in sorted((Path(folder) / _folder(request)).glob(f"{slug(request['class'])}--*.json")):
        recording = _read(path)
        model = request["model"] or recording["request"]["model"]
        if recording["request"] == {**request, "model": model}:
            return recording
    return None


def save(recording: dict, folder: Path | str) -> Path:
    """Write `recording` into the cache `folder` and return its path. Other readers see all of it or nothing.

    Raises:
        RecordingError: if the folder cannot be written.
    """
    request = recording["request"]
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(folder) / _folder(request) / f"{slug(request['class'])}--{digest}.json"
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # "backslashreplace" turns half a surrogate pair, which UTF-8 cannot hold, into its JSON escape
            temporary.write_text(as_text(recording), encoding="utf-8", errors="backslashreplace")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RecordingError(
            f"The answer could not be kept in {path} ({error.strerror}); set cache to a writable folder."
        ) from error
    return path


def as_text(recording: dict) -> str:
    """A recording as the text of its file: the same recording always makes the same bytes."""
    return json.dumps(recording, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def slug(class_name: str) -> str:
    """A class name as a file name: `"Wine Glass"` → `"wine-glass"`. Names in other scripts may share one."""
    return re.sub(r"[^a-z0-9]+", "-", normalise(class_name)).strip("-")


def _folder(request: dict) -> str:
    return f"{request['prompt']}-v{request['version']}"


def _read(path: Path | Traversable) -> dict:
    try:
        recording = json.loads(path.read_text(encoding="utf-8"))
        usable = (
            recording["schema_version"] == SCHEMA_VERSION
            and isinstance(recording["response"]["text"], str)
            and isinstance(recording["provenance"], str)
            and isinstance(recording["request"]["class"], str)
            and "model" in recording["request"]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        usable = False
    if not usable:
        raise RecordingError(f"The recorded answer {path} cannot be read; delete this file and ask again.")
    return recording
