"""A provider that bills every request it received: whatever goes wrong, the bill stays within the budget."""

import json
import random
import threading
from collections import defaultdict

import pytest
from llm_servers import completion

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.errors import LlafsError
from llafs_lib.language import client
from llafs_lib.language.asking import Asker
from llafs_lib.language.cost import Price
from llafs_lib.language.responses import NoAnswer, read_completion

PRICES = {"m": Price(1.0, 2.0)}
LIMIT = 100  # tokens of an answer


class Provider:
    """Answers, fails or lies as drawn, and bills the tokens of each request that reached it: 1 and 2 dollars a million.

    `failures`: what may happen to a request beside an answer.
    """

    def __init__(self, seed, failures):
        self.draw, self.failures = random.Random(seed), failures
        self.bill, self.most = 0.0, 0.0
        self.counting = threading.Lock()

    def request(self, question, settings):
        with self.counting:
            kind = self.draw.choice(("answer", *self.failures))
            sent = len(json.dumps(question.messages)) // self.draw.randint(2, 4)
            answered = self.draw.randint(1, LIMIT)
            if kind != "refused connection":
                self.bill += (sent * 1.0 + answered * 2.0) / 1e6
        if kind == "refused connection":
            raise NoAnswer(None, "unreachable", sent=False)
        if kind in ("timeout", "reset"):  # it was read and answered, but nothing came back
            raise NoAnswer(None, kind)
        if kind in (429, 500, 400):
            raise NoAnswer(kind, "said so", wait=0.0)
        usage = {"prompt_tokens": sent, "completion_tokens": answered, "total_tokens": sent + answered}
        wrong = {"no usage": None, "zero": dict.fromkeys(usage, 0), "negative": dict.fromkeys(usage, -1000)}
        text = '["camel"]' if kind == "of no use" else '["zebra"]'
        return read_completion(json.dumps(completion(text, usage=wrong.get(kind, usage))))


FAILURES = ("timeout", "reset", "refused connection", 429, 500, 400, "no usage", "zero", "negative", "of no use")


@pytest.mark.parametrize("workers", range(1, 9))
def test_the_bill_stays_within_the_budget(monkeypatch, workers):
    monkeypatch.setattr(client, "_HABITS", defaultdict(client.Habits))
    monkeypatch.setattr(client, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(client.Client, "_in_time", lambda _, work: work())
    for seed in range(26):
        draw = random.Random(1000 * workers + seed)
        provider = Provider(seed, draw.sample(FAILURES, draw.randint(1, 6)))
        monkeypatch.setattr(client.Client, "_request", lambda _, *sent, to=provider: to.request(*sent))
        budget = draw.choice((0.0005, 0.005, 0.02))
        asker = Asker(
            "m", base_url="http://localhost:1/v1", cache=None, budget=budget, max_tokens=LIMIT, prices=PRICES,
            at_once=workers,
        )  # fmt: skip
        try:
            asker.related_to_each(COCO_CLASSES[:12], COCO_CLASSES[:20])
        except LlafsError:
            pass
        assert provider.bill <= asker.spent <= budget * (1 + 1e-9), (workers, seed, provider.failures)
