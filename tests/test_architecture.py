"""The house of rooms: which module may import which. Read from the source, nothing is imported."""

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent / "llafs_lib"

# A room may import the rooms of lower floors and, but for the floor of `data`, `vision` and `language`, its own floor.
FLOORS = [
    {"errors", "classes", "records", "artifacts", "progress", "threads"},
    {"data", "vision", "language"},
    {"retrieval"},
    {"evaluation"},
    {"pipeline"},
    {"plots", "diagrams", "widgets"},
    {"tools"},
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(p for p in LIBRARY.rglob("*.py") if p != LIBRARY / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(LIBRARY).as_posix())
def test_imports_run_downward(path):
    room = room_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "llafs_lib" or parts[1] in (room, "__version__"):
            continue
        other = parts[1]
        lower = FLOOR_OF[other] < FLOOR_OF[room]
        beside = FLOOR_OF[other] == FLOOR_OF[room] and FLOOR_OF[room] != 1
        assert lower or beside, f"{room} imports {other}, which is not below it"


def test_every_room_has_a_floor():
    assert {room_of(p) for p in MODULES} == set(FLOOR_OF)


def test_language_never_imports_torch():
    for path in MODULES:
        if room_of(path) in ("language", "classes", "records", "artifacts"):
            assert not {n for n in imports_of(path) if n.split(".")[0].startswith("torch")}, path


def test_no_file_holds_two_ideas():
    long = {p.name: n for p in MODULES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long
