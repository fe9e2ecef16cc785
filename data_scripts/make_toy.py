"""Make the `toy` data set: drawn scenes of 20 COCO classes in COCO format, in half a minute at most."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from _common import make_parser, run

from llafs_lib.data.toy.dataset import make_toy

EPILOG = """\
The same numbers always give the same images, and a second run with the same numbers does nothing."""


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("make_toy.py", __doc__, EPILOG)
    add = parser.add_argument
    add("--out", type=Path, default=Path("data/toy"), metavar="FOLDER", help="folder to make (default: %(default)s)")
    add("--train", type=int, default=400, metavar="N", help="number of training images (default: %(default)s)")
    add("--val", type=int, default=160, metavar="N", help="number of validation images (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="another seed, other images (default: %(default)s)")
    add("--force", action="store_true", help="replace a different toy data set in FOLDER")
    return run(parser, make, arguments)


def make(options: argparse.Namespace) -> None:
    """Draw the data set and say where it lies."""
    out = make_toy(options.out, options.train, options.val, options.seed, options.force)
    print(f"{out}: {options.train} training and {options.val} validation images, seed {options.seed}")


if __name__ == "__main__":
    sys.exit(main())
