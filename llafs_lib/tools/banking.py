"""`llafs bank`: make a bank of annotated images, list and correct it."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from llafs_lib.errors import LlafsError
from llafs_lib.outputs import check_folder
from llafs_lib.settings import Settings
from llafs_lib.threads import share_cores
from llafs_lib.tools.cluster import Resources
from llafs_lib.tools.options import LLM, PARAMETERS, add_options, asker_of, examples, made

ALONE = "none"  # no Ray: this process does it


def add_bank(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make a bank of annotated images, which `llafs segment --run` opens without them. It can be moved. Masks that "
        "you corrected can be added to it, so that the next images are compared with them, too."
    )
    parser.epilog = examples(
        ("bank images/ annotations.json -o okapi-bank/", "from a COCO file"),
        ("bank images/ masks/ -o okapi-bank/", "from masks: images/x.jpg and masks/CLASS/x.png"),
        ("bank images/ annotations.json -o okapi-bank/ --address auto", "the images shared among Ray's machines"),
        ("bank --run okapi-bank/ --add photo.jpg mask.png okapi", "a corrected mask"),
        ("bank --run okapi-bank/ --list", "what was added, with its numbers"),
        ("bank --run okapi-bank/ --remove 2", "take one out again"),
    )
    parser.add_argument("images", nargs="?", metavar="IMAGES", help="the folder of the annotated images")
    parser.add_argument("supports", nargs="?", metavar="ANNOTATIONS", help="a COCO file, or a folder of masks")
    parser.add_argument("-o", "--bank", metavar="DIR", help="the folder of the new bank; one that is there is renewed")
    parser.add_argument("--run", metavar="DIR", help="a bank that is there, to be corrected or listed")
    changes = parser.add_mutually_exclusive_group()
    changes.add_argument("--add", nargs=3, metavar=("IMAGE", "MASK", "CLASS"), help="put a corrected mask in")
    changes.add_argument("--remove", type=int, metavar="N", help="take out what --list shows under this number")
    changes.add_argument("--list", action="store_true", help="what was added")
    add_options(parser, [PARAMETERS["backbone"], *LLM, *fields(Resources)])
    parser.set_defaults(command=_bank, address=ALONE)


def _bank(arguments: argparse.Namespace) -> None:
    changes = arguments.add or arguments.remove is not None or arguments.list
    if bool(arguments.run) != bool(changes) or bool(arguments.run) == bool(arguments.images):
        raise LlafsError(
            "say what to do: `llafs bank IMAGES ANNOTATIONS -o DIR` makes a bank; `llafs bank --run DIR` with --add, "
            "--remove or --list changes one or lists what was added to it."
        )
    (_change if arguments.run else _make)(arguments)


def _make(arguments: argparse.Namespace) -> None:
    images, supports = arguments.images, arguments.supports
    if not supports or not arguments.bank:
        raise LlafsError("a bank is made by `llafs bank IMAGES ANNOTATIONS -o DIR`: one of the three is missing.")
    folder, resources = Path(arguments.bank), made(Resources, arguments)
    check_folder(folder)
    asker = asker_of(made(Settings, arguments, "images", "backbone"))
    share_cores()
    from llafs_lib.bank_folder import Wanted, check_place, make_bank_folder, state_of
    from llafs_lib.data.own import MIN_AREA, open_own
    from llafs_lib.pipeline import LLaFS

    check_place(folder)
    split, source = open_own(supports, images), state_of(Path(supports), Path(images))
    wanted = Wanted(arguments.backbone, min_area=MIN_AREA)
    if resources.address != ALONE:
        from llafs_lib.tools.shards import make_rows

        make_rows(folder, Path(supports), Path(images), wanted, resources)
    make_bank_folder(folder, split, source, wanted, asker if asker.model else None)
    model = LLaFS.from_run(arguments.bank)
    classes = model.bank.classes
    print(f"{len(model.bank):,} supports of {len(classes):,} classes: {', '.join(classes[:20])}", end="")
    print(" …" if len(classes) > 20 else "")
    if model.expected is not None:
        print(f"what to expect:\n{model.expected}")
    print(f"written: {arguments.bank}")


def _change(arguments: argparse.Namespace) -> None:
    share_cores()
    from llafs_lib.pipeline import LLaFS

    model = LLaFS.from_run(arguments.run)
    if arguments.add:
        number = model.add(*arguments.add)
        print(f"added under number {number}")
    elif arguments.remove is not None:
        model.remove(arguments.remove)
        print(f"removed: {arguments.remove}")
    else:
        print("\n".join(map(str, model.added)) or "nothing was added")
