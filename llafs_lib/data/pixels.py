"""Arrays of any kind become [H, W, 3] uint8 RGB or a [H, W] bool mask. What could mean several things is refused.

The rules, in one place:

* Channels come last or first. Where both fit, as in [3, 9, 3], those of a tensor come first and those of an array last.
* Whole numbers have as many bits as the largest needs: 8, 10, 12, 14 or 16. So a 12-bit image in 16-bit numbers is not
  black. Fractions lie between 0 and 1, or between 0 and 255.
* Transparent places of an image are white, as a viewer of images on a white page shows them.
* A mask holds 0 and one other value, or fractions from 0 to 1 that are cut at 0.5. Several whole numbers are the
  classes of a label map, also where they might be the soft edges of one mask.
"""

from __future__ import annotations

import numpy as np

from llafs_lib.errors import LlafsError, told

SLACK = 1e-3  # what interpolation may add to a range
IMAGE_WANTED = (
    "Give [H, W, 3], [3, H, W] or grey [H, W], as uint8, as uint16, or as fractions from 0 to 1 or from 0 to 255."
)
MASK_WANTED = (
    "Give [H, W] with True and False, 0 and one other value, or fractions from 0 to 1 (a soft mask divided by 255)."
)


def to_array(value, name: str) -> np.ndarray:
    """What is or holds an array: a NumPy array, a torch tensor on any device, anything that NumPy reads.

    Raises:
        LlafsError: it is none, or its numbers cannot be read.
    """
    try:
        if is_tensor(value):
            value = value.detach().cpu()
            return (value.float() if value.is_floating_point() else value).numpy()  # NumPy has no bfloat16
        if isinstance(value, np.ndarray | memoryview) or hasattr(value, "__array__"):
            return np.asarray(value)
    except Exception as error:  # a tensor without data, a sparse or quantised one: each library has its own words
        raise LlafsError(f"{name}, {told(value)}, cannot be read as an array of numbers.") from error
    raise LlafsError(f"{name} must be a file's path, a PIL image, an array or a tensor, not {told(value)}.")


def is_tensor(value) -> bool:
    """Whether it is a torch tensor, told without importing torch."""
    return hasattr(value, "detach") and hasattr(value, "is_floating_point")


def rgb_of(array: np.ndarray, name: str = "the image", channels_first: bool = False) -> np.ndarray:
    """An image as [H, W, 3] uint8 RGB, by the rules above.

    Raises:
        LlafsError: another shape, another type, no pixels, NaN, or values out of range.
    """
    values = _channels_last(array, channels_first)
    if values is None:
        raise LlafsError(f"{name} is {_facts(array)}. {IMAGE_WANTED}")
    values = _eight_bits(values, array, name)
    if values.shape[2] in (2, 4):
        values = _on_white(values)
    if values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)  # [H, W, 1] → [H, W, 3]
    return np.require(values, np.uint8, ["C", "W"])  # torch takes neither a flipped nor a read-only array


def mask_of(array: np.ndarray, size: tuple[int, int], name: str = "the mask", channels_first: bool = False):
    """A mask as [H, W] bool of exactly `size`, by the rules above.

    Raises:
        LlafsError: another shape, size or type, NaN, or more than two values.
    """
    if array.size == size[0] * size[1] and _without_ones(array.shape) == _without_ones(size):
        values = array.reshape(*size, 1)  # [1, H, W] or [H, W, 1] → [H, W, 1]
    else:
        values = _channels_last(array, channels_first)
    if values is None:
        raise LlafsError(f"{name} is {_facts(array)}. {MASK_WANTED}")
    if values.shape[:2] != tuple(size):
        height, width = values.shape[:2]
        raise LlafsError(
            f"{name} is {width} × {height} px, but the image is {size[1]} × {size[0]} px: give a mask of the image's "
            "size."
        )
    return _one_class(_one_channel(values, name), name)


def _channels_last(array: np.ndarray, first: bool) -> np.ndarray | None:
    """[H, W], [H, W, C], [C, H, W], or these with a leading 1 → [H, W, C]; None for what has no such shape."""
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        return None
    last, front = array.shape[2] <= 4, array.shape[0] in (1, 3, 4)
    if front and (first or not last):
        return np.moveaxis(array, 0, 2)
    return array if last else None


def _eight_bits(values: np.ndarray, array: np.ndarray, name: str) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise LlafsError(f"{name} is {_facts(array)}. {IMAGE_WANTED}")
    low, high, fractions = values.min(), values.max(), values.dtype.kind == "f"
    if not (-SLACK <= low and high <= (255 + SLACK if fractions else 65_535)):  # NaN fails, too
        hint = "Undo the normalisation first. " if low < 0 else ""
        raise LlafsError(f"{name} is {_facts(array)} with values from {low:.4g} to {high:.4g}. {hint}{IMAGE_WANTED}")
    if fractions:
        scaled = np.multiply(values, 255 if high <= 1 + SLACK else 1, dtype=np.float32)
        return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)
    bits = max(8, -(-int(high).bit_length() // 2) * 2)  # 8, 10, 12, 14 or 16
    return (values >> (bits - 8)).astype(np.uint8)


def _on_white(values: np.ndarray) -> np.ndarray:
    """[H, W, C + 1] uint8, the last channel opacity → [H, W, C], laid on white."""
    opacity = values[..., -1]
    if opacity.min() == 255:
        return values[..., :-1]
    laid = np.empty((*values.shape[:2], values.shape[2] - 1), np.uint8)
    through = (255 - opacity).astype(np.uint16) * 255
    for channel in range(laid.shape[2]):
        laid[..., channel] = (values[..., channel] * opacity.astype(np.uint16) + through + 127) // 255
    return laid


def _one_channel(values: np.ndarray, name: str) -> np.ndarray:
    """[H, W, C] → [H, W]; each colour becomes a number of its own, and black becomes 0.

    Opacity is the mask where all colours are the same. Elsewhere what is transparent is black.
    """
    if values.shape[2] in (2, 4):
        colours, opacity = values[..., :-1], values[..., -1]
        if (colours == colours[:1, :1]).all():
            return opacity
        values = np.where(opacity[..., None] > 0, colours, np.zeros((), colours.dtype))
    if values.shape[2] == 1 or (values == values[..., :1]).all():
        return values[..., 0]
    if values.dtype != np.uint8:
        raise LlafsError(f"{name} has {values.shape[2]} channels that differ. {MASK_WANTED}")
    return values @ np.array([1 << 16, 1 << 8, 1])  # [H, W, 3] → [H, W]


def _one_class(values: np.ndarray, name: str) -> np.ndarray:
    """[H, W] bool, or LlafsError."""
    if values.dtype == bool:
        return np.ascontiguousarray(values)
    if values.dtype.kind not in "iuf":
        raise LlafsError(f"{name} holds {values.dtype}. {MASK_WANTED}")
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and -SLACK <= low and high <= 1 + SLACK:
        return values >= 0.5
    if low >= 0 and ((values == 0) | (values == high)).all():
        return values > 0
    raise LlafsError(
        f"{name} holds several classes or no clear border, with values from {low:.6g} to {high:.6g}. {MASK_WANTED}"
    )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _facts(array: np.ndarray) -> str:
    return f"{list(array.shape)} {array.dtype.name}"
