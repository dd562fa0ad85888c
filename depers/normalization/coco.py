"""COCO JSON: one file for many images, read as a stream, whatever the order of its parts and however large it is.

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}, …],
     "annotations": [{"image_id": 1, "category_id": 3, "bbox": [x, y, w, h], "iscrowd": 0}, …],
     "categories": [{"id": 3, "name": "car"}, …]}

Boxes are pixels from the top left corner (https://cocodataset.org/#format-data). Crowds (`iscrowd`) are regions with
several objects, no boxes of one, and are ignored.
"""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import ijson

from depers.errors import UserError, short_reason
from depers.normalization.rules import Problem, RawBox
from depers.statuses import ProblemAction

_BUFFER = 2**16
HEAD = 2**16
"""How many bytes of a file say whether it is COCO."""


class CocoImage(NamedTuple):
    """An image as the file lists it; `declared_wh` is (0, 0) where it gives no size."""

    id: object
    file_name: str
    declared_wh: tuple[int, int]


class CocoBox(NamedTuple):
    """An annotation: the id of its image, and its box, whose class is the category's name; or what is wrong."""

    image_id: object
    box: RawBox | None
    problem: Problem | None


def looks_like_coco(head: bytes) -> bool:
    """Say whether a JSON file may be COCO; `head` are its first `HEAD` bytes, since its parts come in any order."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(b"{") and any(f'"{key}"'.encode() in head for key in ("images", "annotations"))


class CocoFile:
    """A COCO file, read three times from its beginning: categories, images, annotations. Each may be millions.

    `open_anew` gives it open at its beginning. Everything raises UserError for what is no JSON, with its place, and for
    a file that cannot be read.
    """

    def __init__(self, path: str, open_anew: Callable[[], BinaryIO]) -> None:
        self.path, self._open = path, open_anew
        self.categories: dict[object, str] = {}
        for item in self._items("categories"):
            name = item.get("name")
            if not isinstance(name, str) or not name:
                raise UserError(f"{path}: a category's name must be text, but is {name!r}")
            self.categories[_key(item.get("id"))] = name
        if not self.categories:
            raise UserError(f"{path}: must be COCO, with categories that have an id and a name, but there are none")

    def images(self) -> Iterator[CocoImage]:
        """Yield the images that the file lists. Raise UserError for one without a file name."""
        for item in self._items("images"):
            name, sides = item.get("file_name"), [item.get("width"), item.get("height")]
            if not isinstance(name, str) or not name:
                raise UserError(f"{self.path}: an image's file_name must be text, but is {name!r}")
            wide, high = (int(side) if isinstance(side, (int, float)) and side >= 1 else 0 for side in sides)
            yield CocoImage(_key(item.get("id")), name, (wide, high) if wide and high else (0, 0))

    def annotations(self) -> Iterator[CocoBox]:
        """Yield the annotations in the order of the file."""
        for number, item in enumerate(self._items("annotations"), 1):
            image_id, category = _key(item.get("image_id")), _key(item.get("category_id"))
            values: Any = item.get("bbox")
            kind = ""
            if not isinstance(values, list) or len(values) != 4:
                kind = "not four numbers"
            elif not all(isinstance(value, (int, float)) and abs(value) < float("inf") for value in values):
                kind = "not a finite number"
            elif category not in self.categories:
                kind, values = "class id without a name", item.get("category_id")
            if kind:
                problem = Problem(self.path, number, kind, ProblemAction.SKIPPED_WITH_IMAGE, str(values)[:120])
                yield CocoBox(image_id, None, problem)
                continue
            x, y, w, h = (float(value) for value in values)
            ignored = bool(item.get("iscrowd"))
            yield CocoBox(
                image_id, RawBox(number, self.categories[category], x + w / 2, y + h / 2, w, h, ignored), None
            )

    def _items(self, part: str) -> Iterator[dict[str, Any]]:
        """Yield the objects in one of the file's lists. Raise UserError where it is no JSON, or they are no objects."""
        try:
            with self._open() as stream:
                if stream.read(3) != b"\xef\xbb\xbf":
                    stream.seek(0)
                counted = _Counted(stream)
                for item in ijson.items(counted, f"{part}.item", buf_size=_BUFFER, use_float=True):
                    if not isinstance(item, dict):
                        raise UserError(f"{self.path}: {part} must be objects, but one is {str(item)[:80]!r}")
                    yield item
        except (ijson.JSONError, UnicodeDecodeError) as error:
            place = counted.describe_place()
            raise UserError(f"{self.path}: must be JSON, but {place} it is not ({_short(error)})") from None
        except OSError as error:
            raise UserError(f"{self.path}: not readable ({short_reason(error)})") from None


class _Counted:
    """A stream that knows how far it was read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._start, self._end, self._line, self._last = stream, 0, 0, 1, 0

    def read(self, size: int = -1) -> bytes:
        """Read from the stream."""
        data = self._stream.read(size)
        self._start, self._line, self._last = self._end, self._line + self._last, data.count(b"\n")
        self._end += len(data)
        return data

    def describe_place(self) -> str:
        """Return where the bytes that were read last lie."""
        if self._start == self._end:
            return f"at its end (byte {self._end})"
        return f"from byte {self._start} to {self._end}, lines {self._line} to {self._line + self._last},"


def _key(value: object) -> object:
    """Return an id that can be looked up: tools write numbers, and text."""
    return value if isinstance(value, (int, float, str)) else repr(value)


def _short(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return " ".join((text.decode("utf-8", "replace") if isinstance(text, bytes) else str(error)).split())[:160]
