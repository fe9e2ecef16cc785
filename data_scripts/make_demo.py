"""Make the bank and the photograph's stand-in that `llafs demo` comes with: drawn scenes, in one zip file."""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from _common import make_parser, run
from PIL import Image

from llafs_lib.artifacts import replacing
from llafs_lib.bank_folder import FILES, Wanted, make_bank_folder
from llafs_lib.classes import TOY_FAMILIES
from llafs_lib.data.own import MIN_AREA, open_own
from llafs_lib.data.toy.dataset import Scene, draw_scene
from llafs_lib.tools.demo import ARCHIVE, BANK, QUERY, WORD

SCENES = 30  # two for each annotated class at least; a bank of 45 was not better
SEED_OF_QUERY = (1, 118)  # one of the scenes that go well; what to expect of others is printed beside it
NOVEL = {names[0] for names in TOY_FAMILIES.values()}  # what the small backbone was not trained on
BASE = [name for names in TOY_FAMILIES.values() for name in names[1:]]

EPILOG = """\
No scene of the bank shows a giraffe or another class that the small backbone was not trained on. The same version of
the library makes the same bank, whose bytes may differ where Pillow compresses in another way."""


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("make_demo.py", __doc__, EPILOG)
    parser.add_argument("--out", type=Path, default=ARCHIVE, metavar="FILE", help="(default: in llafs_lib/tools)")
    return run(parser, make, arguments)


def make(options: argparse.Namespace) -> None:
    """Draw the scenes, make their bank, pack both."""
    with tempfile.TemporaryDirectory() as folder:
        drawn, packed = Path(folder) / "drawn", Path(folder) / "packed"
        for number in range(SCENES):
            write_scene(drawn, number, scene(number))
        split = open_own(drawn / "masks", drawn / "images")
        make_bank_folder(packed / BANK, split, {"name": Path(__file__).name}, Wanted("small", min_area=MIN_AREA))
        (packed / BANK / FILES).unlink()  # it holds times, and the images that it is about stay here
        image, _ = draw_scene(np.random.default_rng(SEED_OF_QUERY), WORD)
        Image.fromarray(image).save(packed / QUERY, quality=90)
        pack(packed, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB, {SCENES} scenes of {len(BASE)} classes")


def scene(number: int) -> Scene:
    """The scene of that number: the first drawn one that shows no class of `NOVEL`."""
    rng = np.random.default_rng((0, number))
    while True:
        image, objects = draw_scene(rng, BASE[number % len(BASE)])
        if objects and not NOVEL & {name for name, _ in objects}:
            return image, objects


def write_scene(folder: Path, number: int, drawn: Scene) -> None:
    """As `images/07.png` and `masks/CLASS/07.png`."""
    image, objects = drawn
    masks: dict[str, np.ndarray] = {}
    for name, mask in objects:
        masks[name] = masks.get(name, False) | mask
    for place, pixels in {
        "images": image,
        **{f"masks/{name}": 255 * m.astype(np.uint8) for name, m in masks.items()},
    }.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / place / f"{number:02d}.png")


def pack(folder: Path, archive: Path) -> None:
    """Write the files of a folder to a zip file. It holds no times, so that the same files make the same bytes."""
    with replacing(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as zipped:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                zipped.writestr(zipfile.ZipInfo(name.as_posix()), path.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    sys.exit(main())
