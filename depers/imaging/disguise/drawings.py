"""Images that are drawn in a text: with few letters, some for dark and some for light, or with shapes of an SVG."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SEPARATORS = np.array([chr(letter) in "\t\n\r\f\v\"',;|()[]{}<>" or letter < 32 for letter in range(256)])
_ONE = np.uint64(1)
_BLANK = ord(" ")
_LEAST_WORD, _LETTERS_PER_KIND, _MOST_KINDS = 8, 4, 8  # of a word of a drawing; of a language's there are fewer alike
_LEAST_ROW, _MOST_BAR_KINDS = 16, 3  # of a row of bars
_LEAST_BARS = 0.8  # of the words in such a row
_NUMBER = re.compile(r"[-+.\d]+")
_LEAST_BITS, _LONG_BAR = 4, 4
_LEAST_LETTERS, _LEAST_DISTINCT = 480, 10  # of 28 × 28, some rows of which may be of one letter
_NEAR, _LEAST_SHARE, _LEAST_SHARE_OF_ALL = 2048, 0.25, 0.15  # characters, and how many of them are a drawing's
_PIECE, _OVERLAP = 1 << 22, 1 << 13
_SVG = re.compile(rb"<(?:\w+:)?svg\b", re.IGNORECASE)
_SHAPE = re.compile(
    rb"<(?:\w+:)?(?:rect|circle|ellipse|polygon|polyline|path|line|use|image|stop|text|tspan|fe\w+)\b[^>]*",
    re.IGNORECASE,
)
_MOST_SHAPES, _MOST_SHAPE_LETTERS = 64, 2048  # of the SVGs of a text: as many as 8 × 8 cells


def find_drawing(text: bytes) -> str:
    """Return what drawing is in a text; empty where none is."""
    if b"<" in text and (drawing := _find_svg(text)):
        return drawing
    letters = text.decode("utf-8", "replace")
    starts = range(0, max(1, len(letters) - _OVERLAP), _PIECE - _OVERLAP)
    return "a drawing of few letters" if any(_are_letters_drawn(letters[at : at + _PIECE]) for at in starts) else ""


def _find_svg(text: bytes) -> str:
    match = _SVG.search(text)
    shapes = _SHAPE.findall(text, match.start()) if match else []
    if len(shapes) > _MOST_SHAPES:
        return f"an SVG of more than {_MOST_SHAPES} shapes"
    return "an SVG of long shapes" if sum(map(len, shapes)) > _MOST_SHAPE_LETTERS else ""


def _are_letters_drawn(text: str) -> bool:
    """Return whether words or rows that differ consist of few letters, as no language has them, many in one place.

    Labels are few words, however often they are there. Numbers are looked at by others.
    """
    letters: NDArray[Any] = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    if text.isascii():
        letters = letters.astype(np.uint8)  # which is quicker
    is_between = _SEPARATORS[np.minimum(letters, 255)]
    is_blank = letters == _BLANK
    kinds = np.r_[_ONE << (letters & 63).astype(np.uint64), np.uint64(0)]  # bits, so that those of many are one number
    words = _find_runs(~is_between & ~is_blank, kinds, _LEAST_WORD, _MOST_KINDS)
    rows = _find_runs(~is_between, kinds, _LEAST_ROW, 1 + _MOST_BAR_KINDS)
    parts = [(start, text[start:end]) for start, end in words if _is_drawn_word(text[start:end])]
    parts += [(start, text[start:end]) for start, end in rows if _are_bars(text[start:end])]
    return _are_dense(sorted(parts), len(text))


def _find_runs(
    marks: NDArray[np.bool_], kinds: NDArray[np.uint64], least: int, most_kinds: int
) -> list[tuple[int, int]]:
    """Return where `least` and more letters in a row are marked that may be of few kinds."""
    bounded = np.r_[False, marks, False]
    edges = np.flatnonzero(bounded[1:] != bounded[:-1])
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return []
    counts = np.bitwise_count(np.bitwise_or.reduceat(kinds, edges)[::2])
    fits = (ends - starts >= least) & (counts <= np.minimum(most_kinds, (ends - starts) // _LETTERS_PER_KIND))
    return list(zip(starts[fits].tolist(), ends[fits].tolist(), strict=True))


def _is_drawn_word(word: str) -> bool:
    """Return whether a word has so few letters that it is none; identifiers are filled up with zeros."""
    kinds = len({*word})
    if not 2 <= kinds <= min(_MOST_KINDS, len(word) // _LETTERS_PER_KIND):
        return False
    if any(word[period:] == word[:-period] for period in (2, 3)):  # as people laugh
        return False
    if _NUMBER.fullmatch(word):
        return kinds == 2 and len(word.strip("0-+.")) >= _LEAST_BITS
    return "0" not in word or len(word.strip("0-")) >= _LEAST_WORD


def _are_bars(row: str) -> bool:
    """Return whether a row consists of bars, each of one letter, with gaps: not of numbers, or of single letters."""
    words = row.split()
    bars = [word for word in words if len({*word}) == 1]
    if len(bars) < _LEAST_BARS * len(words) or len({*row}) > 1 + _MOST_BAR_KINDS or " " not in row:
        return False
    longest = max(map(len, bars), default=0)
    if all(_NUMBER.fullmatch(word) for word in words):
        return longest >= _LONG_BAR
    return longest >= 2 or len({*map(len, re.findall(" +", row))}) > 1


def _are_dense(parts: list[tuple[int, str]], total: int) -> bool:
    """Return whether parts of a text, with their places, are enough for a drawing, and near each other."""
    if len(parts) < _LEAST_DISTINCT:
        return False
    sums = np.r_[0, np.cumsum([len(part) for _, part in parts])]
    places = np.array([place for place, _ in parts])
    ends = np.searchsorted(places, places + _NEAR)
    least = max(_LEAST_LETTERS, round(_LEAST_SHARE * _NEAR))
    near = np.flatnonzero(sums[ends] - sums[:-1] >= least).tolist()
    if any(len({part for _, part in parts[at : ends[at]]}) >= _LEAST_DISTINCT for at in near):
        return True
    is_much = sums[-1] >= max(_LEAST_LETTERS, _LEAST_SHARE_OF_ALL * total)
    return bool(is_much) and len({part for _, part in parts}) >= _LEAST_DISTINCT
