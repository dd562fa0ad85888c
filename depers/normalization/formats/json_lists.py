"""The lists at the top of a large JSON object, such as COCO's annotations: found by one quick look through the file.

    {"info": …, "images": [{…}, {…}, …], "annotations": [{…}, …]}

Brackets and quotes say where a list's objects begin and end, whatever is in them; so the file is cut there, and each
piece given to a reader of whole texts, which is many times as fast as one that reads a file event by event. What is not
as it should be is a `ValueError`, which a reader of events can explain.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray

_BLOCK = 2**20  # bytes that are looked through at once, and about those of a piece
_MOST_BESIDE = 2**24  # bytes of all that stands beside the lists
_BOM = b"\xef\xbb\xbf"
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_LONE_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a character that takes two, of which readers make different things
_KEY = re.compile(rb'(?<!\\)"([^"\\]*)"\s*:\s*\Z')
_TO_DIGITS = bytes(48 if chr(character) in "0123456789" else 32 for character in range(256))
_LONG_NUMBER = b"0" * 19
_IS_MARK = bytes(chr(character) in '"[]{}' for character in range(256))
_OPENING, _CLOSING = b"[{", b"]}"


class Piece(NamedTuple):
    """Bytes of a file, from `start` to `end`: some objects of a list, with a comma before them where others are."""

    start: int
    end: int
    is_first: bool


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_READER = json.JSONDecoder(parse_constant=_refuse)


def find_pieces(stream: BinaryIO, names: Sequence[str]) -> dict[str, list[Piece]]:
    """Return the pieces of each named list at the top of a JSON object. Raise ValueError for what is none.

    `stream` stands at the beginning of a file. All but the objects of these lists is read here.
    """
    start = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
    stream.seek(start)
    pieces: dict[str, list[Piece]] = {name: [] for name in names}
    outside = bytearray()  # of the lists: all of the file but their objects
    depth, in_text, name, piece_start, is_continued, place = 0, False, "", 0, False, start
    rest = b""
    while data := rest + stream.read(_BLOCK):
        escapes = len(data) - len(data.rstrip(b"\\"))
        is_last = len(data) == len(rest)
        data, rest = (data[:-1], data[-1:]) if escapes % 2 and not is_last else (data, b"")
        marks, in_text = _find_marks(data, in_text)
        depths = depth + np.cumsum(np.isin(marks.bytes, [*_OPENING]) * 2 - 1, dtype=np.int64)
        copied = 0
        for mark in np.flatnonzero((depths <= 2) & ~((depths == 2) & marks.closes)).tolist():
            at, opens, level = int(marks.places[mark]), not marks.closes[mark], int(depths[mark])
            if opens and level == 2 and marks.bytes[mark] == ord("["):
                outside += data[copied : at + 1]
                copied = at + 1
                key = _KEY.search(bytes(outside[-256:-1]))
                name = key[1].decode() if key else ""
                if name in pieces:
                    piece_start, is_continued = place + copied, False
                else:
                    name = ""
            elif name and not opens and level == 1:
                pieces[name].append(Piece(piece_start, place + at, is_first=not is_continued))
                name, copied = "", at
        if name:
            ends = np.flatnonzero((depths == 2) & marks.closes)
            if len(ends) and (end := place + int(marks.places[ends[-1]]) + 1) > piece_start:
                pieces[name].append(Piece(piece_start, end, is_first=not is_continued))
                piece_start, is_continued = end, True
        else:
            outside += data[copied:]
        if len(outside) > _MOST_BESIDE:
            raise ValueError("too much stands beside the lists")
        depth = int(depths[-1]) if len(depths) else depth
        place += len(data)
        if is_last:
            break
    _check_beside(_decode(bytes(outside)), names)
    return pieces


def _check_beside(text: str, names: Sequence[str]) -> None:
    """Raise ValueError for what is no JSON object, or holds something by one of these names: it was not found."""

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if any(key in names and value for key, value in pairs):
            raise ValueError("a list of another form")
        return dict(pairs)

    reader = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=check)
    if not isinstance(reader.decode(text), dict):
        raise ValueError("no object")


class _Marks(NamedTuple):
    """The brackets of some bytes that stand in no text: places, the bytes themselves, and whether each closes."""

    places: NDArray[np.int64]
    bytes: NDArray[np.uint8]
    closes: NDArray[np.bool_]


def _find_marks(data: bytes, in_text: bool) -> tuple[_Marks, bool]:
    """Return the marks, and whether the bytes end in a text; `in_text`: they begin in one."""
    plain = _ESCAPED.sub(b"__", data) if b"\\" in data else data
    codes = np.frombuffer(plain, np.uint8)
    places = np.flatnonzero(np.frombuffer(plain.translate(_IS_MARK), np.bool_))
    found = codes[places]
    is_quote = found == ord('"')
    parity = (np.cumsum(is_quote) + in_text) % 2 == 1
    is_bracket = ~is_quote & ~parity
    brackets = found[is_bracket]
    marks = _Marks(places[is_bracket], brackets, np.isin(brackets, [*_CLOSING]))
    return marks, bool(parity[-1]) if len(parity) else in_text


def read_piece(stream: BinaryIO, piece: Piece) -> list[Any]:
    """Return what a piece of a file holds. Raise ValueError for what is no JSON."""
    stream.seek(piece.start)
    text = stream.read(piece.end - piece.start).strip(b" \t\r\n")
    if not text:
        return []
    if not piece.is_first:
        if not text.startswith(b","):
            raise ValueError("no comma between objects")
        text = text[1:]
    items = _read_list(b"[%b]" % text)
    if not items:
        raise ValueError("no object after a comma")
    return items


def _read_list(text: bytes) -> list[Any]:
    """Return the list that a text writes. Raise ValueError for what is no JSON."""
    if _LONG_NUMBER in text.translate(_TO_DIGITS):  # orjson takes those beyond 64 bits for fractions
        items: list[Any] = _READER.decode(_decode(text))
        return items
    return orjson.loads(text)  # type: ignore[no-any-return]


def _decode(data: bytes) -> str:
    if _LONE_HALF.search(data):
        raise ValueError("characters in two halves")
    return data.decode("utf-8")
