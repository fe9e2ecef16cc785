"""Download COCO into the official layout, ROOT/coco/{train2014,val2014,annotations}; cut off, it goes on from there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    from llafs_lib.data import official
except ModuleNotFoundError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from llafs_lib.data import official
from llafs_lib.data.download import DownloadError
from llafs_lib.data.folds import data_root

EPILOG = """\
examples:
  python data_scripts/download_coco.py                       all that the data set coco-20i needs
  python data_scripts/download_coco.py --parts annotations   the object masks alone, 253 MB
  python data_scripts/download_coco.py --release 2017 --split val --root /data

What is already there, downloaded here or unpacked by hand, is not downloaded again."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--release",
        choices=("2014", "2017"),
        default="2014",
        help="of 2014 is coco-20i, of 2017 coco-20i-2017 (default: 2014)",
    )
    add("--split", nargs="+", choices=("train", "val"), default=["train", "val"], help="(default: both)")
    add("--parts", nargs="+", choices=("images", "annotations"), default=["images", "annotations"],
        help="(default: both)")  # fmt: skip
    add("--root", type=Path, default=data_root(), metavar="FOLDER",
        help="folder that holds coco/ (default: LLAFS_DATA, or data)")  # fmt: skip
    add("--mirror", metavar="URL", help=f"another server with the same files, in place of {official.COCO_URL}")
    add("--keep-archives", action="store_true", help="do not delete an archive once it is unpacked")
    add("--workers", type=official.count, default=2, metavar="N", help="archives at once (default: 2)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Download what is missing and say where it lies; returns the exit status, 1 if something is still missing."""
    options = parse_arguments(arguments)
    return official.run_script("download_coco", lambda: download(options))


def download(options: argparse.Namespace) -> None:
    """Download what is missing of what the options name, and say where it lies.

    Raises:
        DownloadError: it could not be had, or annotations of a smaller data set are in its place.
    """
    folder = options.root / "coco"
    splits = [f"{split}{options.release}" for split in sorted(set(options.split))]
    parts = []
    if "annotations" in options.parts:
        refuse_subset(folder, splits)
        parts.append(official.coco_annotations(splits, options.mirror))
    if "images" in options.parts:
        parts += [official.coco_images(split, options.mirror) for split in splits]
    if not official.complete(parts, folder, keep_archives=options.keep_archives, workers=options.workers):
        print("everything is there already, nothing to do")
    for pattern in sorted(pattern for part in parts for pattern in part.holds):
        name, _, files = pattern.partition("/")
        n_files = official.COCO_IMAGES.get(name)
        print(f"{folder / name}: {n_files:,} images" if n_files else f"{folder / name / files}")
    print(f"next: {next_command(options)}")


def refuse_subset(folder: Path, splits: list[str]) -> None:
    """Raise `DownloadError` if an annotation file is there that does not list the whole split, as coco-mini's."""
    for split in splits:
        path = folder / "annotations" / f"instances_{split}.json"
        listed, whole = official.images_listed(path), official.COCO_IMAGES[split]
        if path.is_file() and listed < whole:
            raise DownloadError(
                f"{path} lists {listed:,} of the {whole:,} images of {split}: it is of a smaller data set such as "
                "coco-mini, or cut off. Give another --root, or move it away."
            )


def next_command(options: argparse.Namespace) -> str:
    """What to type now that the data is there."""
    here = "" if options.root == data_root() else f"LLAFS_DATA={options.root} "
    return f"{here}llafs tutorial --dataset {'coco-20i' if options.release == '2014' else 'coco-20i-2017'}"


if __name__ == "__main__":
    sys.exit(main())
