"""The house of rooms: which module may import which, and where a parameter is declared. Read from the source."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from llafs_lib.settings import METHODS, SEGMENTERS, Settings

LIBRARY = Path(__file__).resolve().parent.parent / "llafs_lib"

# A room may import the rooms of lower floors and, but for the floor of `data`, `vision` and `language`, its own floor.
FLOORS = [
    {"errors", "classes", "records", "artifacts", "seals", "settings", "progress", "threads", "sharing", "outputs"}
    | {"writing"},
    {"data", "vision", "language"},
    {"retrieval"},
    {"evaluation"},
    {"bank_folder", "opening", "answering"},
    {"pipeline"},
    {"plots", "diagrams", "widgets"},
    {"tools", "__main__"},
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(p for p in LIBRARY.rglob("*.py") if p != LIBRARY / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_in(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports_of(path: Path) -> set[str]:
    return names_in(tree_of(path))


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


def test_the_method_needs_no_drawn_scenes_and_no_tools():
    toy, tools = LIBRARY / "data" / "toy", LIBRARY / "tools"
    method = [p for p in MODULES if toy not in p.parents and tools not in p.parents and p.name != "__main__.py"]
    for path in method:
        tool = {n for n in imports_of(path) if n.startswith("llafs_lib.tools")}
        drawn = {n for n in imports_of(path) if n.startswith("llafs_lib.data.toy")}
        assert not tool and (not drawn or path == LIBRARY / "data" / "folds.py"), path


def test_what_only_extras_install_is_imported_by_widgets_and_inside_tools_alone():
    extras = {
        "papermill",
        "nbclient",
        "nbformat",
        "ipykernel",
        "ipywidgets",
        "IPython",
        "jupyter_client",
        "ray",
        "gradio",
    }
    for path in MODULES:
        outermost = ast.Module([n for n in tree_of(path).body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        everywhere, at_import = names_in(tree_of(path)), names_in(outermost)
        seen = {"widgets": set(), "tools": at_import}.get(room_of(path), everywhere)
        assert not {name.split(".")[0] for name in seen} & extras, path


def test_language_never_imports_torch():
    for path in MODULES:
        if room_of(path) in ("language", "classes", "records", "artifacts"):
            assert not {n for n in imports_of(path) if n.split(".")[0].startswith("torch")}, path


def test_no_file_holds_two_ideas():
    long = {p.name: n for p in MODULES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 350}
    assert not long


# --- a parameter is declared once: in settings.py --------------------------------------------------------------------

PARAMETERS = {f.name: f.metadata["choices"] for f in fields(Settings)}
ELSEWHERE = [(path, node) for path in MODULES if path.name != "settings.py" for node in ast.walk(tree_of(path))]


def test_no_option_is_written_out_beside_its_parameter():
    options = {"--" + name.replace("_", "-") for name in PARAMETERS}
    calls = [(p, n) for p, n in ELSEWHERE if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "add_argument"]
    assert len(calls) > 5
    assert not [(path.name, a.value) for path, n in calls for a in n.args if getattr(a, "value", "") in options]


def test_the_choices_of_a_parameter_are_listed_once():
    listed = [set(PARAMETERS["novel_in_train"]), set(PARAMETERS["llm_mode"]), set(SEGMENTERS), set(METHODS)]
    for path, node in ELSEWHERE:
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            words = {e.value for e in node.elts if isinstance(e, ast.Constant)}
            assert words not in listed, f"{path.name}, line {node.lineno}: settings.py lists these"
