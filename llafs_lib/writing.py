"""Results as files: masks, label maps, overlays, COCO and YOLO annotations, at places that `outputs` has planned.

Every file is written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

from llafs_lib.artifacts import replacing
from llafs_lib.errors import LlafsError
from llafs_lib.outputs import LISTS, Output, class_colours, plan_output
from llafs_lib.records import Prediction, Predictions

THUMBNAIL = 240  # px of the longer side, on a sheet
OPACITY = 0.45  # of the colours in an overlay


def save(result: Prediction | Predictions, path: str | Path, format: str | None = None) -> Path:
    """Write one result, as `Prediction.save` says; return the file, or the folder where there are several."""
    found = parts_of(result)
    classes = [p.class_name for p in found]
    output = plan_output(path, format, [result.source or classes[0]], classes)
    with Writer(output) as writer:
        files = writer.write(0, result)
    return files[0] if len(files) == 1 else output.path


class Writer:
    """Writes one result after the other; use it in a `with` block.

    What all images share (COCO, a sheet) is written when the block ends, also where an error or Ctrl-C ends it. The
    results themselves are not kept in memory.

    Args:
        draw: for format "figure", makes a matplotlib figure of a `Prediction`; for "sheet", one of a list of
            (image, title).
    """

    def __init__(self, output: Output, draw: Callable[[Any], Any] | None = None):
        self.output, self._draw = output, draw
        self._cells: list[tuple[np.ndarray, str]] = []
        self._images: list[dict[str, Any]] = []  # COCO's, as its objects, whose masks are run lengths
        self._objects: list[dict[str, Any]] = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._images:
            self._write_coco()
        if self._cells:
            self._save_figure(self._cells, self.output.collected)

    def write(self, number: int, result: Prediction | Predictions) -> list[Path]:
        """Write the result of image `number`, counted from 0 in the order that was planned; return its files.

        Raises:
            LlafsError: a file cannot be written, or the result does not hold its image where the format shows it.
        """
        found, files = parts_of(result), self.output.files(number)
        match self.output.format:
            case "coco":
                self._collect(number, found)
            case "sheet":
                self._cells.append((_thumbnail(overlay_of(result)), self._title(number, found)))
            case "figure":
                for prediction, file in zip(found, files, strict=True):
                    self._save_figure(prediction, file)
            case "mask":
                for prediction, file in zip(found, files, strict=True):
                    _save_image(prediction.mask.astype(np.uint8) * 255, file)
            case "overlay":
                _save_image(overlay_of(result), files[0])
            case "labelmap":  # plain grey values: a palette reads as colours in OpenCV
                kind = np.uint8 if len(self.output.classes) < 256 else np.uint16
                _save_image(label_map_of(result).astype(kind), files[0])
            case "yolo":
                lines = [f"{line}\n" for i, p in enumerate(found) for line in yolo_lines(p.mask, i)]
                _save_bytes("".join(lines).encode(), files[0])
        if self.output.format in LISTS and self.output.companion:
            _save_bytes(self.output.class_list(), self.output.companion)
        return files

    def _save_figure(self, shown: Any, file: Path) -> None:
        with replacing(file) as partial:
            dpi = 240 if isinstance(shown, Prediction) else 110  # one row of small images, or a sheet of many
            self._draw(shown).savefig(partial, dpi=dpi, bbox_inches="tight")

    def _title(self, number: int, found: Sequence[Prediction]) -> str:
        sure = [f"{p.confidence:.2f}" for p in found if p.confidence is not None]
        return "\n".join([self.output.names[number], ", ".join(sure)]).strip()

    def _collect(self, number: int, found: Sequence[Prediction]) -> None:
        (height, width), file = found[0].mask.shape, {"file_name": self.output.images[number]}
        self._images.append({"id": number + 1, **file, "width": width, "height": height})
        for category, prediction in enumerate(found, 1):
            if prediction.mask.any():  # the readers of COCO files take an object without a pixel for an error
                place = {"id": len(self._objects) + 1, "image_id": number + 1, **file}
                category_of = {"category_id": category, "category_name": prediction.class_name}
                # the confidence that the class is there at all, or else the mean probability within the mask
                sure = prediction.confidence
                score = float(prediction.probability[prediction.mask].mean() if sure is None else sure)
                self._objects.append({**place, **category_of, **coco_object(prediction.mask), "score": score})

    def _write_coco(self) -> None:
        """Write what `COCO(…)` of pycocotools opens, with scores, and beside it the list that its `loadRes` takes."""
        content = {
            "info": {"description": "Segmented by LLaFS"},
            "licenses": [],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.output.classes, 1)],
            "images": self._images,
            "annotations": self._objects,
        }
        # without boxes, as `loadRes` takes the area of a box for that of the object
        left_out = {"id", "bbox", "area", "iscrowd"}
        results = [{k: v for k, v in found.items() if k not in left_out} for found in self._objects]
        for path, listed in ((self.output.collected, content), (self.output.companion, results)):
            _save_bytes(json.dumps(listed).encode(), path)  # in ASCII: pycocotools goes by the system's encoding


def _save_bytes(content: bytes, path: Path) -> None:
    with replacing(path) as partial:
        partial.write_bytes(content)


def _save_image(pixels: np.ndarray, path: Path) -> None:
    """[H, W] uint8 or uint16, or [H, W, 3] uint8."""
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, quality=92)


# --- what the files hold ---------------------------------------------------------------------------------------------


def parts_of(result: Prediction | Predictions) -> tuple[Prediction, ...]:
    """The prediction of each class."""
    return result.found if isinstance(result, Predictions) else (result,)


def label_map_of(result: Prediction | Predictions) -> np.ndarray:
    """[H, W] uint16: 0 where nothing was found, else the number of the class, counted from 1."""
    return result.label_map if isinstance(result, Predictions) else result.mask.astype(np.uint16)


def overlay_of(result: Prediction | Predictions) -> np.ndarray:
    """The image [H, W, 3] uint8 with a tint and an outline for each class.

    Raises:
        LlafsError: the result does not hold its image.
    """
    found, labels = parts_of(result), label_map_of(result)
    image = found[0].image
    if image is None:
        raise LlafsError("this result does not hold its image, so no overlay can be made: save it as mask or coco.")
    height, width = labels.shape
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    coloured = class_colours(len(found))[labels]  # [H, W] → [H, W, 3]
    shown = np.where(labels[..., None] > 0, cv2.addWeighted(image, 1 - OPACITY, coloured, OPACITY, 0), image)
    brush = np.ones((2 * (1 + max(height, width) // 1000) + 1,) * 2, np.uint8)  # as thick as the image is large
    border = (labels > 0) & (cv2.erode(labels, brush) != cv2.dilate(labels, brush))
    shown[border] = coloured[border]
    return shown


def _thumbnail(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.array(small)


def coco_object(mask: np.ndarray) -> dict[str, Any]:
    """A mask [H, W] bool that is not empty as COCO has it: box [x, y, width, height] and area in px, and run lengths.

    All its pixels are one object, whatever number of parts they make.
    """
    packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {
        "bbox": coco_mask.toBbox(packed).tolist(),
        "area": int(coco_mask.area(packed)),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": packed["counts"].decode("ascii")},
    }


def yolo_lines(mask: np.ndarray, number: int) -> list[str]:
    """A mask [H, W] bool in YOLO's segmentation format: a line `number x1 y1 x2 y2 …` for each of its parts.

    The points are pixels of the part, as shares of the width and the height. The format has one outline per line and
    no holes. So the outline goes along a cut into each hole, round it and back, which a reader fills rightly but for
    the cut, one pixel wide. A part of one or two pixels becomes a small box.
    """
    height, width = mask.shape
    outlines, levels = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    lines = []
    for i, outline in enumerate(outlines):
        if levels[0, i, 3] < 0:  # no parent: the outline of a part
            holes = [outlines[j][:, 0] for j in np.flatnonzero(levels[0, :, 3] == i)]
            # some readers cut to whole pixels, others round: a quarter of a pixel more is the same pixel for both
            points = (_with_holes(_with_area(outline[:, 0]), holes) + 0.25) / (width, height)  # [n, 2] x, y
            lines.append(" ".join([str(number), *(f"{value:.6f}" for value in points.ravel())]))
    return lines


def _with_area(points: np.ndarray) -> np.ndarray:
    """The outline [n, 2]; one or two points become the four corners around them, a fifth of a pixel away."""
    if len(points) > 2:
        return points
    first, last = points[0].astype(float), points[-1].astype(float)
    along = last - first if len(points) == 2 else np.array([1.0, 0.0])
    along = 0.14 * along / np.linalg.norm(along)
    across = np.array([-along[1], along[0]])
    return np.array([first - along - across, first - along + across, last + along + across, last + along - across])


def _with_holes(outline: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """One outline [n, 2] that goes into each hole and back, where the two are nearest."""
    for hole in holes:
        distances, nearest = cKDTree(outline).query(hole)
        j = int(distances.argmin())
        i = int(nearest[j])
        outline = np.concatenate([outline[: i + 1], hole[j:], hole[: j + 1], outline[i:]])
    return outline
