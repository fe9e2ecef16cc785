"""One question to an OpenAI-compatible server: OpenAI itself, Ollama, vLLM, llama.cpp, LM Studio, …

`Client.ask` sends requests until one is answered. After each that is not, it takes a lower rung (`lower_rung`: the
server refused a setting), or waits and tries again (the server is busy), or ends with one sentence. Every request goes
through `Client._send`, where its cost is set aside and its time is limited.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import openai

from llafs_lib.language.cost import Budget, cost_of
from llafs_lib.language.prompts import Question
from llafs_lib.language.replay import make_recording
from llafs_lib.language.server import LLMError, Server
from llafs_lib.records import Call

__all__ = ["Client", "Habits", "LLMError", "Server"]

LONGEST_WAIT = 120.0  # seconds; a server that asks to wait longer is not waited for
FIRST_WAIT, MOST_WAIT = 0.5, 8.0  # seconds between tries where the server does not say how long; doubled each time
PASSING = (408, 409, 429)  # what may be over soon, as may every 5xx
FORMS = ("json_schema", "json_object", "text")  # of an answer, from the strictest down
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
# How servers call a setting when they refuse it.
WORDS = {
    "response_format": ("response_format", "json_schema", "json_object", "structured output"),
    "temperature": ("temperature",),
    "max_completion_tokens": ("max_completion_tokens",),
}


class Stopped(LLMError):
    """The run was interrupted while this question was on its way."""


class NoAnswer(Exception):
    """What came of one request instead of an answer.

    `status` is the HTTP status, None if nothing came. `said` is what the server wrote, `named` the parameter that it
    names. `wait` is how many seconds it asks to wait. `sent` False: the server was not even reached.
    """

    def __init__(self, status: int | None, said: str = "", named: str = "", wait: float | None = None, sent=True):
        super().__init__(said)
        self.status, self.said, self.named, self.wait, self.sent = status, said, named, wait, sent

    @property
    def passing(self) -> bool:
        """Whether the same request may be answered if it is sent again."""
        if self.wait is not None and self.wait > LONGEST_WAIT or self.out_of_credit:
            return False
        return self.status is None or self.status in PASSING or self.status >= 500

    @property
    def out_of_credit(self) -> bool:
        return self.status == 429 and "insufficient_quota" in self.said


# --- what a server takes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Habits:
    """What a server takes for a model, as far as it is known."""

    form: str = "json_schema"  # one of FORMS
    temperature: bool = True
    limit: str = "max_completion_tokens"  # older servers know max_tokens

    def settings(self, question: Question, max_tokens: int | None) -> dict[str, Any]:
        """What is sent beside the model and the messages."""
        settings: dict[str, Any] = {}
        if question.schema and self.form == "json_schema":
            described = {"name": "related_classes", "strict": True, "schema": question.schema}
            settings["response_format"] = {"type": "json_schema", "json_schema": described}
        elif question.schema and self.form == "json_object":
            settings["response_format"] = {"type": "json_object"}
        if self.temperature and question.temperature is not None:
            settings["temperature"] = question.temperature
        return settings | ({self.limit: max_tokens} if max_tokens else {})


def lower_rung(habits: Habits, settings: dict[str, Any], problem: NoAnswer) -> Habits | None:
    """What to try next after `settings` were refused; None if the server refused something else.

    The form of the answer goes down one step of FORMS; a temperature is left out; a limit gets its older name.
    """
    if problem.status not in (400, 422):
        return None
    about = (problem.named or problem.said).casefold()
    refused = next((s for s, words in WORDS.items() if any(word in about for word in words)), None)
    if refused not in settings:
        return None
    if refused == "response_format":
        return replace(habits, form=FORMS[FORMS.index(habits.form) + 1])
    return replace(habits, temperature=False) if refused == "temperature" else replace(habits, limit="max_tokens")


_HABITS: dict[tuple[str, str], Habits] = {}  # (address, model) → what was found out in this process


# --- asking ----------------------------------------------------------------------------------------------------------


class Client:
    """Asks one server. Several threads may share it: `with Client(server) as client: client.ask(question)`.

    Args:
        budget: where each request sets its cost aside before it is sent; None sets no limit.
        stop: once it is set, nothing more is sent, and what is on its way is given up.
    """

    def __init__(self, server: Server, budget: Budget | None = None, stop: threading.Event | None = None):
        self.server, self.budget, self.stop = server, budget, stop or threading.Event()
        http = openai.DefaultHttpxClient(timeout=server.timeout)
        self._api = openai.OpenAI(api_key=server.key, base_url=server.base_url, max_retries=0, http_client=http)
        self._first = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def ask(self, question: Question, max_tokens: int | None = None) -> dict:
        """Ask, and return the answer as a recording. An answer that was filtered or refused has no text, and says so.

        Args:
            max_tokens: the most tokens that the answer may have; None leaves it to the server.

        Raises:
            LLMError: no model is named, the server refuses or cannot be reached, or it answers without text.
            BudgetError: the next request might cost more than is left.
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
                        _HABITS.setdefault(where, Habits())
        return self._answer(question, max_tokens)

    def _answer(self, question: Question, max_tokens: int | None) -> tuple[dict | LLMError, dict[str, Any]]:
        """The server's answer, or the error that its refusal comes to; and the settings of the last request."""
        where = (self.server.base_url, question.model)
        habits, retries = _HABITS.get(where, Habits()), 0
        while True:
            settings = habits.settings(question, max_tokens)
            try:
                answer = self._send(question, max_tokens, settings)
                _HABITS[where] = habits
                return answer, settings
            except NoAnswer as no_answer:
                problem = no_answer
            if lower := lower_rung(habits, settings, problem):
                habits = lower
            elif problem.passing and retries < self.server.retries:
                self._wait(problem, retries)
                retries += 1
            else:
                return _sentence(problem, question.model, self.server), settings

    def _send(self, question: Question, max_tokens: int | None, settings: dict[str, Any]) -> dict:
        """Send one request, and set its cost aside while it is on its way: the one place where money is spent."""
        self._unless_stopped()
        setting_aside = self.budget.paying(question, max_tokens) if self.budget else contextlib.nullcontext([])
        with setting_aside as bill:
            try:
                answer = self._in_time(lambda: self._request(question, settings))
            except NoAnswer as problem:
                if not problem.sent:
                    bill.append(0.0)
                raise
            usage = answer["usage"] or {}
            call = Call(question.model, usage.get("prompt_tokens"), usage.get("completion_tokens"), live=True)
            if self.budget and (cost := cost_of(call, self.budget.prices)) is not None:
                bill.append(cost)
            return answer

    def _request(self, question: Question, settings: dict[str, Any]) -> dict:
        """One request over HTTP. Whatever the SDK raises becomes a `NoAnswer`."""
        create = self._api.chat.completions.with_raw_response.create
        try:
            response = create(model=question.model, messages=question.messages, **settings).http_response
        except openai.APIStatusError as error:
            raise _refusal(error, self.server) from None
        except openai.APITimeoutError:
            raise NoAnswer(None, "timeout") from None
        except openai.OpenAIError as error:
            sent = type(error.__cause__).__name__ != "ConnectError"
            raise NoAnswer(None, "unreachable", sent=sent) from None
        return _read(self.server.without_key(response.text))

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

    def _wait(self, problem: NoAnswer, tries: int) -> None:
        seconds = problem.wait
        if seconds is None:
            seconds = min(FIRST_WAIT * 2**tries, MOST_WAIT) * random.uniform(0.75, 1)
        self.stop.wait(seconds)

    def _unless_stopped(self) -> None:
        if self.stop.is_set():
            raise Stopped("Interrupted. What was answered is kept; run again to ask the rest.")


