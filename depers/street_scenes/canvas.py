"""What street scenes are drawn with: a pinhole camera, a canvas that remembers whose pixels are whose, light.

World coordinates are metres: x to the right, y up, z away from the camera, the ground at y = 0.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Color = tuple[float, float, float]

_FRACTION_BITS = 4  # OpenCV draws polygons with 1/16 px precision
_FAR_OUTSIDE = 30_000.0  # coordinates beyond are clipped, so that fixed point does not overflow


class Camera(NamedTuple):
    """A level pinhole camera: `size_wh` and `focal` in pixels, `horizon` as a row, `height` in metres."""

    size_wh: tuple[int, int]
    focal: float
    horizon: float
    height: float

    def project(self, points: ArrayLike) -> Floats:
        """Turn world points (…, 3) in metres into pixels (…, 2); points behind the camera are taken to 0.2 m ahead."""
        xyz = np.asarray(points, np.float64)
        z = np.maximum(xyz[..., 2], 0.2)
        u = self.size_wh[0] / 2 + self.focal * xyz[..., 0] / z
        v = self.horizon + self.focal * (self.height - xyz[..., 1]) / z
        return np.stack([u, v], -1)

    def scale(self, z: float) -> float:
        """Return the pixels per metre at depth `z`."""
        return self.focal / z


class Light(NamedTuple):
    """The hour and the weather: colors as 0…255, gains as factors, `visibility` in metres."""

    sky_top: Color
    sky_bottom: Color
    gain: Color
    sun: float
    """How strong the direct light is, 0…1: contrast of shaded sides and depth of the shadows."""
    visibility: float
    night: bool


class Canvas:
    """An image and, pixel for pixel, the number of the thing drawn there.

    `image` is uint8 RGB (H, W, 3), `owner` uint16 (H, W), 0 for what carries no label. `shadow` (0…1) and `glow`
    (RGB) are quarter-size float layers: the first is laid over the ground before things stand on it, the second
    is added at the end.
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        width, height = camera.size_wh
        self.camera, self.light = camera, light
        self.image = np.zeros((height, width, 3), np.uint8)
        self.owner = np.zeros((height, width), np.uint16)
        self.shadow = np.zeros((-(-height // 4), -(-width // 4)), np.float32)
        self.glow = np.zeros((*self.shadow.shape, 3), np.float32)
        self.thing = 0
        self._haze = 0.0

    def at_depth(self, z: float) -> None:
        """Let whatever is drawn next stand at `z` metres and fade into the air accordingly."""
        self._haze = float(1 - np.exp(-z / self.light.visibility))

    def tint(self, color: Sequence[float], shade: float = 1.0) -> tuple[int, int, int]:
        """Return `color` (RGB 0…255) times `shade`, seen through the air at the present depth."""
        air = np.asarray(self.light.sky_bottom)
        mixed = np.asarray(color) * shade * (1 - self._haze) + air * self._haze
        red, green, blue = np.clip(mixed, 0, 255).astype(int).tolist()
        return red, green, blue

    def polygons(self, outlines: Sequence[Floats], color: Sequence[float], shade: float = 1.0, part: int = 0) -> None:
        """Fill polygons (each (N, 2) in pixels) that do not overlap; `part` is added to the thing's number."""
        fixed = [
            np.rint(np.clip(points, -_FAR_OUTSIDE, _FAR_OUTSIDE) * (1 << _FRACTION_BITS)).astype(np.int32)
            for points in outlines
        ]
        if not fixed:
            return
        cv2.fillPoly(self.image, fixed, self.tint(color, shade), cv2.LINE_AA, _FRACTION_BITS)
        owner = self.thing + part if self.thing else 0
        cv2.fillPoly(self.owner, fixed, (owner,), cv2.LINE_8, _FRACTION_BITS)

    def polygon(self, points: Floats, color: Sequence[float], shade: float = 1.0, part: int = 0) -> None:
        """Fill one polygon (N, 2) in pixels."""
        self.polygons([points], color, shade, part)

    def surface(self, points: ArrayLike, color: Sequence[float], shade: float = 1.0, part: int = 0) -> None:
        """Fill one polygon (N, 3) given in the world."""
        self.polygon(self.camera.project(points), color, shade, part)

    def ellipse(
        self,
        center: ArrayLike,
        radii: tuple[float, float],
        color: Sequence[float],
        shade: float = 1.0,
        part: int = 0,
        arc: tuple[float, float] = (0.0, 2 * np.pi),
    ) -> None:
        """Fill an ellipse, or the piece of it between two angles (0 is right, clockwise), in pixels."""
        count = 10 if max(radii) < 6 else 22
        angles = np.linspace(arc[0], arc[1], count)
        circle = np.stack([np.cos(angles), np.sin(angles)], -1)
        self.polygon(np.asarray(center) + circle * radii, color, shade, part)

    def limb(
        self, start: ArrayLike, end: ArrayLike, widths: tuple[float, float], color: Sequence[float], shade: float = 1.0
    ) -> None:
        """Draw a tapered stroke with round ends: `widths` at its start and end, all in pixels."""
        a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
        angle = np.arctan2(b[1] - a[1], b[0] - a[0])
        half = np.linspace(np.pi / 2, 3 * np.pi / 2, 6) + angle
        ring_a = a + np.stack([np.cos(half), np.sin(half)], -1) * widths[0] / 2
        ring_b = b + np.stack([np.cos(half + np.pi), np.sin(half + np.pi)], -1) * widths[1] / 2
        self.polygon(np.concatenate([ring_a, ring_b]), color, shade)

    def cast(self, x: float, z: float, half_width: float, half_depth: float) -> None:
        """Cast a shadow on the ground below a thing, in metres."""
        angles = np.linspace(0, 2 * np.pi, 16)
        lean = half_width * 0.5 * self.light.sun
        ring = np.stack([x + lean + half_width * np.cos(angles), 0 * angles, z + half_depth * np.sin(angles)], -1)
        points = np.clip(self.camera.project(ring) / 4, -4000, 4000)
        cv2.fillPoly(self.shadow, [np.rint(points * 16).astype(np.int32)], (1.0,), cv2.LINE_AA, _FRACTION_BITS)

    def lay_shadows(self) -> None:
        """Darken the image by the shadows cast so far."""
        height, width = self.owner.shape
        soft = cv2.resize(cv2.GaussianBlur(self.shadow, (0, 0), 1.2), (width, height))
        self.image = (self.image * (1 - (0.25 + 0.3 * self.light.sun) * soft[..., None])).astype(np.uint8)

    def shine(self, point: ArrayLike, radius: float, color: Color) -> None:
        """Light a lamp at a pixel position."""
        x, y = np.rint(np.clip(np.asarray(point), -4000, 8000) * 4).astype(int)  # quarter size, 1/16 px
        cv2.circle(self.glow, (int(x), int(y)), max(1, round(radius * 4)), color, -1, cv2.LINE_AA, _FRACTION_BITS)

    def develop(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the photograph, uint8 RGB: the light's color, glow, vignette, lens blur or motion, sensor noise."""
        height, width = self.owner.shape
        image = self.image.astype(np.float32) * np.asarray(self.light.gain, np.float32)
        if self.glow.any():
            halo = cv2.GaussianBlur(self.glow, (0, 0), 2) + cv2.GaussianBlur(self.glow, (0, 0), 9)
            image += cv2.resize(halo, (width, height))
        grain = rng.normal(1, 0.025, (height // 24 + 2, width // 24 + 2)).astype(np.float32)  # uneven surfaces
        across = np.linspace(-1, 1, width, dtype=np.float32) ** 2
        down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
        vignette = 1 - rng.uniform(0, 0.25) * (across + down) / 2
        image *= (cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC) * vignette)[..., None]
        kind = rng.random()
        if kind < 0.35:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3))
        elif kind < 0.45:
            length = int(rng.integers(3, 7))
            image = cv2.blur(image, (length, 1) if rng.random() < 0.7 else (1, length))
        strength = rng.uniform(1, 5) * (2 if self.light.night else 1)
        noise = rng.standard_normal((height, width), np.float32)[..., None]
        tinted = rng.standard_normal((height // 2 + 1, width // 2 + 1, 3), np.float32)
        image += strength * (noise + 0.6 * cv2.resize(tinted, (width, height), interpolation=cv2.INTER_NEAREST))
        image = (image - 128) * rng.uniform(0.85, 1.1) + 128 + rng.uniform(-8, 8)
        return np.clip(image, 0, 255).astype(np.uint8)
