"""The official archives of COCO and PASCAL VOC: where they are, what is wanted of them, and how they are unpacked.

A part that is already there is recognised by its files, also when somebody unpacked the archive by hand. Each file is
unpacked under a temporary name and moved into place, so that a kill leaves whole files only and a second run goes on.
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PureWindowsPath
from typing import IO

from llafs_lib.data.download import DownloadError, Remote, fetch, gigabytes, require_space, writing
from llafs_lib.errors import LlafsError
from llafs_lib.progress import track

COCO_URL = "http://images.cocodataset.org"
# Bytes and hashes: tensorflow/datasets, tensorflow_datasets/url_checksums/coco.txt.
COCO_ARCHIVES = {
    "zips/train2014.zip": (13_510_573_713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"),
    "zips/val2014.zip": (6_645_013_297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
    "annotations/annotations_trainval2014.zip": (
        252_872_794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    ),
    "zips/train2017.zip": (19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
    "zips/val2017.zip": (815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
    "annotations/annotations_trainval2017.zip": (
        252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
}
COCO_IMAGES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}

# Addresses and md5: torchvision.datasets, voc.py and sbd.py. Bytes of the VOC archive: tensorflow_datasets/
# url_checksums/voc.txt; of the SBD archive: what its server announces to torchvision's download bar.
VOC_URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012"
SBD_URL = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
VOC_ARCHIVE = ("VOCtrainval_11-May-2012.tar", 1_999_639_040, "md5:6cd6e144f989b92b3379bac3b3de84fd")
SBD_ARCHIVE = ("benchmark.tgz", 1_419_539_633, "md5:82b4d87ceb2ed10f6038a1cba92111cb")
VOC_IMAGES, VOC_MASKS = 17_125, 2_913  # train and val of all tasks; of segmentation (1,464 + 1,449)
SBD_MASKS = 11_355  # home.bharathh.info/pubs/codes/SBD/download.html


@dataclass(frozen=True)
class Part:
    """One official archive and the files that are wanted of it.

    Args:
        holds: for each pattern of paths under the data set's folder, which are also the paths inside the archive, how
            many files match it when the part is complete.
    """

    url: str
    size: int
    digest: str
    holds: dict[str, int]

    @property
    def archive(self) -> str:
        return self.url.rpartition("/")[2]

    def wants(self, member: str) -> bool:
        hidden = member.rpartition("/")[2].startswith(".")  # what macOS adds to an archive
        return not hidden and any(fnmatchcase(member, pattern) for pattern in self.holds)

    def lacks(self, folder: Path) -> list[str]:
        """What is missing in `folder`, in words; empty when the part is complete."""
        found = {pattern: sum(not p.name.startswith(".") for p in folder.glob(pattern)) for pattern in self.holds}
        return [f"{p} ({found[p]:,} of {n:,})" for p, n in self.holds.items() if found[p] < n]


def coco_part(name: str, holds: dict[str, int], mirror: str | None = None) -> Part:
    """The part of COCO in archive `name`, one of `COCO_ARCHIVES`; `mirror` stands in for `COCO_URL`."""
    size, sha256 = COCO_ARCHIVES[name]
    return Part(f"{(mirror or COCO_URL).rstrip('/')}/{name}", size, f"sha256:{sha256}", holds)


def coco_images(split: str, mirror: str | None = None) -> Part:
    """The images of a split such as `train2014`."""
    return coco_part(f"zips/{split}.zip", {f"{split}/*.jpg": COCO_IMAGES[split]}, mirror)


def coco_annotations(splits: Iterable[str], mirror: str | None = None) -> Part:
    """The object masks of splits of one release; captions and key points stay in the archive."""
    splits = tuple(splits)
    holds = {f"annotations/instances_{split}.json": 1 for split in splits}
    return coco_part(f"annotations/annotations_trainval{splits[0][-4:]}.zip", holds, mirror)


def images_listed(annotations: Path) -> int:
    """How many images a COCO annotation file lists; 0 without one. Nothing is parsed, the big ones have 450 MB."""
    key, n_found, tail = b'"coco_url"', 0, b""
    if annotations.is_file():
        with open(annotations, "rb") as file:
            while block := file.read(2**24):
                n_found += (tail + block).count(key)
                tail = block[1 - len(key) :]  # shorter than the key: nothing is counted twice
    return n_found


def voc_part(mirror: str | None = None) -> Part:
    """Images, masks and lists of VOC 2012; its boxes and its masks of single objects stay in the archive."""
    name, size, digest = VOC_ARCHIVE
    inside = "VOCdevkit/VOC2012"
    holds = {f"{inside}/JPEGImages/*.jpg": VOC_IMAGES, f"{inside}/SegmentationClass/*.png": VOC_MASKS}
    holds |= {f"{inside}/ImageSets/Segmentation/{list_}.txt": 1 for list_ in ("train", "val", "trainval")}
    return Part(f"{(mirror or VOC_URL).rstrip('/')}/{name}", size, digest, holds)


def sbd_part(mirror: str | None = None) -> Part:
    """Masks and lists of SBD. Its images are those of VOC 2011, which VOC 2012's `JPEGImages` holds too."""
    name, size, digest = SBD_ARCHIVE
    inside = "benchmark_RELEASE/dataset"
    holds = {f"{inside}/cls/*.mat": SBD_MASKS, f"{inside}/train.txt": 1, f"{inside}/val.txt": 1}
    return Part(f"{(mirror or SBD_URL).rstrip('/')}/{name}", size, digest, holds)


