"""Paper and pencil for `toy`: shapes and finishing, in unit coordinates.

A thing is drawn on a `Sketch` (x to the right, y down, both 0 to 1) that is larger than the thing will be in its image:
shrinking it is what smooths its edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from llafs_lib.data.toy.ink import PIXEL_Y, SIDE, Colour, Ink, Rng, light

MARGIN = 0.08  # of SIDE: room around the unit square, so that ears and handles are not cut off

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom

_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False) + np.pi / 20


class Sketch:
    """A drawing in progress: `colour` [SIDE, SIDE, 3] uint8 RGB and `mask` [SIDE, SIDE] uint8, 0 or 255."""

    def __init__(self) -> None:
        self.colour = np.zeros((SIDE, SIDE, 3), np.uint8)
        self.mask = np.zeros((SIDE, SIDE), np.uint8)

    def polygon(self, points: Sequence[Point], ink: Ink) -> None:
        corners = pixels(points)
        self._fill(lambda plane, value: cv2.fillPoly(plane, [corners], value), ink)

    def ellipse(self, centre: Point, radii: Point, ink: Ink, angle: float = 0.0, hollow: float = 0.0) -> None:
        """An ellipse turned by `angle` degrees; `hollow` > 0 draws only its outline, that wide."""
        middle, axes = pixels([centre])[0].tolist(), [max(1, length(r)) for r in radii]
        width = max(1, length(hollow)) if hollow else cv2.FILLED
        self._fill(lambda plane, value: cv2.ellipse(plane, middle, axes, angle, 0, 360, value, width), ink)

    def stroke(self, points: Sequence[Point], width: float, ink: Ink) -> None:
        """A line of constant width with round ends."""
        self.limb(points, [width] * len(points), ink)

    def limb(self, joints: Sequence[Point], widths: Sequence[float], ink: Ink) -> None:
        """A tube through `joints`, `widths[i]` thick at joint i: discs, and a tapering quad between two."""
        points, radii = np.asarray(joints, float), np.asarray(widths) / 2
        step = np.diff(points, axis=0)
        across = step[:, ::-1] * (-1, 1) / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
        a, b, ra, rb = points[:-1], points[1:], radii[:-1, None], radii[1:, None]
        quads = np.stack([a + across * ra, b + across * rb, b - across * rb, a - across * ra], axis=1)

        def draw(plane: np.ndarray, value: Colour) -> None:
            for quad in quads:
                cv2.fillConvexPoly(plane, pixels(quad), value)
            for centre, radius in zip(pixels(points), radii, strict=True):
                cv2.circle(plane, centre.tolist(), length(radius), value, cv2.FILLED)

        self._fill(draw, ink)

    def box(self, edges: Box, ink: Ink, corner: float = 0.015) -> None:
        """A rectangle (left, top, right, bottom) with rounded corners of radius `corner`."""
        left, top, right, bottom = edges
        cos, sin = np.cos(_TURN), np.sin(_TURN)  # a circle, its quarters pulled apart into the four corners
        x = np.where(cos > 0, right - corner, left + corner) + corner * cos
        y = np.where(sin > 0, bottom - corner, top + corner) + corner * sin
        self.polygon(np.stack([x, y], axis=1), ink)

    def pierce(self, centre: Point, radii: Point) -> None:
        """Cut an elliptic hole: the background will show through."""
        cv2.ellipse(self.mask, pixels([centre])[0].tolist(), [length(r) for r in radii], 0, 0, 360, 0, -1)

    def _fill(self, draw: Callable[[np.ndarray, Colour], object], ink: Ink) -> None:
        draw(self.mask, 255)
        if not isinstance(ink, np.ndarray):
            draw(self.colour, ink)
            return
        region = np.zeros_like(self.mask)
        draw(region, 255)
        cv2.copyTo(ink, region, self.colour)


def pixels(points: Sequence[Point]) -> np.ndarray:
    return np.rint((np.asarray(points) * (1 - 2 * MARGIN) + MARGIN) * SIDE).astype(np.int32)


def length(part: float) -> int:
    return round(part * (1 - 2 * MARGIN) * SIDE)


def rounded(points: Sequence[Point], rounds: int = 3) -> np.ndarray:
    """Chaikin's corner cutting: a polygon becomes a smooth closed outline."""
    outline = np.asarray(points, float)
    for _ in range(rounds):
        after = np.roll(outline, -1, axis=0)
        pairs = np.stack([0.75 * outline + 0.25 * after, 0.25 * outline + 0.75 * after], axis=1)
        outline = pairs.reshape(-1, 2)
    return outline


# ---------------------------------------------------------------------------------------- finishing


def finish(sketch: Sketch, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Shade the sketch and pose it at random; returns colour [h, w, 3] uint8 and mask [h, w] uint8, 0 to 255.

    The pose is a mirror image or not, a turn of up to 18° and a stretch of up to 8 % each way.
    """
    colour = _round_off(sketch, rng)
    mirror, turn = rng.choice([-1, 1]), np.deg2rad(np.clip(rng.normal(0, 8), -18, 18))
    across, down = rng.uniform(0.92, 1.08, 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.diag([mirror * across, down])
    room = int(SIDE * 1.3)
    pose = np.hstack([linear, (room / 2 - linear @ [SIDE / 2, SIDE / 2])[:, None]])
    colour = cv2.warpAffine(colour, pose, (room, room), borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(sketch.mask, pose, (room, room))
    x, y, width, height = cv2.boundingRect(mask)
    inside = slice(y, y + height), slice(x, x + width)
    return colour[inside], mask[inside]


def _round_off(sketch: Sketch, rng: Rng) -> np.ndarray:
    """Light from above and a darker rim make a flat drawing look solid and stand off its background."""
    depth = cv2.distanceTransform(sketch.mask, cv2.DIST_L2, 3)  # px from the rim
    rim = 0.5 + 0.5 * np.clip(depth / 4, 0, 1)
    above = np.float32(rng.uniform(1.0, 1.12)) - np.float32(rng.uniform(0.08, 0.25)) * PIXEL_Y
    return light(sketch.colour, rim * above)


def shrink(colour: np.ndarray, mask: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Resize a cut-out; returns colour [h, w, 3] and alpha [h, w], 0 to 1 and soft at the edge, float32."""
    size = (max(1, round(mask.shape[1] * factor)), max(1, round(mask.shape[0] * factor)))
    alpha = mask.astype(np.float32) / 255
    # Averaging colour times alpha keeps what lies outside the object from bleeding into its edge.
    blended = cv2.resize(colour * alpha[..., None], size, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    return blended / np.maximum(alpha, 1e-3)[..., None], alpha
