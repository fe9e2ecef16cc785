"""Bad input to what users call: one short sentence or two that name it and the remedy, and nothing is written.

None takes more than `LONGEST_TIME` or `MOST_MEMORY`.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llafs_lib import LLaFS
from llafs_lib.errors import LlafsError
from llafs_lib.settings import Settings
from llafs_lib.tools.cli import main

WIDTH, HEIGHT = 48, 36
PLAIN = {"backbone": "small", "size": 97}  # quick, and needs no weights
LONGEST = 300  # characters of a message
LONGEST_TIME, LONGEST_WAIT = 10, 100  # s of a processor, and s on the wall, which is more where others are at work
MOST_MEMORY = 500  # MB beyond what the process holds

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")


def image(n: int) -> Image.Image:
    noise = np.random.default_rng(n).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    noise[8:24, 8:30] //= 4
    return Image.fromarray(noise)


def annotations(**changes) -> dict:
    """Four images, each with one object of one of two classes."""
    square = [8, 8, 30, 8, 30, 24, 8, 24]
    return {
        "images": [{"id": n, "file_name": f"p{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(1, 5)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1 + n % 2, "segmentation": [square], "iscrowd": 0}
            for n in range(1, 5)
        ],
        "categories": [{"id": 1, "name": "zebra"}, {"id": 2, "name": "horse"}],
    } | changes


def objects(**changes) -> dict:
    """The same file, each object of it changed."""
    return annotations(annotations=[a | changes for a in annotations()["annotations"]])


def square(**changes) -> dict:
    """A file of one image, and that one changed."""
    listed = annotations()
    return listed | {"images": [listed["images"][0] | changes], "annotations": listed["annotations"][:1]}


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\1\0IDAT"


HUGE = 10**23
JSONS = {
    "deep": objects(segmentation=json.loads("[" * 900 + "]" * 900)),
    "long-runs": objects(segmentation={"size": [HEIGHT, WIDTH], "counts": [0, 2**40]}),
    "other-runs": objects(segmentation={"size": [10**6, 10**6], "counts": [0, 10**12]}),
    "negative-runs": objects(segmentation={"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}),
    "text-runs": objects(segmentation={"size": [HEIGHT, WIDTH], "counts": "ooooooooo0"}),
    "far-away": objects(segmentation=[[1e300, 0, 1e308, 9, 0, 1e300]]),
    "huge-ids": objects(image_id=HUGE),
    "nan-ids": objects(category_id=float("nan")),
    "null-ids": objects(image_id=None),
    "absolute": square(file_name="/etc/hostname"),
    "list-as-name": square(file_name=["p1.jpg"]),
    "number-as-name": square(file_name=7),
    "zero-byte": square(file_name="p1\0.jpg"),
    "list": [],
    "other": {"name": "llafs"},
    "boxes": objects(segmentation=[], bbox=[8, 8, 9, 9]),
    "nonsense": objects(segmentation="outline"),
    "unclassed": annotations(categories=[]),
    "unlisted": annotations(images=[]),
    "without": annotations(annotations=[]),
    "outside": annotations(images=[i | {"file_name": f"../../p{i['id']}.jpg"} for i in annotations()["images"]]),
    "lost": annotations(images=[i | {"file_name": f"lost{i['id']}.jpg"} for i in annotations()["images"]]),
}
FILES = {
    "notes.txt": b"not JSON, not an image",
    "broken.json": b'{"images": [',
    "empty.json": b"",
    "text.jpg": b"no image",
    "empty.jpg": b"",
    "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    "page.pdf": b"%PDF-1.7\n",
    "drawing.svg": b"<svg/>",
    "huge.png": png(100_000, 100_000),
    "cut.png": png(11_000, 11_000),
    "deepest.json": b"[" * 200_000,
    "binary.json": bytes(range(256)),
    "utf.json": b"\xff\xfe{\0",
    "film.mp4": b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
    "empty/notes.txt": b"",
    "bad-bank/bank.json": b"{}",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A user's folder with good and bad files, a bank of four images, and the model that it makes."""
    root = tmp_path_factory.mktemp("world")
    for n in range(1, 5):
        (root / "images").mkdir(exist_ok=True)
        image(n).save(root / "images" / f"p{n}.jpg")
    (root / "a.json").write_text(json.dumps(annotations()))
    for name, content in JSONS.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    for name, content in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    image(9).save(root / "photo.jpg", quality=95)
    image(8).save(root / "other.jpg")
    half = (root / "photo.jpg").read_bytes()[:1500]
    (root / "half.jpg").write_bytes(half)
    (root / "ended.jpg").write_bytes(half + b"\xff\xd9")
    for pipe in ("pipe.jpg", "pipe.json", "pipe.png"):
        os.mkfifo(root / pipe)
    with (root / "sparse.json").open("wb") as file:
        file.truncate(2**33)
    (root / "dead.png").symlink_to("nowhere")
    (root / "loop.jpg").symlink_to("loop.jpg")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, value in (("black", 0), ("mask", 255)):
        mask[8:24, 8:30] = value
        Image.fromarray(mask).save(root / f"{name}.png")
    Image.fromarray(mask[:, :-1]).save(root / "narrow.png")
    mask[20:, 20:] = 38
    Image.fromarray(mask).save(root / "labels.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        model = LLaFS.from_coco("a.json", **PLAIN)
        model.save("bank")
        for name, damage in BANKS.items():
            shutil.copytree("bank", name)
            damage(root / name)
        yield root, model


def cut_off(folder) -> None:
    for file in (folder / "support_bank").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:40])


