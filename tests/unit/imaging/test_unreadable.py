"""Someone who has candidates for what is under a box, knows the box and the method, does no better than by guessing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from depers.imaging.decoding import decode, decode_frames
from depers.redaction.colors import MODES
from depers.redaction.files import redact_file

RGB = NDArray[np.uint8]
BOX = np.array([[96, 64, 288, 128]], np.float32)
Redact = Callable[[RGB], RGB]


def plates(count: int, size_wh: tuple[int, int]) -> list[RGB]:
    """Plates with random signs, black on white."""
    rng, images = np.random.default_rng(0), []
    for _ in range(count):
        text = "".join(rng.choice(list("ABCEHKMOPTXY0123456789"), 8))
        plate = np.full((size_wh[1], size_wh[0], 3), 235, np.uint8)
        scale = size_wh[0] / 170
        cv2.putText(
            plate, text, (4, int(size_wh[1] * 0.7)), cv2.FONT_HERSHEY_SIMPLEX, scale, (15, 15, 15), 3, cv2.LINE_AA
        )
        images.append(plate)
    return images


def faces(data: Path, count: int, size_wh: tuple[int, int]) -> list[RGB]:
    """Real faces of at least 40 pixels, resized."""
    crops: list[RGB] = []
    for label in sorted((data / "faces_wider").rglob("*.txt")):
        files = [p for p in (data / "faces_wider").rglob(f"{label.stem}.*") if p.suffix in (".jpg", ".png")]
        for row in np.loadtxt(label, ndmin=2) if files else ():
            rgb = decode(files[0].read_bytes()).rgb()
            sides = np.array([rgb.shape[1], rgb.shape[0]])
            low, high = ((row[1:3] - row[3:5] / 2) * sides).astype(int), ((row[1:3] + row[3:5] / 2) * sides).astype(int)
            if (high - low).min() >= 40 and (low >= 0).all():
                crops.append(cv2.resize(rgb[low[1] : high[1], low[0] : high[0]], size_wh, interpolation=cv2.INTER_AREA))
                break
        if len(crops) == count:
            break
    return crops


def planted(secret: RGB) -> RGB:
    """A street-like image with the secret in the box."""
    rows, columns = np.indices((192, 384))
    rng = np.random.default_rng(5)
    image = np.stack([60 + rows // 2, 80 + columns // 4, 140 - rows // 3], axis=2) + rng.normal(0, 6, (192, 384, 3))
    image[64:128, 96:288] = secret
    return np.clip(image, 0, 255).astype(np.uint8)


def right_guesses(secrets: Sequence[RGB], redact: Redact) -> int:
    """How often the best normalised correlation with a candidate, as it is or redacted alike, names the secret."""
    x0, y0, x1, y1 = BOX[0].astype(int).tolist()
    redacted = _normalised([redact(planted(secret))[y0:y1, x0:x1] for secret in secrets])
    guesses = [(redacted @ candidates.T).argmax(axis=1) for candidates in (_normalised(secrets), redacted)]
    return max(int((guess == np.arange(len(secrets))).sum()) for guess in guesses)


def _normalised(images: Sequence[RGB]) -> NDArray[np.float32]:
    """Images as vectors of length 1 without their mean color, float32 (N, values)."""
    vectors = np.stack([(image - image.mean((0, 1))).ravel() for image in images]).astype(np.float32)
    return np.round(vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6), 7)


def averaged(image: RGB) -> RGB:
    """What is usual: 6 × 6 averages of what is under the box."""
    x0, y0, x1, y1 = BOX[0].astype(int).tolist()
    cells = cv2.resize(image[y0:y1, x0:x1], (6, 2), interpolation=cv2.INTER_AREA)
    image = image.copy()
    image[y0:y1, x0:x1] = cv2.resize(cells, (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST)
    return image


def through(kind: str, mode: str) -> Redact:
    """Written as a file, redacted, and read again."""

    def redact(image: RGB) -> RGB:
        if kind == "JPEG":
            data = simplejpeg.encode_jpeg(image, 95, "RGB", "420")
        else:
            data = cv2.imencode(f".{kind.lower()}", image[..., ::-1])[1].tobytes()
        [rgb] = decode_frames(redact_file(data, [BOX], mode=mode).data)
        return rgb

    return redact


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_planted_text_cannot_be_read(kind: str, mode: str) -> None:
    secrets = plates(24, (192, 64))
    assert right_guesses(secrets, averaged) >= 23  # the attack works where averages are left
    assert right_guesses(secrets, through(kind, mode)) <= 3  # one in 24 by chance; 4 of 24 would be in 2 % of cases


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_planted_faces_cannot_be_told_apart(data: Path, kind: str, mode: str) -> None:
    secrets = faces(data, 24, (192, 64))
    assert len(secrets) == 24
    assert right_guesses(secrets, averaged) >= 23
    assert right_guesses(secrets, through(kind, mode)) <= 3


def _correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float(np.prod(_normalised([first, second]), axis=0).sum())


@pytest.mark.parametrize("mode", MODES)
def test_many_views_of_one_secret_do_not_add_up(mode: str) -> None:
    """Shifted boxes, of one detector or of many frames, give no finer grid: there is nothing under it."""
    secret = plates(1, (192, 64))[0]
    data = simplejpeg.encode_jpeg(planted(secret), 95, "RGB", "420")
    views = []
    for shift in range(0, 16, 2):
        box = BOX + np.array([-shift, -shift, shift, shift], np.float32)
        views.append(next(decode_frames(redact_file(data, [box], mode=mode).data))[64:128, 96:288])
    assert abs(_correlation(np.mean(views, axis=0), secret)) < 0.2
    nested = np.concatenate([BOX, BOX + 3, BOX + np.array([20, 10, -20, -10], np.float32)])
    together = next(decode_frames(redact_file(data, [nested], mode=mode).data))[64:128, 96:288]
    assert abs(_correlation(together, secret)) < 0.2
