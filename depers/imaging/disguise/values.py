"""Stretches of a text that are no words: values so long that they may say anything, and letters in groups."""

import re
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from depers.imaging.disguise import number_lists

_LONG = 1024  # letters of one value; a key has hundreds, and a link, too
_LETTERS = bytes(chr(character).isalnum() or chr(character) in "+/_=%~-" for character in [*range(128), *bytes(128)])
_SIGNS = bytes(32 < character < 127 and chr(character) not in "\"'\\" for character in range(256))
_TO_WORDS = bytes(32 if chr(character) in "\"',;|[](){}<>/=" else character for character in range(256))
_DRAWING_KINDS = bytes(chr(character) in "@%#*+=~^&$!?`:" for character in range(256))
_LEAST_SIGNS, _LEAST_SIGNS_SHARE = 1024, 0.3  # of which a neighbor is one, too
_SAMPLE_WORDS, _MOST_WORDS, _FEW_WORDS = 4096, 64, 8
_ONES = np.uint64(0x0101010101010101)
_LEAST_RATIO = 0.1  # to which a long value shrinks that says anything: what repeats itself does not
_NUMBERS = b"0123456789.,+-eE:;[](){} "
_MOST_LETTERS = 0.1
_CELL = 2048
_LEAST_PAIRS, _LEAST_MIX = 200, 0.15  # of two letters in a cell; of them, upper ones behind lower ones
_KINDS = bytes(
    1 if chr(character).islower() else 2 if chr(character).isupper() else 0
    for character in [*range(128), *bytes(128)]
)  # fmt: skip
_HEX_KINDS = bytes(
    1 if chr(character).isdigit() else 2 if chr(character) in "abcdefABCDEF" else 4 if chr(character).isalnum() else 0
    for character in [*range(128), *bytes(128)]
)  # fmt: skip
_LEAST_HEX, _MOST_OTHERS = 512, 0.02
_TO_BLANKS = bytes(character if _HEX_KINDS[character] in (1, 2) else 32 for character in range(256))
_HEX_SHARES = (0.45, 0.85)  # of digits among hexadecimal digits
_LEAST_LINES, _LEAST_LINE = 12, 40
_BLANKS = bytes(chr(character) in " \t\n\r\f\v" for character in range(256))
_MOST_ALIKE = 0.04  # of the characters of two lines above one another
_MOST_ABOVE, _LEAST_BESIDE = 0.6, 0.12  # of drawings: paths have more alike above one another, and fewer beside
_OTHER_PUNCTUATION = b"!#$&*@^?<>;()`~|"
_LEAST_PUNCTUATION = 0.05
_MASK = re.compile(rb"\"[0-\[\]-o]*(?:\\\\[0-\[\]-o]*)*\"")
_LEAST_MASK = 32
_NUMBER_MASK = re.compile(rb"\"counts\"\s*:\s*\[([\d,\s]*)\]")
_SIZE = re.compile(rb"\"size\"\s*:\s*\[\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\]")
_SIZE_REACH, _MOST_PIXELS, _MOST_EDGES = 80, 100_000_000, 0.1
_LEAST_GROUPS, _SHORT_SHARE = 512, 0.9  # of groups of one or two bytes in hexadecimal digits


def find_drawing(text: bytes) -> str:
    """Return that letters or words of a text stand for pixels: they are like their neighbors; empty where not."""
    signs = np.frombuffer(text.translate(_DRAWING_KINDS, b" \t\r\n"), np.uint8)
    if (signs[1:] & signs[:-1]).sum() > max(_LEAST_SIGNS, _LEAST_SIGNS_SHARE * len(signs)):
        return "a drawing of signs"
    words = text.translate(_TO_WORDS).split(None, _SAMPLE_WORDS)[:_SAMPLE_WORDS]
    if len(words) < number_lists.LEAST_NUMBERS or len(set(words)) > _MOST_WORDS:
        return ""
    words = text.translate(_TO_WORDS).split()
    places = {word: place for place, word in enumerate(dict.fromkeys(words))}
    if len(places) > _MOST_WORDS:
        return ""
    return (
        "a drawing of words" if number_lists.are_pixels(np.array([places[word] for word in words]), _FEW_WORDS) else ""
    )