def of_the_future(folder) -> None:
    about = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(about | {"format": 99}))


BANKS = {
    "bank-cut": cut_off,
    "bank-new": of_the_future,
    "bank-bare": lambda folder: shutil.rmtree(folder / "support_bank"),
    "bank-text": lambda folder: (folder / "bank.json").write_text("no JSON"),
}


def state(root) -> dict[str, tuple]:
    """Every file and folder, with its size and time."""
    found = [p for p in root.rglob("*") if p.name != ".lock"]
    return {str(p.relative_to(root)): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in found if not p.is_dir()} | {
        str(p.relative_to(root)): () for p in found if p.is_dir()
    }


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def own(path="a.json", **more):
    return lambda model: LLaFS.from_coco(path, **(PLAIN | {"bank": "new-bank"} | more))


def run(*arguments, **more):
    return lambda model: LLaFS.from_run(*arguments, **more)


def ask(what="photo.jpg", name="zebra", **more):
    return lambda model: model.segment(what, name, **more)


def ask_all(what, name="zebra", **more):
    return lambda model: list(model.segment_all(what, name, **more))


def add(what="photo.jpg", mask="mask.png", name="okapi"):
    return lambda model: model.add(what, mask, name)


def keep(*arguments, **more):
    return lambda model: model.segment("photo.jpg", "zebra").save(*arguments, **more)


def settings(**chosen):
    return lambda model: Settings(**chosen)


