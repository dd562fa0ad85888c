"""The people of street scenes: walking or standing, from any side, in many clothes; with a face only if it shows.

A person's body, head (with hair, hat or hood) and face are the parts 0, 1 and 2 of a thing.
"""

from typing import NamedTuple

import numpy as np

from depers.street_scenes.canvas import Canvas, Color, Floats

BODY, HEAD, FACE = 0, 1, 2

_SKINS: list[Color] = [
    (248, 214, 190),
    (238, 194, 162),
    (222, 172, 136),
    (196, 144, 106),
    (150, 102, 72),
    (108, 74, 54),
]
_HAIRS: list[Color] = [(28, 22, 20), (60, 40, 26), (105, 72, 40), (180, 140, 80), (150, 148, 145), (130, 52, 28)]
_CLOTHES: list[Color] = [(40, 44, 58), (150, 40, 44), (52, 84, 130), (90, 110, 70), (200, 190, 170), (60, 60, 62)]
_CLOTHES += [(220, 160, 50), (120, 70, 110), (230, 230, 228), (70, 130, 130), (110, 80, 55), (205, 110, 120)]


class Person(NamedTuple):
    """A person at (x, z), `height` metres tall; `turn` 0 looks into the camera, ±π away from it."""

    x: float
    z: float
    height: float
    turn: float


