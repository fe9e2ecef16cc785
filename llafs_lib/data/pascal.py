"""PASCAL-5i: VOC 2012 with the additional masks of SBD, in their official layouts (spec §3.4).

    pascal/VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}
    pascal/benchmark_RELEASE/dataset/{cls/*.mat,train.txt,val.txt}

The training images are the field's "trainaug" list of 10,582 images: VOC's training list and every image that SBD
annotates, without VOC's validation list. Where both have a mask, VOC's is used, because it is finer and marks void.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from llafs_lib.classes import PASCAL_CLASSES
from llafs_lib.data.files import plain_file, shown
from llafs_lib.data.labels import VOID, Painted, Skipped, open_labels
from llafs_lib.data.splits import Split
from llafs_lib.errors import LlafsError
from llafs_lib.progress import track

TRAINAUG = 10_582  # images in the merged training list of the official files
SPLITS = ("train", "val")


class VocSplit(Split):
    """The training or the validation split of PASCAL-5i.

    VOC names an image 2007_000032; its id here is the number 2007000032.

    Args:
        root: the folder that holds `VOCdevkit` and, for training, `benchmark_RELEASE`.
        part: "train" (VOC and SBD) or "val" (VOC).

    Raises:
        LlafsError: a missing file or folder, or a file that is not a mask of VOC classes.
    """

    def __init__(self, root: str | Path, part: str):
        root = Path(root)
        self._voc, self._sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
        self._part, folders = part, [self._voc / "SegmentationClass"]
        if part == "train":
            folders.append(self._sbd / "cls")
        needed = [*list_files(root, part), *folders, self._voc / "JPEGImages"]
        missing = [path for path in needed if not path.exists()]
        if missing:
            raise LlafsError(
                f"PASCAL-5i lacks {missing[0]}: run `python data_scripts/download_pascal.py`, or set LLAFS_DATA to the "
                "folder that holds pascal/."
            )
        labels = open_labels(f"voc2012-{part}", needed[:-1], PASCAL_CLASSES, self._paint_all)
        super().__init__(self._voc / "JPEGImages", PASCAL_CLASSES, labels)

    def _paint_all(self, skipped: Skipped) -> Iterator[Painted]:
        names = merged_list(self._voc, self._sbd) if self._part == "train" else _read_list(_voc_list(self._voc, "val"))
        if self._part == "train" and len(names) != TRAINAUG:
            skipped.add(f"a merged training list of {len(names):,} images instead of {TRAINAUG:,}", str(self._sbd))
        own = set(_read_list(_voc_list(self._voc, self._part)))
        for name in track(sorted(names, key=_image_id), f"label maps, VOC 2012 {self._part}", "image"):
            labels = self._voc_labels(name) if name in own else self._sbd_labels(name)
            yield Painted(_image_id(name), f"{name}.jpg", labels)

    def _voc_labels(self, name: str) -> np.ndarray:
        """[H, W] uint8. The palette indices of the PNG are the labels; 255 marks the void outlines."""
        path = self._voc / "SegmentationClass" / f"{name}.png"
        try:
            with Image.open(plain_file(path)) as image:
                labels = np.asarray(image)
        except LlafsError:
            raise
        except Exception as error:  # decoders raise many kinds
            raise LlafsError(f"{path} is not a readable mask: it is cut off or damaged. Download it again.") from error
        return _checked(labels, path)

    def _sbd_labels(self, name: str) -> np.ndarray:
        """[H, W] uint8 from SBD's MATLAB file. SBD has no void."""
        from scipy.io import loadmat  # imported here, because it takes a quarter of a second

        path = self._sbd / "cls" / f"{name}.mat"
        try:
            labels = loadmat(plain_file(path))["GTcls"]["Segmentation"][0, 0]
        except LlafsError:
            raise
        except Exception as error:  # scipy raises half a dozen types for a missing, truncated or foreign file
            raise LlafsError(
                f"{path} is not a readable SBD mask: it is cut off or damaged. Download it again."
            ) from error
        return _checked(labels, path)


def list_files(root: Path, part: str = "train") -> tuple[Path, ...]:
    """The official lists that decide a split. Training needs VOC's validation list, too, to leave its images out."""
    voc, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
    if part == "val":
        return (_voc_list(voc, "val"),)
    return (*(_voc_list(voc, p) for p in SPLITS), *(sbd / f"{p}.txt" for p in SPLITS))


def merged_list(voc: Path, sbd: Path) -> list[str]:
    """The names of VOC's training images and all of SBD's images, without VOC's validation images, sorted."""
    annotated = {
        name for path in (_voc_list(voc, "train"), sbd / "train.txt", sbd / "val.txt") for name in _read_list(path)
    }
    return sorted(annotated - set(_read_list(_voc_list(voc, "val"))))


def _voc_list(voc: Path, part: str) -> Path:
    return voc / "ImageSets" / "Segmentation" / f"{part}.txt"


def _read_list(path: Path) -> list[str]:
    names = path.read_text(encoding="utf-8", errors="replace").split() if path.is_file() else []
    odd = next((name for name in names if not re.fullmatch(r"\d{4}_\d{6}", name)), None)
    if odd is not None:
        raise LlafsError(f"{path} lists {shown(odd)}, which is no name such as 2007_000032: download the list again.")
    return names


def _image_id(name: str) -> int:
    """2007_000032 → 2007000032"""
    year, number = name.split("_")
    return int(year) * 10**6 + int(number)


def _checked(labels: np.ndarray, path: Path) -> np.ndarray:
    values = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    if labels.ndim != 2 or labels.dtype != np.uint8 or set(values) - {*range(len(PASCAL_CLASSES) + 1), VOID}:
        raise LlafsError(f"{path} is not a mask of VOC classes (labels 0 to 20, void {VOID}); download it again.")
    return labels