# what is called, and words that its message must have: the thing at fault, the remedy
CALLS = {
    "from_coco: nothing there": (own("nothing.json"), "nothing.json", "give a COCO file"),
    "from_coco: a pipe": (own("pipe.json"), "pipe.json", "COCO JSON file"),
    "from_coco: a device": (own("/dev/zero"), "/dev/zero", "COCO JSON file"),
    "from_coco: eight GB of zeros": (own("sparse.json"), "sparse.json", "xport"),
    "from_coco: nested without an end": (own("deepest.json"), "deepest.json", "xport"),
    "from_coco: binary": (own("binary.json"), "binary.json", "xport"),
    "from_coco: cut off UTF-16": (own("utf.json"), "utf.json", "xport"),
    "from_coco: an outline nested too deep": (own("deep.json"), "deep.json", "export it again"),
    "from_coco: run lengths beyond the image": (own("long-runs.json"), "long-runs.json", "export it again"),
    "from_coco: run lengths of another size": (own("other-runs.json"), "other-runs.json", "run lengths"),
    "from_coco: negative run lengths": (own("negative-runs.json"), "negative-runs.json", "unreadable run lengths"),
    "from_coco: run lengths of nonsense": (own("text-runs.json"), "text-runs.json", "run lengths"),
    "from_coco: outlines far away": (own("far-away.json"), "far-away.json", "polygon"),
    "from_coco: huge ids": (own("huge-ids.json"), "huge-ids.json", "not listed"),
    "from_coco: ids of NaN": (own("nan-ids.json"), "nan-ids.json", "not listed"),
    "from_coco: ids of null": (own("null-ids.json"), "null-ids.json", "not listed"),
    "from_coco: another folder's file": (own("absolute.json"), "/etc/hostname", "image folder"),
    "from_coco: a list as a name": (own("list-as-name.json"), "list-as-name.json", "missing"),
    "from_coco: a number as a name": (own("number-as-name.json"), "number-as-name.json", "missing"),
    "from_coco: a zero byte in a name": (own("zero-byte.json"), "zero-byte.json", "missing"),
    "from_coco: a huge size": (own(size=HUGE), "size", "4096"),
    "from_coco: an endless size": (own(size=float("inf")), "size", "inf"),
    "from_coco: an endless share": (own(min_area=float("inf")), "min_area", "inf"),
    "from_coco: a share of NaN": (own(min_area=np.nan), "min_area", "nan"),
    "settings: a huge seed": (settings(seed=HUGE), "seed", "at most 4,294,967,295"),
    "settings: a seed of 5,000 digits": (settings(seed=10**5000), "seed", "20 digits"),
    "settings: an endless seed": (settings(seed=float("inf")), "seed", "inf"),
    "settings: a fold of 5,000 digits": (settings(fold=10**5000), "fold", "20 digits"),
    "settings: a billion shots": (settings(shots=10**9), "shots", "at most 1,000"),
    "settings: too many queries": (settings(queries=HUGE), "queries", "at most 1,000,000"),
    "settings: an endless share": (settings(dataset="a.json", min_area=float("inf")), "min_area", "inf"),
    "settings: an endless budget": (settings(llm_budget=float("inf")), "llm_budget", "inf"),
    "settings: a long word": (settings(budget="x", novel_in_train="x" * 9999), "novel_in_train", "choose"),
    "from_coco: a folder without masks": (own("empty"), "empty", "mask"),
    "from_coco: text": (own("notes.txt"), "notes.txt", "COCO"),
    "from_coco: an image": (own("photo.jpg"), "photo.jpg", "COCO"),
    "from_coco: cut off": (own("broken.json"), "broken.json", "xport"),
    "from_coco: empty": (own("empty.json"), "empty.json", "xport"),
    "from_coco: a list": (own("list.json"), "list.json", "COCO"),
    "from_coco: another JSON": (own("other.json"), "other.json", "COCO"),
    "from_coco: boxes only": (own("boxes.json"), "boxes.json", "boxes only"),
    "from_coco: outlines that are none": (own("nonsense.json"), "nonsense.json", "Correct the file"),
    "from_coco: no class": (own("unclassed.json"), "unclassed.json", "categor"),
    "from_coco: no image": (own("unlisted.json"), "unlisted.json", "image"),
    "from_coco: no object": (own("without.json"), "without.json", "object"),
    "from_coco: names that leave the folder": (own("outside.json"), "../../p1.jpg", "Correct the name"),
    "from_coco: images that are lost": (own("lost.json"), "lost.json", "4 of 4"),
    "from_coco: images elsewhere": (own(images="empty"), "empty", "4 of 4"),
    "from_coco: no image folder": (own(images="nowhere"), "nowhere", "does not exist"),
    "from_coco: a file for the images": (own(images="photo.jpg"), "photo.jpg", "is a file"),
    "from_coco: a number": (own(7), "annotations", "7"),
    "from_coco: None": (own(None), "annotations", "None"),
    "from_coco: an address": (own("https://example.org/a.json"), "example.org/a.json", "ownload"),
    "from_coco: a zero byte": (own("a\0.json"), "a", "name"),
    "from_coco: an unknown backbone": (own(backbone="resnet9000"), "resnet9000", ""),
    "from_coco: a small size": (own(size=5), "size", "32"),
    "from_coco: a size in words": (own(size="big"), "size", "'big'"),
    "from_coco: a share above 1": (own(min_area=2), "min_area", "from 0 to 1"),
    "from_coco: a share in words": (own(min_area="much"), "min_area", "from 0 to 1"),
    "from_coco: another folder as bank": (own(bank="images"), "images", "another folder"),
    "from_coco: a file as bank": (own(bank="photo.jpg"), "photo.jpg", "another folder"),
    "from_coco: a bank below a file": (own(bank="photo.jpg/bank"), "photo.jpg", "another"),
    "from_coco: a bank of something else": (own(bank="bank", min_area=0.5), "bank", "min_area"),
    "from_coco: a number as model": (own(llm=3), "llm", "3"),
    "from_run: nothing there": (run("nowhere"), "nowhere", ""),
    "from_run: another folder": (run("images"), "images", ""),
    "from_run: a file": (run("a.json"), "a.json", ""),
    "from_run: None": (run(None), "None", ""),
    "from_run: a zero byte": (run("a\0"), "a", ""),
    "from_run: a bank.json without content": (run("bad-bank"), "bad-bank", "llafs bank"),
    "from_run: a bank.json that is text": (run("bank-text"), "bank-text", "llafs bank"),
    "from_run: a newer bank": (run("bank-new"), "bank-new", "llafs bank"),
    "from_run: a bank without rows": (run("bank-bare"), "bank-bare", ""),
    "from_run: a bank that is cut off": (run("bank-cut"), "bank-cut", ""),
    "from_run: an unknown method": (run("bank", method="magic"), "magic", "prototypes"),
    "segment: nothing there": (ask("nothing.jpg"), "nothing.jpg", "correct the path"),
    "segment: a folder": (ask("images"), "images", "name an image"),
    "segment: text": (ask("text.jpg"), "text.jpg", "eplace"),
    "segment: empty": (ask("empty.jpg"), "empty.jpg", "eplace"),
    "segment: half a JPEG": (ask("half.jpg"), "half.jpg", "eplace"),
    "segment: half a JPEG with an end mark": (ask("ended.jpg"), "ended.jpg", "eplace"),
    "segment: HEIC": (ask("photo.heic"), "photo.heic", "JPEG"),
    "segment: PDF": (ask("page.pdf"), "page.pdf", "PNG"),
    "segment: SVG": (ask("drawing.svg"), "drawing.svg", "PNG"),
    "segment: a huge PNG": (ask("huge.png"), "huge.png", "shrink it"),
    "segment: a large PNG, cut off": (ask("cut.png"), "cut.png", "eplace"),
    "segment: a device": (ask("/dev/zero"), "/dev/zero", "plain image file"),
    "segment: a dead link": (ask("dead.png"), "dead.png", "plain image file"),
    "segment: a link to itself": (ask("loop.jpg"), "loop.jpg", ""),
    "segment: a billion supports": (ask(shots=10**9), "shots", "at most 1,000"),
    "segment: supports without an end": (ask(shots=float("inf")), "shots", "inf"),
    "segment: supports of 5,000 digits": (ask(shots=10**5000), "shots", "20 digits"),
    "segment: an endless confidence": (ask(min_confidence=float("inf")), "min_confidence", "inf"),
    "segment: an endless score": (ask(name="okapi", related={"zebra": float("inf")}), "zebra", "inf"),
    "segment: a video": (ask("film.mp4"), "film.mp4", "PNG"),
    "segment: a pipe": (ask("pipe.jpg"), "pipe.jpg", "plain image file"),
    "segment: an address": (ask("https://example.org/p.jpg"), "example.org/p.jpg", "download"),
    "segment: a long name": (ask("x" * 5000), "xxx", "correct its name"),
    "segment: a name of two lines": (ask("two\nlines.jpg"), r"two\nlines.jpg", "correct the path"),
    "segment: None": (ask(None), "None", "PIL image"),
    "segment: an object": (ask(object()), "object", "PIL image"),
    "segment: bytes": (ask(b"\xff\xd8"), "bytes", "PIL image"),
    "segment: no pixels": (ask(np.zeros((0, 4, 3), np.uint8)), "[0, 4, 3]", "Give"),
    "segment: NaN": (ask(np.full((4, 4, 3), np.nan)), "nan", "from 0 to 1"),
    "segment: a normalised tensor": (ask(torch.linspace(-2, 2, 48).view(3, 4, 4)), "-2", "Undo the normalisation"),
    "segment: a batch": (ask(torch.zeros(2, 3, 4, 4)), "[2, 3, 4, 4]", "Give"),
    "segment: an empty class": (ask(name=""), "class", ""),
    "segment: a blank class": (ask(name="  "), "class", ""),
    "segment: a class of two lines": (ask(name="zeb\nra"), "line break", ""),
    "segment: no class": (ask(name=None), "None", ""),
    "segment: a number as class": (ask(name=7), "7", ""),
    "segment: an empty list": (ask(name=[]), "no class", "give a name"),
    "segment: classes that can be named once only": (ask(name=iter(["zebra"])), "list_iterator", "okapi"),
    "segment: a list with a number": (ask(name=["zebra", 7]), "7", ""),
    "segment: a class twice": (ask(name=["zebra", "Zebra"]), "twice", "once"),
    "segment: a class that nobody knows": (ask(name="qwertz"), "qwertz", "--llm"),
    "segment: no supports": (ask(shots=0), "shots", "at least 1"),
    "segment: half supports": (ask(shots=2.5), "shots", "whole number"),
    "segment: supports in words": (ask(shots="many"), "shots", "whole number"),
    "segment: an unknown look-alike": (ask(name="okapi", related=["unicorn"]), "unicorn", "zebra"),
    "segment: no look-alike": (ask(name="okapi", related=[]), "related", ""),
    "segment: a negative score": (ask(name="okapi", related={"zebra": -1}), "zebra", "-1"),
    "segment: a score of NaN": (ask(name="okapi", related={"zebra": np.nan}), "zebra", "nan"),
    "segment: pairs as look-alikes": (ask(name="okapi", related=[("zebra", 0.9)]), "related", "a tuple"),
    "segment: nothing as a look-alike": (ask(name="okapi", related=["zebra", None]), "related", "None"),
    "segment: a score in words": (ask(name="okapi", related="zebra=much"), "zebra", "much"),
    "segment: a number as look-alikes": (ask(name="okapi", related=7), "related", "7"),
    "segment: look-alikes of two classes": (ask(name=["okapi", "tapir"], related="zebra"), "related", "by class"),
    "segment: a confidence in words": (ask(min_confidence="much"), "min_confidence", "number"),
    "segment: a confidence of NaN": (ask(min_confidence=np.nan), "min_confidence", "number"),
    "segment_all: nothing there": (ask_all("nowhere/"), "nowhere", ""),
    "segment_all: a folder without images": (ask_all("empty"), "empty", "pattern"),
    "segment_all: a pattern without images": (ask_all("*.gif"), "*.gif", "pattern"),
    "segment_all: one array": (ask_all(np.zeros((4, 4, 3), np.uint8)), "list", "segment"),
    "segment_all: one PIL image": (ask_all(image(1)), "list", "segment"),
    "segment_all: None": (ask_all(None), "not None", "a list"),
    "segment_all: a number": (ask_all(7), "not 7", "a list"),
    "segment_all: no image": (ask_all([]), "image", ""),
    "segment_all: an empty class": (ask_all("images", ""), "class", ""),
    "add: another size": (add(mask="narrow.png"), "narrow.png", "48 × 36"),
    "add: a label map": (add(mask="labels.png"), "labels.png", "0 and one other value"),
    "add: nothing in the mask": (add(mask="black.png"), "okapi", "mark the object"),
    "add: no mask": (add(mask=None), "mask", "None"),
    "add: no mask file": (add(mask="nothing.png"), "nothing.png", "correct the path"),
    "add: text as mask": (add(mask="notes.txt"), "notes.txt", "eplace"),
    "add: a pipe as mask": (add(mask="pipe.png"), "pipe.png", "plain image file"),
    "add: outlines": (add(mask=[[1, 2, 3, 4, 5, 6]]), "mask", "array"),
    "add: text as image": (add("text.jpg"), "text.jpg", "eplace"),
    "add: no class": (add(name=""), "class", ""),
    "add: None as class": (add(name=None), "None", ""),
    "remove: no such number": (lambda model: model.remove(99), "99", "none"),
    "remove: a word": (lambda model: model.remove("first"), "first", "none"),
    "from_run: a number as model": (run("bank", llm=3), "llm", "Asker"),
    "segment: an object as supports": (ask(shots=object()), "shots", "an object"),
    "segment: an object as confidence": (ask(min_confidence=object()), "min_confidence", "an object"),
    "segment: an object as look-alikes": (ask(name="okapi", related=object()), "related", "an object"),
    "segment: an object as score": (ask(name="okapi", related={"zebra": object()}), "zebra", "an object"),
    "rank: an empty folder": (lambda model: model.rank("empty", "zebra"), "empty", "pattern"),
    "save: onto a folder": (lambda model: model.save("images"), "images", ""),
    "save: onto a file": (lambda model: model.save("photo.jpg"), "photo.jpg", ""),
    "save: below a file": (lambda model: model.save("photo.jpg/bank"), "photo.jpg", ""),
    "save: None": (lambda model: model.save(None), "None", ""),
    "save: no name": (lambda model: model.save(""), "", ""),
    "a mask as an array": (keep("mask.npy"), "mask.npy", ".png"),
    "a mask as text": (keep("mask.txt"), "mask.txt", ".png"),
    "a mask onto a folder": (keep("images/", format="magic"), "magic", "mask"),
    "a mask onto its image": (keep("photo.jpg"), "photo.jpg", "another name"),
    "a mask below a file": (keep("a.json/mask.png"), "a.json", "another"),
    "a mask onto a pipe": (keep("pipe.png"), "pipe.png", "another name"),
    "a mask with a long name": (keep("x" * 300 + ".png"), "xxx", "another name"),
    "a mask in a folder with a long name": (keep("x" * 300 + "/mask.png"), "xxx", "another"),
    "a mask where nobody writes": (keep("/proc/mask.png"), "/proc", "another"),
    "a mask behind a dead link": (keep("dead.png/mask.png"), "dead.png", "another"),
    "a mask without a name": (keep(""), "''", "mask.png"),
    "a mask by a number": (keep(7), "7", ""),
    "a mask as JPEG": (keep("new.jpg", format="mask"), "new.jpg", ".png"),
}
COMMANDS = {
    "no command": ("", "COMMAND", "--help"),
    "an unknown command": ("segmnet photo.jpg zebra", "segmnet", "segment"),
    "no image, no class": ("segment", "IMAGE", "--help"),
    "no class": ("segment photo.jpg", "CLASS", "--help"),
    "an unknown option": ("segment photo.jpg zebra --suports a.json", "--suports", "--supports"),
    "the class forgotten": ("segment photo.jpg other.jpg", "other.jpg", "names the class"),
    "no such image": ("segment nothing.jpg zebra --run bank", "nothing.jpg", "correct the path"),
    "text": ("segment text.jpg zebra --run bank", "text.jpg", "eplace"),
    "HEIC": ("segment photo.heic zebra --run bank", "photo.heic", "JPEG"),
    "a pipe": ("segment pipe.jpg zebra --run bank", "pipe.jpg", "plain image file"),
    "a folder without images": ("segment empty zebra --run bank", "empty", "pattern"),
    "a pattern without images": ("segment *.gif zebra --run bank", "*.gif", "pattern"),
    "an array": ("segment photo.jpg zebra --run bank -o mask.npy", "mask.npy", ".png"),
    "a text": ("segment photo.jpg zebra --run bank -o mask.txt", "mask.txt", "--format yolo"),
    "two images in one mask": ("segment photo.jpg other.jpg zebra --run bank -o new.png", "new.png", "folder"),
    "two classes in one mask": (
        "segment photo.jpg zebra,horse --run bank -o new.png --format mask",
        "new.png",
        "labelmap",
    ),
    "onto the image": ("segment photo.jpg zebra --run bank -o photo.jpg", "photo.jpg", "another name"),
    "onto the annotations": ("segment photo.jpg zebra --supports a.json -o a.json", "a.json", "another name"),
    "below a file": ("segment photo.jpg zebra --run bank -o a.json/mask.png", "a.json", "another"),
    "onto a pipe": ("segment photo.jpg zebra --run bank -o pipe.png", "pipe.png", "another name"),
    "into a long name": (f"segment photo.jpg zebra --run bank -o {'x' * 300}.png", "xxx", "another name"),
    "where nobody writes": ("segment photo.jpg zebra --run bank -o /proc/masks/", "/proc", "another"),
    "where nobody writes, before the run is opened": ("segment photo.jpg zebra -o /proc/a.png", "/proc", "another"),
    "a folder of a class is a file": ("segment photo.jpg a.json,horse --run bank -o .//", "a.json", "another"),
    "a billion supports": ("segment photo.jpg zebra --run bank --shots 1000000000", "shots", "at most 1,000"),
    "supports of 5,000 digits": (f"segment photo.jpg zebra --run bank --shots {'9' * 5000}", "--shots", "999"),
    "an endless confidence": ("segment photo.jpg zebra --run bank --min-confidence inf", "--min-confidence", "inf"),
    "a huge seed": (f"tutorial --seed {HUGE}", "seed", "at most"),
    "a billion shots": ("tutorial --shots 1000000000", "shots", "at most"),
    "an endless share": ("tutorial --dataset a.json --min-area inf", "min_area", "inf"),
    "a budget of NaN": ("tutorial --llm m --llm-budget nan", "llm_budget", "nan"),
    "a pipe as data set": ("tutorial --dataset pipe.json", "pipe.json", "COCO"),
    "too many seeds": ("sweep --seeds 0-99999999999", "0-99999999999", "too many"),
    "a seed that is no digit": ("sweep --seeds ²", "²", "whole numbers"),
    "endless processors": ("sweep --cpus inf --dry-run", "cpus", "inf"),
    "a huge number of retries": (f"sweep --retries {HUGE} --dry-run", "retries", "at most"),
    "an unknown format": ("segment photo.jpg zebra --run bank --format gif", "gif", "overlay"),
    "no such annotations": ("segment photo.jpg zebra --supports nothing.json", "nothing.json", "COCO"),
    "annotations that are none": ("segment photo.jpg zebra --supports other.json", "other.json", "COCO"),
    "images elsewhere": ("segment photo.jpg zebra --supports a.json --bank new-bank --images empty", "empty", "4 of 4"),
    "an unknown backbone": ("segment photo.jpg zebra --supports a.json --bank new-bank --backbone magic", "magic", ""),
    "two kinds of supports": ("segment photo.jpg zebra --supports a.json --run bank", "--run", "--supports"),
    "images without annotations": ("segment photo.jpg zebra --images images", "--images", "--supports"),
    "no such run": ("segment photo.jpg zebra --run nowhere", "nowhere", ""),
    "another folder as run": ("segment photo.jpg zebra --run images", "images", ""),
    "a bank that is cut off": ("segment photo.jpg zebra --run bank-cut", "bank-cut", ""),
    "an unknown look-alike": ("segment photo.jpg okapi --run bank --related unicorn", "unicorn", "zebra"),
    "a score in words": ("segment photo.jpg okapi --run bank --related zebra=much", "zebra", "much"),
    "look-alikes of two classes": (
        "segment photo.jpg okapi,tapir --run bank --related zebra",
        "--related",
        "one class",
    ),
    "a class that nobody knows": ("segment photo.jpg qwertz --run bank", "qwertz", "--related"),
    "no supports": ("segment photo.jpg zebra --run bank --shots 0", "shots", "1"),
    "supports in words": ("segment photo.jpg zebra --run bank --shots many", "--shots", "many"),
    "a confidence in words": ("segment photo.jpg zebra --run bank --min-confidence much", "--min-confidence", "much"),
    "a confidence of NaN": ("segment photo.jpg zebra --run bank --min-confidence nan", "--min-confidence", "number"),
    "a bank of nothing": ("bank", "llafs bank IMAGES ANNOTATIONS -o DIR", ""),
    "a bank without a place": ("bank images a.json", "-o DIR", ""),
    "a bank onto a folder": ("bank images a.json -o empty", "empty", "another folder"),
    "a bank below a file": ("bank images a.json -o photo.jpg/bank", "photo.jpg", "another"),
    "a bank, the words exchanged": ("bank a.json images -o new-bank", "a.json", ""),
    "a bank of no annotations": ("bank images notes.txt -o new-bank", "notes.txt", "COCO"),
    "nothing to do with a bank": ("bank --run bank", "--add", "--list"),
    "no such number": ("bank --run bank --remove 99", "99", "none"),
    "a mask of another size": ("bank --run bank --add photo.jpg narrow.png okapi", "narrow.png", "48 × 36"),
    "a mask of a bank that is none": ("bank --run images --add photo.jpg mask.png okapi", "images", ""),
}


