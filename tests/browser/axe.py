"""What axe-core finds wrong with a page, for people who do not see it, see it badly, or have no mouse."""

from pathlib import Path

import pytest

bundled = pytest.importorskip("axe_playwright_python", reason="it holds axe-core: pip install -e .[dev]")
AXE = (Path(bundled.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

# A page of code has thousands of coloured words, and axe-core takes a minute to look at each. Of those that look the
# same, on the same ground, one is enough.
ONE_OF_EACH = """() => {
  const seen = new Set()
  const again = [...document.querySelectorAll('pre span')].filter(word => {
    const look = getComputedStyle(word), block = word.closest('pre')
    const key = [look.color, look.backgroundColor, look.font, block.className, block.parentElement.className].join()
    return seen.has(key) || !seen.add(key)
  })
  for (const word of again) word.replaceWith(...word.childNodes)
}"""
RUN = "async only => (await axe.run(document, {resultTypes: ['violations'], ...(only && {runOnly: only})})).violations"


def serious(page, only=None):
    """The serious and critical violations of an opened page, one sentence each. Words of its code lose their colours.

    Args:
        only: the rules to apply; without any, all.
    """
    page.evaluate(ONE_OF_EACH)
    page.evaluate(AXE)
    return [
        f"{found['id']}: {len(found['nodes'])} of the kind of {found['nodes'][0]['html'][:150]} "
        f"({'; '.join(check['message'] for check in found['nodes'][0]['any'])})"
        for found in page.evaluate(RUN, only)
        if found["impact"] in ("serious", "critical")
    ]
