"""Texts that list the images of a whole set, each with its boxes in pixels: WIDER FACE's and CrowdHuman's.

    0--Parade/a.jpg                     WIDER FACE: an image, how many faces it shows, and for each left, top, width,
    1                                   height, blur, expression, illumination, invalid, occlusion, pose; a line of
    449 330 122 149 0 0 0 0 0 0         zeros where there are none

    {"ID": "273271,c9db000d5146c15", "gtboxes": [{"tag": "person", "fbox": [72, 202, 163, 503], "vbox": …, "hbox": …,
        "extra": {"ignore": 0}, "head_attr": {"ignore": 0, "unsure": 0}}, …]}      CrowdHuman's odgt, a line per image

WIDER FACE's class is `face`; what it calls invalid is ignored. CrowdHuman's are `fbox` (all of a person, also what is
hidden), `vbox` (what is seen of it) and `hbox` (the head): a class map says which of them count. What it says to
ignore, is not sure of, or calls a mask is ignored. Both are read as `coco.CocoFile` is, and raise UserError for what is
none.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

from depers.datasets.labels import read_number
from depers.errors import UserError, short_reason
from depers.normalization.formats.coco import CocoBox, CocoImage
from depers.normalization.rules import EVERY_CLASS, IMAGE_WH, RawBox

_WIDER = re.compile(
    rb"\A(?:\xef\xbb\xbf)?[^\n]*\.(?:jpe?g|png)\s*\n\s*\d+\s*\n\s*-?\d+(?:[ \t]+-?\d+){3,}", re.IGNORECASE
)
_WIDER_FIELDS = 10
_INVALID = 7  # the place of the field
_PARTS = ("fbox", "vbox", "hbox")


class ListingFile(Protocol):
    """A file that lists images and their boxes; `categories` are its classes by its own ids."""

    path: str
    categories: dict[object, str]

    def images(self) -> Iterator[CocoImage]:
        """Yield the images that the file lists."""

    def annotations(self) -> Iterator[CocoBox]:
        """Yield the boxes in the order of the file."""


def looks_like_wider(head: bytes) -> bool:
    """Say whether a text is WIDER FACE's list, by its first bytes."""
    return bool(_WIDER.match(head))


class WiderFile:
    """A list of WIDER FACE, read from its beginning for its images, and again for its boxes."""

    def __init__(self, path: str, open_anew: Callable[[], BinaryIO]) -> None:
        self.path, self._open = path, open_anew
        self.categories: dict[object, str] = {0: "face"}

    def images(self) -> Iterator[CocoImage]:
        """Yield the images that the file lists."""
        for name, _ in self._entries():
            yield CocoImage(name, name, IMAGE_WH)

    def annotations(self) -> Iterator[CocoBox]:
        """Yield the boxes in the order of the file."""
        for name, rows in self._entries():
            for number, (x, y, w, h, *flags) in rows:
                is_invalid = flags[_INVALID - 4] == 1
                yield CocoBox(name, RawBox(number, "face", x + w / 2, y + h / 2, w, h, is_invalid), None)

    def _entries(self) -> Iterator[tuple[str, list[tuple[int, list[float]]]]]:
        """Yield the images by their names, with their boxes by the numbers of their lines."""
        lines = _read_lines(self.path, self._open)
        while entry := next(lines, None):
            number, name = entry
            count = read_number(next(lines, (0, ""))[1])
            if not re.search(r"\.\w+$", name) or not (count >= 0 and count == int(count)):
                raise UserError(f"{self.path}: must be an image and the number of its faces, but line {number} is none")
            rows = []
            for _ in range(max(int(count), 1)):
                number, line = next(lines, (number, ""))
                values = [read_number(field) for field in line.split()]
                is_row = len(values) == _WIDER_FIELDS and not any(map(math.isnan, values))
                if not is_row and not count:  # some leave the zeros out
                    lines = itertools.chain([(number, line)] if line else [], lines)
                elif not is_row:
                    expectation = f"must be {_WIDER_FIELDS} numbers for each face of {name}"
                    raise UserError(f"{self.path}, line {number}: {expectation}, but is {line[:80]!r}")
                rows.append((number, values))
            yield name, rows if count else []


class CrowdHumanFile:
    """An odgt file of CrowdHuman, read from its beginning for its images, and again for its boxes."""

    def __init__(self, path: str, open_anew: Callable[[], BinaryIO]) -> None:
        self.path, self._open = path, open_anew
        self.categories: dict[object, str] = dict(enumerate(_PARTS))

    def images(self) -> Iterator[CocoImage]:
        """Yield the images that the file lists."""
        for _, name, _ in self._entries():
            yield CocoImage(name, f"{name}.jpg", IMAGE_WH)

    def annotations(self) -> Iterator[CocoBox]:
        """Yield the boxes in the order of the file; the number of their line is that of their image."""
        for number, name, objects in self._entries():
            for item in objects:
                for part in _PARTS if item.get("tag") == "person" else _PARTS[:1]:
                    if (xywh := item.get(part)) is None:
                        continue
                    if (
                        not isinstance(xywh, list)
                        or len(xywh) != 4
                        or not all(isinstance(v, (int, float)) for v in xywh)
                    ):
                        raise UserError(f"{self.path}, line {number}: {part} must be four numbers, but is {xywh!r}")
                    x, y, w, h = map(float, xywh)
                    flags = [_mapping(item.get("extra")), _mapping(item.get("head_attr")) if part == "hbox" else {}]
                    ignored = any(entry.get(name) == 1 for entry in flags for name in ("ignore", "unsure"))
                    class_name = part if item.get("tag") == "person" else EVERY_CLASS
                    box = RawBox(number, class_name, x + w / 2, y + h / 2, w, h, ignored or class_name == EVERY_CLASS)
                    yield CocoBox(name, box, None)

    def _entries(self) -> Iterator[tuple[int, str, list[dict[str, Any]]]]:
        """Yield number, name and objects of every line."""
        for number, line in _read_lines(self.path, self._open):
            try:
                item = json.loads(line)
            except ValueError as error:
                raise UserError(f"{self.path}, line {number}: must be JSON, but is not ({error})") from None
            name, objects = _mapping(item).get("ID"), _mapping(item).get("gtboxes")
            if (
                not isinstance(name, str)
                or not isinstance(objects, list)
                or not all(isinstance(o, dict) for o in objects)
            ):
                raise UserError(f"{self.path}, line {number}: must have an ID and gtboxes, but is {line[:80]!r}")
            yield number, name, list(objects or ())


def _is_list_of(values: object, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(values, list) and all(isinstance(value, kinds) for value in values)


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_lines(path: str, open_anew: Callable[[], BinaryIO]) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    try:
        with open_anew() as stream:
            for number, line in enumerate(stream, 1):
                if text := line.decode("utf-8-sig").strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: must be UTF-8, but is not ({error.reason})") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({short_reason(error)})") from None