def find_long_value(text: bytes) -> str:
    """Return that a text has a value so long that an image fits, and that shows not what it says; empty if none."""
    for value in _list_long(text):
        if _is_list_of_numbers(value) or read_mask(value):
            continue
        if len(zlib.compress(value[: 1 << 20], 1)) >= _LEAST_RATIO * min(len(value), 1 << 20):
            return f"{len(value)} letters without a blank, which may say anything"
    for lines in _list_lines(text.replace(b"\r\n", b"\n") if b"\r" in text else text):
        if _are_wrapped(lines):
            return "letters broken into lines, which may say anything"
    return ""


def _list_long(text: bytes) -> Iterator[bytes]:
    yield from (text[start:end] for start, end in list_runs(text.translate(_LETTERS), _LONG))
    for start, end in list_runs(text.translate(_SIGNS), _LONG):
        before, after = text[start - 1 : start], text[end : end + 1]
        value = text[start:end]
        if (before in (b'"', b"'") and before == after) or (not (before + after).strip() and _is_mixed(value)):
            yield value


def _list_lines(text: bytes) -> Iterator[bytes]:
    """Yield stretches of long lines without blanks, not a few of them."""
    places = np.flatnonzero(np.frombuffer(text.translate(_BLANKS), np.bool_))
    if len(places) < _LEAST_LINES:
        return
    ends_line = np.frombuffer(text, np.uint8)[places] == ord("\n")
    is_line = ends_line & np.r_[True, ends_line[:-1]] & (np.diff(places, prepend=-1) > _LEAST_LINE)
    edges = np.flatnonzero(np.diff(is_line.astype(np.int8), prepend=0, append=0))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if end - start >= _LEAST_LINES:
            yield text[places[start - 1] + 1 if start else 0 : places[end - 1] + 1]


def _is_mixed(value: bytes) -> bool:
    """Return whether letters are as often upper as lower ones: a row of words without blanks has few such places."""
    return any(True for _ in find_groups(value[:_CELL]))


