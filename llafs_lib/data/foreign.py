"""Reading an annotation file: COCO's JSON in any encoding, and a word on what it is where it is not COCO's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llafs_lib.data.files import shown
from llafs_lib.errors import LlafsError

AGAIN = "Export it again as COCO instance segmentation"
DATUMARO = (
    "Convert it: pip install 'datumaro[cli]', and `datum convert -i FOLDER -if {} -f coco_instances -o coco -- "
    "--save-media`"
)
YOLO = (
    'a YOLO data set. Convert it: pip install supervision, and in its folder `python -c "import supervision as sv; '
    "sv.DetectionDataset.from_yolo('images/train', 'labels/train', 'data.yaml', force_masks=True)"
    ".as_coco('coco/images', 'coco/instances.json')\"`"
)
VIA = "a project of VIA. Open it in VIA, and choose Annotation → Export Annotations (COCO format)"
ARCHIVE = "an archive. Unpack it, and name the JSON file in it"
ENDINGS = {
    ".xml": f"XML, as PASCAL VOC and CVAT write it. {DATUMARO.format('voc_segmentation')} (or `-if cvat`)",
    ".yaml": YOLO,
    ".yml": YOLO,
    ".txt": YOLO,
    ".csv": f"a table. {AGAIN}",
    ".zip": ARCHIVE,
    ".gz": ARCHIVE,
}
KEYS = {  # keys of the outermost object → what has them
    ("shapes", "imagePath"): "a file of LabelMe, which holds one image. Convert all: pip install labelme2coco, and "
    "`labelme2coco FOLDER --export_dir FOLDER`",
    ("_via_img_metadata", "_via_settings"): VIA,
    ("items", "infos"): f"a file of Datumaro. {DATUMARO.format('datumaro')}",
    ("type", "features"): f"GeoJSON. {AGAIN}",
    ("videos", "annotations"): f"a file of video annotations. {AGAIN}, frame by frame",
    ("objects", "size"): "a file of Supervisely, which holds one image. Export the project there as COCO",
}


def read_coco_json(path: Path) -> dict:
    """A parsed COCO annotation file.

    Raises:
        LlafsError: it cannot be read, is no JSON, or is of another format; the message says which, and how to convert.
    """
    try:
        if not path.is_file():
            raise LlafsError(f"{path} is a folder, a pipe or a device: name a COCO JSON file.")
        with path.open("rb") as file:
            head = file.read(1024)
            if head.lstrip()[:1] not in (b"{", b"[") and path.suffix.lower() in ENDINGS:
                raise LlafsError(f"{path} is not a COCO file but {ENDINGS[path.suffix.lower()]}.")
            data = head + file.read() if _may_be_json(head) else head  # whatever else it is may be of any size
    except OSError as error:
        raise LlafsError(f"{path} cannot be read ({error.strerror}): name a COCO JSON file.") from error
    try:
        content = json.loads(data.decode(json.detect_encoding(data)).lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        reason = str(error) or "it is nested too deep"
        raise LlafsError(
            f"{path} is not readable JSON ({reason}). {AGAIN}, or download it again: it may be cut off."
        ) from error
    if not _is_coco(content):
        raise LlafsError(f"{path} is not a COCO file but {_kind_of(content)}.")
    return content


def _may_be_json(head: bytes) -> bool:
    """Whether a file that begins so may be JSON, in whatever encoding."""
    return head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] in (b"{", b"[") or not head.strip()


def what_lies_in(folder: Path) -> str:
    """A sentence on what a folder without masks holds instead; "" if nobody knows."""
    jsons = sorted(path.name for path in folder.glob("*.json"))
    if jsons:
        return f"It holds {jsons[0]}: if that is a COCO file, name the file itself."
    return f"It is {YOLO}." if (folder / "data.yaml").is_file() else ""


def _is_coco(content: Any) -> bool:
    if not isinstance(content, dict) or "images" not in content or _is_panoptic(content):
        return False
    return all(isinstance(content.get(key, []), list) for key in ("images", "annotations"))


def _is_panoptic(content: dict) -> bool:
    """Whether it is COCO's panoptic form, whose outlines are in PNG files."""
    entries = content.get("annotations")
    return isinstance(entries, list) and any(isinstance(a, dict) and "segments_info" in a for a in entries)


def _kind_of(content: Any) -> str:
    if isinstance(content, list):
        return _kind_of_list(content)
    if not isinstance(content, dict):
        return f"a single value. {AGAIN}"
    for keys, kind in KEYS.items():
        if all(key in content for key in keys):
            return kind
    if any(isinstance(v, dict) and {"regions", "filename"} <= v.keys() for v in content.values()):
        return VIA
    if _is_panoptic(content):
        return f"COCO panoptic. {DATUMARO.format('coco_panoptic')}"
    listed = ", ".join(shown(key) for key in list(content)[:6]) or "none"
    return f"another format: 'images' and 'annotations' are not both lists (its keys: {listed}). {AGAIN}"


def _kind_of_list(content: list) -> str:
    first = content[0] if content and isinstance(content[0], dict) else {}
    if "image_id" in first and ("score" in first or "segmentation" in first or "bbox" in first):
        return "a list of results. Put it as 'annotations' into the COCO file that lists their images and categories"
    if "data" in first and ("annotations" in first or "completions" in first):
        return "Label Studio's own JSON. In Label Studio, choose Export → COCO"
    return f"a list of another format. {AGAIN}"
