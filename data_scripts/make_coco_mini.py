"""Make coco-mini: 420 images of COCO 2017 picked by id, with their annotations, in the official layout."""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import sys
from pathlib import Path

from PIL import Image

try:
    from llafs_lib.data import official
except ModuleNotFoundError:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from llafs_lib.data import official
from llafs_lib.data.download import DownloadError, Remote, fetch, writing
from llafs_lib.data.folds import data_root

EPILOG = """\
examples:
  python data_scripts/make_coco_mini.py                  into LLAFS_DATA/coco, or data/coco
  python data_scripts/make_coco_mini.py --out /data/mini/coco
  then: LLAFS_DATA=/data/mini llafs tutorial --dataset coco-mini

The official annotations of 2017 are read from --annotations, or from ROOT/coco/annotations if --out is another folder,
or else downloaded (253 MB). Images that are there and whole are not fetched again."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, default=data_root(), metavar="FOLDER",
        help="folder that holds coco/ (default: LLAFS_DATA, or data)")  # fmt: skip
    add("--out", type=Path, metavar="FOLDER", help="folder to make (default: ROOT/coco)")
    add("--annotations", type=Path, metavar="FOLDER",
        help="folder of the official instances_{train,val}2017.json (default: see below)")  # fmt: skip
    add("--ids", type=Path, metavar="FILE", help="other images: JSON as in llafs_lib/data/coco_mini_ids.json")
    add("--mirror", metavar="URL", help=f"another server with the same files, in place of {official.COCO_URL}")
    add("--keep-archives", action="store_true", help="do not delete the annotation archive at the end")
    add("--workers", type=official.count, default=8, metavar="N", help="images at once (default: 8)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Make the data set and say where it lies; returns the exit status, 1 if it could not be made."""
    options = parse_arguments(arguments)
    return official.run_script("make_coco_mini", lambda: make(options))


def make(options: argparse.Namespace) -> None:
    """Make the data set and say where it lies.

    Raises:
        DownloadError: something could not be had, or another data set lies where it would go.
    """
    out, ids = options.out or options.root / "coco", read_ids(options.ids)
    official_ones, annotations = options.root / "coco" / "annotations", options.annotations
    if annotations is None and out != options.root / "coco":
        if all((official_ones / f"instances_{split}.json").is_file() for split in ids):
            annotations = official_ones
    settings = {"mirror": options.mirror, "keep_archives": options.keep_archives, "workers": options.workers}
    make_mini(out, ids, annotations, **settings)
    for split in ids:
        print(f"{out / split}: {len(ids[split])} images, {out / 'annotations' / f'instances_{split}.json'}")
    print(f"next: LLAFS_DATA={out.absolute().parent} llafs tutorial --dataset coco-mini")


def read_ids(path: Path | None = None) -> dict[str, list[int]]:
    """The image ids of coco-mini by split, or of another file of that form.

    Raises:
        DownloadError: the file cannot be read, or is of another form.
    """
    path = path or Path(official.__file__).with_name("coco_mini_ids.json")
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
        if all(split in official.COCO_IMAGES and split.endswith("2017") and ids[split] for split in ids) and ids:
            return {split: [int(i) for i in ids[split]] for split in ids}
    except (OSError, ValueError, TypeError) as error:
        raise DownloadError(f"{path} cannot be read as a list of image ids ({error}).") from error
    raise DownloadError(
        f'{path} is no list of image ids: it must look like {{"train2017": [9, 25], "val2017": [802]}}.'
    )


def make_mini(
    out: Path,
    ids: dict[str, list[int]],
    annotations: Path | None = None,
    *,
    mirror: str | None = None,
    keep_archives: bool = False,
    workers: int = 8,
) -> None:
    """Write the images of `ids` and exactly their annotations into `out`. The annotation files come last.

    Args:
        annotations: the folder of the official `instances_*2017.json`; without one they are downloaded.

    Raises:
        DownloadError: something could not be had, or the annotations of another data set are in `out`.
    """
    contents = {split: there_already(out, split, ids[split]) for split in ids}
    new = [split for split, content in contents.items() if content is None]
    scratch = out / ".official"  # stays until the end, so that a second run need not download it again
    if new and annotations is None:
        official.complete([official.coco_annotations(new, mirror)], scratch, keep_archives=keep_archives)
        annotations = scratch / "annotations"
    for split in new:
        contents[split] = pick(annotations / f"instances_{split}.json", ids[split])
    remotes = [image_of(info, out / split, mirror) for split in ids for info in contents[split]["images"]]
    fetch(remotes, "images", workers=workers)
    for split in new:
        target = out / "annotations" / f"instances_{split}.json"
        with writing(target):
            official.write(target, io.BytesIO(json.dumps(contents[split]).encode()))
    if not keep_archives:
        shutil.rmtree(scratch, ignore_errors=True)


def there_already(out: Path, split: str, ids: list[int]) -> dict | None:
    """The annotations that an earlier run wrote, or None; those of another data set raise `DownloadError`."""
    path = out / "annotations" / f"instances_{split}.json"
    if not path.exists():
        return None
    n_listed = official.images_listed(path)
    if n_listed == len(ids):
        content = read(path)
        if {info["id"] for info in content["images"]} == set(ids):
            return content
    raise DownloadError(
        f"{path} lists {n_listed:,} images, other ones than the {len(ids)} of coco-mini, and is left alone. "
        "Give `--out ANOTHER/coco`, then use the result with LLAFS_DATA=ANOTHER."
    )


def pick(path: Path, ids: list[int]) -> dict:
    """The content of an annotation file with the images of `ids` only, all in the file's order."""
    content, wanted = read(path), set(ids)
    images = [info for info in content["images"] if info["id"] in wanted]
    if len(images) != len(wanted):
        raise DownloadError(
            f"{path} lists {len(images)} of the {len(wanted)} images: it is not the official file. "
            "Name the folder of the official one with --annotations."
        )
    return {**content, "images": images, "annotations": [a for a in content["annotations"] if a["image_id"] in wanted]}


def read(path: Path) -> dict:
    """The content of an annotation file, or `DownloadError`."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        content["images"], content["annotations"]
        return content
    except FileNotFoundError:
        raise DownloadError(f"{path} does not exist: name the folder that holds it with --annotations.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"{path} is not a readable COCO annotation file ({error}): delete it and run again."
        ) from error


def image_of(info: dict, folder: Path, mirror: str | None) -> Remote:
    """Where to fetch an image; it must decode and have the size that the annotations state."""
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
