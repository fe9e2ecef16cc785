"""What a server sends back: an answer in any of the forms that servers use, or what it says instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
PASSING = (408, 409, 429)  # what may be over soon, as may every 5xx
LONGEST_WAIT = 120.0  # seconds; a server that asks to wait longer is not waited for
_SPOKEN = ("error", "errors", "detail", "message", "msg", "metadata", "raw", "description")  # keys of what is said
_CODES = {"insufficient_quota": 429, "rate_limit_exceeded": 429, "invalid_api_key": 401, "model_not_found": 404}
_NAMING = ("param", "loc", "code", "type")  # keys of what may name a setting


class NoAnswer(Exception):
    """What came of one request instead of an answer.

    `status` is the HTTP status, None if nothing came. `said` is what the server wrote, `named` also what it names as
    the reason. `wait` is how many seconds it asks to wait. `sent` False: the server was not even reached.
    """

    def __init__(
        self, status: int | None, said: str = "", named: str = "", wait: float | None = None, sent: bool = True
    ) -> None:
        super().__init__(said)
        self.status, self.said, self.named, self.wait, self.sent = status, said, named, wait, sent

    def told(self, clean: Callable[[str], str]) -> NoAnswer:
        """The same, with `clean` made of the server's words."""
        return NoAnswer(self.status, clean(self.said), clean(self.named), self.wait, self.sent)

    @property
    def passing(self) -> bool:
        """Whether the same request may be answered if it is sent again."""
        if self.out_of_credit or (self.wait or 0.0) > LONGEST_WAIT:
            return False
        return self.status is None or self.status in PASSING or self.status >= 500

    @property
    def out_of_credit(self) -> bool:
        """Whether nothing will be answered until somebody pays."""
        return self.status == 402 or (self.status == 429 and "insufficient_quota" in self.named)


def refusal(status: int, text: str, headers: Mapping[str, str]) -> NoAnswer:
    """A response with an error status."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = "a web page" if text.lstrip().startswith("<") else text
    return _said(status, body, _asked_to_wait(headers))


def read_completion(text: str) -> dict:
    """The parts of a completion that are kept. Servers differ, so no field and no type is sure.

    Raises:
        NoAnswer: the text is no completion, or it holds an error in spite of its status 200.
    """
    try:
        completion = _joined(text) if text.lstrip().startswith(("data:", "event:", ":")) else json.loads(text)
        if completion.get("error") and not completion.get("choices"):
            raise _said(_code(completion["error"]), completion["error"])
        choice = completion["choices"][0]
        if choice.get("error"):
            raise _said(_code(choice["error"]), choice["error"])
        message = choice["message"]
        content, withheld = _content(message), _if(str, message.get("refusal"))
        finish = "refusal" if withheld and not content else _if(str, choice.get("finish_reason"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # not JSON, or JSON of another kind
        raise NoAnswer(200, "not a completion") from None
    if not content and finish == "length" and (message.get("reasoning_content") or message.get("reasoning")):
        finish = "length, while it still thought"
    return {
        "text": content,
        "finish_reason": finish,
        "refusal": withheld,
        "model": _if(str, completion.get("model")),
        "usage": _usage(completion.get("usage")),
    }


def _content(message: dict) -> str:
    """The text of a message: as a string, in parts, or as the arguments of a tool that the model called."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    if not content and message.get("tool_calls"):
        content = message["tool_calls"][0]["function"]["arguments"]
    return _if(str, content) or ""


def _joined(stream: str) -> dict:
    """A streamed answer (server-sent events) as one completion."""
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {}
    choice: dict[str, Any] = {"message": message}
    for line in stream.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        chunk = json.loads(data)
        whole |= {k: v for k, v in chunk.items() if k in ("model", "usage", "error") and v}
        for part in (chunk.get("choices") or [])[:1]:
            choice |= {k: v for k, v in part.items() if k in ("finish_reason", "error") and v}
            for key, value in (part.get("delta") or part.get("message") or {}).items():
                if isinstance(value, str):
                    message[key] = message.get(key, "") + value
    return {**whole, "choices": [choice]} if message or len(choice) > 1 else whole


def _usage(usage: object) -> dict | None:
    """Tokens as the server counted them; None where they cannot be right, since every question has some."""
    if not isinstance(usage, dict):
        return None
    counts = {k: _if(int, usage.get(k)) for k in COUNTS}
    sent, answered = counts["prompt_tokens"], counts["completion_tokens"]
    return None if (sent is not None and sent < 1) or (answered or 0) < 0 else counts


def _said(status: int, body: object, wait: float | None = None) -> NoAnswer:
    said = " ".join(dict.fromkeys(_strings(body, _SPOKEN))) or json.dumps(body, default=str)
    named = " ".join(_strings(body, _SPOKEN + _NAMING))
    return NoAnswer(status, said, named, wait)


def _strings(value: object, keys: tuple[str, ...]) -> Iterator[str]:
    """The texts in an error of any form, below `keys` only: what was sent may be repeated elsewhere in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, keys)
    elif isinstance(value, dict):
        for key in keys:
            yield from _strings(value.get(key), keys)


def _code(error: object) -> int:
    """The status that an error inside a 200 stands for; 400 where it does not say."""
    code = str(error.get("code") or error.get("status") or "") if isinstance(error, dict) else ""
    return int(code) if code.isdecimal() and len(code) == 3 else _CODES.get(code, 400)


def _asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait; None where it does not say, or says a date."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    return None


def _if(kind: type, value: object) -> Any:
    return value if isinstance(value, kind) else None
