"""One call to an OpenAI-compatible server: OpenAI itself, Ollama, vLLM, llama.cpp, LM Studio, …

What a server cannot do is learned from what it refuses, and remembered for the process: the form of the answer goes
down a ladder, json_schema → json_object → plain text; a temperature is left out. Nothing else is tried twice but what
may pass by itself: a lost connection, a busy or a broken server.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime

import openai

from llafs_lib.errors import LlafsError
from llafs_lib.language.prompts import Question
from llafs_lib.language.replay import make_recording

if int(openai.__version__.partition(".")[0]) < 3:  # as on Colab
    import httpx as http  # the HTTP library under openai, whose timeouts it knows

    LONGEST_WAIT = 60  # seconds; asked by a server to wait longer, openai 2 would ask again almost at once
else:
    import httpx2 as http

    LONGEST_WAIT = 120

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "none"  # what a server of one's own is sent
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
RUNGS = ("json_schema", "json_object", "text")
_ABOUT_FORMAT = ("response_format", "json_schema", "json_object", "structured output")


class LLMError(LlafsError):
    """A language model that could not be asked, or that gave no answer. The message never holds the key.

    `for_all`: the next question would fail in the same way (no credit, a wrong key, no such server or model).
    `refused`: the server said no, so that nothing is to be paid.
    """

    def __init__(self, message: str, for_all: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.for_all, self.refused = for_all, refused


@dataclass(frozen=True)
class Server:
    """Where to ask, and how patiently: `timeout` seconds for each try, `retries` further tries (408, 409, 429, 5xx).

    A server's Retry-After is honoured up to two minutes, with openai 2 up to one; asked to wait longer, or out of
    credit, a call fails at once.
    """

    base_url: str
    key: str = field(repr=False)
    timeout: float = 60.0
    retries: int = 2

    @classmethod
    def find(cls, base_url: str | None = None, key: str | None = None, **patience: float) -> Server:
        """The server that is given, or OPENAI_BASE_URL's, or OpenAI; with the key given, or OPENAI_API_KEY's.

        Raises:
            LLMError: an address or a key that cannot be right, or no key for OpenAI.
        """
        base_url = os.environ.get("OPENAI_BASE_URL") if base_url is None else base_url
        _check_address(base_url)
        key = key or os.environ.get("OPENAI_API_KEY")
        if not key and base_url is None:
            raise LLMError("No key: set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own.", True)
        if key and not (key.isascii() and key.isprintable()):
            raise LLMError("The API key holds a line break or a character that is not ASCII; copy it once more.", True)
        return cls(base_url or OPENAI_URL, key or NO_KEY, **patience)

    @property
    def shown(self) -> str:
        """The address as it may be printed: without what may be secret in it, a password or a query."""
        parts = urllib.parse.urlsplit(self.base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _check_address(base_url: str | None) -> None:
    if base_url is None:
        return
    if not base_url.strip():
        raise LLMError("OPENAI_BASE_URL is empty: unset it to ask OpenAI, or give the address of your server.", True)
    try:
        usable = http.URL(base_url).scheme in ("http", "https") and urllib.parse.urlsplit(base_url).hostname
    except (http.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise LLMError("The server's address must be like http://localhost:11434/v1; this one cannot be read.", True)


@dataclass
class Habits:
    """What a server takes for a model, as far as it is known."""

    rung: int = 0  # of RUNGS
    temperature: bool = True
    limit: str = "max_completion_tokens"  # older servers know max_tokens
    known: bool = False

    def settings(self, question: Question, max_tokens: int | None) -> dict:
        """The keyword arguments of the next try."""
        settings = {}
        if question.schema and RUNGS[self.rung] == "json_schema":
            described = {"name": "related_classes", "strict": True, "schema": question.schema}
            settings["response_format"] = {"type": "json_schema", "json_schema": described}
        elif question.schema and RUNGS[self.rung] == "json_object":
            settings["response_format"] = {"type": "json_object"}
        if self.temperature and question.temperature is not None:
            settings["temperature"] = question.temperature
        return settings | ({self.limit: max_tokens} if max_tokens else {})

    def learn(self, error: openai.APIStatusError, settings: dict) -> bool:
        """Give up what the server refused of `settings`; False if it refused something else."""
        refused = _refused(error)
        if refused == "response_format" and refused in settings:
            # by name, not by one step: of several questions on their way, each reports the same rung
            self.rung = max(self.rung, RUNGS.index(settings[refused]["type"]) + 1)
        elif refused == "temperature" and refused in settings:
            self.temperature = False
        elif refused == "max_completion_tokens" and refused in settings:
            self.limit = "max_tokens"
        else:
            return False
        return True


_HABITS: dict[tuple[str, str], Habits] = {}


def _refused(error: openai.APIStatusError) -> str | None:
    """The setting that a 400 or 422 is about: its `param` where it names one, else what its text mentions."""
    if error.status_code not in (400, 422):
        return None
    named = error.body.get("param") if isinstance(error.body, dict) else None
    about = named if isinstance(named, str) else _all_said(error)
    if any(word in about.casefold() for word in _ABOUT_FORMAT):
        return "response_format"
    return next((name for name in ("temperature", "max_completion_tokens") if name in about), None)


def _all_said(error: openai.APIStatusError) -> str:
    return f"{error} {json.dumps(error.body, default=str)}"


class _Transport(openai.DefaultAsyncHttpxClient):
    """HTTP with two rules more: a try ends after `seconds`, however slowly bytes drip; no credit or hours are final."""

    seconds = 60.0

    async def send(self, request: http.Request, **options: object) -> http.Response:
        try:
            async with asyncio.timeout(self.seconds):
                response = await super().send(request, **options)
                await response.aread()
        except TimeoutError as error:
            raise http.ReadTimeout("no whole answer in time", request=request) from error
        no_credit = response.status_code == 429 and b"insufficient_quota" in response.content
        if no_credit or _asked_to_wait(response) > LONGEST_WAIT:
            response.headers["x-should-retry"] = "false"  # which openai obeys
        return response


def _asked_to_wait(response: http.Response) -> float:
    """Seconds of a Retry-After; 0 where there is none, or a date."""
    try:
        return float(response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0


class Connection:
    """An open connection to a server: `async with Connection(server) as connection: await connection.ask(…)`."""

    def __init__(self, server: Server):
        self.server = server
        transport = _Transport(timeout=server.timeout)
        transport.seconds = server.timeout
        self._api = openai.AsyncOpenAI(
            api_key=server.key, base_url=server.base_url, max_retries=server.retries, http_client=transport
        )
        self._first = asyncio.Lock()

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()

    async def ask(self, question: Question, max_tokens: int | None = None) -> dict:
        """Ask, and return the answer as a recording. An answer that was filtered or refused has no text, and says so.

        Args:
            max_tokens: the most tokens that the answer may have; None leaves it to the server.

        Raises:
            LLMError: if no model is named, the server refuses or cannot be reached, or answers without text.
        """
        if not question.model:
            raise LLMError('No model is named: give model="…", a name that your server knows.', True)
        habits = _HABITS.setdefault((self.server.base_url, question.model), Habits())
        if habits.known:
            return await self._ask(question, habits, max_tokens)
        async with self._first:  # one question finds out what the server takes; the others wait for it
            if not habits.known:
                try:
                    return await self._ask(question, habits, max_tokens)
                finally:
                    habits.known = True
        return await self._ask(question, habits, max_tokens)

    async def _ask(self, question: Question, habits: Habits, max_tokens: int | None) -> dict:
        try:
            completion, settings = await self._complete(question, habits, max_tokens)
            response = _response(completion)
        except openai.OpenAIError as error:
            problem = _problem(error, question.model, self.server)
        except (ValueError, RecursionError):  # not JSON, or JSON of another kind
            problem = _not_the_api(self.server)
        else:
            if not response["text"].strip() and response["finish_reason"] not in ("content_filter", "refusal"):
                raise LLMError(f"{question.model} answered without text (finish reason: {response['finish_reason']}).")
            today = datetime.now(UTC).date().isoformat()
            sent = {"response_format": "text", "temperature": None, **settings}
            sent["response_format"] = settings.get("response_format", {}).get("type", "text")
            return make_recording(question.request, response, sent, f"{question.model} answered on {today}", today)
        # Raised out here, so that no chained exception carries the request, whose headers hold the key.
        raise problem

    async def _complete(self, question: Question, habits: Habits, max_tokens: int | None) -> tuple[object, dict]:
        while True:
            settings = habits.settings(question, max_tokens)
            try:
                create = self._api.chat.completions.create
                return await create(model=question.model, messages=question.messages, **settings), settings
            except openai.APIStatusError as error:
                if not habits.learn(error, settings):
                    raise

    async def embed(self, texts: tuple[str, ...], model: str) -> tuple[list[list[float]], dict | None]:
        """The embedding of each of `texts`, and the usage as the server counts it.

        Raises:
            LLMError: as `ask`, and if the answer does not hold one vector of numbers for each text.
        """
        try:
            answer = await self._api.embeddings.create(model=model, input=list(texts), encoding_format="float")
            vectors = [[float(x) for x in item.embedding] for item in sorted(answer.data, key=lambda item: item.index)]
            if len(vectors) != len(texts) or len({len(v) for v in vectors}) != 1 or not vectors[0]:
                raise ValueError("not one vector for each text")
            return vectors, _usage(answer)
        except openai.OpenAIError as error:
            problem = _problem(error, model, self.server)
        except (ValueError, TypeError, AttributeError, RecursionError):
            problem = _not_the_api(self.server)
        raise problem


def _response(completion: object) -> dict:
    """The parts of a completion that are kept. The SDK does not validate, so no field and no type is sure."""
    try:
        choice = completion.choices[0]
        message = choice.message
        content = message.content
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError("not a chat completion") from error
    refusal = _if(str, getattr(message, "refusal", None))
    return {
        "text": _if(str, content) or "",
        "finish_reason": "refusal" if refusal and not content else _if(str, choice.finish_reason),
        "refusal": refusal,
        "model": _if(str, completion.model),
        "usage": _usage(completion),
    }


def _usage(answer: object) -> dict | None:
    usage = getattr(answer, "usage", None)
    return {k: _if(int, getattr(usage, k, None)) for k in COUNTS} if usage else None


def _if(kind: type, value: object) -> object:
    return value if isinstance(value, kind) else None


def _not_the_api(server: Server) -> LLMError:
    return LLMError(f"{server.shown} did not answer as the OpenAI API does; check the address (many end in /v1).")


def _problem(error: openai.OpenAIError, model: str, server: Server) -> LLMError:
    """What went wrong and what to do, in one sentence without the key."""
    where = server.shown
    if isinstance(error, openai.APITimeoutError):
        return LLMError(f"{where} did not answer in time; try again, or give a longer timeout.")
    if isinstance(error, openai.APIConnectionError):
        return LLMError(f"{where} cannot be reached; check the address and the network, or start the server.", True)
    status = getattr(error, "status_code", None)
    if status == 429 and "insufficient_quota" in _all_said(error):
        return LLMError(
            f"{where} reports that no credit is left (429, insufficient_quota); check your plan.", True, True
        )
    # The server's own words are not shown for a 401: some servers repeat the key in them, whole or in part.
    known = {
        401: f"{where} refused the key (401); check OPENAI_API_KEY.",
        403: f"{where} does not let this key use {model!r} (403); check what the key may do.",
        404: f"{where} knows no model {model!r} (404); check the model's name and the address.",
        429: f"{where} reports too many requests (429); wait a little, or ask fewer at once.",
    }
    said = str(error) if server.key == NO_KEY else str(error).replace(server.key, "…")
    said = " ".join(said.split())[:200]
    sentence = known.get(status) or f"{where} answered {model} with an error: {said}"
    return LLMError(sentence, for_all=status in (401, 403, 404), refused=status is not None)
