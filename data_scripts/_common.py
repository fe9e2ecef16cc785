"""What the scripts in this folder share: how they find the library, their options, their exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that a checkout need not be installed

from llafs_lib.data.download import complete  # noqa: E402
from llafs_lib.data.folds import data_root  # noqa: E402
from llafs_lib.data.official import Archive  # noqa: E402
from llafs_lib.errors import LlafsError  # noqa: E402


def make_parser(script: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser whose help shows both texts as they are written."""
    return argparse.ArgumentParser(
        script, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_download_options(parser: argparse.ArgumentParser, holds: str) -> None:
    """Add where the data set goes, and whether archives stay."""
    help_root = f"folder that holds {holds}/ (default: LLAFS_DATA, or data)"
    parser.add_argument("--root", type=Path, default=data_root(), metavar="FOLDER", help=help_root)
    parser.add_argument("--keep-archives", action="store_true", help="do not delete an archive once it is unpacked")


def run(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None], arguments: list[str] | None
) -> int:
    """Do the work that the arguments ask for; None takes those of the command line.

    Returns: the exit status: 0 done, 1 failed, 130 stopped by Ctrl-C. One line on stderr tells why.
    """
    options = parser.parse_args(arguments)
    try:
        work(options)
    except (LlafsError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped. Run the same command again to finish.", file=sys.stderr)
        return 130
    return 0


def download(archives: Sequence[Archive], folder: Path, options: argparse.Namespace) -> None:
    """Download and unpack what is missing of the archives, and say where everything lies.

    Raises:
        LlafsError: something could not be downloaded.
    """
    if not complete(archives, folder, options.keep_archives):
        print("everything is there already, nothing to do")
    for archive in archives:
        for pattern, n_files in archive.holds.items():
            print(f"{folder / pattern}" + (f": {n_files:,} files" if n_files > 1 else ""))


def next_step(root: Path, dataset: str) -> str:
    """What to type now that the data is there."""
    here = "" if root == data_root() else f"LLAFS_DATA={root} "
    return f"next: {here}llafs tutorial --dataset {dataset}"


def images_listed(annotations: Path) -> int:
    """How many images a COCO annotation file lists. Nothing is parsed, because the large ones have 450 MB."""
    return annotations.read_bytes().count(b'"coco_url"')
