"""What street scenes happen in front of: sky, ground, buildings, trees, posts, and the hour that lights them."""

import cv2
import numpy as np
from numpy.typing import ArrayLike

from depers.street_scenes.canvas import Canvas, Color, Floats, Light

_WALLS: list[Color] = [
    (182, 150, 120),
    (150, 88, 70),
    (200, 190, 172),
    (128, 132, 138),
    (210, 178, 130),
    (168, 176, 160),
]
_WALLS += [(120, 98, 84), (190, 140, 120), (225, 218, 205), (98, 108, 122)]
_SIGNS: list[Color] = [(170, 40, 40), (40, 90, 150), (50, 120, 70), (215, 160, 40), (60, 60, 66), (130, 60, 120)]
ROAD_HALF_WIDTH = 4.2
"""Metres from the middle of a street that leads away from the camera to its kerb."""
PAVEMENT = 4.0
"""Width of the pavement, metres."""


def draw_light(rng: np.random.Generator) -> Light:
    """Return an hour and a weather at random."""
    hour = rng.choice(["noon", "overcast", "evening", "mist", "night"], p=[0.38, 0.25, 0.15, 0.07, 0.15])
    top, bottom, gain, sun, visibility = {
        "noon": ((88, 146, 214), (205, 225, 240), (1.05, 1.02, 0.98), 1.0, 260),
        "overcast": ((168, 176, 186), (208, 212, 216), (0.92, 0.94, 0.97), 0.2, 180),
        "evening": ((92, 104, 160), (246, 186, 128), (1.05, 0.9, 0.76), 0.8, 150),
        "mist": ((196, 202, 206), (212, 216, 219), (0.93, 0.95, 0.96), 0.1, 55),
        "night": ((16, 20, 42), (52, 52, 74), (0.5, 0.5, 0.6), 0.15, 140),
    }[str(hour)]
    factors = np.array(gain) * rng.uniform(0.88, 1.08) * rng.uniform(0.96, 1.04, 3)
    return Light(top, bottom, (factors[0], factors[1], factors[2]), sun, visibility, str(hour) == "night")


def draw_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fill the image with sky: a gradient down to the horizon, and clouds."""
    height, width = canvas.owner.shape
    horizon = max(int(canvas.camera.horizon), 1)
    mix = np.clip(np.linspace(0, height / horizon, height, dtype=np.float32), 0, 1)[:, None, None]
    top, bottom = (np.asarray(color, np.float32) for color in (canvas.light.sky_top, canvas.light.sky_bottom))
    sky = top * (1 - mix) + bottom * mix
    clouds = np.zeros((height, width), np.float32)
    for cells, weight in ((4, 0.6), (9, 0.3), (20, 0.15)):
        noise = rng.standard_normal((cells // 2 + 2, cells + 2), np.float32)
        clouds += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    cover = np.clip(clouds - rng.uniform(-0.2, 0.6), 0, 1)[..., None] * 0.7
    white = bottom * 0.4 + (30 if canvas.light.night else 150)
    canvas.image[:] = np.clip(sky * (1 - cover) + white * cover, 0, 255)


def draw_avenue(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a street that leads away from the camera between two rows of houses."""
    edge, length = ROAD_HALF_WIDTH + PAVEMENT, 90.0
    canvas.at_depth(25)
    gray = rng.uniform(82, 112)
    _ground(canvas, -200, 200, length * 4, (gray * 1.35, gray * 1.32, gray * 1.27))
    _paving(canvas, edge, gray * 1.2)
    _ground(canvas, -ROAD_HALF_WIDTH, ROAD_HALF_WIDTH, length * 4, (gray, gray, gray * 1.03))
    for kerb in (-ROAD_HALF_WIDTH, ROAD_HALF_WIDTH):
        _ground(canvas, kerb - 0.12, kerb + 0.12, length * 2, (gray * 1.7,) * 3)
    start = rng.uniform(0, 4)
    for z in np.arange(start, 70, 4.5):
        dash = [(-0.08, 0, z), (0.08, 0, z), (0.08, 0, z + 2), (-0.08, 0, z + 2)]
        canvas.surface(dash, (225, 224, 215))
    if rng.random() < 0.45:
        _crossing(canvas, rng.uniform(6, 12))
    _texture_ground(canvas, rng)
    if rng.random() < 0.5:
        _facade(canvas, (-14, 0, length), (14, 0, length), rng.uniform(12, 26), rng)
    for side in (-1.0, 1.0):
        lots = np.cumsum(rng.uniform(7, 15, 9))
        lots = np.concatenate([[1.2], 1.2 + lots[lots < length]])
        for front, back in zip(lots[-2::-1], lots[:0:-1], strict=True):
            if rng.random() < 0.08:  # a gap with a tree
                draw_tree(canvas, side * (edge + 3), (front + back) / 2, rng)
                continue
            ends = [(side * edge, 0, front), (side * edge, 0, back)]
            first, second = ends if side > 0 else ends[::-1]
            _facade(canvas, second, first, rng.uniform(7, 20), rng, 0.72 if side > 0 else 0.95)


