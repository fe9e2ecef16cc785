"""The one base class of every error this library raises on purpose, and the sentences for what the system refuses.

The command line prints such an error alone; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # the disk, or the user's quota
_TOO_MANY = {errno.EMFILE, errno.ENFILE}
_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST}
_PLACE |= {errno.EIO, errno.EFBIG, errno.ELOOP, errno.ENOENT}
_NO_MEMORY = ("allocate memory", "out of memory", "start new thread", "failed to map segment", "bad_alloc")

INTERRUPTED = "interrupted. What was finished is kept: give the same command again to go on."  # Ctrl-C or SIGTERM


class LlafsError(Exception):
    """Something a user can mend. The message says what is wrong, where, and what to do next."""


class Unwritable(LlafsError, OSError):
    """A place that cannot be written. It is an `OSError` as well, for who looks at its `errno`."""

    def __str__(self) -> str:
        return self.args[0]


def why(error: Exception) -> str:
    """What the system says about a file, without its number and the file's name: "No space left on device"."""
    return getattr(error, "strerror", None) or type(error).__name__


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn what the system refuses while something is written at `path` into an `Unwritable`."""
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        elsewhere = isinstance(error.filename, str) and not Path(error.filename).is_relative_to(path.parent)
        if error.errno not in _FULL | _TOO_MANY | _PLACE or (elsewhere and not path.is_relative_to(error.filename)):
            raise
        wrong = Unwritable(f"{path} cannot be written ({why(error)}): {_remedy(error)}.")
        wrong.errno, wrong.strerror = error.errno, why(error)
        raise wrong from error


def refused(error: BaseException) -> str | None:
    """One sentence for an error that the system, not the program, is the cause of; None for any other."""
    if isinstance(error, MemoryError) or any(word in str(error) for word in _NO_MEMORY):
        return (
            f"the memory does not suffice ({str(error).splitlines()[0][:120] if str(error) else 'MemoryError'}): close "
            "other programs, or raise the limit (`ulimit -v`), then run again. What was finished is kept."
        )
    number = getattr(error, "errno", None)  # ZeroMQ's errors have one, too
    if not isinstance(number, int):
        return None
    where = getattr(error, "filename", None)
    said = f"{where}: {os.strerror(number)}" if isinstance(where, str) else os.strerror(number)
    return f"{said}: {_remedy(error)}. What was finished is kept."


def _remedy(error: BaseException) -> str:
    if error.errno in _FULL:
        return "free some space, then run again"
    if error.errno in _TOO_MANY:
        return "allow more open files (`ulimit -n 1024`), then run again"
    if error.errno == errno.ENOENT:
        return "put it back, or name another place"
    return "choose another place, or correct its permissions" if error.errno in _PLACE else "run again"


def told(value: object) -> str:
    """A value for a message: a number or a text as it is written, cut where it is long; else what kind of thing it is.

    >>> told(7), told("much"), told(None), told([1, 2]), told(object())
    ('7', "'much'", 'None', 'a list', 'an object')
    """
    if isinstance(value, int) and abs(value) >= 10**20:  # Python refuses to write out the longest
        return "a number of more than 20 digits"
    if value is None or isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:30]}…{value[-29:]}")
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
