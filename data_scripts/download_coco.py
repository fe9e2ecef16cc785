"""Download COCO into the official layout, ROOT/coco/{train2014,val2014,annotations}. An interrupted run continues."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from _common import add_download_options, download, images_listed, make_parser, next_step, run

from llafs_lib.data import official
from llafs_lib.errors import LlafsError

EPILOG = """\
examples:
  python data_scripts/download_coco.py                       all that the data set coco-20i needs
  python data_scripts/download_coco.py --parts annotations   the object masks alone, 253 MB
  python data_scripts/download_coco.py --release 2017 --split val --root /data

What is already there, downloaded here or unpacked by hand, is not downloaded again."""


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("download_coco.py", __doc__, EPILOG)
    add = parser.add_argument
    add("--release", choices=("2014", "2017"), default="2014", help="2014 is for coco-20i, 2017 for coco-20i-2017")
    add("--split", nargs="+", choices=("train", "val"), default=["train", "val"], help="(default: both)")
    parts = ("images", "annotations")
    add("--parts", nargs="+", choices=parts, default=parts, help="(default: both)")
    add("--mirror", metavar="URL", help=f"another server with the same files, in place of {official.COCO_URL}")
    add_download_options(parser, "coco")
    return run(parser, work, arguments)


def work(options: argparse.Namespace) -> None:
    """Download what is missing of what the options name, and say where it lies.

    Raises:
        LlafsError: it could not be downloaded, or annotations of a smaller data set are in its place.
    """
    folder, splits = options.root / "coco", [f"{split}{options.release}" for split in sorted(set(options.split))]
    archives = []
    if "annotations" in options.parts:
        files = [f"annotations/instances_{split}.json" for split in splits]
        refuse_smaller(folder, splits)
        archives.append(replace(official.COCO[f"annotations{options.release}"], holds=dict.fromkeys(files, 1)))
    if "images" in options.parts:
        archives += [official.COCO[split] for split in splits]
    download([archive.at(options.mirror) for archive in archives], folder, options)
    print(next_step(options.root, "coco-20i" if options.release == "2014" else "coco-20i-2017"))


def refuse_smaller(folder: Path, splits: list[str]) -> None:
    """Raise `LlafsError` if an annotation file is there that lists only some of the images, as coco-mini's does."""
    for split in splits:
        path, whole = folder / "annotations" / f"instances_{split}.json", official.COCO_IMAGES[split]
        if path.is_file() and (listed := images_listed(path)) < whole:
            raise LlafsError(
                f"{path} lists {listed:,} of the {whole:,} images of {split}, so it belongs to a smaller data set such "
                "as coco-mini, or is cut off. Give another --root, or move the file away."
            )


if __name__ == "__main__":
    sys.exit(main())
