"""A COCO file of one's own with drawn images, as an annotation tool writes it; see `draw_own`."""

import json

import numpy as np
from PIL import Image, ImageDraw

ODD_NAMES = ('<b>"owl"</b>', "$5 & $10", "çay bardağı", "it's | a_b", "茶碗")


def draw_own(folder, shown, size=(96, 72), file="objects.json", seed=0, first_id=1):
    """Draw images and write their COCO file; return its path.

    Args:
        shown: the classes of each image, such as [("pony",), ("pony", "hen")]; each is a rectangle of its own colour.
        size: (width, height) of the images, px.
        first_id: of the images; the next ones follow in steps of 2, so that all are odd or all are even.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng, names = np.random.default_rng(seed), list(dict.fromkeys(c for classes in shown for c in classes))
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 5 + 2 * n, "name": c, "supercategory": ""} for n, c in enumerate(names)]
    for number, classes in enumerate(shown):
        image = Image.fromarray(rng.integers(90, 130, (size[1], size[0], 3), dtype=np.uint8))
        image_id, name = first_id + 2 * number, f"{seed}-{number}.png"
        for place, c in enumerate(classes):
            left, top = (int(n) for n in rng.integers(2, 8, 2))
            left += place * size[0] // max(len(classes), 1)
            right, bottom = left + size[0] // (len(classes) + 1), top + size[1] * 2 // 3
            colour = tuple(np.random.default_rng(names.index(c)).integers(0, 255, 3).tolist())
            ImageDraw.Draw(image).rectangle((left, top, right, bottom), fill=colour)
            outline = [left, top, right, top, right, bottom, left, bottom]
            content["annotations"].append(
                {"id": len(content["annotations"]), "image_id": image_id, "category_id": 5 + 2 * names.index(c)}
                | {"segmentation": [outline], "iscrowd": 0}
            )
        image.save(folder / "images" / name)
        content["images"].append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
    path = folder / file
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
