"""The one base class of every error this library raises on purpose.

The command line prints such an error alone; anything else is a bug and keeps its traceback.
"""


class LlafsError(Exception):
    """Something a user can mend. The message says what is wrong, where, and what to do next."""
