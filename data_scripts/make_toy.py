"""Make the `toy` data set: drawn scenes of 20 COCO classes in COCO format, in half a minute at most."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    from llafs_lib.data.toy.dataset import make_toy
except ModuleNotFoundError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from llafs_lib.data.toy.dataset import make_toy
from llafs_lib.errors import LlafsError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Running it a second time with the same numbers does nothing. "
        "The same numbers always give the same images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("data/toy"), help="folder to make", metavar="FOLDER")
    parser.add_argument("--train", type=int, default=400, help="number of training images", metavar="N")
    parser.add_argument("--val", type=int, default=160, help="number of validation images", metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other images", metavar="N")
    parser.add_argument("--force", action="store_true", help="replace a different toy data set in FOLDER")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Make the data set and say where it lies; returns the exit status, 1 if it could not be made."""
    options = parse_arguments(arguments)
    try:
        out = make_toy(options.out, options.train, options.val, options.seed, options.force)
    except LlafsError as error:
        print(f"make_toy: {error}", file=sys.stderr)
        return 1
    print(f"{out}: {options.train} training and {options.val} validation images, seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