def list_runs(marks: bytes, least: int) -> Iterator[tuple[int, int]]:
    """Yield where `least` and more bytes of 1 begin and end, among others of 0; `least` is a multiple of 16."""
    width = least // 16  # words of eight: a run holds half of its length at a multiple of that
    words = np.frombuffer(marks, np.uint64, len(marks) // 8)
    is_run = (words[: len(words) // width * width].reshape(-1, width) == _ONES).all(1)
    end = 0
    for block in np.flatnonzero(is_run).tolist():
        if block * width * 8 >= end:
            start = marks.rfind(b"\0", end, block * width * 8) + 1 or end
            end = marks.find(b"\0", (block + 1) * width * 8)
            end = len(marks) if end < 0 else end
            if end - start >= least:
                yield start, end


def _is_list_of_numbers(value: bytes) -> bool:
    return len(value.translate(None, _NUMBERS)) <= _MOST_LETTERS * len(value) and b"," in value


def _are_wrapped(lines: bytes) -> bool:
    """Return whether lines are of one length and no two alike, as paths and hashes are, or as alike as a drawing's."""
    parts = lines.split()
    length = len(parts[0])
    rows = [part for part in parts if len(part) == length]
    if len(rows) < 0.9 * len(parts):
        return False
    letters = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), length)
    above = (letters[1:] == letters[:-1]).mean()
    beside = (letters[:, 1:] == letters[:, :-1]).mean()
    is_drawing = above < _MOST_ABOVE and beside > _LEAST_BESIDE and not _is_list_of_numbers(lines)
    return bool(above < _MOST_ALIKE or is_drawing)


def read_mask(text: bytes) -> list[int]:
    """Return the runs of a mask as COCO writes them in letters (pycocotools' `rleToString`); nothing if it is none."""
    counts: list[int] = []
    value = shift = 0
    for character in text.replace(b"\\\\", b"\\"):
        bits = character - 48
        if not 0 <= bits < 64:
            return []
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= bits & 16 and 1 << shift
            value += counts[-2] if len(counts) > 2 else 0
            if value < 0 or (value == 0 and counts):
                return []
            counts.append(value)
            value = shift = 0
    return [] if shift else counts


def remove_masks(text: bytes) -> bytes:
    """Return the text with blanks in the place of masks, as COCO writes their runs: in letters, or as numbers."""
    if b'"counts"' not in text:
        return text
    return _NUMBER_MASK.sub(_blank_numbers, _MASK.sub(_blank_letters, text))


def _blank_letters(match: re.Match[bytes]) -> bytes:
    value = match[0]
    return value if len(value) < _LEAST_MASK or not read_mask(value[1:-1]) else b'"' + b" " * (len(value) - 2) + b'"'


def _blank_numbers(match: re.Match[bytes]) -> bytes:
    around = match.string[max(0, match.start() - _SIZE_REACH) : match.start()]
    around += match.string[match.end() : match.end() + _SIZE_REACH]
    runs = np.fromstring(match[1].replace(b",", b" "), np.int64, sep=" ") if match[1].strip() else np.empty(0, np.int64)
    sizes = [(int(height), int(width)) for height, width in _SIZE.findall(around)]
    return b" " * len(match[0]) if any(_is_mask(runs, *size) for size in sizes) else match[0]


def _is_mask(runs: NDArray[np.int64], height: int, width: int) -> bool:
    """Return whether runs fill an image, column by column, with areas: columns side by side are alike."""
    if not 0 < height * width <= _MOST_PIXELS or int(runs.sum()) != height * width:
        return False
    mask = np.repeat(np.arange(len(runs)) & 1 == 1, runs).reshape(width, height)
    return bool((mask[1:] != mask[:-1]).mean() <= _MOST_EDGES and len(runs) <= _MOST_EDGES * mask.size)


def find_groups(text: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield stretches of letters that are no words, and whether they hold signs that neither base64 nor lists have.

    Base64 and its kin have as many upper as lower letters, one behind the other, wherever they are parted.
    """
    count = len(text) // _CELL + 1
    kinds = np.frombuffer(text.translate(_KINDS).ljust(count * _CELL + 1, b"\0"), np.uint8)
    pairs = ((kinds[:-1] > 0) & (kinds[1:] > 0)).reshape(count, _CELL).sum(1)
    mixes = ((kinds[:-1] == 1) & (kinds[1:] == 2)).reshape(count, _CELL).sum(1)
    for start, end in _find_cells((pairs >= _LEAST_PAIRS) & (mixes >= _LEAST_MIX * pairs)):
        stretch = text[start * _CELL : end * _CELL]
        signs = len(stretch) - len(stretch.translate(None, _OTHER_PUNCTUATION))
        yield stretch, signs >= _LEAST_PUNCTUATION * len(stretch)


def find_digits(text: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield stretches of hexadecimal digits, wherever they are parted, as digits alone, and whether they are bytes.

    Hashes are longer groups.
    """
    for prefix in (b"0x", b"0X", b"\\x"):
        text = text.replace(prefix, b"  ") if prefix in text else text
    count = len(text) // _CELL + 1
    kinds = np.frombuffer(text.translate(_HEX_KINDS).ljust(count * _CELL, b"\0"), np.uint8).reshape(count, _CELL)
    digits, letters, strangers = ((kinds == kind).sum(1) for kind in (1, 2, 4))
    total = digits + letters
    marks = (total >= _LEAST_HEX) & (strangers <= _MOST_OTHERS * total)
    marks &= (digits >= _HEX_SHARES[0] * total) & (digits <= _HEX_SHARES[1] * total)
    for start, end in _find_cells(marks):
        stretch = text[start * _CELL : end * _CELL]
        groups = stretch.translate(_TO_BLANKS).split()
        short = sum(len(group) in (2, 4) for group in groups)
        yield b"".join(groups), short >= max(_LEAST_GROUPS, _SHORT_SHARE * len(groups))


def _find_cells(marks: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield where cells that are marked begin and end, with the one before and the one behind."""
    edges = np.flatnonzero(np.diff(np.r_[0, marks.astype(np.int8), 0]))
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield max(0, start - 1), end + 1
