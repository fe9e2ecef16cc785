"""Make coco-mini: 420 images of COCO 2017 picked by id, with their annotations, in the official layout."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from _common import add_download_options, images_listed, make_parser, next_step, run
from PIL import Image

from llafs_lib.artifacts import replacing
from llafs_lib.data import official
from llafs_lib.data.download import Remote, complete, fetch_all
from llafs_lib.errors import LlafsError

EPILOG = """\
examples:
  python data_scripts/make_coco_mini.py                  into LLAFS_DATA/coco, or data/coco
  python data_scripts/make_coco_mini.py --root mini --annotations data/coco/annotations
  then: LLAFS_DATA=mini llafs tutorial --dataset coco-mini

Without --annotations the official annotations of 2017 are downloaded (253 MB). Images that are there and whole are not
downloaded again."""


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("make_coco_mini.py", __doc__, EPILOG)
    add = parser.add_argument
    add("--annotations", type=Path, metavar="FOLDER", help="holds the official instances_{train,val}2017.json")
    add("--mirror", metavar="URL", help=f"another server with the same files, in place of {official.COCO_URL}")
    add("--workers", type=int, choices=range(1, 33), default=8, metavar="N", help="images at once (default: 8)")
    add_download_options(parser, "coco")
    return run(parser, make, arguments)


def make(options: argparse.Namespace) -> None:
    """Write the images and exactly their annotations into ROOT/coco. The annotations come last: they promise images.

    Raises:
        LlafsError: something could not be downloaded, or the annotations of another data set are there.
    """
    folder, ids = options.root / "coco", official.COCO_MINI
    files = {split: folder / "annotations" / f"instances_{split}.json" for split in ids}
    new = [split for split, path in files.items() if not path.exists()]
    contents = {split: read_again(files[split], ids[split]) for split in ids if split not in new}
    official_files, scratch = options.annotations, folder / ".official"
    if new and official_files is None:
        holds = {f"annotations/instances_{split}.json": 1 for split in new}
        archive = replace(official.COCO["annotations2017"], holds=holds)
        complete([archive.at(options.mirror)], scratch, options.keep_archives)
        official_files = scratch / "annotations"
    contents |= {split: pick(official_files / f"instances_{split}.json", ids[split]) for split in new}
    images = [remote_of(info, folder / split, options.mirror) for split in ids for info in contents[split]["images"]]
    fetch_all(images, "images", options.workers)
    for split in new:
        with replacing(files[split]) as partial:
            partial.write_text(json.dumps(contents[split]), encoding="utf-8")
    if not options.keep_archives:
        shutil.rmtree(scratch, ignore_errors=True)
    for split, path in files.items():
        print(f"{folder / split}: {len(ids[split])} images, {path}")
    print(next_step(options.root, "coco-mini"))


def read_again(path: Path, ids: list[int]) -> dict:
    """The annotations that an earlier run wrote.

    Raises:
        LlafsError: they are those of another data set.
    """
    if (listed := images_listed(path)) == len(ids):  # a full release is not parsed only to be refused
        content = read(path)
        if {info["id"] for info in content["images"]} == set(ids):
            return content
    raise LlafsError(
        f"{path} lists {listed:,} images, but not the {len(ids)} of coco-mini, and is left alone. Give another --root, "
        "with --annotations if this file is the official one."
    )


def pick(path: Path, ids: list[int]) -> dict:
    """The content of an official annotation file for the images `ids` alone, in the order of the file."""
    content, wanted = read(path), set(ids)
    images = [info for info in content["images"] if info["id"] in wanted]
    if len(images) != len(wanted):
        raise LlafsError(
            f"{path} lists {len(images)} of the {len(wanted)} images, so it is not the official file. Name the folder "
            "of the official one with --annotations."
        )
    return {**content, "images": images, "annotations": [a for a in content["annotations"] if a["image_id"] in wanted]}


def read(path: Path) -> dict:
    """The content of an annotation file, or `LlafsError`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["images"], content["annotations"]
        return content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LlafsError(
            f"{path} is not a readable COCO annotation file ({error}). Name the folder of the official one with "
            "--annotations, or delete the file and run again."
        ) from error


def remote_of(info: dict, folder: Path, mirror: str | None) -> Remote:
    """Where to download an image from. It must decode and have the size that the annotations state."""
    stated = info["width"], info["height"]

    def check(path: Path) -> None:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError) as error:
            raise ValueError(f"is not a readable image ({error})") from error
        if image.size not in (stated, stated[::-1]):  # the other way round where EXIF says to turn it
            raise ValueError(f"is {image.width}×{image.height} px instead of {stated[0]}×{stated[1]}")

    url = re.sub("^https?://[^/]+", mirror.rstrip("/"), info["coco_url"]) if mirror else info["coco_url"]
    return Remote(url, folder / Path(info["file_name"]).name, check=check)


if __name__ == "__main__":
    sys.exit(main())
