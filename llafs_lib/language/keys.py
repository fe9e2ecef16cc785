"""Where an API key may come from: the environment, a Colab secret, or somebody who types it in. It is never kept."""

from __future__ import annotations

import getpass
import os
import sys

VARIABLE = "OPENAI_API_KEY"


def find_key() -> str | None:
    """OPENAI_API_KEY, else Colab's secret of that name, else what is typed in, where somebody is there to type.

    None where a server of one's own is named (OPENAI_BASE_URL) and there is no key, and where nobody can be asked.
    """
    key = os.environ.get(VARIABLE) or _colab_secret()
    if key or os.environ.get("OPENAI_BASE_URL"):
        return key
    return _typed()


def _colab_secret() -> str | None:
    if "google.colab" not in sys.modules:
        return None
    try:
        from google.colab import userdata

        return userdata.get(VARIABLE) or None
    except Exception:  # no such secret, or this notebook may not read it: Colab has an error class for each
        return None


def _typed() -> str | None:
    in_notebook = "ipykernel" in sys.modules
    if not in_notebook and not (sys.stdin and sys.stdin.isatty()):
        return None
    try:
        return getpass.getpass(f"{VARIABLE} (typed unseen, kept nowhere): ").strip() or None
    except (NotImplementedError, EOFError):  # a notebook that is executed without a reader
        return None
