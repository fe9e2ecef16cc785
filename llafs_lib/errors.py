"""The one base class of every error this library raises on purpose.

The command line prints such an error alone; anything else is a bug and keeps its traceback.
"""


class LlafsError(Exception):
    """Something a user can mend. The message says what is wrong, where, and what to do next."""


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