def complete(parts: Iterable[Part], folder: Path, *, keep_archives: bool = False, workers: int = 1) -> bool:
    """Download and unpack into `folder` what is not there yet; returns whether anything was missing.

    Raises:
        DownloadError: too little space, or a part that could not be fetched or unpacked; running again goes on.
    """
    todo = sorted((part for part in parts if part.lacks(folder)), key=lambda part: part.size)
    remotes = [Remote(part.url, folder / part.archive, part.size, part.digest) for part in todo]
    missing = [remote for remote in remotes if not remote.is_there()]
    _announce(missing, todo, folder, keep_archives)
    fetch(missing, "downloading", workers=workers)
    for part in todo:
        archive = folder / part.archive
        unpack(archive, folder, part.wants)
        if lacking := part.lacks(folder):
            raise DownloadError(
                f"{archive} is unpacked, but {folder} still lacks {', '.join(lacking)}. Delete the archive and run "
                "again, with --mirror if it happens twice."
            )
        if not keep_archives:
            archive.unlink()
    return bool(todo)


def _announce(missing: list[Remote], todo: list[Part], folder: Path, keep_archives: bool) -> None:
    """Say what will be downloaded, and refuse at once if there is no room for it and for what comes out of it."""
    for remote in missing:
        begun = f", {gigabytes(remote.have)} of it already here" if remote.have else ""
        print(f"to download: {remote.url}, {gigabytes(remote.size)}{begun}", flush=True)
    if missing:  # unpacked, images take as much again; without --keep-archives each archive goes before the next
        unpacked = [part.size for part in todo]
        room = sum(remote.size - remote.have for remote in missing)
        room += sum(unpacked) if keep_archives else max(unpacked)
        require_space(folder, room, "the download with what is unpacked from it")


# ----------------------------------------------------------------------------------------- unpacking


def unpack(archive: Path, folder: Path, wants: Callable[[str], bool] = lambda member: True) -> None:
    """Unpack the wanted files of a zip or tar archive into `folder`; those already there are left alone.

    Nothing is ever written outside `folder`: a name that leads out of it, a link and a device are refused. The names
    of a zip are all looked at before its first file is written.

    Raises:
        DownloadError: the archive is damaged or unsafe, or there is no space.
    """
    entries = _zip_entries if archive.suffix == ".zip" else _tar_entries
    try:
        for name, size, source in entries(archive, wants):
            target = folder / _safe(archive, name)
            with writing(target):
                if not (target.is_file() and target.stat().st_size == size):
                    write(target, source)
    # Reading a damaged archive raises all of these; what was raised by writing is a DownloadError by now.
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, OSError) as error:
        reason = str(error).partition(":\n")[0] or type(error).__name__  # tarfile lists every format that it is not in
        raise DownloadError(
            f"{archive} is damaged ({reason}). Delete it and run again; what was unpacked is kept."
        ) from error


def _zip_entries(archive: Path, wants: Callable[[str], bool]) -> Iterator[tuple[str, int, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        members = [m for m in file.infolist() if not m.is_dir() and wants(m.filename)]
        for member in members:
            _safe(archive, member.filename, plain=stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG))
        for member in track(members, f"unpacking {archive.name}", "file"):
            with file.open(member) as source:
                yield member.filename, member.file_size, source


def _tar_entries(archive: Path, wants: Callable[[str], bool]) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(archive) as file:
        for member in track(file, f"unpacking {archive.name}", "file"):
            if not member.isdir() and wants(member.name):
                _safe(archive, member.name, plain=member.isreg())
                yield member.name, member.size, file.extractfile(member)


def _safe(archive: Path, name: str, plain: bool = True) -> Path:
    """The relative path that a member's name stands for, on any system.

    Raises:
        DownloadError: it leads out of the folder, or is no plain file. (`tarfile`'s own "data" filter knows tar only,
            and not before Python 3.11.4.)
    """
    path = PureWindowsPath(name)  # knows / and \\, drives and network paths
    if path.anchor or ".." in path.parts or not path.name or not plain:
        raise DownloadError(
            f"{archive} holds {name!r}, which would lead out of the folder or is no plain file: this is not the "
            "official archive. Delete it and download it from another place."
        )
    return Path(*path.parts)


def write(target: Path, source: IO[bytes]) -> None:
    """Write a file through a temporary name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with open(partial, "wb") as file:
            for block in _blocks(source):
                file.write(block)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    while True:
        try:
            block = source.read(2**20)
        except OSError as error:  # gzip's word for damage; here it must not be taken for trouble with writing
            raise tarfile.ReadError(str(error)) from error
        if not block:
            return
        yield block


# ------------------------------------------------------------------------------------------- scripts


def run_script(name: str, work: Callable[[], None]) -> int:
    """Do the work of a script; returns its exit status and says in one line what stopped it."""
    try:
        work()
    except LlafsError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped. Run the same command again: it goes on from here.", file=sys.stderr)
        return 130
    return 0


def count(text: str) -> int:
    """A whole number ≥ 1, for `argparse`."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
