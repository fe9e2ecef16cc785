"""Images and masks from files, PIL images, arrays and tensors: they come out right, or one sentence says why not.

An image larger than `LARGEST` px, or a baseline JPEG larger than `LARGEST_JPEG` px, is refused before it is decoded. So
reading takes at most about 2.5 GB of memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from llafs_lib.data.files import find_images, plain_file, shown
from llafs_lib.data.formats import FORMATS, RAW, RAW_FILE, what_it_is
from llafs_lib.data.pixels import is_tensor, mask_of, rgb_of, to_array
from llafs_lib.errors import LlafsError

__all__ = ["ReadImage", "as_mask", "as_rgb", "find_images", "image_size", "read_image", "read_rgb", "shown"]

END_OF_JPEG = b"\xff\xd9"
LARGEST = 2**27  # px, such as 11,585 × 11,585
LARGEST_JPEG = 2**28  # px, such as 16,384 × 16,384, where OpenCV decodes straight to RGB
NOISE = bytes(7 * i * i % 251 for i in range(1, 257))  # no 0xff, hence no marker
ORIENTATION, SUBFILE, COLOURS, DNG = 274, 254, 262, 50706  # EXIF and TIFF tags
YCBCR = 6  # a value of COLOURS

_opening = threading.Lock()


class ReadImage(NamedTuple):
    """An image, and what there is to say about it."""

    pixels: np.ndarray  # [H, W, 3] uint8 RGB
    notes: tuple[str, ...] = ()  # one clause for each thing that somebody may want to know


def read_rgb(path: str | Path, turn: bool = True) -> np.ndarray:
    """Read an image file as [H, W, 3] uint8 RGB.

    Grey, palette, CMYK, LAB, 1, 12 and 16 bits and floats are converted. Transparent places become white. Of an
    animation or a file of several pages, the first is read.

    Args:
        turn: apply the EXIF orientation. A TIFF always comes turned.

    Raises:
        LlafsError: the file is missing, no plain file, no image, of a kind that is not read, damaged, or too large.
    """
    return read_image(path, turn).pixels


def read_image(image, turn: bool = True) -> ReadImage:
    """`as_rgb`, with notes: that a file is the first of several frames, that it has transparent places.

    Args:
        turn: as for `read_rgb`; of a file only.
    """
    if not isinstance(image, str | os.PathLike):
        return ReadImage(rgb_of(_array_of(image, "the image"), "the image", is_tensor(image)))
    path = image
    with _opened(path) as (image, file):
        pixels = _decoded(image, file)
        notes = [f"the first of {n} frames"] if (n := _frames(image)) > 1 else []
        if pixels.ndim == 3 and pixels.shape[2] in (2, 4) and pixels[..., -1].min() < np.iinfo(pixels.dtype).max:
            notes.append("transparent places were taken as white")
        pixels = _turned(pixels, _orientation(image) if turn else 1)
        return ReadImage(rgb_of(pixels, shown(path)), tuple(notes))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file in px, after the EXIF orientation, read from its header.

    Raises:
        LlafsError: as `read_rgb`, but for what only decoding finds.
    """
    with _opened(path) as (image, _):
        width, height = image.size
        return (width, height) if _orientation(image) > 4 else (height, width)


def as_rgb(image) -> np.ndarray:
    """Whatever holds an image as [H, W, 3] uint8 RGB.

    Args:
        image: a path, a PIL image (turned as its EXIF data say), an array or a tensor. `pixels.py` says which shapes,
            types and ranges are taken. OpenCV's order of colours, BGR, cannot be told from RGB: turn it first.

    Raises:
        LlafsError: it cannot be read, or its shape, type or range is not one of those.
    """
    return read_image(image).pixels


def as_mask(mask, size: tuple[int, int]) -> np.ndarray:
    """Whatever holds the mask of one class as [H, W] bool of exactly `size`.

    Args:
        mask: a path, a PIL image, an array or a tensor. True and False, 0 and one other value (1, 255, a colour), or
            fractions from 0 to 1, which are cut at 0.5. It is taken as it is: an empty one is empty, and one with the
            object in black is not inverted.
        size: (height, width) of the image, px.

    Raises:
        LlafsError: it cannot be read, has another size, or holds several values, as a label map does.
    """
    if not isinstance(mask, str | os.PathLike):
        return mask_of(_array_of(mask, "the mask"), size, "the mask", is_tensor(mask))
    with _opened(mask) as (image, file):
        pixels = _turned(_decoded(image, file), _orientation(image))
        return mask_of(pixels, size, shown(mask))


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """A file whose header was read. Whatever its decoder complains about becomes one sentence."""
    path = plain_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
            if head[4:8] == b"ftyp":
                with contextlib.suppress(ImportError):
                    import pillow_heif

                    pillow_heif.register_heif_opener()
            file.seek(0)
            with _pil(file) as image:
                tags = getattr(image, "tag_v2", {})
                if path.suffix.lower() in RAW or DNG in tags or tags.get(SUBFILE) == 1:  # the first page is a thumbnail
                    raise LlafsError(f"{shown(path)} is {RAW_FILE}")
                yield image, file
    except LlafsError:
        raise
    except UnidentifiedImageError as error:
        raise LlafsError(f"{shown(path)} is {what_it_is(head, path.suffix)}") from error
    except MemoryError as error:
        raise LlafsError(f"{shown(path)} does not fit into the memory that is left: shrink it.") from error
    except Exception as error:  # decoders raise many kinds, in words for those who write decoders
        raise LlafsError(
            f"{shown(path)} is not a readable image: it is cut off or damaged. Replace or download it again."
        ) from error


