"""Pixels and bytes of unknown kinds are found in what is kept, however they are written; labels are left alone."""

import base64
import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from depers.archives import table_columns
from depers.imaging.disguise import number_lists, values
from depers.imaging.disguise.search import find_image


def draw_photograph(width: int = 64, height: int = 64) -> NDArray[np.uint8]:
    """Areas with edges, shading and noise, as in photographs, uint8 RGB."""
    rng = np.random.default_rng(3)
    pixels = np.zeros((height, width, 3), np.float32)
    for _ in range(12):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(3, width // 2)), int(rng.integers(3, height // 2)))
        color = (rng.uniform(0, 255) + rng.uniform(-40, 40, 3)).tolist()
        cv2.ellipse(pixels, center, axes, float(rng.uniform(0, 180)), 0, 360, color, -1)
    shade = np.linspace(0.7, 1, width)[None, :, None] * np.linspace(1, 0.8, height)[:, None, None]
    return np.clip(pixels * shade + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


RGB = draw_photograph()
GRAY = RGB[..., 1]
LARGE = draw_photograph(160, 160)[..., 1]
SCALED = RGB / 255
NORMAL = (SCALED - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
JPEG = io.BytesIO()
Image.fromarray(RGB).save(JPEG, "JPEG")
RAW = RGB.tobytes()
PLACES = np.stack(np.mgrid[:64, :64][::-1], axis=2).reshape(-1, 2)
PIXELS = RGB.reshape(-1, 3)


def save_text(array: NDArray[Any], form: str = "%.18e", delimiter: str = " ") -> bytes:
    buffer = io.BytesIO()
    np.savetxt(buffer, array.reshape(len(array), -1), form, delimiter)
    return buffer.getvalue()


def save_array(save: Callable[..., None], array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, array)
    return buffer.getvalue()


def group(letters: bytes, size: int, between: bytes) -> bytes:
    return between.join(letters[at : at + size] for at in range(0, len(letters), size))


NUMBERS: dict[str, bytes] = {
    "shares": json.dumps(SCALED.tolist()).encode(),
    "flat shares": json.dumps({"pixels": SCALED.ravel().tolist()}).encode(),
    "normalized": json.dumps(NORMAL.tolist()).encode(),
    "planes": json.dumps(NORMAL.transpose(2, 0, 1).ravel().round(4).tolist()).encode(),
    "savetxt": save_text(SCALED),
    "savetxt of bytes": save_text(GRAY),
    "CSV of floats": save_text(NORMAL, "%.6f", ","),
    "flat bytes": json.dumps({"x": RGB.ravel().tolist()}).encode(),
    "rows with names": "\n".join(f"row{n}: {row.tolist()}" for n, row in enumerate(GRAY)).encode(),
    "objects": json.dumps([dict(zip("rgb", row, strict=True)) for row in PIXELS.tolist()]).encode(),
    "objects with places": json.dumps(
        [{"x": x, "y": y, "v": v} for (x, y), v in zip(PLACES.tolist(), GRAY.ravel().tolist(), strict=True)]
    ).encode(),
    "CSV of pixels": b"x,y,r,g,b\n" + save_text(np.c_[PLACES, PIXELS], "%d", ","),
    "table with numbers of rows": save_text(np.c_[900_000 + np.arange(64), GRAY], "%d", ","),
    "colors": json.dumps([f"#{r:02x}{g:02x}{b:02x}" for r, g, b in PIXELS.tolist()]).encode(),
    "rgb()": ";".join(f"rgb({r},{g},{b})" for r, g, b in PIXELS.tolist()).encode(),
    "SVG": "<svg>{}</svg>".format(
        "".join(f'<rect x="{x}" y="{y}" fill="red"/>' for x, y in PLACES[:1024].tolist())
    ).encode(),
    "PPM": b"see below\nP3\n64 64\n255\n" + save_text(RGB, "%d"),
    "PBM": b"P1 64 64\n" + b"01" * 2048,
    "XBM": b"#define a_width 64\n#define a_height 64\nstatic unsigned char a_bits[] = {" + b"0x3f, " * 512 + b"};",
    "noise of bytes": json.dumps(list(random.Random(0).randbytes(4000))).encode(),
    "noise of pixels": json.dumps(np.random.default_rng(0).random((30, 30, 3)).tolist()).encode(),
    "addresses": "\n".join(".".join(map(str, RAW[at : at + 4])) for at in range(0, len(RAW), 4)).encode(),
    "units": ", ".join(f"{v}px" for v in LARGE.ravel().tolist()).encode(),
    "hexadecimal numbers": json.dumps([f"0x{r:02x}{g:02x}{b:02x}" for r, g, b in PIXELS.tolist()]).encode(),
    "octal numbers": ",".join(oct(v) for v in LARGE.ravel().tolist()).encode(),
    "digits of another script": " ".join(
        str(v).translate({48 + n: 0x660 + n for n in range(10)}) for v in LARGE.ravel().tolist()
    ).encode(),
    "two channels": json.dumps(RGB[..., :2].ravel().tolist()).encode(),
    "hsl()": ",".join(f"hsl({v},50%,{v * 100 // 255}%)" for v in LARGE.ravel().tolist()).encode(),
    "dots": json.dumps(np.asarray(Image.fromarray(LARGE).convert("1")).astype(int).tolist()).encode(),
    "a path": "<svg><path d='{}'/></svg>".format(" ".join(f"M{x} {y}h1" for x, y in PLACES.tolist())).encode(),
    "a small SVG": "<svg viewBox='0 0 9 9'>{}</svg>".format(
        "".join(f'<rect x="{n % 9}" y="{n // 9}" width="1" height="1" fill="gray"/>' for n in range(81))
    ).encode(),
    "SVGs of few shapes": "".join(f"<svg><path d='M0 {n}h9'/></svg>" for n in range(81)).encode(),
    "an SVG of few paths": "<svg>{}</svg>".format(
        "".join(f"<path d='{' '.join(f'M{n} {y}h1' for n in range(40) if y * n % 3)}'/>" for y in range(40))
    ).encode(),
    **{
        f"{size} pixels in a number, {order}": json.dumps(
            [int.from_bytes(GRAY.tobytes()[at : at + size], order, signed=True) for at in range(0, 4096 - size, size)]
        ).encode()
        for size in (4, 8, 12)
        for order in ("big", "little")
    },
    "a row in a number": "\n".join(str(int.from_bytes(row.tobytes(), "big")) for row in GRAY).encode(),
    "big numbers": json.dumps((GRAY.astype(int) * 257 + 9_000_000).ravel().tolist()).encode(),
}  # fmt: skip
DOTS = np.asarray(Image.fromarray(draw_photograph(36, 36)[..., 1]).convert("1")).astype(int)
HALVES = (np.median(GRAY) < GRAY).astype(int)


def draw_rows(array: NDArray[Any], letters: str) -> list[str]:
    return ["".join(letters[value] for value in row) for row in array.tolist()]


LETTERS: dict[str, bytes] = {
    **{f"dots of {pair!r}": "\n".join(draw_rows(DOTS, pair)).encode() for pair in ("ab", " #", "o ", "ил", "-=")},
    **{f"halves of {pair!r}": json.dumps(draw_rows(HALVES, pair)).encode() for pair in ("ab", "M ", "01", "._")},
    "dots in captions": json.dumps([{"id": n, "caption": row} for n, row in enumerate(draw_rows(DOTS, "XO"))]).encode(),
    "dots in words": " ".join(row[at : at + 12] for row in draw_rows(DOTS, "ab") for at in (0, 12, 24)).encode(),
    "dots amid prose": b"A man in the street, see below.\n" * 60 + "\n".join(draw_rows(DOTS, " #")).encode(),
    "four shades": "\n".join(draw_rows(GRAY // 64, ".oO@")).encode(),
    "hexadecimal in groups": group(RAW.hex().encode(), 4, b" "),
    "hexadecimal with dots": RAW.hex(".").encode(),
    "hexadecimal in hashes": json.dumps([RAW[at : at + 32].hex() for at in range(0, len(RAW), 32)]).encode(),
    "base64 of pixels": base64.b64encode(RAW),
    "base64 in blanks": group(base64.b64encode(JPEG.getvalue()), 4, b" "),
    "base64 in quotes": group(base64.b64encode(JPEG.getvalue()), 6, b'", "'),
    "base64 in lines": group(base64.b64encode(JPEG.getvalue()), 10, b"\n"),
    "base85": base64.b85encode(zlib.compress(RAW)),
    "base85 in JSON": json.dumps({"x": base64.b85encode(RAW).decode()}).encode(),
    "ASCII85 in lines": group(base64.a85encode(zlib.compress(RAW)), 76, b"\n"),
    "base16 of other letters": RAW.hex().translate(str.maketrans("0123456789abcdef", "abcdefghijklmnop")).encode(),
    "digits of bits": "".join(f"{byte:08b}" for byte in RAW).encode(),
    "escapes": "".join(f"\\x{byte:02x}" for byte in RAW).encode(),
    "octal escapes": "".join(f"\\{byte:03o}" for byte in RAW).encode(),
    "JSON of bytes": json.dumps(zlib.compress(RAW).decode("latin-1")).encode(),
    "entities": "".join(f"&#{byte};" for byte in zlib.compress(RAW)).encode(),
    "quoted-printable": "".join(f"={byte:02X}" for byte in zlib.compress(RAW)).encode(),
    "percent signs": "".join(f"%{byte:02X}" for byte in zlib.compress(RAW)).encode(),
    "characters": zlib.compress(RAW).decode("latin-1").encode(),
    "characters beyond": "".join(
        chr(0x4E00 + (256 * a + b) % 20_000) for a, b in zip(RAW[::2], RAW[1::2], strict=True)
    ).encode(),
    "braille": "\n".join("".join(chr(0x2800 + v) for v in row) for row in GRAY.tolist()).encode(),
    "blocks": "\n".join("".join(" ░▒▓█"[v // 52] for v in row) for row in GRAY.tolist()).encode(),
    "art of signs": "\n".join("".join("@%#*+=-:. "[v // 26] for v in row) for row in LARGE.tolist()).encode(),
    "art of letters": "\n".join("".join("$@B8WM#oahkbdpqwmZO0"[v // 13] for v in row) for row in LARGE).encode(),
    "art of words": " ".join(["black", "dark", "gray", "light", "white"][v // 52] for v in LARGE.ravel()).encode(),
    "letters of another script": "".join(chr(0xAC00 + 40 * v) for v in zlib.compress(RAW)).encode(),
    "nothing to see": "".join("a" + "\u200b\u200c"[v & 1] * 3 for v in RAW[:2000]).encode(),
    "selectors": ("a" + "".join(chr(0xFE00 + v % 16) for v in RAW[:4000])).encode(),
    "private letters": "".join(chr(0xE000 + v) for v in RAW[:2000]).encode(),
}  # fmt: skip
BINARY: dict[str, bytes] = {
    "pickle": pickle.dumps({"pixels": RAW}),
    "pickle of a list": pickle.dumps(RGB.tolist()),
    "flat array": save_array(np.save, RGB.ravel()),
    "flat array of floats": save_array(np.save, NORMAL.ravel().astype(np.float32)),
    "array with more behind": save_array(np.save, np.zeros(3)) + RAW,
    "arrays": save_array(np.savez, RGB.ravel()),
    "pixels": RAW,
    "floats": NORMAL.astype(np.float32).tobytes(),
    "safetensors": (60).to_bytes(8, "little") + b'{"x":{"dtype":"U8","shape":[12288],"data_offsets":[0,12288]}} ' + RAW,
    "zlib behind words": b"labels of today: " + zlib.compress(RAW),
    "gzip behind words": b"labels of today: " + gzip.compress(RAW),
    "bz2 behind words": b"labels of today: " + bz2.compress(RAW),
    "xz behind words": b"labels of today: " + lzma.compress(RAW),
    "zstd behind words": b"labels of today: \x28\xb5\x2f\xfd" + random.Random(0).randbytes(900),
    "Latin-1 and bytes": "Straße ".encode("latin-1") * 9 + zlib.compress(RAW),
}
"""What is no text, and of no kind that is known to be something else."""


@pytest.mark.parametrize("dress", [*NUMBERS, *LETTERS, *BINARY])
def test_what_may_be_an_image_is_withheld(dress: str) -> None:
    assert find_image((NUMBERS | LETTERS | BINARY)[dress])


def list_masks(count: int = 40) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(5)
    masks = []
    for _ in range(count):
        mask = np.zeros((240, 320), np.uint8)
        for _ in range(int(rng.integers(1, 5))):
            center = (int(rng.integers(320)), int(rng.integers(240)))
            axes = (int(rng.integers(4, 70)), int(rng.integers(4, 50)))
            cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        noise = cv2.GaussianBlur(rng.normal(size=mask.shape).astype(np.float32), (0, 0), 3)
        masks.append((mask + 3 * noise > 0.5).astype(np.uint8))
    return masks


MASKS = list_masks()


def list_runs(mask: NDArray[np.uint8]) -> list[int]:
    edges = np.flatnonzero(np.diff(mask.T.ravel())) + 1
    runs: list[int] = np.diff(np.r_[0, edges, mask.size]).tolist()
    return runs if not mask[0, 0] else [0, *runs]


def write_runs(runs: list[int]) -> str:
    """As pycocotools' `rleToString`."""
    letters = []
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            letters.append(chr((bits | 32 if more else bits) + 48))
    return "".join(letters)


def list_polygons(kind: int = cv2.CHAIN_APPROX_SIMPLE) -> list[list[float]]:
    contours = [found for mask in MASKS for found in cv2.findContours(mask, cv2.RETR_EXTERNAL, kind)[0]]
    return [np.round(contour.ravel() * 0.97, 2).tolist() for contour in contours]


def make_annotations() -> list[dict[str, Any]]:
    chance = random.Random(7)
    polygons = list_polygons()
    people = [
        [number for _ in range(17) for number in chance.choice([(0, 0, 0), (chance.randrange(640), 90, 2)])]
        for _ in polygons
    ]
    return [
        {
            "segmentation": [polygon],
            "area": round(chance.uniform(50, 9000), 2),
            "iscrowd": 0,
            "keypoints": points,
            "image_id": chance.randrange(500_000),
            "bbox": [round(chance.uniform(0, 400), 2) for _ in range(4)],
            "category_id": chance.randrange(90),
            "id": number,
        }
        for number, (polygon, points) in enumerate(zip(polygons, people, strict=True))
    ]


def say(chance: random.Random, words: str, count: int) -> str:
    return " ".join(chance.choice(words.split()) for _ in range(count))


RNG = np.random.default_rng(9)
CHANCE = random.Random(9)
ORDINARY: dict[str, bytes] = {
    "COCO": json.dumps({"annotations": make_annotations()}).encode(),
    "COCO with lines": json.dumps({"annotations": make_annotations()}, indent=2).encode(),
    "dense polygons": json.dumps(list_polygons(cv2.CHAIN_APPROX_NONE)).encode(),
    "YOLO polygons": "\n".join(
        "3 " + " ".join(f"{number / 320:.6f}" for number in polygon) for polygon in list_polygons()
    ).encode(),
    "masks in letters": json.dumps(
        [{"segmentation": {"size": [240, 320], "counts": write_runs(list_runs(mask))}} for mask in MASKS]
    ).encode(),
    "masks in numbers": json.dumps([{"size": [240, 320], "counts": list_runs(mask)} for mask in MASKS]).encode(),
    "YOLO": save_text(np.c_[RNG.integers(0, 5, 4000), RNG.random((4000, 4))], "%.6f"),
    "labels": json.dumps(RNG.integers(0, 80, 20_000).tolist()).encode(),
    "few labels": json.dumps(RNG.integers(0, 3, 20_000).tolist()).encode(),
    "sorted labels": json.dumps(sorted(RNG.integers(0, 200, 20_000).tolist())).encode(),
    "tokens": json.dumps({"input_ids": RNG.integers(0, 50_000, 20_000).tolist()}).encode(),
    "small tokens": json.dumps({"input_ids": RNG.integers(0, 180, 9000).tolist()}).encode(),
    "histogram": json.dumps(np.histogram(RNG.normal(120, 30, 90_000), 256, (0, 256))[0].tolist()).encode(),
    "embeddings": json.dumps(RNG.normal(size=(60, 256)).round(6).tolist()).encode(),
    "scores": save_text(RNG.random((3000, 3)), "%.4f", ","),
    "tracks": save_text(
        np.concatenate(
            [
                np.c_[np.arange(90), np.full(90, track), 50 * track + np.cumsum(RNG.normal(size=(90, 4)), axis=0)]
                for track in range(40)
            ]
        ), "%.1f", ",",
    ),
    "hashes": json.dumps([f"{CHANCE.getrandbits(256):064x}" for _ in range(900)]).encode(),
    "sums": "".join(f"{CHANCE.getrandbits(128):032x}  images/{n:08}.jpg\n" for n in range(900)).encode(),
    "hashes alone": "".join(f"{CHANCE.getrandbits(256):064x}\n" for _ in range(900)).encode(),
    "identifiers": json.dumps(
        [{"id": f"{CHANCE.getrandbits(32):08x}-{CHANCE.getrandbits(16):04x}-4", "n": n} for n in range(900)]
    ).encode(),
    "keys": json.dumps([base64.b64encode(CHANCE.randbytes(8)).decode() for _ in range(900)]).encode(),
    "paths": "".join(f"/data/train/images/{CHANCE.randrange(10**9):012}.jpg\n" for _ in range(900)).encode(),
    "captions": json.dumps(
        [{"id": n, "caption": say(CHANCE, "A man And Two dogs in Rome", 12)} for n in range(900)]
    ).encode(),
    "Chinese": say(CHANCE, "一个男人 和两只狗 在海滩上 骑马， 红色的汽车。", 4000).replace(" ", "").encode(),
    "Russian in JSON": json.dumps([say(CHANCE, "человек и собака на улице", 12) for _ in range(900)]).encode(),
    "Latin-1": "Straße in Köln, été\n".encode("latin-1") * 90,
    "emoji": "a ❤️ for 👨‍👩‍👧 ⭐⭐⭐ 🏴󠁧󠁢󠁥󠁮󠁧󠁿\n".encode() * 300,
    "UTF-16": json.dumps(make_annotations()[:20]).encode("utf-16"),
    "VOC": "".join(
        f"<object><name>car</name><bndbox><xmin>{n}</xmin><ymin>{n * 7 % 99}</ymin></bndbox></object>\n"
        for n in range(900)
    ).encode(),
    "table": b"| class | precision | recall |\n|-------|-----------|--------|\n| car   | 0.912     | 0.811  |\n" * 99,
    "a digest": random.Random(0).randbytes(64),
    "CVAT": "".join(
        f'<image id="{n}" name="{n}.jpg" width="640" height="480"><polygon label="car" source="manual" occluded="0"'
        f' points="{n}.5,3.00;{n * 7 % 640}.1,9.25;88.0,{n}.5"/></image>\n'
        for n in range(700)
    ).encode(),
    "attributes": "".join(
        f"{n:06}.jpg {' '.join(f'{CHANCE.choice([-1, 1]):2}' for _ in range(40))}\n" for n in range(400)
    ).encode(),
    "answers": "".join(f"{n} {' '.join(CHANCE.choice('ABCD') for _ in range(30))}\n" for n in range(400)).encode(),
    "words of few letters": "".join(say(CHANCE, "car cat yes no on off", 1) + "\n" for _ in range(9000)).encode(),
    "laughs": "".join(f"{say(CHANCE, 'so funny that he said', 9)} {'ha' * (n % 19)}\n" for n in range(900)).encode(),
    "filled up": "".join(f"{CHANCE.randrange(900):032x},{CHANCE.randrange(90):016}\n" for _ in range(900)).encode(),
    "rules": "".join(
        f"{'-' * (n % 40)} {'=' * (n % 7)}\n{say(CHANCE, 'one two three four', 40)}\n" for n in range(300)
    ).encode(),
    "times in ns": json.dumps([1_700_000_000_000_000_000 + n * 33_366_700 for n in range(900)]).encode(),
    "times in ms": json.dumps([1_700_000_000_000 + n * 33 + CHANCE.randrange(5) for n in range(900)]).encode(),
    "numbers of things": json.dumps([CHANCE.randrange(10**17, 10**18) for _ in range(900)]).encode(),
    "hashes as numbers": json.dumps([CHANCE.getrandbits(64) for _ in range(900)]).encode(),
    "books": json.dumps([9_780_000_000_000 + CHANCE.randrange(10**9) for _ in range(900)]).encode(),
    "seeds": json.dumps([CHANCE.getrandbits(32) for _ in range(900)]).encode(),
    "an icon in HTML": b"<p>A man.</p><svg viewBox='0 0 24 24'><path d='M12 2L2 7l10 5 10-5-10-5z'/></svg>" * 3,
    "array of embeddings": save_array(np.save, RNG.normal(size=(300, 256)).astype(np.float32)),
    "links": "".join(f"https://example.org/a?X-Sign={CHANCE.randbytes(32).hex()}&t={n}\n" for n in range(300)).encode(),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(ORDINARY))
def test_ordinary_labels_and_texts_are_kept(kind: str) -> None:
    assert find_image(ORDINARY[kind]) == ""


@pytest.mark.parametrize("size", [32, 48, 200])
@pytest.mark.parametrize("order", ["rows", "columns", "planes", "opacity", "gray"])
def test_pixels_are_told_by_their_neighbors(size: int, order: str) -> None:
    rgb = draw_photograph(size, size).astype(np.float64)
    orders: dict[str, NDArray[np.float64]] = {
        "rows": rgb,
        "columns": rgb.transpose(1, 0, 2),
        "planes": rgb.transpose(2, 0, 1),
        "opacity": np.concatenate([rgb, np.full((size, size, 1), 255)], axis=2),
        "gray": rgb.mean(axis=2),
    }
    pixels = orders[order].ravel()
    before = RNG.normal(size=700) * 90
    assert number_lists.are_pixels(pixels) and number_lists.are_pixels(np.r_[before, pixels / 255 - 0.5, before])
    assert not number_lists.are_pixels(np.random.default_rng(0).permutation(pixels) + 1000)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (b'{"a": [1,-2.5, 3e-4], "b": .5}', [1, -2.5, 3e-4, 0.5]),
        (b"1.5E+2 -7e-05 +3", [150, -7e-5, 3]),
        (b"2024-05-20 10:11", [2024, 5, 20, 10, 11]),
        (b"x1 1word #12 1e5e6 - . e", []),
        (b"12px 0.5em 192.168.0.1 0o17", [12, 0.5, 192, 168, 0, 1, 17]),
        (b"(1)(2)<3>4", [1, 2, 3, 4]),
        (b"", []),
    ],
)
def test_numbers_are_read_from_any_text(text: bytes, numbers: list[float]) -> None:
    assert number_lists.read_numbers(text).tolist() == numbers


def test_masks_in_letters_are_read() -> None:
    for mask in MASKS:
        assert values.read_mask(write_runs(list_runs(mask)).encode()) == list_runs(mask)
    assert not values.read_mask(base64.b64encode(random.Random(0).randbytes(300)))


def test_columns_of_numbers_are_told_apart() -> None:
    rows = {
        "labels": [RNG.integers(0, 80, 3000).tolist(), RNG.integers(0, 80, 3000).tolist()],
        "shares": [SCALED.ravel().tolist()] * 2,
        "bytes": [zlib.compress(RAW)] * 2,
        "digest": [RNG.bytes(32), RNG.bytes(64)],
    }
    findings = {}
    for name, column in rows.items():
        array = pa.array(column)
        simple = table_columns.simplify(array, table_columns.simplify_type(array.type))
        findings[name] = table_columns.find_hidden_images(simple, name)
    assert {name: sorted(finding) for name, finding in findings.items()} == {
        "labels": [], "shares": [0, 1], "bytes": [0, 1], "digest": [],
    }  # fmt: skip
