"""The cars of street scenes, modelled in metres and projected panel by panel: paint, glass, wheels, lamps, plates.

A car's body is part 0 of its thing, its plate part 3.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

from depers.street_scenes.canvas import Canvas, Color, Floats

BODY, PLATE = 0, 3

Quad = Callable[[tuple[float, float], tuple[float, float], tuple[float, float]], Floats]

_PAINTS: list[Color] = [(225, 225, 222), (30, 31, 34), (120, 124, 128), (175, 178, 180), (150, 28, 32), (35, 62, 120)]
_PAINTS += [(60, 100, 70), (205, 170, 60), (90, 60, 45), (215, 110, 40), (70, 130, 165), (110, 25, 60)]

# Side profiles, (along the car, up) in metres, from the rear bumper over the roof to the front bumper.
_PROFILES: dict[str, list[tuple[float, float]]] = {
    "sedan": [
        (-2.2, 0.28), (-2.25, 0.95), (-1.65, 1.0), (-1.05, 1.42), (0.25, 1.44), (1.05, 0.97), (2.1, 0.8), (2.2, 0.28),
    ],
    "hatch": [
        (-1.85, 0.28), (-1.95, 0.9), (-1.88, 0.98), (-1.55, 1.46), (0.2, 1.5), (0.95, 1.0), (1.85, 0.82), (1.95, 0.28),
    ],
    "suv": [
        (-2.2, 0.36), (-2.3, 1.0), (-2.25, 1.08), (-1.95, 1.7), (0.35, 1.74), (1.0, 1.16), (2.15, 1.0), (2.25, 0.36),
    ],
    "van": [
        (-2.4, 0.36), (-2.45, 1.05), (-2.44, 1.12), (-2.35, 2.05), (1.2, 2.08), (1.85, 1.25), (2.4, 1.05), (2.45, 0.36),
    ],
}  # fmt: skip
_HALF_WIDTH = 0.9


class Car(NamedTuple):
    """A car at (x, z) metres that heads `heading` radians: 0 drives away from the camera, π towards it."""

    x: float
    z: float
    heading: float


def draw_car(canvas: Canvas, car: Car, rng: np.random.Generator) -> None:
    """Draw the outside of a car of random make and paint."""
    canvas.at_depth(car.z)
    profile = np.array(_PROFILES[str(rng.choice(["sedan", "hatch", "suv", "van"], p=[0.35, 0.3, 0.25, 0.1]))])
    paint = np.array(_PAINTS[rng.integers(len(_PAINTS))]) * rng.uniform(0.85, 1.1) + rng.uniform(-10, 10, 3)
    glass: Color = (45, 55, 66) if rng.random() < 0.8 else (95, 115, 130)
    waist = profile[2, 1]
    roof = profile[3:5, 1].max()
    sine, cosine = np.sin(car.heading), np.cos(car.heading)

    def place(along: ArrayLike, up: ArrayLike, across: ArrayLike) -> Floats:
        a, u, w = np.broadcast_arrays(*map(np.asarray, (along, up, across)))
        w = w * (1 - 0.16 * np.clip((u - waist) / (roof - waist), 0, 1))  # the cabin narrows upwards
        return np.stack([car.x + a * sine + w * cosine, u, car.z + a * cosine - w * sine], -1)

    def quad(along: tuple[float, float], up: tuple[float, float], across: tuple[float, float]) -> Floats:
        return place([along[0], along[0], along[1], along[1]], [up[0], up[0], up[1], up[1]], [*across, *across[::-1]])

    ground = quad((profile[0, 0], profile[-1, 0]), (0.12, 0.12), (-_HALF_WIDTH, _HALF_WIDTH))
    canvas.surface(ground, (18, 18, 20))
    eye = np.array([0, canvas.camera.height, 0])
    toward = eye - np.array([car.x, 0.7, car.z])
    side = 1.0 if toward @ np.array([cosine, 0, -sine]) > 0 else -1.0

    strips: list[tuple[float, Floats, ArrayLike, float]] = []
    for index, ((a0, u0), (a1, u1)) in enumerate(pairwise(profile)):
        corners = quad((a0, a1), (u0, u1), (-_HALF_WIDTH, _HALF_WIDTH))
        normal = np.cross(corners[3] - corners[0], corners[1] - corners[0])
        if normal @ (eye - corners.mean(0)) <= 0:
            continue
        up = normal[1] / (np.linalg.norm(normal) + 1e-9)
        shade = 0.78 + 0.28 * up if canvas.light.sun > 0.4 else 0.85 + 0.12 * up
        pane = index in (2, 4)
        strips.append((float(np.linalg.norm(eye - corners.mean(0))), corners, glass if pane else paint, shade))
        if pane:  # its frame is paint, the pane itself a little smaller
            strips[-1] = (*strips[-1][:2], paint, shade)
            inner = quad(
                (a0 + 0.1 * (a1 - a0), a1 - 0.1 * (a1 - a0)), (u0 + 0.1 * (u1 - u0), u1 - 0.1 * (u1 - u0)), (-0.8, 0.8)
            )
            strips.append((strips[-1][0] - 1e-3, inner, glass, 1.0 + 0.3 * up))
    for _, corners, color, shade in sorted(strips, key=lambda strip: -strip[0]):
        canvas.surface(corners, tuple(np.asarray(color)), shade)

    shade_side = 0.72 + 0.2 * canvas.light.sun * side
    canvas.surface(place(profile[:, 0], profile[:, 1], side * _HALF_WIDTH), tuple(paint), shade_side)
    sill = place([profile[0, 0], profile[0, 0], profile[-1, 0], profile[-1, 0]], [0.28, 0.42, 0.42, 0.28], side * 0.91)
    canvas.surface(sill, tuple(paint), shade_side * 0.6)
    cabin = profile[2:6]
    low, high = waist + 0.04, roof - 0.08
    rear = [np.interp(level, cabin[:2, 1], cabin[:2, 0]) + 0.14 for level in (low, high)]
    front = [np.interp(level, cabin[3:1:-1, 1], cabin[3:1:-1, 0]) - 0.14 for level in (low, high)]
    middle = (rear[1] + front[1]) / 2
    for a, b in (((rear[0], rear[1]), (middle - 0.05,) * 2), ((middle + 0.05,) * 2, (front[0], front[1]))):
        canvas.surface(place([a[0], a[1], b[1], b[0]], [low, high, high, low], side * 0.905), glass)
    angles = np.linspace(0, 2 * np.pi, 18)
    for wheel in (profile[0, 0] + 0.82, profile[-1, 0] - 0.85):
        for radius, up_, color in (
            (0.37, 0.36, (20, 20, 22)),
            (0.32, 0.33, (34, 34, 36)),
            (0.19, 0.33, (150, 152, 155)),
        ):
            ring = place(wheel + radius * np.cos(angles), up_ + radius * np.sin(angles), side * 0.92)
            canvas.surface(ring, color)
    _draw_end(canvas, quad, profile, toward @ np.array([sine, 0, cosine]) > 0, tuple(paint), rng)


def _draw_end(canvas: Canvas, quad: Quad, profile: Floats, front: bool, paint: Color, rng: np.random.Generator) -> None:
    """Draw the end of a car that looks at the camera: bumper, grille, lamps, plate."""
    end = profile[-1, 0] + 0.02 if front else profile[0, 0] - 0.07
    top = profile[-2, 1] if front else profile[1, 1]
    flat = (end, end)

    def panel(up: tuple[float, float], across: tuple[float, float], color: Color) -> Floats:
        corners = canvas.camera.project(
            quad(flat, up, across)[[0, 1, 1, 0]] * [1, 0, 1]
            + np.array([[0, up[0], 0], [0, up[0], 0], [0, up[1], 0], [0, up[1], 0]])
        )
        canvas.polygon(corners, color)
        return corners

    panel((0.26, 0.4), (-0.88, 0.88), (40, 41, 44))
    lamp: Color = (250, 248, 230) if front else (190, 20, 24)
    if front:
        panel((0.5, top - 0.1), (-0.5, 0.5), (28, 28, 30))
    for inner, outer in ((-0.86, -0.55), (0.55, 0.86)):
        corners = panel((top - 0.26, top - 0.08), (inner, outer), lamp)
        if canvas.light.night:
            glow: Color = (210, 200, 160) if front else (150, 10, 10)
            canvas.shine(corners.mean(0), float(np.ptp(corners[:, 0])) * 0.5, glow)
    if rng.random() < 0.04:
        return  # a car without its plate
    low = 0.4 if front else rng.choice([0.42, top - 0.3])
    canvas.thing += PLATE
    corners = panel((low, low + 0.15), (-0.29, 0.29), (40, 40, 44))
    _letter(canvas, panel((low + 0.015, low + 0.135), (-0.275, 0.275), (238, 238, 232)), rng)
    canvas.thing -= PLATE


def _letter(canvas: Canvas, corners: Floats, rng: np.random.Generator) -> None:
    """Write a random number on a plate, corners (4, 2) from its lower left, if it is large enough to be read."""
    width = float(np.ptp(corners[:, 0]))
    if width < 14 or not np.isfinite(corners).all():
        return
    text = "".join(rng.choice(list("ABEHKMOPTXY"), 1)) + f"{rng.integers(1000):03d}"
    text += "".join(rng.choice(list("ABEHKMOPTXY"), 2)) + f"{rng.integers(100):02d}"
    plate = np.zeros((44, 200), np.uint8)
    cv2.putText(plate, text, (6, 35), cv2.FONT_HERSHEY_DUPLEX, 1.12, 255, 3, cv2.LINE_AA)
    x, y = np.floor(corners.min(0)).astype(int)
    right, bottom = np.ceil(corners.max(0)).astype(int) + 1
    if corners[0, 0] > corners[1, 0]:
        corners = corners[[1, 0, 3, 2]]  # seen from the other end, left is right
    source = np.array([[0, 44], [200, 44], [200, 0], [0, 0]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, (corners - [x, y]).astype(np.float32))
    shrunk = cv2.warpPerspective(plate, matrix, (int(right - x), int(bottom - y)), flags=cv2.INTER_AREA)
    height, full = canvas.owner.shape
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(right, full), min(bottom, height)
    if x0 >= x1 or y0 >= y1:
        return
    ink = shrunk[y0 - y : y1 - y, x0 - x : x1 - x, None] / 255 * 0.85
    region = canvas.image[y0:y1, x0:x1]
    region[:] = region * (1 - ink) + np.array([30, 30, 36]) * ink
