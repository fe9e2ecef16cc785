"""The one entry point of this room: which classes look like this one?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from llafs_lib.artifacts import RunFolder, write_json
from llafs_lib.classes import COCO_CLASSES, find_class, normalise
from llafs_lib.errors import LlafsError
from llafs_lib.language.parsing import ParseError, parse_related
from llafs_lib.language.prompts import CONSTRAINED, OPEN, Prompt, check_class_name
from llafs_lib.language.replay import DEFAULT_CACHE, ReplayMiss, find, save
from llafs_lib.records import RelatedClass, RelatedClasses

MODES = ("auto", "replay")


def related_classes(
    class_name: str,
    vocabulary: tuple[str, ...],
    *,
    mode: str = "auto",
    model: str | None = None,
    cache: Path | str | None = DEFAULT_CACHE,
    prompt: Prompt | None = None,
    base_url: str | None = None,
) -> RelatedClasses:
    """The classes of `vocabulary` that look like `class_name`, from a recorded answer or else from a model.

    Args:
        class_name: any name; of a COCO class also an alias ("sofa"). All 80 have a recorded answer.
        vocabulary: the classes that the answer may name. To keep a fold's base classes only, use
            `RelatedClasses.restrict_to` on what comes back.
        mode: "replay" never asks a model; "auto" asks `model`, if one is given, when no answer is recorded.
        cache: the folder where live answers are kept and looked for; None for neither.
        prompt: the question. By default `OPEN` where its answer is recorded, else `CONSTRAINED`; name
            `CONSTRAINED` to ask a model about a class that has a recorded answer to `OPEN`.
        base_url: the server, if not OpenAI; see `client.ask`.

    Raises:
        ClassNameError: if the name is not fit to be sent to a model.
        ReplayMiss: if no answer is recorded and no model may be asked.
        LLMError: if the model gives no answer.
        ParseError: if the answer names no class of `vocabulary`.
    """
    if mode not in MODES:
        raise LlafsError(f"mode must be 'auto' or 'replay', not {mode!r}")
    known_as = find_class(check_class_name(class_name), COCO_CLASSES) or normalise(class_name)
    others = tuple(c for c in vocabulary if find_class(c, (known_as,)) is None)
    requests = [p.request(known_as, others, model) for p in ((prompt,) if prompt else (OPEN, CONSTRAINED))]
    recording = next((found for r in requests if (found := find(r, cache))), None)
    source = "recorded" if recording else "live"
    if recording is None:
        if mode == "replay" or model is None:
            raise ReplayMiss(class_name)
        from llafs_lib.language.client import ask  # here, because importing openai takes a second

        recording = ask(requests[-1], base_url=base_url)
    raw = recording["response"]["text"]
    ranked, dropped = parse_related(raw, known_as, vocabulary)
    if source == "live" and cache is not None:  # after parsing: a useless answer is not kept
        save(recording, cache)
    return RelatedClasses(class_name, ranked, source, recording["provenance"], raw, dropped)


def related_base_classes(
    class_name: str, vocabulary: tuple[str, ...], base: Iterable[str], *, model: str | None = None
) -> RelatedClasses:
    """`related_classes`, restricted to a fold's base classes: what the method may use.

    An answer that names no class of `vocabulary` is not an error here: it becomes an empty one of source "fallback",
    whose provenance says what happened.
    """
    try:
        return related_classes(class_name, vocabulary, model=model).restrict_to(base)
    except ParseError as error:
        return RelatedClasses(class_name, (), "fallback", str(error))


def relation_matrix(classes: tuple[str, ...]) -> np.ndarray:
    """[n, n] recorded scores in [0, 1]: row i holds what the answer about class i gives to each class.

    A class that the answer does not name has 0, and so has the diagonal.

    Raises:
        ReplayMiss: if a class has no recorded answer.
    """
    columns = [find_class(c, COCO_CLASSES) or c for c in classes]
    matrix = np.zeros((len(classes), len(classes)))
    for i, name in enumerate(classes):
        scores = related_classes(name, COCO_CLASSES, mode="replay", cache=None, prompt=OPEN).scores
        matrix[i] = [scores.get(column, 0.0) for column in columns]
    return matrix


def save_related(run: RunFolder, related: Mapping[str, RelatedClasses], fold: int) -> None:
    """Write `related_classes.json`: novel class → its related base classes, with raw answer and provenance."""
    with run.writing("related_classes.json", {"dataset": run.dataset, "fold": fold}) as path:
        write_json(path, {name: asdict(answer) for name, answer in related.items()})


def load_related(run: RunFolder) -> dict[str, RelatedClasses]:
    """Read `related_classes.json`."""
    stored = json.loads(run.require("related_classes.json").read_text(encoding="utf-8"))
    return {
        name: RelatedClasses(
            **(
                entry
                | {"ranked": tuple(RelatedClass(**r) for r in entry["ranked"]), "dropped": tuple(entry["dropped"])}
            )
        )
        for name, entry in stored.items()
    }
