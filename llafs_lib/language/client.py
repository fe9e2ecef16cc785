"""One question to an OpenAI-compatible server: OpenAI itself, Ollama, vLLM, llama.cpp, LM Studio, …

`Client.ask` sends requests until one is answered. After each that failed, it asks for less (`newly_refused`: the server
refused a setting), or waits and tries again (the server is busy), or ends with one sentence. Every request goes
through `Client._send`, where its cost is set aside and its time is limited.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from typing import Any

import openai

from llafs_lib.language.cost import Budget
from llafs_lib.language.prompts import Question
from llafs_lib.language.replay import make_recording
from llafs_lib.language.responses import NoAnswer, read_completion, refusal
from llafs_lib.language.server import LLMError, Server
from llafs_lib.records import Call

__all__ = ["Client", "Habits", "LLMError", "Server"]

FIRST_WAIT, MOST_WAIT = 0.5, 8.0  # seconds between tries where the server does not say how long; doubled each time
FORMS = ("json_schema", "json_object", "text")  # of an answer, from the strictest down
MOST_GUESSES = 2  # settings that are given up without knowing what the server refused
UNSTREAMED = "unstreamed"  # what a server refuses that only streams
# How servers call a setting when they refuse it.
WORDS = {
    "response_format": ("response_format", "json_schema", "json_object", "structured output"),
    "temperature": ("temperature",),
    "max_completion_tokens": ("max_completion_tokens",),  # older servers know max_tokens
}
PROXIES, CERTIFICATES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"), ("SSL_CERT_FILE", "SSL_CERT_DIR")
_NO_MODEL = re.compile(r"(?:invalid|unknown) model|model\W.{0,80}(?:not found|not exist|not available|unknown)", re.I)
LOGGERS = ("openai._base_client", "httpx", "httpcore.connection", "httpcore.proxy", "httpcore.http11")


# --- what a server takes ---------------------------------------------------------------------------------------------


Habits = tuple[str, ...]  # the settings that a server refused for a model, a form of answer as often as it did
_HABITS: dict[tuple[str, str], Habits] = {}  # (address, model) → what was found out in this process


def settings_of(question: Question, max_tokens: int | None, refused: Habits) -> dict[str, Any]:
    """What is sent beside the model and the messages."""
    settings: dict[str, Any] = {}
    form = FORMS[refused.count("response_format")]
    if question.schema and form == "json_schema":
        described = {"name": "related_classes", "strict": True, "schema": question.schema}
        settings["response_format"] = {"type": "json_schema", "json_schema": described}
    elif question.schema and form == "json_object":
        settings["response_format"] = {"type": "json_object"}
    if question.temperature is not None and "temperature" not in refused:
        settings["temperature"] = question.temperature
    if UNSTREAMED in refused:
        settings |= {"stream": True, "stream_options": {"include_usage": True}}
    limit = "max_tokens" if "max_completion_tokens" in refused else "max_completion_tokens"
    return settings | ({limit: max_tokens} if max_tokens else {})


def newly_refused(settings: dict[str, Any], problem: NoAnswer, guesses: int) -> Habits:
    """What to give up after `settings` were refused; nothing if that would not help.

    Whatever the server names is given up. If it names nothing that was sent, the first of form, temperature and limit
    may be what it cannot do: that is a guess, of which each question has `MOST_GUESSES`.
    """
    if problem.status not in (400, 422, 500):
        return ()
    said = problem.named.casefold()
    if "stream" in said and "stream" not in settings:
        return (UNSTREAMED,)
    named = [name for name, words in WORDS.items() if name in settings and any(word in said for word in words)]
    sent = [name for name in WORDS if name in settings]
    return tuple(named or (sent[:1] if guesses < MOST_GUESSES else ()))


# --- asking ----------------------------------------------------------------------------------------------------------


class Client(contextlib.AbstractContextManager):
    """Asks one server. Several threads may share it: `with Client(server) as client: client.ask(question)`.

    Args:
        budget: where each request sets its cost aside before it is sent; None sets no limit.
        stop: once it is set, nothing more is sent, and what is on its way is given up.
    """

    def __init__(self, server: Server, budget: Budget | None = None, stop: threading.Event | None = None):
        self.server, self.budget, self.stop = server, budget, stop or threading.Event()
        self._api = _api(server)
        self._first = threading.Lock()
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self._unsecret)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self._unsecret)

    def _unsecret(self, record: logging.LogRecord) -> bool:
        """A filter of logs: HTTP clients write whole addresses into them."""
        record.msg, record.args = self.server.without_secrets(record.getMessage()), ()
        return True

    def ask(self, question: Question, max_tokens: int | None = None) -> dict:
        """Ask, and return the answer as a recording. An answer that was filtered or refused has no text, and says so.

        Args:
            max_tokens: the most tokens that the answer may have; None leaves it to the server.

        Raises:
            LLMError: no model is named, the server refuses or cannot be reached, it answers without text, or the
                next request might cost more than is left.
        """
        if not question.model:
            raise LLMError('No model is named: give model="…", a name that your server knows.', for_all=True)
        answer, settings = self._in_turn(question, max_tokens)
        if isinstance(answer, LLMError):  # raised here, where no chained exception carries the request with its key
            raise answer
        return _recording(question, answer, settings)

    def _in_turn(self, question: Question, max_tokens: int | None) -> tuple[dict | LLMError, dict[str, Any]]:
        """`_answer`, for one question alone as long as it is not known what the server takes; the others wait."""
        where = (self.server.base_url, question.model)
        if where not in _HABITS:
            with self._first:
                if where not in _HABITS:
                    try:
                        return self._answer(question, max_tokens)
                    finally:
                        _HABITS.setdefault(where, ())
        return self._answer(question, max_tokens)

    def _answer(self, question: Question, max_tokens: int | None) -> tuple[dict | LLMError, dict[str, Any]]:
        """The server's answer, or the error that its refusal comes to; and the settings of the last request."""
        where = (self.server.base_url, question.model)
        refused, retries, guesses = _HABITS.get(where, ()), 0, 0
        while True:
            settings = settings_of(question, max_tokens, refused)
            try:
                answer = self._send(question, max_tokens, settings)
                _HABITS[where] = refused
                return answer, settings
            except NoAnswer as no_answer:
                problem = no_answer
            if more := newly_refused(settings, problem, guesses):
                refused, guesses = refused + more, guesses + 1
            elif problem.passing and retries < self.server.retries:
                seconds = min(FIRST_WAIT * 2**retries, MOST_WAIT) * random.uniform(0.75, 1)
                self.stop.wait(seconds if problem.wait is None else problem.wait)
                retries += 1
            else:
                return _sentence(problem, question.model, self.server), settings

    def _send(self, question: Question, max_tokens: int | None, settings: dict[str, Any]) -> dict:
        """Send one request, and set its cost aside while it is on its way: the one place where money is spent."""
        self._unless_stopped()
        setting_aside = self.budget.paying(question, max_tokens) if self.budget else contextlib.nullcontext([])
        with setting_aside as calls:
            answer = self._in_time(lambda: self._request(question, settings))
            usage = answer["usage"] or {}
            calls.append(Call(question.model, usage.get("prompt_tokens"), usage.get("completion_tokens"), live=True))
            return answer

    def _request(self, question: Question, settings: dict[str, Any]) -> dict:
        """One request over HTTP. Whatever the SDK raises becomes a `NoAnswer`. What is read has no secret in it."""
        create, clean = self._api.chat.completions.with_raw_response.create, self.server.without_secrets
        try:
            response = create(model=question.model, messages=question.messages, **settings).http_response
            text = response.read().decode("utf-8", "replace")
        except openai.APIStatusError as error:
            raise refusal(error.status_code, error.response.text, error.response.headers).told(clean) from None
        except openai.APITimeoutError:
            raise NoAnswer(None, "timeout") from None
        except openai.OpenAIError as error:
            raise NoAnswer(None, "unreachable", sent=type(error.__cause__).__name__ != "ConnectError") from None
        except Exception as error:  # what the HTTP client under openai raises while a stream is read
            raise NoAnswer(None, type(error).__name__) from None
        try:
            answer = read_completion(text)
        except NoAnswer as problem:
            raise problem.told(clean) from None
        return {key: clean(value) if isinstance(value, str) else value for key, value in answer.items()}

    def _in_time(self, work: Callable[[], dict]) -> dict:
        """The result of `work`. It runs in a thread that is left behind when its time is over or the run is stopped."""
        result: Future[dict] = Future()

        def run() -> None:
            try:
                result.set_result(work())
            except BaseException as error:  # handed over, to be raised where it is waited for
                result.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        end = time.monotonic() + self.server.timeout
        while not result.done():
            wait([result], timeout=0.1)
            self._unless_stopped()
            if time.monotonic() > end and not result.done():
                raise NoAnswer(None, "timeout")
        return result.result()

    def _unless_stopped(self) -> None:
        if self.stop.is_set():
            raise LLMError("Interrupted. What was answered is kept; run again to ask the rest.")