def draw_crossroad(canvas: Canvas, rng: np.random.Generator) -> float:
    """Draw a street that crosses the image in front of a row of houses; return their depth in metres."""
    depth = rng.uniform(16, 26)
    canvas.at_depth(depth * 0.6)
    gray = rng.uniform(82, 112)
    _ground(canvas, -300, 300, depth * 8, (gray * 1.35, gray * 1.32, gray * 1.27))
    _paving(canvas, 60, gray * 1.2)
    kerb, opposite_kerb = depth - 12.5, depth - 4
    for z0, z1, color in (
        (kerb, opposite_kerb, (gray, gray, gray * 1.03)),
        (kerb - 0.2, kerb + 0.1, (gray * 1.7,) * 3),
        (opposite_kerb - 0.1, opposite_kerb + 0.2, (gray * 1.7,) * 3),
    ):
        canvas.surface([(-300, 0, z0), (300, 0, z0), (300, 0, z1), (-300, 0, z1)], color)
    middle = (kerb + opposite_kerb) / 2
    for x in np.arange(-40 + rng.uniform(0, 4), 40, 4.5):
        canvas.surface(
            [(x, 0, middle - 0.08), (x + 2, 0, middle - 0.08), (x + 2, 0, middle + 0.08), (x, 0, middle + 0.08)],
            (225, 224, 215),
        )
    if rng.random() < 0.4:
        at = rng.uniform(-6, 4)
        for z in np.arange(kerb + 0.3, opposite_kerb - 0.5, 1.0):
            canvas.surface([(at, 0, z), (at + 3, 0, z), (at + 3, 0, z + 0.5), (at, 0, z + 0.5)], (226, 225, 218))
    _texture_ground(canvas, rng)
    x = -45 + rng.uniform(-6, 0)
    while x < 45:
        width = rng.uniform(8, 18)
        if rng.random() < 0.12:
            for _ in range(3):
                draw_tree(canvas, x + rng.uniform(0, width), depth + rng.uniform(2, 6), rng)
        else:
            _facade(canvas, (x, 0, depth), (x + width, 0, depth), rng.uniform(6, 18), rng)
        x += width
    return float(depth)


def _ground(canvas: Canvas, left: float, right: float, depth: float, color: Color) -> None:
    canvas.surface([(left, 0, 0.2), (right, 0, 0.2), (right, 0, depth), (left, 0, depth)], color)


def _paving(canvas: Canvas, half_width: float, gray: float) -> None:
    """Draw the seams between the slabs of the pavement."""
    for z in np.arange(2, 30, 1.5):
        canvas.surface(
            [(-half_width, 0, z), (half_width, 0, z), (half_width, 0, z + 0.04), (-half_width, 0, z + 0.04)],
            (gray,) * 3,
        )


def _crossing(canvas: Canvas, z: float) -> None:
    for x in np.arange(-ROAD_HALF_WIDTH + 0.3, ROAD_HALF_WIDTH - 0.4, 1.0):
        canvas.surface([(x, 0, z), (x + 0.5, 0, z), (x + 0.5, 0, z + 3), (x, 0, z + 3)], (226, 225, 218))


