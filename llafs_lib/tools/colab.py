"""Where the notebooks find the library and their images on Colab: one repository, written into each, and into README.

What a stamped file looks like follows from the file as it is, whatever it was stamped with before. So a second stamp
changes nothing, and another repository takes the place of the first.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from llafs_lib.artifacts import SERIES, replacing
from llafs_lib.errors import LlafsError
from llafs_lib.tools.execution import project_root
from llafs_lib.tools.tutorial import notebooks

_COLAB = "https://colab.research.google.com"
_BADGE = re.compile(r"\[!\[Open in Colab\]\(.*?\)\]\(.*?\)\s*")
_IMAGE = re.compile(r"\]\((?:\.\./|https://raw\.githubusercontent\.com/[^/)]+/[^/)]+/main/)(docs/[^)]+\.png)\)")
_REPOSITORY = re.compile(r'^REPOSITORY = "(.*?)"', re.MULTILINE)
_ROW = re.compile(r"^\| \[[^]]*\]\(notebooks/(\w+)\.ipynb\) ", re.MULTILINE)
# What GitHub allows; an underscore is in the names of accounts that a company manages.
_OWNER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,38})/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}(?<!\.git)")


def stamp(repository: str) -> list[Path]:
    """Write `repository` (OWNER/NAME on GitHub) into the notebooks and README; return the files that changed.

    Raises:
        LlafsError: not OWNER/NAME, or a file without the line or the row that is to be stamped. Nothing is written.
    """
    if not _OWNER_NAME.fullmatch(repository):
        raise LlafsError(f"{repository!r} is no repository on GitHub: say OWNER/NAME, without an address around it.")
    changed = changed_files(repository)
    for path, text in changed.items():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return list(changed)


def changed_files(repository: str) -> dict[Path, str]:
    """The files that a stamp would change, and what they would hold. The repository "" takes a stamp away.

    Raises:
        LlafsError: a file without the line or the row that is to be stamped.
    """
    stamped = {path: stamped_notebook(path, repository) for path in notebooks(names=SERIES)}
    readme = project_root() / "README.md"
    stamped[readme] = stamped_readme(readme.read_text(encoding="utf-8"), repository)
    return {path: text for path, text in stamped.items() if path.read_text(encoding="utf-8") != text}


def stamped_notebook(path: Path, repository: str) -> str:
    """A notebook with the repository in its setup cell and its images' addresses, and a badge below its title.

    Colab opens a notebook alone, without the folders beside it: an image of docs/ is not there.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    title = notebook["cells"][0]
    head, _, text = _BADGE.sub("", "".join(title["source"])).partition("\n\n")
    badge = f"{_badge(path.stem, repository)}\n\n" if repository else ""
    title["source"] = f"{head}\n\n{badge}{text}".splitlines(keepends=True)
    root = f"https://raw.githubusercontent.com/{repository}/main/" if repository else "../"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = _IMAGE.sub(lambda image: f"]({root}{image[1]})", "".join(cell["source"]))
            cell["source"] = text.splitlines(keepends=True)
    for cell in notebook["cells"]:
        code, found = _REPOSITORY.subn(f'REPOSITORY = "{repository}"', "".join(cell["source"]))
        if found and "setup" in cell["metadata"].get("tags", []):
            cell["source"] = code.splitlines(keepends=True)
            return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    raise LlafsError(f'{path.as_posix()} has no cell tagged "setup" with a line REPOSITORY = "".')


def stamped_readme(text: str, repository: str) -> str:
    """README with a badge behind the name of each notebook in the table of the series."""
    text = _BADGE.sub("", text)
    missing = set(SERIES) - set(_ROW.findall(text))
    if missing:
        raise LlafsError(f"README.md: the table of the series has no row for {', '.join(sorted(missing))}.")
    return _ROW.sub(lambda row: f"{row[0]}{_badge(row[1], repository)} ", text) if repository else text


def _badge(name: str, repository: str) -> str:
    page = f"{_COLAB}/github/{repository}/blob/main/notebooks/{name}.ipynb"
    return f"[![Open in Colab]({_COLAB}/assets/colab-badge.svg)]({page})"
