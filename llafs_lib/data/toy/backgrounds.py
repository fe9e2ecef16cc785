"""The places of `toy`: meadow, beach, street, room, kitchen and a painted backdrop.

Their colours are those of the objects on purpose (brown tables and horses, orange walls and oranges), and
each holds clutter that belongs to no class, so that neither a colour nor an edge alone gives an object away.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from llafs_lib.data.toy.ink import Colour, Rng, pick, shade, smooth_noise, vary
from llafs_lib.data.toy.palette import BLUE, CREAM, GLASS, GREEN, ORANGE, RED, SILVER, TEAL, YELLOW
from llafs_lib.data.toy.sketch import Point

BROWN, SAND, ASPHALT, GRASS = (146, 98, 60), (222, 194, 148), (108, 108, 112), (112, 158, 72)
SKIES = ((134, 186, 226), (186, 212, 230), (236, 190, 150), (168, 178, 192))
WALLS = ((222, 208, 186), (170, 196, 200), (206, 150, 108), (196, 200, 168), (154, 160, 176), (228, 224, 216))
WOODS = (BROWN, (176, 128, 82), (108, 72, 50), (204, 170, 126))
BOOKS = (RED, BLUE, GREEN, ORANGE, CREAM, TEAL, YELLOW, BROWN)


def draw_background(rng: Rng, height: int, width: int) -> np.ndarray:
    """A place without objects, [height, width, 3] uint8 RGB."""
    place = PLACES[rng.integers(len(PLACES))]
    canvas = np.zeros((height, width, 3), np.uint8)
    place(canvas, rng)
    texture = 5 * smooth_noise(rng, 9, height, width) + 4 * smooth_noise(rng, 60, height, width)
    return cv2.add(canvas, cv2.merge([texture] * 3), dtype=cv2.CV_8U)


# ---------------------------------------------------------------------------------- shapes at 1 : 1


def _fade(canvas: np.ndarray, top: float, bottom: float, first: Colour, last: Colour) -> None:
    """Fill the rows from `top` to `bottom` (parts of the height) with a vertical gradient."""
    start, stop = round(top * len(canvas)), round(bottom * len(canvas))
    blend = np.linspace(0, 1, max(stop - start, 1))[: stop - start, None, None]
    canvas[start:stop] = np.asarray(first) * (1 - blend) + np.asarray(last) * blend


def _at(canvas: np.ndarray, x: float, y: float) -> tuple[int, int]:
    return round(x * canvas.shape[1]), round(y * canvas.shape[0])


def _blob(canvas: np.ndarray, x: float, y: float, wide: float, tall: float, colour: Colour) -> None:
    """An ellipse; its radii, like x and y, in parts of the image's width and height."""
    axes = _at(canvas, wide, tall)
    cv2.ellipse(canvas, _at(canvas, x, y), axes, 0, 0, 360, colour, cv2.FILLED, cv2.LINE_AA)