# --- what is said about it -------------------------------------------------------------------------------------------


def _api(server: Server) -> openai.OpenAI:
    """The SDK's client. This machine is asked directly, whatever proxies the environment names."""
    try:
        http = openai.DefaultHttpxClient(
            timeout=server.timeout, follow_redirects=False, trust_env=not server.is_this_machine
        )
        return openai.OpenAI(api_key=server.key, base_url=server.base_url, max_retries=0, http_client=http)
    except (ImportError, ValueError, OSError) as error:
        guilty = CERTIFICATES if isinstance(error, OSError) else PROXIES
        names = " and ".join(n for v in guilty for n in (v, v.lower()) if os.environ.get(n)) or "the environment"
        hint = "; for a SOCKS proxy: pip install 'httpx[socks]'" if isinstance(error, ImportError) else ""
    raise LLMError(f"The connection cannot be set up as {names} asks for: correct it or unset it{hint}.", for_all=True)


def _recording(question: Question, answer: dict, settings: dict[str, Any]) -> dict:
    if not answer["text"].strip() and answer["finish_reason"] not in ("content_filter", "refusal"):
        hint = " Give it more tokens: a larger max_tokens." if "length" in str(answer["finish_reason"]) else ""
        raise LLMError(f"{question.model} answered without text (finish reason: {answer['finish_reason']}).{hint}")
    today = datetime.now(UTC).date().isoformat()
    form = settings.get("response_format", {}).get("type", "text")
    sent = {"temperature": None, **settings, "response_format": form}
    return make_recording(question.request, answer, sent, f"{question.model} answered on {today}", today)


