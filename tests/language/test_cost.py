import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llafs_lib.language.cost import (
    PRICE_FILE,
    Budget,
    Price,
    cost_line,
    cost_of,
    cost_table,
    load_prices,
    price_of,
)
from llafs_lib.language.prompts import CONSTRAINED, Question
from llafs_lib.language.server import LLMError
from llafs_lib.records import Call, RelatedClasses

PRICES = {"m": Price(1.0, 2.0)}
QUESTION = Question(CONSTRAINED, "okapi", ("zebra",), "m")


def answer(name, *calls):
    return RelatedClasses(name, (), "live", "a test", calls=calls)


def test_the_shipped_prices_name_their_source():
    assert json.loads(PRICE_FILE.read_text(encoding="utf-8"))["source"].startswith("https://")
    assert load_prices()["gpt-5.4-mini"] == Price(0.75, 4.5)


def test_a_dated_model_has_the_price_of_its_name():
    assert price_of("gpt-5.4-mini-2026-03-17", load_prices()) == load_prices()["gpt-5.4-mini"]
    assert price_of("somebody's", load_prices()) is None


def test_a_call_costs_its_tokens():
    assert cost_of(Call("m", 1_000_000, 500_000, True), PRICES) == pytest.approx(2.0)
    assert cost_of(Call("m", 10, None, True), PRICES) is None
    assert cost_of(Call("other", 10, 10, True), PRICES) is None


def test_the_table_sums_calls_and_leaves_nothing_out():
    answers = [
        answer("cat", Call("m", 100, 10, True), Call("m", 200, 20, True)),
        answer("dog", Call("m", 50, 5, False)),
    ]
    *rows, total = cost_table(answers, PRICES)
    assert [row["class"] for row in rows] == ["cat", "cat", "dog"]
    assert total["prompt tokens"] == 350 and total["completion tokens"] == 35 and total["asked now"] == 2
    assert total["USD"] == pytest.approx((350 + 70) / 1e6)
    assert cost_line(answers, PRICES).startswith("3 calls, 2 of them made now; 350 prompt and 35 completion tokens")
    unknown = [*answers, answer("cup", Call("other", 1, 1, True))]
    assert cost_table(unknown, PRICES)[-1]["USD"] is None and "cost unknown" in cost_line(unknown, PRICES)
    assert "0 calls" in cost_line([answer("cat")], PRICES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"usd_per_million_tokens": {"m": {"input": -1, "output": 0}}}',
        '{"usd_per_million_tokens": {"m": {"input": 1}}}',
        '{"usd_per_million_tokens": []}',
    ],
)
def test_prices_that_cannot_be_read(tmp_path, text):
    (tmp_path / "prices.json").write_text(text)
    with pytest.raises(LLMError, match="prices.json cannot be read"):
        load_prices(tmp_path / "prices.json")
    with pytest.raises(LLMError, match="cannot be read"):
        load_prices(tmp_path / "nowhere.json")


def pay(budget, tokens=None, error=None):
    with budget.paying(QUESTION, 100) as calls:
        if error:
            raise error
        if tokens is not None:
            calls.append(Call("m", *tokens, True))


class NotSent(Exception):
    sent = False


def test_what_a_request_really_cost_is_counted_and_else_the_most():
    budget = Budget(1.0, PRICES)
    most = budget.most(QUESTION, 100)
    pay(budget, (10, 5))
    assert budget.spent == pytest.approx(20e-6)
    pay(budget)
    pay(budget, (None, None))
    assert budget.spent == pytest.approx(20e-6 + 2 * most)
    with pytest.raises(OSError):
        pay(budget, error=OSError("lost"))
    assert budget.spent == pytest.approx(20e-6 + 3 * most)
    with pytest.raises(NotSent):
        pay(budget, error=NotSent())
    assert budget.spent == pytest.approx(20e-6 + 3 * most)


def test_a_server_that_ignores_the_limit_is_not_trusted_again():
    budget = Budget(1.0, PRICES)
    before = budget.most(QUESTION, 100)
    pay(budget, (10, 60_000))
    pay(pickle.loads(pickle.dumps(budget)))  # in another process, too
    assert budget.spent == pytest.approx(10e-6 + 2 * 60_000 * 2e-6 + before - 100 * 2e-6)


def test_a_token_is_at_least_a_byte():
    """So a question has at most as many tokens as bytes: the bound that the budget stands on."""
    budget = Budget(1.0, {"m": Price(1e6, 0.0)})  # one dollar a token
    content = "".join(m["content"] for m in QUESTION.messages) + json.dumps(QUESTION.schema)
    assert budget.most(QUESTION, 100) >= len(content.encode())


@given(
    limit=st.floats(0, 0.01),
    calls=st.lists(st.tuples(st.integers(1, 600), st.integers(0, 100)), max_size=30),
    workers=st.integers(1, 8),
)
@settings(deadline=None, max_examples=50)
def test_the_limit_holds_whatever_runs_at_the_same_time(limit, calls, workers):
    budget = Budget(limit, PRICES)

    def one(tokens):
        try:
            pay(budget, tokens)
        except LLMError:
            pass
        return budget.spent

    with ThreadPoolExecutor(workers) as pool:
        assert all(spent <= limit * (1 + 1e-6) for spent in pool.map(one, calls))
