"""A provider that bills every request it received: whatever goes wrong, the bill stays within the budget."""

import contextlib
import gc
import json
import os
import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from llm_servers import completion

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.errors import LlafsError
from llafs_lib.language import client
from llafs_lib.language.asking import Asker
from llafs_lib.language.cost import Price
from llafs_lib.language.prompts import CONSTRAINED, Question
from llafs_lib.language.responses import NoAnswer, read_completion
from llafs_lib.language.server import LLMError

PRICES = {"m": Price(1.0, 2.0)}
LIMIT = 100  # tokens of an answer


class Provider:
    """Answers, fails or lies as drawn, and bills the tokens of each request that reached it: 1 and 2 dollars a million.

    `failures`: what may happen to a request beside an answer.
    """

    def __init__(self, seed, failures):
        self.draw, self.failures = random.Random(seed), failures
        self.bill = 0  # millionths of a dollar
        self.counting = threading.Lock()

    def request(self, question, settings):
        with self.counting:
            kind = self.draw.choice(("answer", *self.failures))
            sent = len(json.dumps(question.messages)) // self.draw.randint(2, 4)
            answered = self.draw.randint(1, LIMIT)
            if kind != "refused connection":
                self.bill += sent * 1 + answered * 2
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


def asker_of(pattern):
    """The asker of a drawn pattern: what it may spend, with 1 to 8 workers."""
    budget = random.Random(pattern).choice((0.003, 0.006, 0.02))
    return Asker(
        "m", base_url="http://localhost:1/v1", cache=None, budget=budget, max_tokens=LIMIT, prices=PRICES,
        at_once=1 + pattern % 8,
    )  # fmt: skip


def spend(asker, pattern, process):
    """In one of several processes: ask with an asker, and return what the provider bills."""
    draw = random.Random(f"failures of {pattern}")
    provider = Provider(f"{pattern} in {process}", draw.sample(FAILURES, draw.randint(1, 6)))
    client.Client._request = lambda _, *sent: provider.request(*sent)
    with contextlib.suppress(LlafsError):
        asker.related_to_each(COCO_CLASSES[:4], COCO_CLASSES[:8])
    return provider.bill


PROCESS = """
import collections, pickle, sys, test_bill
from llafs_lib.language import client
client._HABITS, client.FIRST_WAIT = collections.defaultdict(client.Habits), 0.0
client.Client._in_time = lambda _, work: work()
askers = pickle.load(open(sys.argv[1], "rb"))
for pattern in map(int, sys.stdin):
    print(test_bill.spend(askers[pattern], pattern, sys.argv[2]), flush=True)
"""


@pytest.mark.parametrize("patterns", [16, pytest.param(208, marks=pytest.mark.slow)])
def test_the_bill_of_two_processes_stays_within_the_budget_that_they_share(tmp_path, patterns):
    askers = [asker_of(pattern) for pattern in range(patterns)]
    (tmp_path / "askers").write_bytes(pickle.dumps(askers))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    both, billed_by_both = [], 0
    for number in "01":
        command = [sys.executable, "-c", PROCESS, str(tmp_path / "askers"), number]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        both.append(subprocess.Popen(command, **pipes))
    for pattern, asker in enumerate(askers):
        for process in both:  # which then ask at the same time
            process.stdin.write(f"{pattern}\n")
            process.stdin.flush()
        billed = [int(process.stdout.readline()) for process in both]
        assert sum(billed) / 1e6 <= asker.spent <= asker.budget * (1 + 1e-9), pattern
        billed_by_both += all(billed)
    for process in both:
        process.communicate(timeout=60)
    assert billed_by_both > patterns / 10


def test_what_a_killed_process_had_set_aside_stays_charged_and_no_one_spends_without_the_account():
    maker = Asker("m", budget=1.0, max_tokens=LIMIT, prices=PRICES)
    copy = pickle.loads(pickle.dumps(maker))
    question = Question(CONSTRAINED, "okapi", ("zebra", "horse"), "m", 0.0)
    copy._budget._set_aside(question, LIMIT)  # and then the process is gone
    assert maker.spent == pytest.approx(maker._budget.most(question, LIMIT)) and copy.spent == 0
    del maker
    gc.collect()
    with pytest.raises(LLMError, match="account of the budget") as gone:
        copy._budget._set_aside(question, LIMIT)
    assert gone.value.for_all
