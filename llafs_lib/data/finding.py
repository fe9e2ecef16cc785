"""Which file of a folder an annotation file means by an image's name.

Tools write names of the machine that they ran on: with backslashes, as absolute paths, as URLs, in another case or
another Unicode form. The name is looked for as it is, then in these senses, and always inside the folder.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llafs_lib.data.files import shown
from llafs_lib.errors import LlafsError


class ImageFolder:
    """The image files of a folder and of its subfolders, to be found by name."""

    def __init__(self, folder: Path):
        self.folder, self._root = folder, os.path.abspath(folder)

    def find(self, name: str) -> str | None:
        """The file that `name` means, relative to the folder and with slashes; None if there is none, or no single one.

        A link in the folder is followed: whoever filled the folder put it there.

        Raises:
            LlafsError: the name leads out of the folder.
        """
        path = _as_path(name)
        foreign = bool(re.match(r"/|[A-Za-z]:", path))  # an absolute path, perhaps of another machine
        target = os.path.normpath(path if foreign else os.path.join(self._root, path))
        if os.path.join(target, "").startswith(os.path.join(self._root, "")):
            for exact in (os.path.join(self._root, name), target):
                if ".." not in Path(exact).parts and os.path.isfile(exact):
                    return self._relative(exact)
        elif not foreign or (os.path.isfile(target) and not self._closest(path)):
            raise LlafsError(
                f"the file name {shown(name)} leads out of the image folder {self.folder}. Correct the name, or give "
                "the folder that holds all images."
            )
        return self._closest(path)

    def _relative(self, path: str) -> str:
        return Path(os.path.relpath(path, self._root)).as_posix()

    def _closest(self, path: str) -> str | None:
        """The one file whose path ends as `path` does, in as many parts as there are, case and Unicode form aside."""
        for text in dict.fromkeys((path, unquote(path))):
            parts = [p for p in folded(text).split("/") if p not in ("", ".", "..")]
            for first in range(len(parts)):
                tail = "/".join(parts[first:])
                found = self._files.get(tail) or (self._by_last_part.get(tail) if first == len(parts) - 1 else None)
                if found:
                    return found[0] if len(found) == 1 else None
        return None

    @functools.cached_property
    def _files(self) -> dict[str, list[str]]:
        """Folded path → the files of that path. Read only when a name is not found as it is written."""
        files: dict[str, list[str]] = {}
        for folder, folders, names in os.walk(self._root):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for name in sorted(names):
                path = self._relative(os.path.join(folder, name))
                files.setdefault(folded(path), []).append(path)
        return files

    @functools.cached_property
    def _by_last_part(self) -> dict[str, list[str]]:
        last: dict[str, list[str]] = {}
        for path, files in self._files.items():
            last.setdefault(path.rsplit("/", 1)[-1], []).extend(files)
        return last


def same_name(one: str, other: str) -> bool:
    """Whether two names are one path, case, Unicode form and the kind of slash aside."""
    return folded(_as_path(one)) == folded(_as_path(other))


def _as_path(name: str) -> str:
    """The path in a name: without the server of a URL, with slashes only."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        parts = urlsplit(name)
        name = "/" + unquote(parts.path).lstrip("/") if not parts.query.startswith("d=") else unquote(parts.query[2:])
    name = re.sub(r"^/data/local-files/\?d=", "", name)  # how Label Studio names a file of its local storage
    return name.strip().replace("\\", "/")


def folded(path: str) -> str:
    """A path with its case and its Unicode form (macOS decomposes accents) taken away, to compare."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
