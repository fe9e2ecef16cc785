"""Three of the six claims, computed again from the raw answers with nothing but Python's own library.

    python benchmarks/claims_by_hand.py runs/toy/fold0
    python benchmarks/claims_by_hand.py runs/sweep/seed*/coco-mini/fold*

Every answer to every query stands in `queries.novel.jsonl`. The pixels of all draws, trainings and folds are added up.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path


def mious(folders):
    """(model, supports) → mIoU in percent: the mean over classes of summed intersections over summed unions."""
    pixels = defaultdict(lambda: defaultdict(lambda: [0, 0]))  # (model, supports) → class → [intersection, union]
    for folder in folders:
        header, *lines = Path(folder, "queries.novel.jsonl").read_text(encoding="utf-8").splitlines()
        arms = json.loads(header)["arms"]
        for entry in map(json.loads, lines):
            for name, (inter, union, *_) in entry["answers"].items():
                arm = arms[name]  # its draw is left out: the draws of an arm count together
                own = pixels[arm["model"], (arm["policy"], arm["k"], arm["added"])][entry["class_name"]]
                own[:] = own[0] + inter, own[1] + union
    return {row: sum(100 * i / u for i, u in of.values()) / len(of) for row, of in pixels.items()}


def main(folders):
    found = mious(folders)
    k = max(k for _, (policy, k, _) in found if policy == "llm" and k != "all")
    for model in dict.fromkeys(model for model, _ in found if model):
        for policy, shown in (("random", k), ("supercategory", k), ("true", 1)):
            gain = found[model, ("llm", k, "")] - found[model, (policy, shown, "")]
            print(f"{model}: llm {k}-{model}: {policy} {shown} {gain:+.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
