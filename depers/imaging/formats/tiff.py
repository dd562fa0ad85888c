"""The directories of a TIFF structure (TIFF 6.0), which EXIF blocks are too: which tags stand where."""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

SUBFILE_TYPE, BITS_PER_SAMPLE, ORIENTATION, PLANES, ICC_PROFILE = 254, 258, 274, 284, 34675
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
EXIF_IFD, GPS_IFD, INTEROP_IFD, SUB_IFDS = 0x8769, 0x8825, 0xA005, 0x014A
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_NESTED = (EXIF_IFD, GPS_IFD, INTEROP_IFD, SUB_IFDS)
_MAX_DIRECTORIES = 10_000
_REDUCED_OR_MASK = 5  # bits of the subfile type


_WIDTH, _HEIGHT, COMPRESSION, _PHOTOMETRIC, _DNG_VERSION = 256, 257, 259, 262, 50706
JPEG, SUBSAMPLING = (6, 7, 34892), 530
_SENSOR_VALUES = (32803, 34892)  # photometric interpretations of DNG: a color filter array, linear raw values
_LOSSLESS = frozenset({1, 2, 3, 4, 5, 8, 32766, 32771, 32773, 32809, 32946, 34925, 50000})
_MOST_NESTED = 64
_PARENT, _DATA = -1, -2  # no tags: the one that points to a directory, and how many bytes of pixels it has
_DATA_BYTES = (STRIP_BYTES, TILE_BYTES, 514)  # 514: of a JPEG in one piece
_HEADER_BYTES = 16
_MOST_UNKNOWN, _MOST_UNKNOWN_SHARE = 1 << 16, 0.1  # bytes that belong to no directory: gaps, and notes of makers


class Tag(NamedTuple):
    """One entry: its directory (0 the first chain, otherwise the tag that points to it), page, number and place.

    `home` is where its directory begins, which tells those apart that one tag points to.
    """

    directory: int
    page: int
    number: int
    kind: int
    values: int
    start: int
    size: int
    home: int = 0


def walk(block: bytes) -> Iterator[Tag]:
    """Yield all entries of all directories, each directory once. Raises ValueError where the structure is damaged."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        raise ValueError("no TIFF structure")
    big = struct.unpack(order + "H", block[2:4])[0] == 43
    try:
        (first,) = struct.unpack_from(order + ("Q" if big else "I"), block, 8 if big else 4)
        yield from _walk_directories(block, order, big, first)
    except struct.error:
        raise ValueError("a directory runs past the end") from None


def _walk_directories(block: bytes, order: str, big: bool, first: int) -> Iterator[Tag]:
    queue, visits, page = [(0, first)], set[int](), -1
    entry, count_format, offset_format = ("HHQ8s", "Q", "Q") if big else ("HHI4s", "H", "I")
    inline, width = (8, 20) if big else (4, 12)
    while queue:
        directory, at = queue.pop(0)
        if not at or at in visits:
            continue
        visits.add(at)
        if len(visits) > _MAX_DIRECTORIES:
            raise ValueError("too many directories")
        page, home = page + (directory == 0), at
        (count,) = struct.unpack_from(order + count_format, block, at)
        at += struct.calcsize(order + count_format)
        for index in range(count):
            place = at + width * index
            number, kind, values, raw = struct.unpack_from(order + entry, block, place)
            size = _SIZES.get(kind, 1) * values
            start = place + width - inline if size <= inline else struct.unpack(order + offset_format, raw)[0]
            yield Tag(directory, page, number, kind, values, start, size, home)
            if number in _NESTED and start + size <= len(block) and values <= _MOST_NESTED and kind in _INTEGERS:
                targets = struct.unpack_from(f"{order}{values}{_INTEGERS[kind]}", block, start)
                queue += [(number, target) for target in targets]
        if directory == 0 and (following := struct.unpack_from(order + offset_format, block, at + width * count)[0]):
            queue.append((0, following))


def read_numbers(block: bytes, tag: Tag) -> tuple[int, ...]:
    """Return the integer values of an entry; empty where it holds none."""
    code = _INTEGERS.get(tag.kind)
    if code is None or tag.start + tag.size > len(block):
        return ()
    return struct.unpack_from(f"{'<' if block[:2] == b'II' else '>'}{tag.values}{code}", block, tag.start)


def is_reduced_or_mask(subfile_type: int) -> bool:
    """Return whether a page's subfile type says that it is a reduced copy or a mask, no image of its own."""
    return bool(subfile_type & _REDUCED_OR_MASK)


def is_lossless(compression: int) -> bool:
    """Return whether a compression keeps every pixel; one that is not known is taken for one that does not."""
    return compression in _LOSSLESS


def explain_unreachable(block: bytes, pages_wh: Sequence[tuple[int, int]]) -> str:
    """Return why a TIFF holds an image that is none of its pages, whose sizes are given; empty where it holds none.

    Raw files are laid out so: the first directory has a small copy, and one below it what the sensor saw (TIFF/EP;
    DNG 1.7, chapter 2). Copies that say that they are reduced, and are, may be left out. So is a file of which many
    bytes belong to no page: its pages may be all that is left of it. Raises ValueError where the structure is damaged.
    """
    if block[8:10] == b"CR":
        return "a raw file (CR2)"
    if block[8:12] in (b"IIII", b"MMMM"):
        return "a raw file (IIQ)"
    images: dict[int, dict[int, int]] = {}
    accounted = _HEADER_BYTES
    for tag in walk(block):
        if tag.number in _NESTED and (tag.values > _MOST_NESTED or tag.kind not in _INTEGERS):
            return f"{tag.values} sub-directories (type {tag.kind})"
        numbers = read_numbers(block, tag)
        accounted += 20 + tag.size + (sum(numbers) if tag.number in _DATA_BYTES else 0)
        if numbers:
            entries = images.setdefault(tag.home, {_PARENT: tag.directory})
            entries.setdefault(tag.number, numbers[0])
            entries[_DATA] = entries.get(_DATA, 0) + (sum(numbers) if tag.number in _DATA_BYTES else 0)
    if len(block) - accounted > max(_MOST_UNKNOWN, _MOST_UNKNOWN_SHARE * len(block)):
        return f"{len(block) - accounted} bytes of {len(block)} that no page has"
    largest = max((width * height for width, height in pages_wh), default=0)
    for entries in images.values():
        width, height = entries.get(_WIDTH, 0), entries.get(_HEIGHT, 0)
        if _DNG_VERSION in entries or entries.get(_PHOTOMETRIC) in _SENSOR_VALUES:
            return "a raw file (DNG, or another with values of a sensor)"
        is_copy = is_reduced_or_mask(entries.get(SUBFILE_TYPE, 0))
        if entries[_PARENT] in (EXIF_IFD, GPS_IFD, INTEROP_IFD) and entries[_DATA]:
            return "an image in a directory of metadata"
        if entries[_PARENT] == SUB_IFDS and (_WIDTH in entries or entries[_DATA]) and not is_copy:
            return f"an image of {width}x{height} in a sub-directory"
        if is_copy and width * height > largest:
            return f"a reduced copy of {width}x{height}, larger than its pages"
    return ""


def has_sixteen_bit_channels(page: Any) -> bool:
    """Return whether the page that Pillow's image of a TIFF stands at has several channels of 16 bits."""
    bits = page.tag_v2.get(BITS_PER_SAMPLE, ())
    return set(bits) == {16} and len(bits) > 1