def _texture_ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Roughen what lies below the horizon, in streaks that foreshorten with the distance."""
    height, width = canvas.owner.shape
    horizon = int(np.clip(canvas.camera.horizon, 0, height - 2))
    coarse = cv2.resize(
        rng.standard_normal((24, 12), np.float32), (width, height - horizon), interpolation=cv2.INTER_CUBIC
    )
    fine = rng.standard_normal((height - horizon, width), np.float32)
    ground = canvas.image[horizon:]
    ground[:] = np.clip(ground * (1 + 0.04 * coarse + 0.03 * fine)[..., None], 0, 255)


def _facade(
    canvas: Canvas, left: ArrayLike, right: ArrayLike, height: float, rng: np.random.Generator, shade: float = 1.0
) -> None:
    """Draw a house front between two points on the ground (left and right as seen), `height` metres tall."""
    a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
    length = float(np.linalg.norm(b - a))
    canvas.at_depth(float((a[2] + b[2]) / 2))
    wall = tuple(np.array(_WALLS[rng.integers(len(_WALLS))]) * rng.uniform(0.85, 1.1))

    def rectangles(x0: ArrayLike, x1: ArrayLike, y0: ArrayLike, y1: ArrayLike) -> Floats:
        """Return rectangles on the wall, in metres along it and up, as pixels (N, 4, 2)."""
        x0, x1, y0, y1 = (np.atleast_1d(np.asarray(value, np.float64)) for value in (x0, x1, y0, y1))
        along = np.stack([x0, x1, x1, x0], -1)[..., None] / length
        points = a + (b - a) * along
        points[..., 1] = np.stack([y0, y0, y1, y1], -1)
        return canvas.camera.project(points)

    canvas.polygons(list(rectangles(0, length, 0, height)), wall, shade)
    canvas.polygons(list(rectangles([0, 0], [length, length], [height - 0.5, 3.15], [height, 3.35])), wall, shade * 0.8)
    step, tall, wide = rng.uniform(2.0, 3.2), rng.uniform(1.3, 1.9), rng.uniform(0.9, 1.5)
    columns = np.arange(step * 0.3, length - wide - 0.3, step)
    rows = np.arange(4.2, height - tall - 0.6, rng.uniform(2.8, 3.4))
    if len(columns) and len(rows):
        x, y = (grid.ravel() for grid in np.meshgrid(columns, rows))
        canvas.polygons(list(rectangles(x - 0.1, x + wide + 0.1, y - 0.1, y + tall + 0.1)), wall, shade * 1.25)
        lit = rng.random(len(x)) < (0.35 if canvas.light.night else 0.04)
        panes = rectangles(x, x + wide, y, y + tall)
        canvas.polygons(list(panes[~lit]), (62, 76, 92), shade)
        canvas.polygons(list(panes[~lit][::3]), (104, 128, 150), shade)
        canvas.polygons(list(panes[lit]), (255, 222, 150) if canvas.light.night else (235, 225, 190))
        if canvas.light.night:
            for pane in panes[lit]:
                canvas.shine(pane.mean(0), min(float(np.ptp(pane[:, 0])) * 0.4, 12), (120, 92, 44))
    shop = rng.random() < 0.6
    door = rng.uniform(0.5, max(length - 2, 0.6))
    if shop:
        x = np.arange(0.4, length - 2, 2.6)
        canvas.polygons(
            list(rectangles(x, x + 2.3, 0 * x + 0.5, 0 * x + 2.5)), (70, 86, 100), shade * rng.uniform(0.8, 1.4)
        )
        sign = _SIGNS[rng.integers(len(_SIGNS))]
        canvas.polygons(list(rectangles(0.3, length - 0.3, 2.55, 3.1)), sign, shade)
        letters = np.arange(1.0, length * rng.uniform(0.4, 0.9), 0.42)
        canvas.polygons(
            list(rectangles(letters, letters + 0.26, 0 * letters + 2.68, 0 * letters + 2.96)), (238, 236, 228), shade
        )
    canvas.polygons(list(rectangles(door, door + 1.1, 0, 2.2)), (70, 48, 36), shade)


def draw_tree(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """Draw a tree with a trunk and a crown of leaf clusters."""
    canvas.at_depth(z)
    tall = rng.uniform(4.5, 8)
    unit = canvas.camera.scale(z)
    foot, fork = canvas.camera.project([[x, 0, z], [x + rng.uniform(-0.3, 0.3), tall * 0.5, z]])
    canvas.limb(foot, fork, (0.36 * unit, 0.24 * unit), (78, 60, 46))
    crown = fork - [0, tall * 0.22 * unit]
    green = np.array([70, 108, 52]) * rng.uniform(0.7, 1.25) + rng.uniform(-10, 25, 3) * [1, 1, 0.3]
    for shade in (0.7, 0.85, 1.0, 1.12):
        for _ in range(7):
            spot = crown + rng.normal(0, 0.14 * tall * unit, 2) - [0, (shade - 0.8) * tall * 0.3 * unit]
            radius = rng.uniform(0.07, 0.13) * tall * unit
            canvas.ellipse(spot, (radius * 1.15, radius), tuple(green), shade)


def draw_post(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """Draw what stands about in streets: a lamp post, a traffic sign, a bin, a hedge, a kiosk."""
    canvas.at_depth(z)
    unit = canvas.camera.scale(z)
    foot = canvas.camera.project([x, 0.0, z])
    metal: Color = (72, 76, 80)
    kind = rng.choice(["lamp", "sign", "bin", "hedge", "box"], p=[0.3, 0.3, 0.16, 0.12, 0.12])
    if kind == "lamp":
        top = foot - [0, 5.5 * unit]
        canvas.limb(foot, top, (0.16 * unit, 0.1 * unit), metal)
        arm = top + np.array([1.1, -0.2]) * unit * rng.choice([-1, 1])
        canvas.limb(top, arm, (0.09 * unit, 0.09 * unit), metal)
        canvas.ellipse(arm, (0.3 * unit, 0.1 * unit), (250, 240, 205))
        if canvas.light.night:
            canvas.shine(arm, min(0.7 * unit, 30), (255, 205, 120))
    elif kind == "sign":
        top = foot - [0, 2.6 * unit]
        canvas.limb(foot, top, (0.07 * unit, 0.07 * unit), (150, 152, 154))
        round_ = rng.random() < 0.6
        rim, inside = ((190, 30, 34), (240, 240, 238)) if rng.random() < 0.6 else ((240, 240, 238), (30, 80, 160))
        if round_:
            canvas.ellipse(top, (0.34 * unit, 0.34 * unit), rim)
            canvas.ellipse(top, (0.25 * unit, 0.25 * unit), inside)
        else:  # a white board with writing: what a plate is not
            board = np.array([[-0.5, -0.22], [0.5, -0.22], [0.5, 0.22], [-0.5, 0.22]]) * unit
            canvas.polygon(top + board, (240, 240, 236))
            for offset in (-0.1, 0.06):
                line = np.array([[-0.4, -0.04], [0.35, -0.04], [0.35, 0.04], [-0.4, 0.04]]) * unit
                canvas.polygon(top + line + [0, offset * unit], (60, 62, 66))
    elif kind == "bin":
        canvas.polygon(foot + np.array([[-0.28, 0], [0.28, 0], [0.34, -0.95], [-0.34, -0.95]]) * unit, (60, 86, 70))
        canvas.ellipse(foot - [0, 0.95 * unit], (0.36 * unit, 0.09 * unit), (44, 62, 52))
    elif kind == "hedge":
        green = np.array([64, 98, 52]) * rng.uniform(0.8, 1.2)
        for offset in np.arange(-1.4, 1.4, 0.35):
            spot = foot + np.array([offset + rng.uniform(-0.1, 0.1), -0.4]) * unit
            canvas.ellipse(spot, (0.42 * unit, rng.uniform(0.42, 0.55) * unit), tuple(green), rng.uniform(0.8, 1.1))
    else:
        canvas.polygon(
            foot + np.array([[-0.45, 0], [0.45, 0], [0.45, -1.3], [-0.45, -1.3]]) * unit,
            _SIGNS[rng.integers(len(_SIGNS))],
        )
        canvas.polygon(
            foot + np.array([[-0.35, -0.7], [0.35, -0.7], [0.35, -1.2], [-0.35, -1.2]]) * unit, (214, 216, 214)
        )
