"""Draw docs/look_alikes.png, with which README and notebook 00 begin: a figure of notebook 00, in more pixels."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from _common import make_parser, run

from llafs_lib.artifacts import replacing

ROOT = Path(__file__).resolve().parents[1]
EPILOG = """\
The cells of the notebook are run from the top to the one tagged "hook", with the parameters that they hold."""


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("make_first_figure.py", __doc__, EPILOG)
    out = ROOT / "docs" / "look_alikes.png"
    parser.add_argument("--out", type=Path, default=out, metavar="FILE", help="(default: docs/look_alikes.png)")
    return run(parser, make, arguments)


def make(options: argparse.Namespace) -> None:
    """Run the cells and save the figure that the last one ends with."""
    book = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    namespace: dict = {}
    for cell in cells:
        code, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
        if "hook" in tags:
            break
        exec(code, namespace)
    figure = eval(code, namespace)
    with replacing(options.out) as partial:
        figure.savefig(partial, dpi=100, format="png")
    print(f"written: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