def _sentence(problem: NoAnswer, model: str, server: Server) -> LLMError:
    """What went wrong and what to do next, in one sentence without the key, and what the server says about it."""
    where, status = server.shown + (f" (asked through {server.proxy})" if server.proxy else ""), problem.status
    if problem.said == "timeout":
        return LLMError(f"{where} did not answer in time; try again, or give a longer timeout.")
    if status is None:
        return LLMError(f"{where} cannot be reached; check the address and the network, or start the server.", True)
    if status == 200:
        return LLMError(f"{where} did not answer as the OpenAI API does; check the address (many end in /v1).")
    if 300 <= status < 400:
        return LLMError(f"{where} has moved ({status}); give the server's new address.", True)
    v1 = "" if server.shown.endswith("/v1") else " (many end in /v1)"
    known = {
        401: f"{where} refused the key (401); check OPENAI_API_KEY.",
        403: f"{where} does not let this key use {model!r} (403); check what the key may do.",
        404: f"{where} knows no model {model!r} (404); check the model's name and the address{v1}.",
        429: f"{where} reports too many requests (429); wait a little, or ask fewer at once.",
    }
    sentence = known.get(status) or f"{where} answered {model} with an error ({status})"
    if problem.out_of_credit:
        sentence = f"{where} reports that no credit is left ({status}, insufficient_quota); check your plan."
    # The server's own words about a key are not shown: some servers repeat a part of it in them.
    said = "" if status in (401, 403) else " ".join(problem.said.split())[:200].rstrip(".").strip('{}[]"')
    quoted = (f" It says: {said}." if sentence.endswith(".") else f": {said}.") if said else ""
    no_model = status in (400, 422) and _NO_MODEL.search(problem.named)
    return LLMError(sentence + quoted, for_all=bool(problem.out_of_credit or status in (401, 403, 404) or no_model))
