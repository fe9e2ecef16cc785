"""Facts about the official archives of COCO and PASCAL VOC: addresses, sizes, hashes, and what is wanted of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """An official zip or tar archive, and which of its files are wanted.

    Args:
        server: the first part of its address, which a mirror replaces.
        name: the rest of its address.
        size: bytes.
        digest: `"md5:…"` or `"sha256:…"`.
        holds: pattern of paths → how many files match it. The paths inside the archive are also those in the folder
            of the data set.
    """

    server: str
    name: str
    size: int
    digest: str
    holds: dict[str, int]

    def at(self, mirror: str | None) -> Archive:
        """The same archive on another server; None leaves it where it is."""
        return replace(self, server=mirror.rstrip("/")) if mirror else self

    @property
    def url(self) -> str:
        return f"{self.server}/{self.name}"

    def wants(self, member: str) -> bool:
        """Whether a file in the archive is wanted. Hidden files are not: macOS adds some."""
        return not Path(member).name.startswith(".") and any(fnmatchcase(member, p) for p in self.holds)

    def lacking(self, folder: Path) -> list[str]:
        """Which wanted files are not in `folder`, in words; empty when all are there."""
        found = {p: sum(not path.name.startswith(".") for path in folder.glob(p)) for p in self.holds}
        return [f"{p} ({found[p]:,} of {n:,})" for p, n in self.holds.items() if found[p] < n]


COCO_URL = "http://images.cocodataset.org"
COCO_IMAGES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000}  # split → images


# Image ids of coco-mini by split: 300 of train2017 and 120 of val2017.
COCO_MINI = json.loads(Path(__file__).with_name("coco_mini_ids.json").read_text(encoding="utf-8"))


def _images(split: str, size: int, sha256: str) -> Archive:
    return Archive(COCO_URL, f"zips/{split}.zip", size, f"sha256:{sha256}", {f"{split}/*.jpg": COCO_IMAGES[split]})


def _annotations(year: str, size: int, sha256: str) -> Archive:
    """The object masks of both splits; captions and key points stay in the archive."""
    holds = {f"annotations/instances_{part}{year}.json": 1 for part in ("train", "val")}
    return Archive(COCO_URL, f"annotations/annotations_trainval{year}.zip", size, f"sha256:{sha256}", holds)


# Bytes and hashes: tensorflow/datasets, tensorflow_datasets/url_checksums/coco.txt.
COCO = {
    "train2014": _images(
        "train2014", 13_510_573_713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"
    ),
    "val2014": _images("val2014", 6_645_013_297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
    "annotations2014": _annotations(
        "2014", 252_872_794, "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009"
    ),
    "train2017": _images(
        "train2017", 19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"
    ),
    "val2017": _images("val2017", 815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
    "annotations2017": _annotations(
        "2017", 252_907_541, "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268"
    ),
}

# Addresses and md5: torchvision.datasets, voc.py and sbd.py. Bytes of VOC's archive: tensorflow_datasets/
# url_checksums/voc.txt. Bytes of SBD's archive: what its server announces.
_VOC, _SBD = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
PASCAL = {
    # Images, class masks and lists; boxes and the masks of single objects stay in the archive.
    "voc": Archive(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012",
        "VOCtrainval_11-May-2012.tar",
        1_999_639_040,
        "md5:6cd6e144f989b92b3379bac3b3de84fd",
        {
            f"{_VOC}/JPEGImages/*.jpg": 17_125,  # train and val of all tasks
            f"{_VOC}/SegmentationClass/*.png": 2_913,  # 1,464 of train and 1,449 of val
            **{f"{_VOC}/ImageSets/Segmentation/{part}.txt": 1 for part in ("train", "val", "trainval")},
        },
    ),
    # Class masks and lists. SBD's images are those of VOC 2011, which VOC 2012 holds, too.
    "sbd": Archive(
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours",
        "benchmark.tgz",
        1_419_539_633,
        "md5:82b4d87ceb2ed10f6038a1cba92111cb",
        {
            f"{_SBD}/cls/*.mat": 11_355,  # home.bharathh.info/pubs/codes/SBD/download.html
            f"{_SBD}/train.txt": 1,
            f"{_SBD}/val.txt": 1,
        },
    ),
}
