"""Ten thousand answers drawn around a known list: what is read is that list, or it is said that it may not be."""

import json
import random

import pytest

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.language.parsing import ParseError, parse_related

BEFORE = ("", "Sure! Here is my answer:\n", "Of course.\n", "The giraffe is tall, with a long neck.\n\n")
AFTER = ("", "\n\nLet me know if you need more.", "\nThese judge looks alone.", "\n\nI hope this helps!")
ASIDE = ("Excluded: {}", "Not similar: {}", "I rejected {}", "My first draft was {}", "Candidates: {}")
THOUGHT = ("<think>{}</think>", "<thinking>\n{}\n</thinking>", "[THINK]{}[/THINK]", "Maybe {}</think>")


def as_json(names, scores):
    if scores is None:
        return json.dumps(names)
    return json.dumps(
        {"related": [{"class": n, "score": s, "reason": "looks"} for n, s in zip(names, scores, strict=True)]}
    )


def as_items(mark):
    def write(names, scores):
        ends = [f": {s}" for s in scores] if scores else [" – its looks"] * len(names)
        return "\n".join(f"{mark.format(i)} {n}{end}" for i, (n, end) in enumerate(zip(names, ends, strict=True), 1))

    return write


def as_table(names, scores):
    rows = [f"| {n} | {s} |" for n, s in zip(names, scores or names, strict=True)]
    return "\n".join(["| class | score |", "|---|---|", *rows]) if scores else as_items("-")(names, None)


FORMS = (as_json, as_json, as_items("-"), as_items("{}."), as_items("*"), as_table)
SCALES = {
    "unit": lambda s: s,
    "text": lambda s: str(s),
    "comma": lambda s: str(s).replace(".", ","),
    "percent": lambda s: f"{round(100 * s)}%",
    "of ten": lambda s: f"{10 * s:g}/10",
    "tenths": lambda s: round(10 * s),
    "hundredths": lambda s: round(100 * s),
}


def drawn(draw):
    """An answer about giraffes, and the list that it means, best first."""
    names = draw.sample([c for c in COCO_CLASSES if c != "giraffe"], draw.randint(2, 8))
    others = draw.sample([c for c in COCO_CLASSES if c not in names], draw.randint(1, 6))
    order, scores = list(names), None
    if draw.random() < 0.6:
        steps = sorted(draw.sample(range(1, 11), len(names)), reverse=True)
        if draw.random() < 0.5:  # scored, but not in the order of the scores
            pairs = draw.sample(list(zip(names, steps, strict=True)), len(names))
            order, steps = [n for n, _ in pairs], [s for _, s in pairs]
        scale = draw.choice(list(SCALES.values()))
        scores = [scale(s / 10) for s in steps]
    text = draw.choice(FORMS)(order, scores)
    if draw.random() < 0.3:
        text = f"```json\n{text}\n```"
    text = draw.choice(BEFORE) + text + draw.choice(AFTER)
    aside = draw.choice((json.dumps(others), ", ".join(others), "\n" + as_items("-")(others, None)))
    if draw.random() < 0.4:
        aside = draw.choice(ASIDE).format(aside)
        text = draw.choice((f"{aside}\n\n{text}", f"{text}\n\n{aside}"))
    if draw.random() < 0.3:
        text = draw.choice(THOUGHT).format(aside) + text
    return text, names


@pytest.mark.parametrize("seed", range(2))
def test_the_list_that_is_meant_is_read_or_it_is_said_that_it_may_not_be(seed):
    draw, read = random.Random(seed), 0
    for _ in range(5_000):
        text, meant = drawn(draw)
        try:
            reading = parse_related(text, "giraffe", COCO_CLASSES)
        except ParseError:
            continue  # the model is asked once more
        same = [r.name for r in reading.ranked] == meant
        assert same or reading.notes, f"{text}\n\nmeant: {meant}\nread:  {[r.name for r in reading.ranked]}"
        read += same
    assert read > 4_500, "most are understood at once"
