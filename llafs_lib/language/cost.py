"""What asking costs: tokens as the server counts them, prices as the reader states them, and a budget that holds.

Prices are US dollars per million tokens. The shipped table, prices.json, names its source; it is there to be edited.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from llafs_lib.artifacts import write_json
from llafs_lib.errors import why
from llafs_lib.language.prompts import Question
from llafs_lib.language.server import LLMError
from llafs_lib.records import Call, RelatedClasses

PRICE_FILE = Path(__file__).parent / "prices.json"
MAX_TOKENS = 2000  # of an answer, where a budget must hold: some models think aloud before they answer
_TOKENS_PER_MESSAGE = 16  # more than any chat format adds
_UNIT = 10**11  # of a dollar: whole numbers add up without an error
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens, of what is sent and of what is answered."""

    input: float
    output: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """US dollars for so many tokens."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def load_prices(path: Path | str = PRICE_FILE) -> dict[str, Price]:
    """Model → price, read from a file like prices.json.

    Raises:
        LLMError: the file cannot be read, or a price is not a number from 0.
    """
    try:
        listed = json.loads(Path(path).read_text(encoding="utf-8"))["usd_per_million_tokens"]
        prices = {model: Price(float(p["input"]), float(p["output"])) for model, p in listed.items()}
        if not all(0 <= x < float("inf") for p in prices.values() for x in (p.input, p.output)):
            raise ValueError("a price below 0 or without end")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LLMError(f"The prices in {path} cannot be read: {error}.", for_all=True) from error
    return prices


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """A model's price, also under its dated name (`"gpt-5.4-mini-2026-03-17"`); None if it is not listed."""
    return prices.get(model) or prices.get(_DATE.sub("", model))


def cost_of(call: Call, prices: Mapping[str, Price]) -> float | None:
    """What one call costs in US dollars; None if its price or its tokens are not known."""
    price = price_of(call.model, prices)
    if price is None or call.prompt_tokens is None or call.completion_tokens is None:
        return None
    return price.of(call.prompt_tokens, call.completion_tokens)


def cost_table(answers: Iterable[RelatedClasses], prices: Mapping[str, Price]) -> list[dict]:
    """One row per call behind `answers`, then their sum: class, model, tokens, US dollars, and whether asked just now.

    What is not known is None, in the sum too: a total that leaves something out would be a wrong number.
    """
    rows = [
        {
            "class": answer.query_class,
            "model": call.model,
            "prompt tokens": call.prompt_tokens,
            "completion tokens": call.completion_tokens,
            "USD": cost_of(call, prices),
            "asked now": call.live,
        }
        for answer in answers
        for call in answer.calls
    ]
    total = {"class": "all", "model": f"{len(rows)} calls"}
    for name in ("prompt tokens", "completion tokens", "USD", "asked now"):
        column = [row[name] for row in rows]
        total[name] = None if None in column else sum(column)
    return [*rows, total]


def cost_line(answers: Iterable[RelatedClasses], prices: Mapping[str, Price]) -> str:
    """The sum of `cost_table` in one line: calls, how many of them were made just now, tokens, US dollars."""
    *calls, total = cost_table(answers, prices)
    if not calls:
        return "0 calls to a model: recorded answers without a model's name"
    known = {k: "an unknown number of" if total[k] is None else f"{total[k]:,}" for k in total if "tokens" in k}
    dollars = "unknown (no price listed, or no tokens counted)" if total["USD"] is None else f"${total['USD']:.4f}"
    tokens = f"{known['prompt tokens']} prompt and {known['completion tokens']} completion tokens"
    return f"{len(calls)} calls, {total['asked now']} of them made now; {tokens}; cost {dollars}"


def most_tokens(question: Question) -> int:
    """The most tokens that asking `question` can take: a token is at least one byte of the messages and the schema."""
    sent = json.dumps([question.messages, question.schema], ensure_ascii=False)
    return len(sent.encode("utf-8", "replace")) + _TOKENS_PER_MESSAGE * len(question.messages)


