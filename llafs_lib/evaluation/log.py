"""The log of an evaluation: what every arm answered to each query, one line a query.

It makes long work survive a kill: what it holds is not computed again. It is also the raw result: every table can be
made again from it, without a model.

    {"key": …, "arms": {"HSNet: llm 5": {"model": "HSNet", "policy": "llm", "k": 5, …}, …}}
    {"class_name": "giraffe", "image_id": 7, "pixels": …, "truth": …, "answers": {…}, "at_400": {…}, "supports": {…},
     "sum": …}

`key` is what decides the answers. `answers` holds [inter, union, inter_bg, union_bg] by arm at the image's own size and
`at_400` the same squashed to 400 × 400. `supports` lists which [image id, class, weight] an arm showed, or how many if
it showed more than 20. `sum` is a hash of the key and of the line before it: what was damaged, edited, or taken from
another log is asked again. Each query is one line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llafs_lib.artifacts import file_hash, make_room, replacing
from llafs_lib.errors import LlafsError
from llafs_lib.evaluation.arms import Arm
from llafs_lib.evaluation.metrics import ConfusionCounts, Curve

BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)  # what a damaged log raises


@dataclass
class Asked:
    """One query, what each arm answered (masks also squashed to 400 × 400), and the supports, by their name."""

    class_name: str
    image_id: int
    pixels: int  # of the query that are not void
    truth: int  # of these pixels, the class's
    answers: dict[Arm, ConfusionCounts | Curve] = field(default_factory=dict)
    at_400: dict[Arm, ConfusionCounts] = field(default_factory=dict)
    supports: dict[str, list | int] = field(default_factory=dict)

    @property
    def area(self) -> float:
        """The share of the image that the class covers, in [0, 1]."""
        return self.truth / max(self.pixels, 1)

    def add(self, other: Asked) -> None:
        """Take over the answers of other arms to the same query."""
        for part in ("answers", "at_400", "supports"):
            getattr(self, part).update(getattr(other, part))

    def line(self, key: str = "") -> str:
        """As the log with that key has it.

        Raises:
            LlafsError: one of the answers is a curve.
        """
        if any(isinstance(c, Curve) for c in self.answers.values()):
            raise LlafsError("score maps cannot be logged: give no log, or let the models answer with masks.")
        entry = {name: getattr(self, name) for name in ("class_name", "image_id", "pixels", "truth")}
        for name in ("answers", "at_400"):
            counts = getattr(self, name).items()
            entry[name] = {arm.name: [c.inter, c.union, c.inter_bg, c.union_bg] for arm, c in counts}
        text = json.dumps(entry | {"supports": self.supports}, ensure_ascii=False)
        return f'{text[:-1]}, "sum": "{_sum(key, text)}"}}'

    @classmethod
    def of(cls, line: str, arms: Mapping[str, Arm]) -> Asked:
        """The query that a line of the log describes; `arms` maps the names in it to their arms."""
        entry = {name: value for name, value in json.loads(line).items() if name != "sum"}
        query = entry["class_name"], entry["image_id"]
        for name in ("answers", "at_400"):
            entry[name] = {arms[arm]: ConfusionCounts(*query, *counts) for arm, counts in entry[name].items()}
        return cls(**entry)


Queries = dict[tuple[str, int], Asked]  # by (class, image id)


def read_log(log: Path, sha256: str = "") -> list[Asked]:
    """All that a finished log holds, without asking anybody.

    Args:
        sha256: the log's, as the results that were made from it state it; empty compares nothing.

    Raises:
        LlafsError: there is none, it is not such a log, or it is another one.
    """
    try:
        if sha256 and file_hash(log) != sha256:
            raise LlafsError(f"{log} is not the log that the results beside it were made from: run notebook 05 again.")
        header, lines = _parts(log)
        return list(_queries(lines, _arms(header)).values())
    except BROKEN as error:
        raise LlafsError(f"{log} is not the log of an evaluation ({error}): run notebook 05 again.") from error


def resume(log: Path, key: str, arms: Sequence[Arm]) -> Queries:
    """What an earlier run with the same key left. The log of another run is begun anew, and `arms` join its header."""
    known = {arm.name: arm for arm in arms}
    try:
        header, lines = _parts(log)
        earlier = _arms(header) if header["key"] == key else {}
        lines = [line for line in lines if earlier and _is_whole(key, line)]
        done, known = _queries(lines, earlier | known), earlier | known
    except BROKEN:  # there is none yet, or something that is no log
        done, lines = {}, []
    header = json.dumps({"key": key, "arms": {name: asdict(arm) for name, arm in known.items()}}, ensure_ascii=False)
    make_room(log)
    with replacing(log) as partial:
        partial.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return done


def _parts(log: Path) -> tuple[dict, list[str]]:
    """The header and the whole lines of a log: what follows the last line break is empty or was cut off."""
    header, *lines = log.read_text(encoding="utf-8").split("\n")
    return json.loads(header), lines[:-1]


def _sum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()[:16]


def _is_whole(key: str, line: str) -> bool:
    text, _, last = line.rpartition(', "sum": "')
    return last == f'{_sum(key, text + "}")}"}}'


def _arms(header: Mapping) -> dict[str, Arm]:
    arms = {name: Arm(**fields) for name, fields in header["arms"].items()}
    return {name: arm for name, arm in arms.items() if arm.name == name}


def _queries(lines: Sequence[str], arms: Mapping[str, Arm]) -> Queries:
    done: Queries = {}
    for line in lines:
        add_to(done, Asked.of(line, arms))
    return done


def add_to(done: Queries, asked: Asked) -> None:
    """Take over a query, or the answers of other arms to one that is known."""
    done.setdefault((asked.class_name, asked.image_id), asked).add(asked)