def _block(canvas: np.ndarray, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    cv2.rectangle(canvas, _at(canvas, left, top), _at(canvas, right, bottom), colour, cv2.FILLED)


def _line(canvas: np.ndarray, start: Point, stop: Point, colour: Colour, width: int = 1) -> None:
    cv2.line(canvas, _at(canvas, *start), _at(canvas, *stop), colour, width, cv2.LINE_AA)


def _hills(canvas: np.ndarray, rng: Rng, horizon: float, colour: Colour) -> None:
    x = np.linspace(0, 1, 40)
    ridge = horizon - 0.06 - 0.05 * np.sin(x * rng.uniform(3, 9) + rng.uniform(0, 6)) * rng.uniform(0.4, 1.2)
    points = [_at(canvas, *point) for point in (*zip(x, ridge, strict=True), (1, horizon), (0, horizon))]
    cv2.fillPoly(canvas, [np.array(points)], colour, cv2.LINE_AA)


def _scatter(canvas: np.ndarray, rng: Rng, top: float, n: int, size: float, colours: Sequence[Colour]) -> None:
    """`n` small blobs below `top`, larger the nearer they are: pebbles, tufts, leaves."""
    for x, y in rng.uniform((0, top), (1, 1), (n, 2)):
        near = size * (0.4 + (y - top) / (1 - top))
        _blob(canvas, x, y, near * rng.uniform(0.7, 1.6), near * 0.8, pick(rng, colours, 30))


def _tree(canvas: np.ndarray, rng: Rng, x: float, foot: float) -> None:
    tall, green = rng.uniform(0.14, 0.34), pick(rng, [GREEN, GRASS, (142, 140, 60), (196, 128, 54)])
    _line(canvas, (x, foot), (x, foot - tall), pick(rng, WOODS), rng.integers(4, 9).item())
    for dx, dy, r in ((-0.04, 0.0, 0.06), (0.04, 0.01, 0.06), (0.0, -0.06, 0.075)):
        _blob(canvas, x + dx, foot - tall + dy, r, r * 1.2, vary(green, rng))


def _sky(canvas: np.ndarray, rng: Rng, horizon: float) -> None:
    sky = pick(rng, SKIES)
    _fade(canvas, 0, horizon, sky, shade(sky, 1.15))
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform((0, 0.03), (1, max(0.05, horizon - 0.12)))
        for dx, size in ((-0.05, 0.05), (0.05, 0.045), (0.0, 0.07)):
            _blob(canvas, x + dx, y, size, size * 0.55, shade(sky, 1.22))


# ------------------------------------------------------------------------------------------- places


def _meadow(canvas: np.ndarray, rng: Rng) -> None:
    horizon, grass = rng.uniform(0.3, 0.5), pick(rng, [GRASS, (136, 150, 70), (184, 164, 88)])
    _sky(canvas, rng, horizon)
    _hills(canvas, rng, horizon + 0.01, pick(rng, [GREEN, (120, 140, 120), (150, 120, 90)]))
    _fade(canvas, horizon, 1, shade(grass, 1.08), shade(grass, 0.8))
    for x in rng.uniform(0, 1, rng.integers(0, 4)):
        _tree(canvas, rng, x, horizon + rng.uniform(0.0, 0.1))
    if rng.random() < 0.4:
        wood = pick(rng, WOODS)
        for y in (0.06, 0.13):
            _line(canvas, (0, horizon + y), (1, horizon + y), wood, 2)
        for x in np.arange(rng.uniform(0, 0.1), 1, 0.16):
            _line(canvas, (x, horizon + 0.02), (x, horizon + 0.18), wood, 4)
    _scatter(canvas, rng, horizon + 0.1, 50, 0.012, (shade(grass, 0.75), shade(grass, 1.15), YELLOW))


def _beach(canvas: np.ndarray, rng: Rng) -> None:
    horizon, sand = rng.uniform(0.2, 0.4), pick(rng, [SAND, (204, 166, 120), (190, 140, 96)])
    _sky(canvas, rng, horizon)
    if rng.random() < 0.6:
        sea = pick(rng, [BLUE, TEAL, (110, 160, 190)])
        _fade(canvas, horizon, horizon + 0.12, shade(sea, 1.2), sea)
        horizon += 0.12
    else:
        _hills(canvas, rng, horizon + 0.01, shade(sand, 0.85))
    _fade(canvas, horizon, 1, shade(sand, 1.05), shade(sand, 0.86))
    for y in rng.uniform(horizon + 0.05, 1, 7):  # ripples
        x, wide = rng.uniform((0, 0.1), (1, 0.3))
        _blob(canvas, x, y, wide, 0.008, shade(sand, rng.choice([0.88, 1.08])))
    _scatter(canvas, rng, horizon + 0.1, 22, 0.016, (shade(sand, 0.7), SILVER, BROWN, CREAM))


def _street(canvas: np.ndarray, rng: Rng) -> None:
    kerb, left = rng.uniform(0.5, 0.62), -0.05
    _sky(canvas, rng, kerb)
    while left < 1:  # a row of houses
        right, top = left + rng.uniform(0.16, 0.34), rng.uniform(0.05, 0.3)
        wall = pick(rng, [*WALLS, RED, BROWN, SILVER, CREAM])
        _block(canvas, left, top, right, kerb, wall)
        for x in np.arange(left + 0.03, right - 0.05, 0.075):
            for y in np.arange(top + 0.05, kerb - 0.1, 0.12):
                _block(canvas, x, y, x + 0.04, y + 0.07, pick(rng, [GLASS, (70, 80, 96), YELLOW]))
        left = right + rng.choice([0, 0, 0.05])
    _block(canvas, 0, kerb - 0.01, 1, kerb + 0.07, pick(rng, [SILVER, (176, 168, 156)]))
    _fade(canvas, kerb + 0.07, 1, shade(ASPHALT, rng.uniform(0.8, 1.15)), shade(ASPHALT, 0.85))
    for x in np.arange(rng.uniform(-0.2, 0), 1, 0.3):
        _block(canvas, x, kerb + 0.22, x + 0.15, kerb + 0.24, (222, 220, 206))
    for x in rng.uniform(0, 1, rng.integers(0, 3)):
        _line(canvas, (x, kerb + 0.05), (x, kerb - 0.38), (72, 76, 80), 4)
        _blob(canvas, x, kerb - 0.39, 0.02, 0.022, (250, 236, 180))


def _room(canvas: np.ndarray, rng: Rng) -> None:
    edge, wall, wood = rng.uniform(0.45, 0.65), pick(rng, WALLS), pick(rng, WOODS)
    _fade(canvas, 0, edge, wall, shade(wall, 0.92))
    if rng.random() < 0.4:  # striped paper
        for x in np.arange(0, 1, 0.09):
            _block(canvas, x, 0, x + 0.04, edge, shade(wall, 0.93))
    for x in rng.uniform(0.05, 0.8, rng.integers(0, 3)):  # framed prints, light and matt unlike a screen
        y, size = rng.uniform(0.04, 0.15), rng.uniform(0.1, 0.18)
        _block(canvas, x, y, x + size, y + size * 1.3, pick(rng, WOODS))
        _block(canvas, x + 0.015, y + 0.02, x + size - 0.015, y + size * 1.3 - 0.02, CREAM)
        _blob(canvas, x + size / 2, y + size * 0.65, size * 0.2, size * 0.25, pick(rng, BOOKS))
    if rng.random() < 0.5:
        _shelf(canvas, rng, rng.uniform(0.2, edge - 0.1))
    _fade(canvas, edge, 1, wood, shade(wood, 0.78))
    for y in np.linspace(edge, 1, 6)[1:-1]:
        _line(canvas, (0, y), (1, y + rng.uniform(-0.01, 0.01)), shade(wood, 0.88))
    _block(canvas, 0, edge - 0.005, 1, edge + 0.012, shade(wood, 1.15))


def _shelf(canvas: np.ndarray, rng: Rng, y: float) -> None:
    """A board with a row of books."""
    left = rng.uniform(0, 0.5)
    x, right = left, left + rng.uniform(0.25, 0.45)
    while x < right - 0.04:
        wide, tall = rng.uniform(0.02, 0.04), rng.uniform(0.1, 0.16)
        _block(canvas, x, y - tall, x + wide, y, pick(rng, BOOKS))
        x += wide + rng.choice([0.004, 0.004, 0.03])
    _block(canvas, left - 0.02, y, right, y + 0.02, pick(rng, WOODS))


def _kitchen(canvas: np.ndarray, rng: Rng) -> None:
    edge, tile = rng.uniform(0.45, 0.62), pick(rng, [*WALLS, (120, 160, 170), (232, 228, 220)])
    _fade(canvas, 0, edge, tile, shade(tile, 0.95))
    rows, step = int(edge / 0.11) + 1, 0.09
    for row in range(rows):
        _line(canvas, (0, row * 0.11), (1, row * 0.11), shade(tile, 0.84))
        for x in np.arange((row % 2) * step / 2, 1, step):
            _line(canvas, (x, row * 0.11), (x, min(edge, row * 0.11 + 0.11)), shade(tile, 0.84))
    if rng.random() < 0.5:
        _shelf(canvas, rng, rng.uniform(0.2, edge - 0.1))
    top = pick(rng, [*WOODS, SILVER, (70, 72, 76), CREAM])
    _fade(canvas, edge, 1, shade(top, 1.05), shade(top, 0.82))
    _scatter(canvas, rng, edge + 0.05, 30, 0.006, (shade(top, 0.8), shade(top, 1.15)))  # specks in the stone
    if rng.random() < 0.5:
        y = rng.uniform(edge + 0.15, 0.9)
        _blob(canvas, rng.uniform(0.2, 0.8), y, rng.uniform(0.15, 0.3), 0.1, pick(rng, BOOKS))  # a cloth


def _backdrop(canvas: np.ndarray, rng: Rng) -> None:
    first, last = pick(rng, [*WALLS, *BOOKS], 30), pick(rng, [*WALLS, *WOODS, *SKIES], 30)
    _fade(canvas, 0, 1, first, last)
    for x, y, wide, tall in rng.uniform((0, 0, 0.03, 0.03), (1, 1, 0.16, 0.16), (rng.integers(4, 11), 4)):
        colour = vary(shade(first, rng.uniform(0.8, 1.15)), rng, 40)
        if rng.random() < 0.5:
            _blob(canvas, x, y, wide, tall, colour)
        else:
            _block(canvas, x - wide, y - tall, x + wide, y + tall, colour)


PLACES = (_meadow, _beach, _street, _room, _kitchen, _backdrop)