class Budget:
    """US dollars that may be spent. Each request first sets aside the most that it should cost.

    A request costs at most `most_tokens` of its question, and as many tokens of answer as it allows. Threads share one
    budget, and so do processes on one machine that were forked or given a pickled copy: what was spent stands in a
    file, `ledger`, that the process which made it removes. A request waits if only what other threads have set aside
    stands in its way. For another process it does not wait.
    """

    def __init__(self, limit: float, prices: Mapping[str, Price], ledger: Path | None = None):
        if not 0 <= limit < float("inf"):
            raise LLMError(f"A budget is US dollars from 0, not {limit!r}.", for_all=True)
        self.limit, self.prices = limit, prices
        self._aside: list[int] = []  # by the requests of this process that are on their way
        self._changed = threading.Condition()
        if ledger is None:
            folder, maker = tempfile.mkdtemp(prefix="llafs-budget-"), os.getpid()
            weakref.finalize(self, lambda: os.getpid() == maker and shutil.rmtree(folder, ignore_errors=True))
            ledger = Path(folder) / "ledger.json"
            write_json(ledger, [0, 0])
        self.ledger = ledger

    def __reduce__(self):
        return Budget, (self.limit, self.prices, self.ledger)

    @contextmanager
    def _account(self) -> Iterator[list[int]]:
        """[units charged, tokens of the longest answer], to be changed while no thread and no process else looks.

        Raises:
            LLMError: it cannot be read or written, as after the end of the process that made it.
        """
        try:
            self.ledger.stat()  # a lock would make its folder anew
            with self._changed, FileLock(f"{self.ledger}.lock").acquire(poll_interval=0.001):
                before = json.loads(self.ledger.read_text(encoding="utf-8"))
                numbers = list(before)
                yield numbers
                if numbers != before:
                    write_json(self.ledger, numbers)
        except (OSError, ValueError) as error:
            raise LLMError(f"The account of the budget, {self.ledger}, cannot be kept: {why(error)}.", True) from error

    @property
    def spent(self) -> float:
        """US dollars that were charged, and what other processes have set aside."""
        with self._account() as (charged, _):
            return (charged - sum(self._aside)) / _UNIT

    def most(self, question: Question, max_tokens: int, longest: int = 0) -> float:
        """The most that one request can cost, in US dollars. A server that gave a `longest` answer may do so again.

        Raises:
            LLMError: the model has no known price.
        """
        price = price_of(question.model, self.prices)
        if price is None:
            raise LLMError(
                f"A budget needs the price of {question.model!r}: add it to llafs_lib/language/prices.json or to "
                f"prices (0 for a server of your own).",
                for_all=True,
            )
        return price.of(most_tokens(question), max(max_tokens, longest))

    @contextmanager
    def paying(self, question: Question, max_tokens: int) -> Iterator[list[Call]]:
        """Set the most aside, and yield a list to put the call in. Without known tokens, the most is counted.

        An error with `sent` False says that nothing was sent, so nothing is counted.

        Raises:
            LLMError: what is left may not be enough. Nothing may be sent then.
        """
        most = self._set_aside(question, max_tokens)
        calls: list[Call] = []
        sent = True
        try:
            yield calls
        except BaseException as error:
            sent = getattr(error, "sent", True)
            raise
        finally:
            costs = [cost_of(call, self.prices) for call in calls]
            cost = sum(most if cost is None else _units(cost) for cost in costs) if calls else most * sent
            with self._account() as numbers:
                self._aside.remove(most)
                numbers[:] = numbers[0] + cost - most, max(numbers[1], *(c.completion_tokens or 0 for c in calls), 0)
                self._changed.notify_all()

    def _set_aside(self, question: Question, max_tokens: int) -> int:
        while True:
            with self._changed:
                with self._account() as numbers:
                    charged, most = numbers[0], _units(self.most(question, max_tokens, numbers[1]))
                    if charged + most <= self.limit * (1 + 1e-9) * _UNIT:
                        numbers[0] += most
                        self._aside.append(most)
                        return most
                if not self._aside:
                    break
                self._changed.wait()
        raise LLMError(
            f"The budget of ${self.limit:g} might be exceeded: ${charged / _UNIT:.4f} is spent, and the question about "
            f"{question.class_name!r} may cost up to ${most / _UNIT:.4f}. What was answered is kept; raise the budget "
            f"and run again to ask the rest.",
            for_all=True,
        )


def _units(dollars: float) -> int:
    return math.ceil(dollars * _UNIT)