# --- reading what comes back -----------------------------------------------------------------------------------------


def _read(text: str) -> dict:
    """The parts of a completion that are kept. Servers differ, so no field and no type is sure."""
    try:
        completion = json.loads(text)
        choice = completion["choices"][0]
        message = choice["message"]
    except (ValueError, LookupError, TypeError, RecursionError):  # not JSON, or JSON of another kind
        raise NoAnswer(200, "not a completion") from None
    content, refusal = (_if(str, message.get(key)) for key in ("content", "refusal"))
    return {
        "text": content or "",
        "finish_reason": "refusal" if refusal and not content else _if(str, choice.get("finish_reason")),
        "refusal": refusal,
        "model": _if(str, completion.get("model")),
        "usage": _usage(completion.get("usage")),
    }


def _usage(usage: object) -> dict | None:
    return {k: _if(int, usage.get(k)) for k in COUNTS} if usage and isinstance(usage, dict) else None


def _if(kind: type, value: object) -> Any:
    return value if isinstance(value, kind) else None


def _recording(question: Question, answer: dict, settings: dict[str, Any]) -> dict:
    if not answer["text"].strip() and answer["finish_reason"] not in ("content_filter", "refusal"):
        raise LLMError(f"{question.model} answered without text (finish reason: {answer['finish_reason']}).")
    today = datetime.now(UTC).date().isoformat()
    form = settings.get("response_format", {}).get("type", "text")
    sent = {"temperature": None, **settings, "response_format": form}
    return make_recording(question.request, answer, sent, f"{question.model} answered on {today}", today)


def _refusal(error: openai.APIStatusError, server: Server) -> NoAnswer:
    body = error.body if isinstance(error.body, dict) else {}
    said = server.without_key(f"{error} {json.dumps(error.body, default=str)}")
    return NoAnswer(error.status_code, said, _if(str, body.get("param")) or "", _asked_to_wait(error.response.headers))


def _asked_to_wait(headers: Any) -> float | None:
    """Seconds that a server asks to wait; None where it does not say, or says a date."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    return None


def _sentence(problem: NoAnswer, model: str, server: Server) -> LLMError:
    """What went wrong and what to do next, in one sentence without the key."""
    where, status = server.shown, problem.status
    if problem.said == "timeout":
        return LLMError(f"{where} did not answer in time; try again, or give a longer timeout.")
    if status is None:
        return LLMError(f"{where} cannot be reached; check the address and the network, or start the server.", True)
    if status == 200:
        return LLMError(f"{where} did not answer as the OpenAI API does; check the address (many end in /v1).")
    if problem.out_of_credit:
        return LLMError(f"{where} reports that no credit is left (429, insufficient_quota); check your plan.", True)
    # The server's own words are not shown for a 401: some servers repeat a part of the key in them.
    known = {
        401: f"{where} refused the key (401); check OPENAI_API_KEY.",
        403: f"{where} does not let this key use {model!r} (403); check what the key may do.",
        404: f"{where} knows no model {model!r} (404); check the model's name and the address.",
        429: f"{where} reports too many requests (429); wait a little, or ask fewer at once.",
    }
    said = " ".join(problem.said.split())[:200]
    sentence = known.get(status) or f"{where} answered {model} with an error: {said}"
    return LLMError(sentence, for_all=status in (401, 403, 404))
