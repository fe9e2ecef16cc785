"""What `toy` draws outdoors: animals and vehicles. One body plan per family, a few numbers per class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from llafs_lib.data.toy.ink import PIXEL_X, PIXEL_Y, SIDE, Colour, Rng, grain, pick, shade, smooth_noise, two_tone, vary
from llafs_lib.data.toy.palette import BLACK, BLUE, CREAM, GLASS, GREEN, ORANGE, RED, SILVER, TEAL, WHITE, YELLOW
from llafs_lib.data.toy.sketch import Box, Point, Sketch, rounded

# ------------------------------------------------------------------------------------------ animals

GROUND = 0.97


@dataclass(frozen=True)
class Coat:
    """A texture for each direction a limb runs in, and the colours of mane, muzzle and hooves."""

    texture: Callable[[Point], np.ndarray]
    mane: Colour
    muzzle: Colour
    hoof: Colour


def _horse_coat(rng: Rng) -> Coat:
    colour = pick(rng, [(134, 84, 48), (158, 98, 56), (92, 60, 42), (70, 62, 60), (172, 160, 150)])
    texture = grain(rng, colour)
    return Coat(lambda along: texture, shade(colour, 0.45), shade(colour, 0.7), (48, 40, 36))


def _giraffe_coat(rng: Rng) -> Coat:
    tan, patch = vary((232, 200, 142), rng), pick(rng, [(154, 92, 42), (130, 78, 40), (176, 108, 48)])
    # Patches are the cells of a jittered grid: the light net runs where the nearest seed changes.
    cells = 15
    corners = np.mgrid[0:cells, 0:cells].reshape(2, -1)
    seeds = (corners + rng.uniform(0.1, 0.9, corners.shape)) * SIDE / cells
    empty = np.full((SIDE, SIDE), 255, np.uint8)
    empty[tuple(seeds.astype(int))] = 0
    labels = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    labels = labels.astype(np.float32)
    net = cv2.dilate(labels, np.ones((4, 4))) != cv2.erode(labels, np.ones((3, 3)))
    texture = two_tone(rng, net, tan, patch)
    return Coat(lambda along: texture, shade(patch, 0.8), shade(tan, 0.86), (80, 60, 46))


def _zebra_coat(rng: Rng) -> Coat:
    light, dark = vary((240, 236, 226), rng), vary((40, 36, 38), rng)
    wobble, bands = smooth_noise(rng, 6) * 0.012, rng.uniform(15, 18)

    def texture(along: Point) -> np.ndarray:
        phase = (PIXEL_X * along[0] + PIXEL_Y * along[1] + wobble) * bands
        return two_tone(rng, np.sin(2 * np.pi * phase) > 0.05, dark, light)

    return Coat(texture, dark, (62, 54, 54), dark)


def _cow_coat(rng: Rng) -> Coat:
    base = vary((238, 232, 222), rng)
    blotch = pick(rng, [(44, 40, 40), (130, 78, 46), (104, 62, 40)])
    texture = two_tone(rng, smooth_noise(rng, 8) > rng.uniform(-0.1, 0.25), blotch, base)
    return Coat(lambda along: texture, blotch, (226, 168, 156), (62, 52, 48))


@dataclass(frozen=True)
class Animal:
    """A four-legged body in side view, facing right; lengths in parts of the unit square."""

    coat: Callable[[Rng], Coat]
    trunk: float  # length of the body
    girth: float
    legs: float
    bone: float  # width of a leg at the hip
    neck: float
    lean: tuple[float, float]  # of the neck from upright, radians, drawn uniformly between the two
    head: float
    crown: str  # what stands on the head or along the neck: "horns", "knobs", "mane" or "brush"


ANIMALS = {
    "giraffe": Animal(_giraffe_coat, 0.40, 0.215, 0.36, 0.08, 0.45, (0.15, 0.5), 0.15, "knobs"),
    "horse": Animal(_horse_coat, 0.52, 0.23, 0.38, 0.08, 0.27, (0.45, 0.95), 0.20, "mane"),
    "zebra": Animal(_zebra_coat, 0.51, 0.25, 0.34, 0.078, 0.23, (0.5, 1.0), 0.19, "brush"),
    "cow": Animal(_cow_coat, 0.58, 0.30, 0.27, 0.085, 0.14, (0.9, 1.4), 0.19, "horns"),
}


def draw_animal(sketch: Sketch, rng: Rng, plan: Animal) -> None:
    coat = plan.coat(rng)
    hide = coat.texture((1, 0))
    legs = coat.texture((0, 1))
    left, right = 0.44 - plan.trunk / 2, 0.44 + plan.trunk / 2
    belly = GROUND - plan.legs
    back = belly - plan.girth
    stride = rng.choice([-1, 1], 2) * rng.uniform(0.1, 0.34, 2)  # of the hind and of the fore legs
    hips = (left + 0.08, right - 0.08)
    for leg in range(4):  # the two far legs first; the near ones swing the other way
        far = leg < 2
        swing = stride[leg % 2] * (1 if far else -1)
        ink = cv2.convertScaleAbs(legs, alpha=0.68) if far else legs
        _leg(sketch, (hips[leg % 2], belly - 0.06), swing, plan, ink, coat.hoof)
    _tail(sketch, rng, (left + 0.02, back + 0.04), plan, coat, hide)
    sketch.polygon(_trunk(left, right, back, belly, plan), hide)
    if plan.crown == "horns":
        sketch.ellipse((left + 0.16, belly - 0.01), (0.045, 0.04), coat.muzzle)
    _neck_and_head(sketch, rng, (right - 0.05, back + 0.07), plan, coat)


def _trunk(left: float, right: float, back: float, belly: float, plan: Animal) -> np.ndarray:
    middle, sag = (left + right) / 2, 0.012 * plan.girth / 0.2
    slope = 0.05 if plan.crown == "knobs" else 0.0  # a giraffe's back falls away from its shoulders
    return rounded([
        (left - 0.01, back + 0.03 + slope), (left + 0.06, back - 0.005 + slope),
        (middle, back + sag + slope / 2), (right - 0.06, back - 0.01), (right + 0.02, back + 0.06),
        (right + 0.01, belly - 0.05), (right - 0.1, belly + 0.005), (middle, belly + sag),
        (left + 0.08, belly - 0.01), (left - 0.015, belly - 0.06),
    ])  # fmt: skip


def _leg(sketch: Sketch, hip: Point, swing: float, plan: Animal, ink: np.ndarray, hoof: Colour) -> None:
    upper, lower = plan.legs * 0.52 + 0.03, plan.legs * 0.48
    knee = (hip[0] + upper * np.sin(swing), hip[1] + upper * np.cos(swing))
    bend = swing - 0.5 * abs(swing)  # knees of all four fold backwards
    foot = (knee[0] + lower * np.sin(bend), min(knee[1] + lower * np.cos(bend), GROUND - 0.01))
    sketch.limb([hip, knee, foot], [plan.bone * 1.35, plan.bone * 0.72, plan.bone * 0.5], ink)
    sketch.limb([foot, (foot[0] + 0.012, GROUND)], [plan.bone * 0.6, plan.bone * 0.72], hoof)


def _tail(sketch: Sketch, rng: Rng, root: Point, plan: Animal, coat: Coat, hide: np.ndarray) -> None:
    sway, drop = rng.uniform(0.03, 0.1), plan.legs * 0.55 + 0.05
    tip = (root[0] - sway, root[1] + drop)
    bend = (root[0] - sway * 0.9, root[1] + drop * 0.35)
    if plan.crown == "mane":  # a horse's tail is hair from its root
        sketch.limb([root, bend, tip], [0.03, 0.06, 0.025], coat.mane)
    else:
        sketch.stroke([root, bend, tip], 0.02, hide)
        sketch.limb([tip, (tip[0], tip[1] + 0.06)], [0.025, 0.035], coat.mane)


def _neck_and_head(sketch: Sketch, rng: Rng, base: Point, plan: Animal, coat: Coat) -> None:
    lean = rng.uniform(*plan.lean)
    if rng.random() < 0.15:  # now and then an animal grazes
        lean += 0.45 if plan.crown == "knobs" else 0.8
    along = np.array([np.sin(lean), -np.cos(lean)])
    behind = np.array([along[1], -along[0]])  # the side of the mane
    poll = np.asarray(base) + plan.neck * along  # top of the neck
    thick = plan.girth * (0.72 if plan.crown != "knobs" else 0.62)
    hide = coat.texture(tuple(along.tolist()))
    slim = 0.09 if plan.crown == "knobs" else 0.11
    if plan.crown == "mane":
        mane = [base + behind * thick * 0.4, poll + behind * 0.05, poll + along * 0.05]
        sketch.limb(mane, [0.06, 0.075, 0.05], coat.mane)
    if plan.crown in ("brush", "knobs"):
        width = 0.05 if plan.crown == "brush" else 0.025
        mane = [base + behind * thick * 0.42, poll + behind * 0.05, poll + along * 0.03]
        sketch.stroke(mane, width, hide if plan.crown == "brush" else coat.mane)
    sketch.limb([base, (np.asarray(base) + poll) / 2, poll], [thick, (thick + slim) / 2.2, slim], hide)
    _head(sketch, poll, 0.45 * lean + rng.uniform(0.35, 0.6), plan, coat, hide)


def _head(sketch: Sketch, poll: np.ndarray, droop: float, plan: Animal, coat: Coat, hide: np.ndarray) -> None:
    """The head from the top of the neck forwards, `droop` radians below the horizontal."""
    front = np.array([np.cos(droop), np.sin(droop)])
    up = np.array([front[1], -front[0]])
    nose = poll + front * plan.head
    wide = plan.head * 0.52
    for reach, ear in ((-0.01, shade(coat.muzzle, 0.8)), (0.025, hide)):
        root = poll + up * wide * 0.4 + front * (reach - 0.015)
        tilt = -0.06 if plan.crown == "horns" else 0.0  # a cow's ears stand out, the others' stand up
        sketch.limb([root, root + up * 0.055 + front * tilt], [0.038, 0.014], ear)
    if plan.crown in ("horns", "knobs"):
        for reach in (0.015, 0.05):
            root = poll + up * wide * 0.4 + front * reach
            tip = root + up * 0.065
            if plan.crown == "horns":
                sketch.limb([root, tip + front * 0.035], [0.028, 0.012], (222, 212, 186))
            else:
                sketch.limb([root, tip], [0.02, 0.018], coat.mane)
                sketch.ellipse(tuple(tip), (0.016, 0.016), shade(coat.mane, 0.6))
    sketch.limb([poll, nose], [wide * 1.15, wide * 0.72], hide)
    sketch.limb([nose - front * 0.02, nose + front * 0.012], [wide * 0.74, wide * 0.66], coat.muzzle)
    sketch.ellipse(tuple(nose + front * 0.02 + up * 0.008), (0.007, 0.007), shade(coat.muzzle, 0.4))
    if plan.crown == "mane":
        sketch.limb([poll + up * wide * 0.42, poll + front * 0.05 + up * wide * 0.3], [0.04, 0.02], coat.mane)
    eye = poll + front * plan.head * 0.3 + up * wide * 0.12
    sketch.ellipse(tuple(eye), (0.017, 0.017), WHITE)
    sketch.ellipse(tuple(eye + front * 0.004), (0.012, 0.012), BLACK)


# ----------------------------------------------------------------------------------------- vehicles

TYRE, RIM = (40, 40, 44), (158, 162, 168)


@dataclass(frozen=True)
class Vehicle:
    """A body on wheels in side view, facing right."""

    hull: tuple[Point, ...]  # outline, clockwise from the rear bottom
    windows: tuple[Box, ...]
    wheels: tuple[float, ...]  # x of each
    wheel: float  # radius
    paints: tuple[Colour, ...]
    dress: Callable[[Sketch, Rng, Colour], None]  # what only this class has


ROAD = 0.80  # y of the ground under the wheels


def draw_vehicle(sketch: Sketch, rng: Rng, plan: Vehicle) -> None:
    """Chassis, hull, what only this class has, windows and wheels."""
    paint = pick(rng, plan.paints)
    axle = ROAD - plan.wheel
    sketch.box((0.03, axle - 0.04, 0.97, axle + 0.015), (52, 52, 56))  # chassis: joins the wheels
    sketch.polygon(plan.hull, grain(rng, paint, 4, 3))
    plan.dress(sketch, rng, paint)
    glass = vary(GLASS, rng) if rng.random() < 0.6 else vary((66, 82, 96), rng)
    for window in plan.windows:
        _pane(sketch, window, glass)
    for x in plan.wheels:
        sketch.ellipse((x, axle - 0.012), (plan.wheel * 1.16, plan.wheel * 1.1), shade(paint, 0.4))
        sketch.ellipse((x, axle), (plan.wheel, plan.wheel), TYRE)
        sketch.ellipse((x, axle), (plan.wheel * 0.55, plan.wheel * 0.55), RIM)
        sketch.ellipse((x, axle), (plan.wheel * 0.2, plan.wheel * 0.2), shade(RIM, 0.6))


def _pane(sketch: Sketch, edges: Box, glass: Colour) -> None:
    left, top, right, bottom = edges
    sketch.box(edges, glass)
    width = right - left
    gleam = [(left + 0.5 * width, top + 0.01), (left + 0.72 * width, top + 0.01),
             (left + 0.42 * width, bottom - 0.01), (left + 0.2 * width, bottom - 0.01)]  # fmt: skip
    sketch.polygon(gleam, shade(glass, 1.3))


def _dress_bus(sketch: Sketch, rng: Rng, paint: Colour) -> None:
    sketch.box((0.0, 0.55, 1.0, 0.585), pick(rng, [BLACK, WHITE, shade(paint, 0.6)]), 0.002)
    sketch.box((0.78, 0.33, 0.89, 0.73), shade(paint, 0.55))  # the door
    _pane(sketch, (0.79, 0.35, 0.83, 0.70), GLASS)
    _pane(sketch, (0.84, 0.35, 0.88, 0.70), GLASS)
    sketch.box((0.965, 0.62, 1.0, 0.66), (250, 236, 170), 0.01)


def _dress_truck(sketch: Sketch, rng: Rng, paint: Colour) -> None:
    cargo = pick(rng, [WHITE, CREAM, SILVER, (150, 106, 68), BLUE])
    sketch.box((0.0, 0.18, 0.63, 0.65), grain(rng, cargo, 4, 3))
    for x in np.arange(0.06, 0.6, 0.085):  # ribs of the container
        sketch.box((x, 0.20, x + 0.012, 0.63), shade(cargo, 0.82), 0.002)
    sketch.box((0.70, 0.53, 0.71, 0.68), shade(paint, 0.6), 0.002)
    sketch.box((0.96, 0.58, 1.0, 0.63), (250, 236, 170), 0.01)
    sketch.box((0.66, 0.66, 1.0, 0.73), (86, 88, 94))


def _dress_car(sketch: Sketch, rng: Rng, paint: Colour) -> None:
    cabin = [(0.21, 0.495), (0.315, 0.36), (0.39, 0.345), (0.57, 0.345), (0.65, 0.37), (0.75, 0.495)]
    sketch.polygon(cabin, shade(paint, 0.72))
    for x in (0.455, 0.72):
        sketch.box((x - 0.004, 0.50, x + 0.004, 0.68), shade(paint, 0.62), 0.002)
    sketch.box((0.49, 0.53, 0.54, 0.545), shade(paint, 0.5), 0.005)
    sketch.box((0.0, 0.665, 1.0, 0.72), shade(paint, 0.62), 0.01)
    sketch.ellipse((0.965, 0.575), (0.03, 0.024), (252, 240, 190))
    sketch.ellipse((0.02, 0.565), (0.018, 0.028), (186, 30, 30))


def _dress_train(sketch: Sketch, rng: Rng, paint: Colour) -> None:
    band = pick(rng, [RED, BLUE, YELLOW, (70, 74, 84)])
    sketch.polygon([(0.0, 0.60), (0.985, 0.60), (1.0, 0.65), (0.0, 0.65)], band)
    for x in (0.255, 0.735):  # doors
        sketch.box((x, 0.455, x + 0.075, 0.70), shade(paint, 0.7))
        _pane(sketch, (x + 0.015, 0.475, x + 0.06, 0.56), GLASS)
    sketch.box((0.345, 0.40, 0.352, 0.72), (60, 60, 64), 0.002)  # where two coaches meet
    sketch.polygon([(0.83, 0.455), (0.885, 0.455), (0.94, 0.545), (0.83, 0.545)], (58, 72, 86))
    sketch.box((0.10, 0.375, 0.30, 0.405), (96, 98, 104))
    sketch.ellipse((0.965, 0.625), (0.018, 0.014), (252, 240, 190))


VEHICLES = {
    "bus": Vehicle(
        ((0.0, 0.74), (0.0, 0.30), (0.03, 0.26), (0.96, 0.26), (1.0, 0.32), (1.0, 0.74)),
        ((0.91, 0.33, 0.99, 0.53), *((x, 0.33, x + 0.125, 0.49) for x in (0.04, 0.185, 0.33, 0.475, 0.62))),
        (0.2, 0.76), 0.082, (YELLOW, RED, BLUE, ORANGE, GREEN), _dress_bus,
    ),
    "truck": Vehicle(
        ((0.0, 0.73), (0.0, 0.64), (0.66, 0.64), (0.66, 0.36), (0.70, 0.33), (0.86, 0.33), (0.93, 0.50),
         (1.0, 0.53), (1.0, 0.73)),
        ((0.76, 0.38, 0.85, 0.51),),
        (0.12, 0.28, 0.84), 0.085, (RED, BLUE, GREEN, ORANGE, TEAL, YELLOW), _dress_truck,
    ),
    "car": Vehicle(
        ((0.0, 0.72), (0.0, 0.55), (0.04, 0.51), (0.17, 0.49), (0.30, 0.345), (0.38, 0.325), (0.58, 0.325),
         (0.66, 0.35), (0.78, 0.49), (0.93, 0.52), (1.0, 0.58), (1.0, 0.72)),
        ((0.27, 0.37, 0.44, 0.49), (0.47, 0.37, 0.68, 0.49)),
        (0.21, 0.79), 0.098, (RED, BLUE, SILVER, TEAL, YELLOW, WHITE), _dress_car,
    ),
    "train": Vehicle(
        ((0.0, 0.72), (0.0, 0.42), (0.02, 0.40), (0.80, 0.40), (0.88, 0.43), (0.96, 0.54), (1.0, 0.65),
         (0.99, 0.72)),
        tuple((x, 0.465, x + 0.055, 0.555) for x in (0.03, 0.105, 0.18, 0.36, 0.435, 0.51, 0.585, 0.66)),
        (0.06, 0.14, 0.22, 0.44, 0.52, 0.60, 0.80, 0.88), 0.042,
        (SILVER, RED, TEAL, WHITE, GREEN), _dress_train,
    ),
}  # fmt: skip

OUTDOORS: dict[str, Callable[[Sketch, Rng], None]] = {
    **{name: partial(draw_animal, plan=plan) for name, plan in ANIMALS.items()},
    **{name: partial(draw_vehicle, plan=plan) for name, plan in VEHICLES.items()},
}
