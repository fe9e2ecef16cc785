"""The report as people open it: a file, in a browser, wide or narrow."""

from dataclasses import replace

import numpy as np
import pytest

from llafs_lib import plots
from llafs_lib.evaluation.arms import FLOORS, Arm, document_arms, document_pairs
from llafs_lib.evaluation.metrics import ConfusionCounts
from llafs_lib.evaluation.report import html_report
from llafs_lib.evaluation.tables import spreads, summarise


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of drawn answers, with every table and a figure of each kind."""
    rng = np.random.default_rng(0)
    arms = [replace(a, model=m) for m in ("HSNet", "RePRI", "Prototype") for a in document_arms() if a.k != "all"]
    arms = [*FLOORS, *arms]
    asked = [(str(c), image) for image in range(30) for c in rng.choice(list("abcdef"), 2, replace=False)]
    counts = {a: [ConfusionCounts(c, i, int(rng.integers(100, 900)), 1000, 0, 1) for c, i in asked] for a in arms}
    facts = {"dataset": "toy", "fold": 0, "shots": [1, 5], "n_queries": len(asked), "backbone": "small"}
    facts |= {"seed": 0, "budget": "tiny"}
    results = facts | summarise(counts, document_pairs(arms, (1, 5)), at_400=counts)
    results |= {"spread": spreads({0: counts}), "absent": {"HSNet: llm 5": 12.5}}
    figures = {
        "differences": plots.differences(results),
        "arms": plots.arm_intervals(results),
        "classes": plots.per_class(results, [Arm("HSNet", policy, 5) for policy in ("true", "llm")]),
    }
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html_report(results, figures), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_is_readable_and_asks_nobody(browser, report, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
    size = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
    assert size >= 14 and page.locator("table").count() >= 6
    page.close()