def check(message: str, words: tuple[str, ...]) -> None:
    for word in words:
        assert word in message
    assert len(message) <= LONGEST, len(message)
    assert "\n" not in message.strip() and message.rstrip()[-1] in ".?)`"
    foreign = re.search(
        r" at 0x|Traceback|\w+Error|Errno|<\w+ (?:object|at)|<class|object has no|NoneType|\.py\b", message
    )
    assert not foreign, foreign


class TooLong(BaseException):
    """No exception that the library would take for a fault of the input."""


def _peak() -> int:
    """The most memory that this process has held since `_forget`, MB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


def _forget() -> None:
    # Freed memory that the process keeps would hide what is taken anew.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def within_limits(seconds: float = LONGEST_TIME, megabytes: float = MOST_MEMORY, wait: float = LONGEST_WAIT):
    """End what takes too long (a pipe waits for ever), and fail for what took too much memory, if only for a moment."""

    def late(*_):
        raise TooLong(f"it took more than {wait} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, wait)
    started = time.process_time()
    measured = Path("/proc/self/clear_refs").exists()
    if measured:
        _forget()
        held = _peak()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - started < seconds
    assert not measured or _peak() - held < megabytes, f"{_peak() - held} MB"


def test_the_limits_are_kept():
    with pytest.raises(TooLong), within_limits(wait=0.1):
        time.sleep(5)
    with pytest.raises(AssertionError), within_limits(seconds=0.05):
        started = time.process_time()
        while time.process_time() < started + 0.1:
            pass
    if Path("/proc/self/clear_refs").exists():
        with pytest.raises(AssertionError, match="MB"), within_limits(megabytes=50):
            np.ones(2**23).sum()  # 64 MB


@pytest.mark.parametrize("case", CALLS)
def test_calls(world, monkeypatch, case):
    root, model = world
    monkeypatch.chdir(root)
    call, *words = CALLS[case]
    before = state(root)
    with within_limits(), pytest.raises(LlafsError) as caught:
        call(model)
    check(str(caught.value), words)
    assert not changed(before, state(root))


@pytest.mark.parametrize(("content", "said"), [(b"no image", "eplace"), (b"", "empty"), (None, "was annotated")])
def test_an_annotated_image_that_cannot_be_used(tmp_path, monkeypatch, content, said):
    """Whoever mends it goes on with the bank that was begun."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "a.json").write_text(json.dumps(annotations()))
    for n in range(1, 5):
        image(n).save(tmp_path / "images" / f"p{n}.jpg")
    if content is None:
        image(3).crop((0, 0, 20, 20)).save("images/p3.jpg")
    else:
        (tmp_path / "images" / "p3.jpg").write_bytes(content)
    with pytest.raises(LlafsError) as caught:
        LLaFS.from_coco("a.json", **PLAIN)
    check(str(caught.value), ("images/p3.jpg", said))
    assert not (tmp_path / "a-bank" / "bank.json").exists()
    image(3).save("images/p3.jpg")
    assert len(LLaFS.from_coco("a.json", **PLAIN).bank) == 4


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(world, monkeypatch, capsys, case):
    root, _ = world
    monkeypatch.chdir(root)
    line, *words = COMMANDS[case]
    before = state(root)
    with within_limits():
        assert main(line.split()) == 2
    bar, _, message = capsys.readouterr().err.partition("llafs: ")
    assert "\n" not in bar.strip()
    check(message, words)
    assert not changed(before, state(root))
