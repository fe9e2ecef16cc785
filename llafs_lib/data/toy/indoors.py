"""What `toy` draws indoors: vessels, screens and balls. One body plan per family, a few touches per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from llafs_lib.data.toy.ink import PIXEL_X, PIXEL_Y, Colour, Ink, Rng, grain, light, pick, shade, smooth_noise, vary
from llafs_lib.data.toy.palette import BLUE, CREAM, RED, WHITE, YELLOW
from llafs_lib.data.toy.sketch import MARGIN, Box, Point, Sketch, length, pixels, rounded

Profile = Callable[[float | np.ndarray], np.ndarray]  # height → half the width there
Placing = Callable[[Sequence[Point] | np.ndarray], np.ndarray]  # points on a ball → pixels of its sketch

# ------------------------------------------------------------------------------------------ vessels


@dataclass(frozen=True)
class Vessel:
    """A surface of revolution: half its width at each height, in the unit square, from rim to foot."""

    heights: tuple[float, ...]
    radii: tuple[float, ...]
    glazes: tuple[Colour, ...]
    dress: Callable[[Sketch, Rng, Colour, Profile], None]  # band, label, wine or pattern
    handle: bool = False


PORCELAIN, CELADON, INDIGO, CLAY = (226, 222, 212), (132, 170, 160), (66, 92, 142), (176, 102, 72)
CLEAR, BOTTLE_GREEN = (188, 208, 212), (58, 112, 78)


def draw_vessel(sketch: Sketch, rng: Rng, plan: Vessel) -> None:
    """The turned body, what it is dressed with, its mouth and a highlight."""
    glaze = pick(rng, plan.glazes)
    heights = np.linspace(plan.heights[0], plan.heights[-1], 60)
    corners = np.interp(heights, plan.heights, plan.radii) * rng.uniform(0.9, 1.12)
    profile = cv2.GaussianBlur(corners[:, None], (1, 7), 1.5)[:, 0]

    def radius(y: float | np.ndarray) -> np.ndarray:
        return np.interp(y, heights, profile)

    top, foot = plan.heights[0], plan.heights[-1]
    ink = _turned(rng, glaze)
    if plan.handle:
        sketch.ellipse((0.5 + radius(0.55), 0.56), (0.13, 0.14), shade(glaze, 0.85), hollow=0.055)
    sketch.ellipse((0.5, foot), (radius(foot), radius(foot) * 0.22), ink)
    sketch.polygon(_mirrored(profile, heights), ink)
    plan.dress(sketch, rng, glaze, radius)
    sketch.ellipse((0.5, top), (radius(top), radius(top) * 0.22), shade(glaze, 1.12))
    sketch.ellipse((0.5, top + 0.006), (radius(top) * 0.86, radius(top) * 0.16), shade(glaze, 0.5))
    y = np.linspace(top + 0.08, min(top + 0.5, foot - 0.1), 6)
    gleam = np.stack([0.5 - 0.62 * radius(y), y], axis=1)
    sketch.limb(gleam, [0.012, 0.03, 0.03, 0.026, 0.02, 0.01], shade(glaze, 1.35))


def _mirrored(radii: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """The outline [2n, 2] with half widths `radii` [n] at `heights` [n], symmetric about the middle."""
    left, right = np.stack([0.5 - radii, heights], axis=1), np.stack([0.5 + radii, heights], axis=1)
    return np.concatenate([left, right[::-1]])


def _turned(rng: Rng, glaze: Colour) -> np.ndarray:
    """A texture lit from the left as a cylinder is."""
    side = 1.08 - 0.5 * np.clip(PIXEL_X - 0.42, 0, 1) - 0.35 * np.clip(0.36 - PIXEL_X, 0, 1)
    return light(grain(rng, glaze, 5, 3), side)


def _ring(sketch: Sketch, radius: Profile, top: float, bottom: float, ink: Ink) -> None:
    """A band round the vessel, sagging as a circle seen from slightly above does."""
    turn = np.linspace(-1, 1, 15)
    sag = 0.2 * np.sqrt(1 - turn**2)
    upper = [(0.5 + t * radius(top), top + s * radius(top)) for t, s in zip(turn, sag, strict=True)]
    lower = [(0.5 + t * radius(bottom), bottom + s * radius(bottom)) for t, s in zip(turn, sag, strict=True)]
    sketch.polygon([*upper, *lower[::-1]], ink)


def _dress_cup(sketch: Sketch, rng: Rng, glaze: Colour, radius: Profile) -> None:
    if rng.random() < 0.6:
        top, ink = rng.uniform(0.45, 0.6), _turned(rng, pick(rng, [WHITE, INDIGO, CLAY, RED]))
        _ring(sketch, radius, top, top + rng.uniform(0.04, 0.12), ink)


def _dress_bottle(sketch: Sketch, rng: Rng, glaze: Colour, radius: Profile) -> None:
    label = pick(rng, [CREAM, WHITE, (200, 60, 52), YELLOW])
    _ring(sketch, radius, 0.58, 0.80, _turned(rng, label))
    _ring(sketch, radius, 0.66, 0.70, shade(label, 0.6))
    sketch.box((0.43, 0.0, 0.57, 0.09), pick(rng, [(60, 56, 60), RED, (196, 164, 90)]))


def _dress_wine_glass(sketch: Sketch, rng: Rng, glaze: Colour, radius: Profile) -> None:
    wine = pick(rng, [(122, 24, 44), (122, 24, 44), (226, 204, 122), (226, 150, 140)])
    level = rng.uniform(0.2, 0.3)
    y = np.linspace(level, 0.52, 20)
    sketch.polygon(_mirrored(0.9 * radius(y), y), wine)
    sketch.ellipse((0.5, level), (0.9 * radius(level), 0.2 * radius(level)), shade(wine, 1.25))


def _dress_vase(sketch: Sketch, rng: Rng, glaze: Colour, radius: Profile) -> None:
    contrast = CREAM if sum(glaze) < 420 else pick(rng, [INDIGO, (96, 62, 48), shade(glaze, 0.55)])
    ink = _turned(rng, contrast)
    _ring(sketch, radius, 0.36, 0.39, ink)
    _ring(sketch, radius, 0.70, 0.73, ink)
    for turn in np.linspace(-0.75, 0.75, 5):  # a row of leaves round the belly
        x, y = 0.5 + turn * radius(0.52), 0.52 + 0.2 * radius(0.52) * np.sqrt(1 - turn**2)
        sketch.ellipse((x, y), (0.03 * np.sqrt(1.1 - turn**2), 0.07), ink)


VESSELS = {
    "cup": Vessel(
        (0.32, 0.50, 0.74, 0.86), (0.30, 0.29, 0.265, 0.21),
        (PORCELAIN, CELADON, INDIGO, CLAY), _dress_cup, handle=True,
    ),
    "bottle": Vessel(
        (0.02, 0.28, 0.34, 0.44, 0.52, 0.96, 0.99), (0.06, 0.065, 0.075, 0.15, 0.17, 0.17, 0.16),
        (BOTTLE_GREEN, CLEAR, INDIGO, CELADON, CLAY), _dress_bottle,
    ),
    "wine glass": Vessel(
        (0.05, 0.20, 0.34, 0.46, 0.53, 0.58, 0.86, 0.93, 0.97),
        (0.20, 0.25, 0.26, 0.20, 0.09, 0.032, 0.030, 0.07, 0.20),
        (CLEAR, (196, 204, 212), CELADON), _dress_wine_glass,
    ),
    "vase": Vessel(
        (0.05, 0.13, 0.24, 0.34, 0.50, 0.64, 0.82, 0.95), (0.17, 0.105, 0.095, 0.18, 0.29, 0.29, 0.20, 0.13),
        (CELADON, INDIGO, CLAY, PORCELAIN), _dress_vase,
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------------ screens

CASES = ((52, 52, 58), (206, 208, 210), (236, 234, 228), (98, 100, 106))
DARK_GLASS = (34, 38, 44)


def draw_screen(sketch: Sketch, rng: Rng, case: Colour, body: Box, panel: Box, lit: float, depth: float = 0.0) -> None:
    """A case `body` with a glass `panel` in it. `lit` is how likely the panel shows an image.

    `depth` > 0 shows the side and top of the case, as of a box seen from the upper right.
    """
    left, top, right, bottom = body
    if depth:
        far, lift = right + depth, 0.6 * depth
        lid = [(left, top + 0.01), (left + depth, top - lift), (far, top - lift), (right, top + 0.01)]
        side = [(right - 0.01, top), (far, top - lift), (far, bottom - lift), (right - 0.01, bottom)]
        sketch.polygon(lid, shade(case, 1.15))
        sketch.polygon(side, shade(case, 0.7))
    sketch.box(body, grain(rng, case, 3, 3), 0.02)
    left, top, right, bottom = panel
    sketch.box((left - 0.012, top - 0.012, right + 0.012, bottom + 0.012), shade(case, 0.5))
    on = rng.random() < lit
    sketch.box(panel, _broadcast(rng, panel) if on else grain(rng, vary(DARK_GLASS, rng), 4, 3), 0.01)
    gleam = [(left + 0.04, bottom - 0.02), (left + 0.16, top + 0.02), (left + 0.24, top + 0.02),
             (left + 0.12, bottom - 0.02)]  # fmt: skip
    if not on:
        sketch.polygon(gleam, (84, 92, 104))


def _broadcast(rng: Rng, panel: Box) -> np.ndarray:
    """What is on: two bright tones under a wavy horizon and a disc, dimmed towards the corners."""
    left, top, right, bottom = (MARGIN + edge * (1 - 2 * MARGIN) for edge in panel)
    upper = pick(rng, [(84, 146, 200), (40, 62, 110), (212, 140, 92), (92, 168, 178)], 30)
    lower = pick(rng, [(64, 120, 84), (44, 92, 132), (122, 82, 96), (196, 168, 110)], 30)
    horizon = top + (bottom - top) * rng.uniform(0.45, 0.75) + 0.03 * smooth_noise(rng, 5)[:1]
    image = np.where((PIXEL_Y > horizon)[..., None], np.uint8(lower), np.uint8(upper))
    x, y = rng.uniform(left, right), rng.uniform(top, bottom)
    disc = (PIXEL_X - x) ** 2 + (PIXEL_Y - y) ** 2 < rng.uniform(0.03, 0.07) ** 2
    image[disc] = pick(rng, [(250, 226, 150), (238, 238, 244), (222, 92, 84)])
    corners = (PIXEL_X - 0.5) ** 2 + (PIXEL_Y - 0.5) ** 2
    return light(image, 1.05 - 0.6 * corners)


def draw_tv(sketch: Sketch, rng: Rng) -> None:
    case, base = vary(CASES[rng.choice([0, 0, 3])], rng), 0.82
    sketch.limb([(0.5, 0.70), (0.5, base)], [0.12, 0.14], shade(case, 0.8))
    sketch.ellipse((0.5, base + 0.01), (rng.uniform(0.18, 0.28), 0.035), shade(case, 1.2))
    draw_screen(sketch, rng, case, (0.0, 0.14, 1.0, 0.74), (0.03, 0.17, 0.97, 0.70), lit=0.75)


def draw_laptop(sketch: Sketch, rng: Rng) -> None:
    case = vary(CASES[rng.choice([1, 1, 0, 3])], rng)
    deck = [(0.13, 0.62), (0.87, 0.62), (1.0, 0.86), (0.0, 0.86)]
    sketch.polygon(deck, grain(rng, shade(case, 0.95), 3, 3))
    sketch.box((0.0, 0.855, 1.0, 0.885), shade(case, 0.65), 0.01)
    for row in range(4):  # keys, each row wider than the one behind it
        y, half = 0.655 + row * 0.034, 0.33 + row * 0.018
        for x in np.linspace(0.5 - half, 0.5 + half, 12)[:-1]:
            sketch.box((x, y, x + half / 7.5, y + 0.024), shade(case, 0.42), 0.003)
    sketch.polygon([(0.39, 0.795), (0.61, 0.795), (0.62, 0.845), (0.38, 0.845)], shade(case, 0.78))
    draw_screen(sketch, rng, case, (0.12, 0.12, 0.88, 0.62), (0.15, 0.15, 0.85, 0.585), lit=0.75)


def draw_microwave(sketch: Sketch, rng: Rng) -> None:
    case, depth = vary(CASES[rng.choice([1, 2, 2, 0])], rng), 0.1
    for x in (0.06, 0.80):
        sketch.box((x, 0.78, x + 0.08, 0.83), (44, 44, 48), 0.01)
    draw_screen(sketch, rng, case, (0.0, 0.28, 0.90, 0.80), (0.06, 0.35, 0.60, 0.73), lit=0.0, depth=depth)
    sketch.stroke([(0.65, 0.36), (0.65, 0.72)], 0.025, shade(case, 0.55))
    sketch.box((0.70, 0.33, 0.87, 0.41), (22, 34, 30), 0.008)
    sketch.box((0.73, 0.355, 0.84, 0.385), (96, 220, 150), 0.005)
    for row in range(4):
        for column in range(3):
            x, y = 0.70 + column * 0.06, 0.45 + row * 0.075
            sketch.box((x, y, x + 0.045, y + 0.05), shade(case, 0.62), 0.008)


def draw_oven(sketch: Sketch, rng: Rng) -> None:
    case, depth = vary(CASES[rng.choice([1, 2, 3, 0])], rng), 0.12
    for x in (0.10, 0.72):
        sketch.box((x, 0.95, x + 0.08, 1.0), (44, 44, 48), 0.01)
    draw_screen(sketch, rng, case, (0.04, 0.12, 0.86, 0.97), (0.13, 0.44, 0.77, 0.83), lit=0.0, depth=depth)
    for x in (0.22, 0.50, 0.78):  # hot plates on the top
        sketch.ellipse((x + 0.01, 0.085), (0.09, 0.022), (40, 38, 40))
    for x in np.linspace(0.13, 0.77, 5):
        sketch.ellipse((x, 0.23), (0.046, 0.046), shade(case, 0.5))
        sketch.stroke([(x, 0.23), (x + 0.012, 0.20)], 0.014, WHITE)
    sketch.box((0.06, 0.31, 0.84, 0.32), shade(case, 0.5), 0.003)
    sketch.stroke([(0.13, 0.37), (0.77, 0.37)], 0.032, shade(case, 0.6))
    if rng.random() < 0.4:  # something is baking
        sketch.box((0.18, 0.62, 0.72, 0.80), (214, 124, 52), 0.03)
        sketch.stroke([(0.16, 0.72), (0.74, 0.72)], 0.012, (90, 70, 60))


# -------------------------------------------------------------------------------------------- balls

_FROM_LIGHT = np.hypot(PIXEL_X - 0.38, PIXEL_Y - 0.36)  # distance from where the light falls on a ball
_CENTRE: Point = (0.5, 0.52)


def draw_ball(sketch: Sketch, skin: np.ndarray, outline: np.ndarray | None = None) -> None:
    """A round thing lit from the upper left: `skin` [SIDE, SIDE, 3] gleams there and darkens away from it."""
    away = 1.12 - 0.75 * np.clip(_FROM_LIGHT - 0.12, 0, 1)
    lit = light(skin, away + 0.28 * np.exp(-((_FROM_LIGHT / 0.075) ** 2)))
    if outline is None:
        sketch.ellipse(_CENTRE, (0.42, 0.41), lit)
    else:
        sketch.polygon(outline, lit)


def _leaf(sketch: Sketch, rng: Rng, root: Point, reach: float = 0.2) -> None:
    green = vary((84, 140, 60), rng)
    x, y = root
    blade = [(x, y), (x + reach * 0.4, y - 0.09), (x + reach, y - 0.07), (x + reach * 0.6, y + 0.03)]
    sketch.polygon(rounded(blade), green)
    sketch.stroke([(x, y), (x + reach * 0.8, y - 0.05)], 0.008, shade(green, 0.7))


def draw_orange(sketch: Sketch, rng: Rng) -> None:
    peel = pick(rng, [(240, 146, 36), (232, 124, 28), (246, 164, 58)])
    draw_ball(sketch, grain(rng, peel, 5, 12))
    sketch.ellipse((0.52, 0.17), (0.04, 0.022), (110, 120, 50))
    if rng.random() < 0.6:
        _leaf(sketch, rng, (0.53, 0.16), rng.choice([-0.22, 0.24]))


def draw_apple(sketch: Sketch, rng: Rng) -> None:
    base = pick(rng, [(190, 34, 40), (206, 52, 44), (128, 168, 52), (226, 184, 70)])
    blush = pick(rng, [(226, 150, 60), (196, 60, 50)])
    streaks = np.clip(smooth_noise(rng, 5) * 0.4 + 0.2, 0, 0.7)[..., None]
    skin = np.uint8(grain(rng, base, 5, 4) * (1 - streaks) + np.float32(blush) * streaks)
    turn = np.linspace(0, 2 * np.pi, 80)
    # A heart-like outline: two dents, a deep one at the stalk and a shallow one below.
    stalk, foot = np.exp(-((turn - 1.5 * np.pi) ** 2) / 0.09), np.exp(-((turn - 0.5 * np.pi) ** 2) / 0.06)
    reach = 0.42 * (1 - 0.17 * stalk - 0.06 * foot) * (1 - 0.07 * np.sin(turn))
    outline = np.stack([0.5 + 1.04 * reach * np.cos(turn), 0.54 + reach * np.sin(turn)], axis=1)
    draw_ball(sketch, skin, outline)
    sketch.ellipse((0.5, 0.225), (0.10, 0.03), shade(base, 0.55))
    sketch.limb([(0.5, 0.24), (0.52, 0.14), (0.56, 0.07)], [0.022, 0.024, 0.034], (96, 66, 40))
    if rng.random() < 0.6:
        _leaf(sketch, rng, (0.53, 0.13), 0.22)


def draw_donut(sketch: Sketch, rng: Rng) -> None:
    dough = pick(rng, [(218, 160, 92), (196, 132, 72)])
    icing = pick(rng, [(238, 150, 176), (104, 60, 40), (244, 232, 214), (226, 128, 60), (168, 120, 190)])
    draw_ball(sketch, grain(rng, dough, 5, 6))
    turn = np.linspace(0, 2 * np.pi, 90)
    drip = 0.36 + 0.022 * np.sin(turn * rng.integers(6, 9) + rng.uniform(0, 6)) + 0.012 * np.sin(3 * turn)
    edge = np.stack([0.5 + drip * np.cos(turn), 0.515 + drip * np.sin(turn)], axis=1)
    draw_ball(sketch, grain(rng, icing, 3, 3), edge)
    sketch.ellipse(_CENTRE, (0.165, 0.155), shade(icing, 0.75))
    candy = [(240, 80, 90), (250, 214, 80), (90, 170, 220), (120, 200, 120), WHITE, (120, 70, 160)]
    for angle, far, tilt in rng.uniform((0, 0.2, 0), (2 * np.pi, 0.31, np.pi), (34, 3)):
        x, y = 0.5 + far * np.cos(angle), 0.515 + far * np.sin(angle)
        dx, dy = 0.017 * np.cos(tilt), 0.017 * np.sin(tilt)
        sketch.stroke([(x - dx, y - dy), (x + dx, y + dy)], 0.017, candy[rng.integers(len(candy))])
    sketch.pierce(_CENTRE, (0.13, 0.12))


def draw_sports_ball(sketch: Sketch, rng: Rng) -> None:
    """A football, basketball, tennis ball or volleyball; its seams are part of the skin and lit with it."""
    base, seam, pores, paint = SPORTS[rng.integers(len(SPORTS))]
    skin = grain(rng, vary(base, rng), 3, pores)
    turn = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # What is painted comes in units of the ball's radius, from its centre, before it is turned.
    paint(skin, seam, lambda points: pixels(0.42 * np.asarray(points) @ rotation.T + _CENTRE))
    draw_ball(sketch, skin)


def _football(skin: np.ndarray, seam: Colour, place: Placing) -> None:
    fifth = 2 * np.pi * np.arange(5) / 5
    star = np.stack([np.cos(fifth), np.sin(fifth)], axis=1)
    cv2.fillPoly(skin, [place(0.34 * star)], seam)
    outward = np.array([[0.72], [0.86], [1.2], [1.2], [0.86]])  # the five corners of a patch at the rim
    sideways = np.array([[0], [0.22], [0.22], [-0.22], [-0.22]])
    for corner in star:
        cv2.polylines(skin, [place([0.3 * corner, 0.72 * corner])], False, seam, length(0.017))
        cv2.fillPoly(skin, [place(outward * corner + sideways * (-corner[1], corner[0]))], seam)


def _tennis_ball(skin: np.ndarray, seam: Colour, place: Placing, width: float = 0.045) -> None:
    arc = np.linspace(-1.2, 1.2, 30)
    for side in (-1, 1):
        curve = np.stack([side * (1.05 - 0.62 * np.cos(arc)), np.sin(arc) * 1.1], axis=1)
        cv2.polylines(skin, [place(curve)], False, seam, length(width))


def _basketball(skin: np.ndarray, seam: Colour, place: Placing) -> None:
    _tennis_ball(skin, seam, place, 0.026)
    for line in ([(-1.1, 0), (1.1, 0)], [(0, -1.1), (0, 1.1)]):
        cv2.polylines(skin, [place(line)], False, seam, length(0.026))


def _volleyball(skin: np.ndarray, seam: Colour, place: Placing) -> None:
    cv2.fillPoly(skin, [place([(-1.1, -0.3), (1.1, -0.3), (1.1, 0.3), (-1.1, 0.3)])], BLUE)
    _tennis_ball(skin, seam, place, 0.026)


# colour, colour of the seams, strength of the pores in grey levels, what paints the seams
SPORTS = (
    ((238, 238, 234), (44, 38, 40), 4, _football),
    ((218, 112, 46), (44, 38, 40), 8, _basketball),
    ((204, 222, 70), WHITE, 12, _tennis_ball),
    ((240, 224, 150), (44, 38, 40), 4, _volleyball),
)


INDOORS: dict[str, Callable[[Sketch, Rng], None]] = {
    **{name: partial(draw_vessel, plan=plan) for name, plan in VESSELS.items()},
    "tv": draw_tv, "laptop": draw_laptop, "microwave": draw_microwave, "oven": draw_oven,
    "orange": draw_orange, "apple": draw_apple, "donut": draw_donut, "sports ball": draw_sports_ball,
}  # fmt: skip
