"""Where a model is asked, and with which key: the address and the key are checked before anything is sent."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import sys
import unicodedata
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

from llafs_lib.errors import LlafsError

KEY_VARIABLE, ADDRESS_VARIABLE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
OPENAI_URL = "https://api.openai.com/v1"
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\))")  # colours and the like; titles and links
NO_KEY = "none"  # what a server without keys is sent


class LLMError(LlafsError):
    """A language model that could not be asked, or gave no answer that can be kept. The message never holds the key.

    `for_all`: the next question would fail in the same way (a wrong key, no such server, a spent budget, a full disk).
    """

    def __init__(self, message: str, for_all: bool = False) -> None:
        super().__init__(message)
        self.for_all = for_all


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server.

    Args:
        base_url: its address, such as `http://localhost:11434/v1`.
        key: what it is sent as an API key. Neither stands in the repr of a server: an address may hold a password.
        timeout: seconds after which a try ends, however slowly the answer drips in.
        retries: further tries after a lost connection, or after an answer of 408, 409, 429 or 5xx.
    """

    base_url: str = field(repr=False)
    key: str = field(repr=False)
    timeout: float = 60.0
    retries: int = 2

    @classmethod
    def find(cls, base_url: str | None = None, key: str | None = None, **patience: float) -> Server:
        """The server at `base_url`, else at OPENAI_BASE_URL, else OpenAI; with `key`, else OPENAI_API_KEY.

        The key of the environment is for the server of the environment. A `base_url` on another host, OpenAI's aside,
        is not sent it: give that server's key as `key`.

        Raises:
            LLMError: the address or the key cannot be right, or OpenAI would be asked without a key.
        """
        of_environment = os.environ.get(ADDRESS_VARIABLE)
        if not key and (base_url is None or _host(base_url) in (_host(of_environment), _host(OPENAI_URL))):
            key = os.environ.get(KEY_VARIABLE)
        base_url, key = of_environment if base_url is None else base_url, (key or "").strip()
        if base_url is not None:
            _check_address(base_url)
        elif not key:
            raise LLMError(f"No key: set {KEY_VARIABLE}, or {ADDRESS_VARIABLE} for a server of your own.", True)
        if key and not (key.isascii() and key.isprintable()):
            raise LLMError("The API key holds a line break or a character that is not ASCII: copy it again.", True)
        return cls((base_url or OPENAI_URL).strip().rstrip("/"), key or NO_KEY, **patience)

    @property
    def _parts(self) -> urllib.parse.SplitResult:
        return urllib.parse.urlsplit(self.base_url)

    @property
    def shown(self) -> str:
        """The address as it may be printed: without a password or a query, which may be secret."""
        return self._parts._replace(netloc=self._parts.netloc.rpartition("@")[2], query="").geturl()

    @property
    def is_this_machine(self) -> bool:
        """Whether the address is one of this machine's own, for which no proxy is meant."""
        host = self._parts.hostname or ""
        return host in ("localhost", "::1", "0.0.0.0", "::") or host.startswith("127.") or host.endswith(".localhost")

    @property
    def proxy(self) -> str | None:
        """The variable of the environment that names the proxy through which the server is asked; None without one."""
        if self.is_this_machine or urllib.request.proxy_bypass(self._parts.hostname or ""):
            return None
        names = [f"{kind}_PROXY" for kind in (self._parts.scheme.upper(), "ALL")]
        return next((n for name in names for n in (name.lower(), name) if os.environ.get(n)), None)

    def without_secrets(self, text: str) -> str:
        """`text` with "…" for the key and the address's password and query, which some servers repeat.

        Escape sequences and control characters are left out too: in a terminal they may do more than show text.
        """
        values = [value for _, value in urllib.parse.parse_qsl(self._parts.query)]
        secrets = [s for s in (self.key, self._parts.password, self._parts.query, *values) if s and s != NO_KEY]
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "…")
        text = _ESCAPES.sub("", text)
        return "".join(
            c for c in text if c.isprintable() or c in "\n\r\t" or unicodedata.category(c) not in ("Cc", "Cs")
        )


def _host(base_url: str | None) -> str | None:
    try:
        return urllib.parse.urlsplit(base_url.strip()).netloc.rpartition("@")[2] if base_url else None
    except ValueError:
        return None


def _check_address(base_url: str) -> None:
    if not base_url.strip():
        raise LLMError(f"{ADDRESS_VARIABLE} is empty: unset it to ask OpenAI, or give your server's address.", True)
    try:
        parts = urllib.parse.urlsplit(base_url.strip())
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port out of range, half a bracket
        usable = False
    if not usable:
        raise LLMError("The server's address cannot be read. It must be like http://localhost:11434/v1.", for_all=True)


def find_key() -> str | None:
    """OPENAI_API_KEY, else Colab's secret of that name, else what somebody types in. It is kept nowhere.

    None where OPENAI_BASE_URL names a server of one's own and there is no key, and where nobody is there to type.
    """
    key = os.environ.get(KEY_VARIABLE)
    if not key and "google.colab" in sys.modules:
        # Colab has an error class for a missing secret, and another for one that this notebook may not read.
        with contextlib.suppress(Exception):
            from google.colab import userdata

            key = userdata.get(KEY_VARIABLE)
    somebody_is_there = "ipykernel" in sys.modules or (sys.stdin and sys.stdin.isatty())
    if not key and not os.environ.get(ADDRESS_VARIABLE) and somebody_is_there:
        with contextlib.suppress(NotImplementedError, EOFError):  # a notebook that is executed without a reader
            key = getpass.getpass(f"{KEY_VARIABLE} (typed unseen, kept nowhere): ").strip()
    return key or None
