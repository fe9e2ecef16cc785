"""The report as people open it: a file, in a browser, wide or narrow."""

from dataclasses import replace

import numpy as np
import pytest
from axe import serious
from odd_names import FIRST, IMAGE, Watch, odd_names

from llafs_lib import plots
from llafs_lib.evaluation.arms import FLOORS, Arm, document_arms, document_pairs
from llafs_lib.evaluation.metrics import ConfusionCounts
from llafs_lib.evaluation.report import html_report
from llafs_lib.evaluation.summary import spreads, summarise


def made(folder, classes, odd=None):
    """A report of drawn answers, with every table and a figure of each kind; `odd` is a name for all that has one."""
    rng = np.random.default_rng(0)
    arms = [replace(a, model=m) for m in ("HSNet", "RePRI", "Prototype") for a in document_arms() if a.k != "all"]
    arms = [*FLOORS, *arms]
    asked = [(str(c), image) for image in range(30) for c in rng.choice(classes, 2, replace=False)]
    counts = {a: [ConfusionCounts(c, i, int(rng.integers(100, 900)), 1000, 0, 1) for c, i in asked] for a in arms}
    facts = {"dataset": "toy", "fold": 0, "shots": [1, 5], "n_queries": len(asked), "backbone": "small"}
    facts |= {"seed": 0, "budget": "tiny"}
    results = facts | summarise([counts], document_pairs(arms, (1, 5)), (1, 5), at_400=[counts])
    results |= {"spread": spreads({0: counts}), "absent": {"HSNet: llm 5": 12.5}}
    figures = {
        "differences": plots.claims(results),
        "arms": plots.arm_intervals(results),
        "classes": plots.per_class(results, [Arm("HSNet", policy, 5) for policy in ("true", "llm")]),
    }
    if odd:
        results |= {"dataset": odd, "failed": {odd: odd}, "seconds": {odd: 1}, "absent": {odd: 1.0}, "backbone": odd}
        figures[odd] = figures["classes"]
    path = folder / "report.html"
    path.write_text(html_report(results, figures), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return made(tmp_path_factory.mktemp("report"), list("abcdef"))


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


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, report, scheme):
    page = browser.new_page(color_scheme=scheme, viewport={"width": 400, "height": 900})
    page.goto(report.as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert page.evaluate("[...document.querySelectorAll('th')].every(th => th.innerText)"), "a header says something"
    text = [int(c) for c in page.evaluate("getComputedStyle(document.body).color.match(/\\d+/g)")[:3]]
    assert (sum(text) > 380) == (scheme == "dark")
    assert serious(page) == []
    page.close()


@pytest.mark.parametrize("odd", [FIRST, IMAGE])
def test_no_name_runs(browser, tmp_path, odd):
    page = browser.new_page()
    watch = Watch(page, "file:")
    page.goto(made(tmp_path, odd_names(), odd).as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert odd in page.inner_text("h1") and page.inner_text("body").count(odd) >= 5
    assert watch.made() == 0 and watch.alarms == []
    page.close()


@pytest.mark.parametrize("name", [FIRST, IMAGE, "<svg onload=alert(1)>"])
def test_a_name_that_runs_would_be_seen(browser, tmp_path, name):
    page = browser.new_page()
    watch = Watch(page, "file:")
    (tmp_path / "page.html").write_text(f'<p title="{name}">{name}</p>')
    page.goto((tmp_path / "page.html").as_uri())
    assert watch.made() and watch.alarms
    page.close()