def _pil(file: BinaryIO) -> Image.Image:
    """PIL's `open`, without its own limit on the size, and for kinds of images that hold pixels alone."""
    Image.init()
    with _opening:  # the limit is a global variable of PIL's
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decoded(image: Image.Image, file: BinaryIO) -> np.ndarray:
    """The pixels of the first frame as they are stored: [H, W] or [H, W, C] of some type, not turned."""
    jpeg, progressive = image.format in ("JPEG", "MPO"), image.info.get("progressive")
    plain = image.format == "JPEG" and image.mode in ("RGB", "L")
    limit = LARGEST_JPEG if plain and not progressive else LARGEST
    if image.width * image.height > limit:
        size = f"{image.width} × {image.height} px"
        raise LlafsError(f"{shown(image.fp.name)} has {size}, which is larger than {limit:,} px: shrink it.")
    file.seek(0)
    data, pixels = file.read() if jpeg else b"", None
    if plain and data.endswith(END_OF_JPEG):
        # OpenCV returns the same pixels as PIL, a fifth faster. It does not notice a file that is cut off, so PIL reads
        # every file without the end of a JPEG.
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        pixels = _where_pil_falls_short(image, file)
    if pixels is None:
        pixels = _pixels(image)
    # What a baseline JPEG lacks is mid-grey, which becomes another colour in CMYK. A progressive one is only blurred.
    in_doubt = progressive or image.mode == "CMYK" or (pixels[-1, -1] == 128).all()
    if jpeg and in_doubt and not _has_all_data(data):
        raise ValueError("the data ends before the image does")
    return pixels


def _has_all_data(data: bytes) -> bool:
    """Whether the data of a JPEG reaches to its end mark, which a file that was cut off may have been given later.

    Decoders fill up what is missing without a word. Where nothing is missing, bytes before the end mark change nothing.
    """
    end = data.rfind(END_OF_JPEG)
    found = set()
    for version in (data, data[:end] + NOISE + data[end:]):
        with _pil(io.BytesIO(version)) as image:
            found.add(hashlib.sha256(np.asarray(image)).digest())
    return len(found) == 1


def _where_pil_falls_short(image: Image.Image, file: BinaryIO) -> np.ndarray | None:
    """What OpenCV decodes better, if it is that: 16-bit colours, of which PIL keeps 8 bits, and uncompressed YCbCr."""
    stored = str(image.tile[0]) if image.tile else ""
    ycbcr = "raw" in stored and getattr(image, "tag_v2", {}).get(COLOURS) == YCBCR
    if image.mode not in ("RGB", "RGBA") or not (";16" in stored or ycbcr):
        return None
    file.seek(0)
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3:
        return None
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]  # BGR(A) → RGB(A)


def _pixels(image: Image.Image) -> np.ndarray:
    """A PIL image as an array whose channels are one of grey, grey and opacity, RGB, RGB and opacity."""
    mode = image.mode
    if mode == "La":
        return np.array(image.convert("LA"))
    if mode in ("PA", "RGBa") or (mode in ("1", "L", "P", "RGB") and "transparency" in image.info):
        return np.array(image.convert("RGBA"))
    if mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return np.array(ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB"))
    if mode in ("1", "L", "LA", "RGB", "RGBA", "I", "F") or mode.startswith("I;16"):
        return np.array(image)
    return np.array(image.convert("RGB"))


def _array_of(value, name: str) -> np.ndarray:
    """The array of a PIL image, turned as its EXIF data say, of an array or a tensor."""
    if not isinstance(value, Image.Image):
        return to_array(value, name)
    try:
        return _turned(_pixels(value), _orientation(value))
    except Exception as error:  # a closed file, one that is cut off: PIL reads it only now
        raise LlafsError(f"{name}, a PIL image, cannot be read: its file is closed, cut off or damaged.") from error


def _orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF numbers them; above 4, height and width change places."""
    if image.format == "TIFF":  # its decoders turn it
        return 1
    try:
        orientation = image.getexif().get(ORIENTATION, 1)  # in a PNG it may follow the pixels: decode them first
    except Exception:  # broken EXIF data; viewers show such an image as it is
        return 1
    return orientation if orientation in range(1, 9) else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, …] as its EXIF orientation says."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    down, across = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels[:: -1 if down else 1, :: -1 if across else 1]


def _frames(image: Image.Image) -> int:
    """How many frames or pages a file has; the further images that phones append to a JPEG are none."""
    try:
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception:  # a later frame is damaged; the first is what is read
        return 1
