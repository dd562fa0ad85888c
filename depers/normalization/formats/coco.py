"""COCO JSON: one file for many images, read as a stream, whatever the order of its parts and however large it is.

    {"images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}, …],
     "annotations": [{"image_id": 1, "category_id": 3, "bbox": [x, y, w, h], "iscrowd": 0}, …],
     "categories": [{"id": 3, "name": "car"}, …]}

Boxes are pixels from the top left corner (https://cocodataset.org/#format-data). Crowds (`iscrowd`) are regions with
several objects, no boxes of one, and are ignored; so is what says `ignore`. Without a bbox, that of the segmentation
is taken, polygons or a mask. Ids and numbers may be written as text.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import ijson

from depers.datasets.labels import read_number
from depers.errors import UserError, short_reason
from depers.normalization.formats.json_lists import Piece, find_pieces, read_piece
from depers.normalization.formats.remarks import find_score, is_region, is_set
from depers.normalization.rules import Problem, RawBox, clean_name
from depers.statuses import ProblemAction

_BUFFER = 2**16
_NUMBERS = {int, float}
_LISTS = ("images", "annotations")
_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
HUGE = 1e300
"""No coordinate."""
AREA = 0.01
"""How far an area may be from that of its box."""
HEAD = 2**16
"""How many bytes of a file say whether it is COCO."""


class CocoImage(NamedTuple):
    """An image as the file lists it; `declared_wh` is (0, 0) where it gives no size."""

    id: object
    file_name: str
    declared_wh: tuple[int, int]


class CocoBox(NamedTuple):
    """An annotation: the id of its image, and its box, whose class is the category's name; or what is wrong.

    `is_crowd_mask`: it is marked as a crowd, and given as a mask.
    """

    image_id: object
    box: RawBox | None
    problem: Problem | None
    is_crowd_mask: bool = False


def looks_like_coco(head: bytes) -> bool:
    """Say whether a JSON file may be COCO; `head` are its first `HEAD` bytes, since its parts come in any order."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith(b"{") or not any(f'"{key}"'.encode() in head for key in _LISTS):
        return False
    keys = set()
    try:
        for prefix, event, value in ijson.parse(start):
            if not prefix and event == "map_key":
                keys.add(value)
            elif prefix in _LISTS and event == "start_array":
                return True
    except (ijson.JSONError, UnicodeDecodeError):  # where the head ends
        pass
    return not keys.isdisjoint(_LISTS)


def is_turned(attributes: object) -> bool:
    """Say whether a box is one that CVAT has turned, since its sides are then those before the turn."""
    angle = attributes.get("rotation") if isinstance(attributes, dict) else None
    return isinstance(angle, (int, float)) and angle % 360 != 0


class CocoFile:
    """A COCO file, read three times from its beginning: categories, images, annotations. Each may be millions.

    `open_anew` gives it open at its beginning. `box_areas` and `corner_areas` are, once the annotations are read, the
    numbers of those whose area is that of x, y, w, h, and of two corners in their place; `unknown_categories` are the
    ids among them that are those of no category. Everything raises UserError for what is no JSON, with its place, and
    for a file that cannot be read.
    """

    def __init__(self, path: str, open_anew: Callable[[], BinaryIO]) -> None:
        self.path, self._open = path, open_anew
        self._pieces: dict[str, list[Piece]] | None = None
        self.corner_areas = self.box_areas = 0
        self.unknown_categories: set[int] = set()
        self.categories: dict[object, str] = {}
        for item in self._items("categories"):
            name, key = item.get("name"), read_key(item.get("id"))
            if not isinstance(name, str) or not clean_name(name):
                raise UserError(f"{path}: a category's name must be text, but is {name!r}")
            name = clean_name(name)
            if self.categories.get(key, name) != name:
                raise UserError(
                    f"{path}: an id must be that of one category, but {key!r} is {self.categories[key]} and {name}"
                )
            self.categories[key] = name
        if not self.categories:
            raise UserError(
                f"{path}: must be COCO, with categories that have an id and a name, but there are none: leave it out by"
                " naming the others, such as with --label-files 'annotations/instances_*.json'"
            )

    def images(self) -> Iterator[CocoImage]:
        """Yield the images that the file lists.

        Raise UserError for one without a file name, or that is labelled for some categories only, and for a file
        without annotations: nobody knows what its images show.
        """
        if not self._has_list("annotations"):
            raise UserError(
                f"{self.path}: must be COCO, with a list of annotations, but has none at its top: leave it out by"
                " naming the others with --label-files"
            )
        for item in self._items("images"):
            if federated := next((key for key in _FEDERATED if item.get(key)), ""):
                raise UserError(
                    f"{self.path}: an image must be labelled for all categories, but {item.get('file_name')!r} has"
                    f" {federated}, as in LVIS, by which each image is labelled for some of them"
                )
            name, sides = item.get("file_name"), [item.get("width"), item.get("height")]
            if not isinstance(name, str) or not name:
                raise UserError(f"{self.path}: an image's file_name must be text, but is {name!r}")
            wide, high = (int(side) if isinstance(side, (int, float)) and side >= 1 else 0 for side in sides)
            yield CocoImage(read_key(item.get("id")), name, (wide, high) if wide and high else (0, 0))

    def annotations(self) -> Iterator[CocoBox]:
        """Yield the annotations in the order of the file."""
        yield from self.make_boxes(self._items("annotations"), 1)

    def stream_boxes(self, start: int) -> Iterator[CocoBox]:
        """Yield the annotations from that with the place `start` on, event by event. Raise UserError for no JSON."""
        yield from self.make_boxes(
            self._check("annotations", itertools.islice(self._stream("annotations"), start, None)), start + 1
        )

    def find_pieces(self, part: str) -> Sequence[Piece]:
        """Return the pieces of one of the file's lists; none where it is to be read event by event."""
        with contextlib.suppress(ValueError, RecursionError):
            return self._find_pieces()[part]
        return []

    def read_piece(self, piece: Piece) -> list[dict[str, Any]] | None:
        """Return the objects of a piece; None where it is to be read event by event."""
        try:
            with self._open() as stream:
                items = read_piece(stream, piece)
        except (ValueError, RecursionError):
            return None
        return [*self._check("annotations", items)]

    def make_boxes(self, items: Iterable[dict[str, Any]], first_number: int) -> Iterator[CocoBox]:
        """Yield annotations, the first of which has this number in the file."""
        for number, item in enumerate(items, first_number):
            image_id, category = read_key(item.get("image_id")), read_key(item.get("category_id"))
            kind, text, attributes = "", "", item.get("attributes")
            ignored = is_region(item) or is_region(attributes)
            bbox: Any = item.get("bbox")
            segmentation: Any = item.get("segmentation")
            values = _read_numbers(bbox) if bbox else None
            if not bbox and segmentation:
                values, text = find_segmentation_box(segmentation), str(segmentation)
            if values is None or len(values) != 4:
                kind, text = "not four numbers", text or str(bbox)
            elif any(map(math.isnan, values)):
                kind, text = "not a finite number", str(bbox)
            elif category not in self.categories:
                if isinstance(category, int):
                    self.unknown_categories.add(category)
                kind, text = "class id without a name", str(item.get("category_id"))
            elif (score := next((s for s in map(find_score, (item, attributes)) if s is not None), None)) is not None:
                kind, text = "detection, not a label", f"score {score}"
            elif is_turned(attributes):
                kind, text = "turned box", str(attributes)
            if values is None or kind:
                problem = Problem(self.path, number, kind, ProblemAction.SKIPPED_WITH_IMAGE, text[:120])
                yield CocoBox(image_id, None, problem)
                continue
            x, y, w, h = values
            self._compare_area(item.get("area"), segmentation, values)
            box = RawBox(number, self.categories[category], x + w / 2, y + h / 2, w, h, ignored)
            yield CocoBox(image_id, box, None, is_set(item.get("iscrowd")) and isinstance(segmentation, dict))

    def _compare_area(self, area: object, segmentation: object, values: Sequence[float]) -> None:
        """Count whether an area is that of a box or of two corners, where it is not that of a segmentation."""
        if segmentation or not isinstance(area, (int, float)) or not 0 < area < HUGE:
            return
        x, y, w, h = values
        self.box_areas += math.isclose(area, w * h, rel_tol=AREA)
        self.corner_areas += w > x and h > y and math.isclose(area, (w - x) * (h - y), rel_tol=AREA)

    def _items(self, part: str) -> Iterator[dict[str, Any]]:
        """Yield the objects in one of the file's lists. Raise UserError where it is no JSON, or they are no objects."""
        yield from self._check(part, self._values(part))

    def _check(self, part: str, values: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """Yield what is in a list. Raise UserError where that is no objects, or cannot be read."""
        try:
            for item in values:
                if not isinstance(item, dict):
                    raise UserError(f"{self.path}: {part} must be objects, but one is {str(item)[:80]!r}")
                yield item
        except OSError as error:
            raise UserError(f"{self.path}: not readable ({short_reason(error)})") from None

    def _values(self, part: str) -> Iterator[Any]:
        """Yield what is in a list: piece by piece, and event by event from where that does not do."""
        count = 0
        try:
            pieces = self._find_pieces()[part]
            with self._open() as stream:
                for piece in pieces:
                    for item in read_piece(stream, piece):
                        count += 1
                        yield item
        except (ValueError, RecursionError):
            yield from itertools.islice(self._stream(part), count, None)

    def _has_list(self, part: str) -> bool:
        """Return whether the file has a list of that name at its top."""
        try:
            return bool(self._find_pieces()[part])
        except (ValueError, RecursionError):
            events = self._parse(ijson.parse)
            return any(prefix == part and event == "start_array" for prefix, event, _ in events)

    def _find_pieces(self) -> dict[str, list[Piece]]:
        if self._pieces is None:
            with self._open() as stream:
                self._pieces = find_pieces(stream, ("categories", *_LISTS))
        return self._pieces

    def _stream(self, part: str) -> Iterator[Any]:
        """Yield what is in a list, event by event. Raise UserError where it is no JSON, with its place."""
        yield from self._parse(lambda stream, **options: ijson.items(stream, f"{part}.item", **options))

    def _parse(self, parse: Callable[..., Iterable[Any]]) -> Iterator[Any]:
        try:
            with self._open() as stream:
                if stream.read(3) != b"\xef\xbb\xbf":
                    stream.seek(0)
                counted = _Counted(stream)
                yield from parse(counted, buf_size=_BUFFER, use_float=True)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            place = counted.describe_place()
            raise UserError(f"{self.path}: must be JSON, but {place} it is not ({_short(error)})") from None


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


def read_key(value: object) -> object:
    """Return an id that can be looked up, the same for a number and the text that tools write for it."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and str(int(value)) == value else value
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else repr(value)


def _read_numbers(values: object) -> list[float] | None:
    """Return a list of numbers, or of texts that are numbers; NaN for what is none. None for what is no list."""
    if not isinstance(values, list):
        return None
    if values and {*map(type, values)} <= _NUMBERS and min(values) > -HUGE and max(values) < HUGE:
        return [*map(float, values)]  # as nearly all are
    return [_read_number(value) for value in values]


def _read_number(value: object) -> float:
    if isinstance(value, str):
        return read_number(value.strip())
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -HUGE < value < HUGE:
        return math.nan
    return float(value)


def find_segmentation_box(segmentation: object) -> list[float] | None:
    """Return x, y, w, h of what polygons or a mask (with `counts` and `size`) cover; None for what is neither."""
    if isinstance(segmentation, dict):
        return _find_mask_box(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    points: list[float] = []
    for polygon in polygons:
        numbers = _read_numbers(polygon)
        if not numbers or len(numbers) % 2 or len(numbers) < 6:
            return None
        points += numbers
    if any(map(math.isnan, points)):
        return None
    xs, ys = points[::2], points[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _find_mask_box(mask: dict[str, Any]) -> list[float] | None:
    """Return x, y, w, h of a mask, whose runs of 0 and 1 in turn go down its columns; None for what is none."""
    counts, size = mask.get("counts"), _read_numbers(mask.get("size"))
    runs = _read_packed(counts) if isinstance(counts, str) else _read_numbers(counts)
    if runs is None or size is None or len(size) != 2 or not size[0] >= 1:
        return None
    high, start = int(size[0]), 0
    x0 = y0 = math.inf
    x1 = y1 = -math.inf
    for number, run in enumerate(runs):
        if not run >= 0:
            return None
        end = start + int(run)
        if number % 2 and run:
            x0, x1 = min(x0, start // high), max(x1, (end - 1) // high + 1)
            one_column = start // high == (end - 1) // high
            y0 = min(y0, start % high if one_column else 0)
            y1 = max(y1, (end - 1) % high + 1 if one_column else high)
        start = end
    if start != high * int(size[1]) or x1 < x0:
        return None
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]


def _read_packed(text: str) -> list[float] | None:
    """Return the runs of a mask as pycocotools packs them: five bits a character, differences from the third run on."""
    runs: list[float] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if not shift else None


def _short(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return " ".join((text.decode("utf-8", "replace") if isinstance(text, bytes) else str(error)).split())[:160]
