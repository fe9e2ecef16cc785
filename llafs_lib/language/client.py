"""One call to an OpenAI-compatible server: OpenAI itself, Ollama, vLLM, llama.cpp, LM Studio, …"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import openai

from llafs_lib.errors import LlafsError
from llafs_lib.language.replay import make_recording

OPENAI_URL = "https://api.openai.com/v1"
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class LLMError(LlafsError):
    """A language model that could not be asked, or that gave no answer. The message never holds the key."""


def ask(
    request: dict,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    timeout: float = 60.0,
    max_retries: int = 2,
) -> dict:
    """Send `request` (see `Prompt.request`; it names the model) and return the answer as a recording.

    Args:
        base_url: the server; without one OPENAI_BASE_URL counts, then OpenAI. Empty counts as unset.
        api_key: without one OPENAI_API_KEY counts. A server of one's own needs none.
        timeout: seconds for each try, > 0.
        max_retries: further tries, ≥ 0, after a timeout, a lost connection, a 408, 409, 429 or 5xx.

    Raises:
        LLMError: if no model or key is given, the key is malformed, the server refuses or cannot be reached,
            or its answer holds no text.
    """
    model = request["model"]
    if not model:
        raise LLMError('No model is named: give model="…", a name that your server knows.')
    base_url = base_url or os.environ.get("OPENAI_BASE_URL")
    key = _key(api_key or os.environ.get("OPENAI_API_KEY"), base_url)
    base_url = base_url or OPENAI_URL  # explicit: the client would take an empty OPENAI_BASE_URL as it is
    settings = {"api_key": key, "base_url": base_url, "timeout": timeout, "max_retries": max_retries}
    try:
        with openai.OpenAI(**settings) as client:
            completion = client.chat.completions.create(model=model, messages=request["messages"])
        response = _response(completion)
    except openai.OpenAIError as error:
        problem = _sentence(error, model, base_url, key)
    except (ValueError, RecursionError):  # not JSON, or JSON of another kind
        problem = f"{base_url} did not answer as the OpenAI API does; check the address (many end in /v1)."
    else:
        if not response["text"].strip():
            raise LLMError(f"{model} answered without text (finish reason: {response['finish_reason']}).")
        today = datetime.now(UTC).date().isoformat()
        return make_recording(request, response, f"{model} answered on {today}", today)
    # Raised out here, so that no chained exception carries the request, whose headers hold the key.
    raise LLMError(problem)


def _key(key: str | None, base_url: str | None) -> str:
    if not key and not base_url:
        raise LLMError("No key: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own.")
    if key and not (key.isascii() and key.isprintable()):
        raise LLMError("The API key holds a line break or a character that is not ASCII; copy it once more.")
    return key or "none"


def _response(completion: object) -> dict:
    """The parts of a completion that are kept. The SDK does not validate, so no field and no type is sure."""
    try:
        choice = completion.choices[0]
        content = choice.message.content
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError("not a chat completion") from error
    return {
        "text": _if(str, content) or "",
        "finish_reason": _if(str, choice.finish_reason),
        "model": _if(str, completion.model),
        "usage": completion.usage and {k: _if(int, getattr(completion.usage, k, None)) for k in COUNTS},
    }


def _if(kind: type, value: object) -> object:
    return value if isinstance(value, kind) else None


def _sentence(error: openai.OpenAIError, model: str, base_url: str, key: str) -> str:
    """What went wrong and what to do, in one sentence without the key."""
    if isinstance(error, openai.APITimeoutError):
        return f"{base_url} did not answer in time; try again, or give a longer timeout."
    if isinstance(error, openai.APIConnectionError):
        return f"{base_url} cannot be reached; check the address and the network, or start the server."
    status = getattr(error, "status_code", None)
    # The server's own words are not shown for a 401: some servers repeat the key in them, whole or in part.
    known = {
        401: f"{base_url} refused the key (401); check OPENAI_API_KEY.",
        404: f"{base_url} knows no model {model!r} (404); check the model's name and the address.",
        429: f"{base_url} reports too many requests or no credit left (429); wait, or check your plan.",
    }
    said = " ".join(str(error).replace(key, "…").split())[:200]
    return known.get(status) or f"{base_url} answered {model} with an error: {said}"