def draw_person(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    """Draw a walking or standing person in random clothes."""
    canvas.at_depth(person.z)
    unit = canvas.camera.scale(person.z) * person.height  # pixels of the whole person
    foot = canvas.camera.project([person.x, 0.0, person.z])
    skin = np.array(_SKINS[rng.integers(len(_SKINS))]) * rng.uniform(0.92, 1.06)
    coat = np.array(_CLOTHES[rng.integers(len(_CLOTHES))]) * rng.uniform(0.7, 1.15)
    legs = np.array(_CLOTHES[rng.integers(6)]) * rng.uniform(0.6, 1.1)
    shoes: Color = (34, 30, 28) if rng.random() < 0.7 else (215, 212, 205)
    frontal = abs(np.cos(person.turn))
    sideways = np.sign(np.sin(person.turn)) or 1.0
    girth = rng.uniform(0.85, 1.25)
    stride = rng.uniform(-1, 1) * (0.035 + 0.11 * (1 - frontal))

    def at(x: float, up: float) -> Floats:
        """Return a point of the body: x to the right and up from the ground, in parts of the height."""
        return foot + np.array([x, -up]) * unit

    shoulder = 0.115 * girth * (0.62 + 0.38 * frontal)
    hip = 0.075 * girth * (0.75 + 0.25 * frontal)
    skirt = rng.random() < 0.18
    for swing, x, dark in ((-stride, -hip * 0.5, 0.82), (stride, hip * 0.5, 1.0)):
        knee, ankle = at(x + swing * 0.7, 0.27), at(x + swing * 1.35, 0.045 + 0.03 * abs(swing))
        color = skin if skirt else legs
        canvas.limb(at(x * 1.1, 0.5), knee, (0.1 * unit * girth, 0.075 * unit), tuple(color), dark)
        canvas.limb(knee, ankle, (0.072 * unit, 0.05 * unit), tuple(color), dark)
        toe = ankle + np.array([0.045 * sideways * (1 - frontal) + 0.01 * np.sign(x), 0.022]) * unit
        canvas.limb(ankle + np.array([0, 0.02]) * unit, toe, (0.05 * unit, 0.045 * unit), shoes, dark)
    hem = rng.uniform(0.28, 0.36) if skirt else 0.46 if rng.random() < 0.7 else rng.uniform(0.3, 0.4)
    flare = 1.5 if skirt else 1.1
    raise_ = rng.uniform(0.5, 1.0)
    hands = []
    back, front = (-1.0, 1.0) if sideways > 0 else (1.0, -1.0)

    def arm(side: float, dark: float) -> None:
        swing = stride * 1.1 * side + rng.uniform(-0.03, 0.03)
        elbow = at(side * shoulder * 1.12 + swing * 0.4, 0.62)
        reach = at(side * shoulder * 1.05 + swing + (1 - raise_) * 0.05 * sideways, 0.47 + (1 - raise_) * 0.2)
        canvas.limb(at(side * shoulder * 0.93, 0.79), elbow, (0.062 * unit * girth, 0.052 * unit), tuple(coat), dark)
        canvas.limb(elbow, reach, (0.05 * unit, 0.04 * unit), tuple(coat), dark)
        canvas.ellipse(reach, (0.021 * unit, 0.025 * unit), tuple(skin), dark)
        hands.append(reach)

    arm(back, 0.75)
    torso = [(-hip * flare, hem), (-hip, 0.56), (-shoulder, 0.75), (-shoulder * 0.85, 0.815), (-0.03, 0.84)]
    outline = np.array([at(x, up) for x, up in torso] + [at(-x, up) for x, up in torso[::-1]])
    canvas.polygon(outline, tuple(coat))
    if frontal > 0.5 and np.cos(person.turn) > 0 and rng.random() < 0.6:  # an open collar or a shirt
        shirt = tuple(np.array(_CLOTHES[rng.integers(len(_CLOTHES))]))
        canvas.polygon(np.array([at(-0.03, 0.835), at(0.03, 0.835), at(0.012, rng.uniform(0.55, 0.75))]), shirt)
    elif np.cos(person.turn) < 0 and rng.random() < 0.35:  # a rucksack
        bag = tuple(np.array(_CLOTHES[rng.integers(len(_CLOTHES))]))
        canvas.ellipse(at(0, 0.68), (0.085 * unit * girth, 0.11 * unit), bag, 0.8)
    arm(front, 0.95)
    if rng.random() < 0.25:  # a bag in the hand
        x, y = hands[-1]
        size = 0.06 * unit
        corners = np.array(
            [[x - size, y], [x + size, y], [x + size * 1.1, y + 2.4 * size], [x - size * 1.1, y + 2.4 * size]]
        )
        canvas.polygon(corners, _CLOTHES[rng.integers(len(_CLOTHES))])
    _draw_head(canvas, at(0.012 * sideways * (1 - frontal), 0.925), unit, person.turn, skin, coat, rng)


def _draw_head(
    canvas: Canvas, center: Floats, unit: float, turn: float, skin: Floats, coat: Floats, rng: np.random.Generator
) -> None:
    """Draw a head (with hair, hat or hood) around `center`; its face is drawn when it is turned less than 80°."""
    half_wh = np.array([0.056, 0.072]) * unit * rng.uniform(0.95, 1.15)
    rx, ry = half_wh.tolist()
    hair = tuple(np.array(_HAIRS[rng.integers(len(_HAIRS))]) * rng.uniform(0.8, 1.15))
    style = rng.choice(["short", "long", "bald", "hat", "hood"], p=[0.4, 0.27, 0.08, 0.15, 0.1])
    facing = abs(turn) < np.deg2rad(80)
    canvas.limb(
        center + np.array([0, ry * 0.5]), center + np.array([0, ry * 1.35]), (rx * 0.95, rx * 1.05), tuple(skin), 0.85
    )
    back = tuple(coat * 0.92) if style == "hood" else tuple(skin) if style == "bald" else hair
    if style == "long":
        canvas.ellipse(
            center + np.array([-np.sin(turn) * rx * 0.3, ry * 0.35]), (rx * 1.12, ry * 1.25), hair, 0.9, HEAD
        )
    canvas.ellipse(center, (rx * (1.12 if style == "hood" else 1.0), ry), back, 1.0, HEAD)
    if style != "hood" and np.cos(turn) < 0.75:  # the ear
        canvas.ellipse(
            center - np.array([np.sin(turn) * rx * 0.35 * np.sign(np.cos(turn) or 1), -0.05 * ry]),
            (rx * 0.16, ry * 0.17),
            tuple(skin),
            0.9,
            HEAD,
        )
    if facing:
        shift, narrow = np.sin(turn) * rx * 0.42, 0.62 + 0.2 * np.cos(turn)
        middle = center + np.array([shift, ry * 0.14])
        canvas.ellipse(middle, (rx * narrow, ry * 0.84), tuple(skin), 1.0, FACE)
        _draw_features(canvas, middle, (rx, ry), turn, skin, hair, rng)
        if style in ("short", "long", "hat"):  # the hair line
            brow = (np.pi * 1.08, np.pi * 1.92)
            canvas.ellipse(
                center + np.array([shift * 0.6, -ry * 0.02]),
                (rx * (narrow + 0.12), ry * 0.97),
                hair,
                1.0,
                HEAD,
                arc=brow,
            )
    if style == "hat":
        cap = tuple(np.array(_CLOTHES[rng.integers(len(_CLOTHES))]))
        canvas.ellipse(
            center - np.array([0, ry * 0.35]), (rx * 1.08, ry * 0.78), cap, 1.0, HEAD, arc=(np.pi, 2 * np.pi)
        )
        brim = center + np.array([np.sin(turn) * rx * 0.7, -ry * 0.36])
        canvas.ellipse(brim, (rx * 0.95, ry * 0.1), cap, 0.75, HEAD)


def _draw_features(
    canvas: Canvas,
    middle: Floats,
    radii: tuple[float, float],
    turn: float,
    skin: Floats,
    hair: Color,
    rng: np.random.Generator,
) -> None:
    """Draw eyes, brows, nose and mouth on a face around `middle`; `radii` are those of the head."""
    rx, ry = radii
    glasses = rng.random() < 0.2
    beard = rng.random() < 0.2
    if beard:
        canvas.ellipse(middle + np.array([0, ry * 0.42]), (rx * 0.55, ry * 0.42), hair, 0.95, FACE)
    for side in (-0.5, 0.5):
        if np.cos(turn + side) < 0.25:
            continue
        eye = middle + np.array([rx * 0.72 * (np.sin(turn + side) - np.sin(turn) * 0.6), -ry * 0.1])
        if glasses:
            canvas.ellipse(eye, (rx * 0.3, ry * 0.17), (24, 24, 28), 1.0, FACE)
        else:
            canvas.ellipse(eye, (rx * 0.17, ry * 0.085), (242, 240, 236), 1.0, FACE)
            canvas.ellipse(eye, (rx * 0.085, ry * 0.08), (40, 30, 26), 1.0, FACE)
            canvas.ellipse(eye - [0, ry * 0.17], (rx * 0.2, ry * 0.035), hair, 0.9, FACE)
    nose = middle + np.array([rx * 0.42 * np.sin(turn), ry * 0.12])
    canvas.polygon(
        np.array(
            [
                nose - np.array([rx * 0.03, ry * 0.2]),
                nose + np.array([rx * 0.12, ry * 0.08]),
                nose + np.array([-rx * 0.12, ry * 0.08]),
            ]
        ),
        tuple(skin),
        0.8,
        FACE,
    )
    canvas.ellipse(
        middle + np.array([rx * 0.25 * np.sin(turn), ry * 0.42]), (rx * 0.25, ry * 0.06), (165, 75, 72), 0.9, FACE
    )
