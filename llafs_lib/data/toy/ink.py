"""Ink for `toy`: colours that vary a little, and textures: images [SIDE, SIDE, 3] uint8 of a sketch's own size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SIDE = 288  # px, height and width of a sketch
PIXEL_Y, PIXEL_X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE

Rng = np.random.Generator
Colour = tuple[float, float, float]
Ink = Colour | np.ndarray  # one colour, or a texture of which a shape shows the part that it covers


def smooth_noise(rng: Rng, cells: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """[height, width] float32, about N(0, 1), varying over `cells` cells per side."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def vary(colour: Colour, rng: Rng, spread: float = 14) -> Colour:
    """A neighbour of `colour`: some lighter or darker, a little off in hue."""
    shifted = np.asarray(colour) * rng.uniform(0.88, 1.1) + rng.normal(0, spread / 3, 3)
    return tuple(np.clip(shifted, 0, 255).tolist())


def pick(rng: Rng, colours: Sequence[Colour], spread: float = 14) -> Colour:
    return vary(colours[rng.integers(len(colours))], rng, spread)


def shade(colour: Colour, factor: float) -> Colour:
    return tuple(min(255.0, channel * factor) for channel in colour)


def grain(rng: Rng, colour: Colour, broad: float = 7, fine: float = 5) -> np.ndarray:
    """A nearly plain texture; `broad` and `fine` are its noises' standard deviations, in grey levels."""
    noise = broad * smooth_noise(rng, 7) + fine * smooth_noise(rng, 90)
    return cv2.merge([cv2.add(noise, channel, dtype=cv2.CV_8U) for channel in colour])


def two_tone(rng: Rng, where: np.ndarray, inside: Colour, outside: Colour) -> np.ndarray:
    """A texture of two colours with a little grain: `inside` where `where` [SIDE, SIDE] holds."""
    texture = np.where(where[..., None], np.uint8(inside), np.uint8(outside))
    return cv2.add(texture, cv2.merge([5 * smooth_noise(rng, 60)] * 3), dtype=cv2.CV_8U)


def light(texture: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Brighten or darken [h, w, 3] uint8 by a `factor` [h, w] float32 per pixel, clipped to 0 to 255."""
    return cv2.multiply(texture, cv2.merge([factor] * 3), dtype=cv2.CV_8U)
