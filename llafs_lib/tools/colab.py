"""Where the notebooks find the library on Colab: one repository, written into each of them and into README's table.

What a stamped file looks like follows from the file as it is, whatever it was stamped with before. So a second stamp
changes nothing, another repository takes the place of the first, and a check is a comparison.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llafs_lib.artifacts import SERIES, replacing
from llafs_lib.errors import LlafsError
from llafs_lib.tools.tutorial import notebooks, project_root

_BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
_PAGE = "https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb"
_REPOSITORY = re.compile(r'^REPOSITORY = "(.*?)"', re.MULTILINE)
# What GitHub allows; an underscore is in the names of accounts that a company manages.
_OWNER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,38})/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}(?<!\.git)")
_SECTION = "## The series\n"


def stamp(repository: str) -> list[Path]:
    """Write `repository` (OWNER/NAME on GitHub) into the notebooks and README; return the files that changed.

    Raises:
        LlafsError: not OWNER/NAME, or a file without the line or the table that is to be stamped. Nothing is written.
    """
    _check_name(repository)
    changed = _changed_files(repository)
    for path, text in changed.items():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return list(changed)


def check_stamps(repository: str | None = None) -> str:
    """The repository that all notebooks and README are stamped with; "" if none of them is.

    `repository`: the one that is asked for; None takes the one that the first notebook names.

    Raises:
        LlafsError: names the files that are not stamped with it, or as `stamp`.
    """
    if repository is None:
        repository = _repository_of(notebooks(names=SERIES)[0])
    if repository:
        _check_name(repository)
    odd = ", ".join(path.relative_to(project_root()).as_posix() for path in _changed_files(repository))
    if odd:
        wanted = f"for {repository}" if repository else "like the rest, which is not stamped"
        raise LlafsError(f"not stamped {wanted}: {odd}. Run `llafs stamp --repo {repository or 'OWNER/NAME'}`.")
    return repository


def _check_name(repository: str) -> None:
    if not _OWNER_NAME.fullmatch(repository):
        raise LlafsError(f"{repository!r} is no repository on GitHub: say OWNER/NAME, without an address around it.")


def _changed_files(repository: str) -> dict[Path, str]:
    """The files that would change, and what they would hold. The repository "" takes a stamp away."""
    stamped = {path: _stamped_notebook(path, repository) for path in notebooks(names=SERIES)}
    readme = project_root() / "README.md"
    stamped[readme] = _stamped_readme(readme.read_text(encoding="utf-8"), repository)
    return {path: text for path, text in stamped.items() if path.read_text(encoding="utf-8") != text}


def _badge(name: str, repository: str) -> str:
    return f"{_BADGE}({_PAGE.format(repository=repository, name=name)})"


# --- a notebook ------------------------------------------------------------------------------------------------------


def _stamped_notebook(path: Path, repository: str) -> str:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    title, setup = notebook["cells"][0], _setup_cell(notebook, path)
    head, *rest = [line for line in _lines(title) if not line.startswith(_BADGE)]
    while rest and not rest[0].strip():
        del rest[0]
    title["source"] = [head, "\n", *([_badge(path.stem, repository) + "\n", "\n"] if repository else []), *rest]
    code = _REPOSITORY.sub(f'REPOSITORY = "{repository}"', "".join(setup["source"]))
    setup["source"] = code.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _lines(cell: dict[str, Any]) -> list[str]:
    return "".join(cell["source"]).splitlines(keepends=True)


def _setup_cell(notebook: dict[str, Any], path: Path) -> dict[str, Any]:
    for cell in notebook["cells"]:
        if "setup" in cell["metadata"].get("tags", []) and _REPOSITORY.search("".join(cell["source"])):
            return cell
    raise LlafsError(f'{path.as_posix()} has no cell tagged "setup" with a line REPOSITORY = "".')


def _repository_of(path: Path) -> str:
    setup = _setup_cell(json.loads(path.read_text(encoding="utf-8")), path)
    return _REPOSITORY.search("".join(setup["source"])).group(1)


# --- README's table --------------------------------------------------------------------------------------------------


def _stamped_readme(text: str, repository: str) -> str:
    """README with a last column "Colab" in the table of the series, or without it."""
    before, section, after = text.partition(_SECTION)
    table = re.search(r"^\|.*\n(?:\|.*\n)+", after, re.MULTILINE)
    if not section or not table:
        raise LlafsError(f"README.md has no table under {_SECTION.strip()!r}.")
    rows = table.group().splitlines()
    if rows[0].endswith("| Colab |"):
        rows = [row[: row.rindex("|", 0, -1) + 1] for row in rows]
    if repository:
        rows = [f"{row}{cell}|" for row, cell in zip(rows, _column(rows, repository), strict=True)]
    new = "".join(f"{row}\n" for row in rows)
    return before + section + after[: table.start()] + new + after[table.end() :]


def _column(rows: list[str], repository: str) -> list[str]:
    linked = [re.search(r"\(notebooks/(\w+)\.ipynb\)", row) for row in rows[2:]]
    missing = set(SERIES) - {link.group(1) for link in linked if link}
    if missing:
        raise LlafsError(f"README.md: the table of the series has no row for {', '.join(sorted(missing))}.")
    return [" Colab ", "---", *(f" {_badge(link.group(1), repository)} " if link else " " for link in linked)]
