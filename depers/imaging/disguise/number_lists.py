"""Pixels among the numbers of a text or a table: neighbors are alike, in a row, and far apart.

No signature tells, so that the numbers have to: those of labels, tokens, boxes, embeddings and keypoints have no
neighbors that are alike; those of polygons and masks have them, but alternate between two curves.
"""

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROWS, _STEP = 256, 128  # of a block of numbers in `period` columns, and from one block to the next
_BLOCKS = 3  # that have to look like pixels, one after the other: 512 pixels
_MOST_PERIOD = 8  # numbers that say one pixel: r g b, x y r g b a, x y width height r g b
LEAST_NUMBERS = _STEP * (_BLOCKS + 1)
_LEAST_CORRELATION, _LEAST_CROSSINGS, _MOST_REPEATS = 0.5, 0.015, 0.7
_MOST_SPREAD = 6  # channels are of one scale
_OUTLIERS = 12  # of the 256 values of a column, at either end
_LARGEST = 1e12
_FAR = (37, 101)  # numbers that are apart far enough to have nothing to do with one another
_MOST_DIFFERENCE = 0.65  # of the usual one; it is 0.74 in random order, and 0.65 at a correlation of a half
_LEAST_BYTES, _LEAST_DISTINCT = 1024, 200
_CELL = 512
_DOTS = 8  # numbers that make a shade
_LEAST_LIKENESS = 0.85  # of two channels
_SEPARATOR, _DIGIT, _DOT, _SIGN, _EXPONENT, _WORD = range(6)

_ONE_DOT, _ONE_EXPONENT, _ONE_LETTER = 1 << 24, 1 << 36, 1 << 48  # of a token, beside the count of its digits
_MOST_UNIT = 3  # letters behind a number
_LONGEST = 48  # characters of a number
_WIDE = re.compile(rb"(?<![\w.])-?\d{9,1023}(?![\w.])")
_LEAST_PACKED, _MANY_PACKED = 24, 256  # numbers


def _classify(character: int) -> int:
    if chr(character) in "0123456789":
        return _DIGIT
    special = {".": _DOT, "-": _SIGN, "+": _SIGN, "e": _EXPONENT, "E": _EXPONENT}.get(chr(character))
    if special is not None:
        return special
    return _WORD if character >= 128 or chr(character).isalpha() or chr(character) in "_#" else _SEPARATOR


_KINDS = bytes(_classify(character) for character in range(256))
_WEIGHTS = np.array([0, 1, _ONE_DOT, 0, _ONE_EXPONENT, _ONE_LETTER])
_TO_NUMBERS = bytes(character if 0 < _KINDS[character] < _WORD else 32 for character in range(256))


def read_numbers(text: bytes) -> NDArray[np.float64]:
    """Return the numbers in a text in their order, whatever is between them; those within words are none, units are."""
    for prefix in (b"0x", b"0o", b"0b"):
        text = text.replace(prefix, b"  ") if prefix in text else text
    kinds = np.frombuffer(b"\0" + text.translate(_KINDS) + b"\0\0", np.uint8)
    before, current, after = kinds[:-3], kinds[1:-2], kinds[2:-1]
    is_exponent = (current == _EXPONENT) & ((before == _DIGIT) | (before == _DOT))
    is_exponent &= (after == _DIGIT) | ((after == _SIGN) & (kinds[3:] == _DIGIT))
    is_dash = (current == _SIGN) & ((before == _DIGIT) | (before == _DOT)) & ~np.r_[False, is_exponent[:-1]]  # 2024-05
    shown = np.r_[False, (current != _SEPARATOR) & ~is_dash, False]
    edges = np.flatnonzero(shown[1:] != shown[:-1])
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    may_be_numbers = (current[starts] < _EXPONENT) & (lengths <= _LONGEST) if len(starts) else np.zeros(0, bool)
    starts, lengths = starts[may_be_numbers], lengths[may_be_numbers]
    if not len(starts):
        return np.empty(0)
    firsts = np.cumsum(lengths) - lengths
    places = np.arange(lengths.sum()) + np.repeat(starts - firsts, lengths)
    current, is_exponent = current[places], is_exponent[places]
    weights = _WEIGHTS[current]
    stray = (current == _EXPONENT) & ~is_exponent
    weights[stray] = _ONE_LETTER
    sums = np.add.reduceat(weights, firsts)
    dots = sums // _ONE_DOT % (_ONE_EXPONENT // _ONE_DOT)
    is_number = (sums % _ONE_DOT > 0) & (sums // _ONE_EXPONENT % (_ONE_LETTER // _ONE_EXPONENT) < 2)
    is_number &= sums // _ONE_LETTER <= _MOST_UNIT  # 12px
    is_shown = np.repeat(is_number, lengths) & ~stray
    is_shown &= ~(np.repeat(dots > 1, lengths) & (current == _DOT))  # 192.168.0.1
    letters = np.frombuffer(text.translate(_TO_NUMBERS), np.uint8)[places]
    spaced = np.full(len(places) + len(starts), 32, np.uint8)
    spaced[np.arange(len(places)) + np.repeat(np.arange(len(starts)), lengths)] = np.where(is_shown, letters, 32)
    numbers = spaced.tobytes()
    if not numbers.strip():
        return np.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.fromstring(numbers, np.float64, sep=" ")
        except (ValueError, DeprecationWarning):
            return np.array([float(number) for number in numbers.split() if _is_float(number)], np.float64)


def _is_float(number: bytes) -> bool:
    try:
        float(number)
    except ValueError:
        return False
    return True


def are_pixels(numbers: NDArray[Any], most_kinds: int = 2) -> bool:
    """Return whether numbers, or some of them in a row, are those of an image, or bytes of whatever kind.

    Pixels follow one another by rows or columns, with their channels beside or behind one another, of any scale, with
    their places or other regular numbers between them. With at most `most_kinds` different ones, their means are looked
    at, too. Thresholds are of photographs of 28 pixels and more.
    """
    if len(numbers) < LEAST_NUMBERS:
        return False
    with np.errstate(all="ignore"):
        values = np.nan_to_num(np.asarray(numbers, np.float64), nan=0, posinf=0, neginf=0)
        values = np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)
        return _fill_bytes(values) or _are_smooth(values) or _are_dots(values, most_kinds)


def _are_dots(values: NDArray[Any], most_kinds: int) -> bool:
    """Return whether numbers of few kinds are light and shade in some measure, as dots of a print are."""
    if len(values) < _DOTS * LEAST_NUMBERS or len(np.unique(values[: 1 << 16])) > most_kinds:
        return False
    shades = values[: len(values) // _DOTS * _DOTS].reshape(-1, _DOTS).mean(1, dtype=np.float32)
    return _are_smooth(shades)


def _are_smooth(values: NDArray[Any]) -> bool:
    return any(_have_smooth_channels(values, period, blocks) for period, blocks in _list_periods(values))


def are_packed_pixels(text: bytes) -> bool:
    """Return whether the whole numbers in a text are pixels of 8 bits, several in each: their bytes are alike.

    Those of times, identifiers and hashes are not: they stand still, count, or are chance.
    """
    found = [int(number) for number in _WIDE.findall(text)]
    for start in range(0, len(found) - _LEAST_PACKED + 1, _MANY_PACKED):
        numbers = found[start : start + _MANY_PACKED]
        size = max(4, (max(abs(number).bit_length() for number in numbers) + 7) // 8)
        packed = b"".join((number & (1 << 8 * size) - 1).to_bytes(size, "big") for number in numbers)
        pixels = np.frombuffer(packed, np.uint8).reshape(-1, size).astype(np.float64)
        if pixels.size >= LEAST_NUMBERS and any(_are_alike(pixels, lag) for lag in (1, 3)):
            return True
    return False


def _are_alike(columns: NDArray[np.float64], lag: int) -> bool:
    """Return whether columns are like those `lag` beside them, by the mean of their correlations."""
    deviations = columns - columns.mean(0)
    spreads = np.sqrt((deviations**2).mean(0))
    products = (deviations[:, lag:] * deviations[:, :-lag]).mean(0)
    return bool((products / np.maximum(spreads[lag:] * spreads[:-lag], 1)).mean() >= _LEAST_CORRELATION)


def are_raw_pixels(data: bytes) -> bool:
    """Return whether bytes, or some of them in a row, are pixels of 8 bits; random ones are told apart first."""
    count = len(data) // _CELL - 1
    if count < _BLOCKS:
        return False
    pixels = np.frombuffer(data, np.uint8, (count + 1) * _CELL).astype(np.float32)
    marks = np.zeros(count, bool)
    cells = pixels[: count * _CELL].reshape(count, _CELL)
    variances = cells.var(1)
    for lag in (1, 3, 4):
        changes = pixels[lag : lag + count * _CELL] - pixels[: count * _CELL]
        changes = changes.reshape(count, _CELL)
        marks |= np.einsum("ij,ij->i", changes, changes) <= 2 * _CELL * (1 - _LEAST_CORRELATION) * variances
    rows = np.flatnonzero(_mark_rows(marks))
    return bool(len(rows)) and _are_smooth(pixels[rows[0] * _CELL : (rows[-1] + 1) * _CELL])


def _fill_bytes(values: NDArray[Any]) -> bool:
    """Return whether whole numbers fill the range of a byte as no labels do: nobody can say what those bytes are."""
    for start in range(0, len(values) - _LEAST_BYTES + 1, _LEAST_BYTES // 2):
        part = values[start : start + _LEAST_BYTES]
        low, high = float(part.min()), float(part.max())
        is_range = (0 <= low <= 7 and 248 <= high <= 255) or (-128 <= low <= -121 and 120 <= high <= 127)
        if is_range and (part == np.round(part)).all() and len(np.unique(part)) >= _LEAST_DISTINCT:
            return True
    return False


def _list_periods(values: NDArray[Any]) -> list[tuple[int, NDArray[np.intp]]]:
    """Return the numbers of columns in which values are most like those above them, with the blocks that are so.

    Differences count up to a usual one between values that are far apart: other numbers may lie between pixels.
    """
    cells = len(values) // _STEP
    usual = np.max([np.median(_difference(values, cells, lag), axis=1) for lag in _FAR], axis=0)
    sums = {
        lag: np.minimum(_difference(values, cells, lag), usual[:, None]).sum(1, dtype=np.float64)
        for lag in range(1, _MOST_PERIOD + 1)
    }
    periods = []
    for period in range(1, _MOST_PERIOD + 1):
        blocks = {lag: _sum_blocks(sums[lag], period) for lag in {2, *range(1, period + 1)}}
        limits = _MOST_DIFFERENCE * _STEP * _sum_blocks(usual, period)
        least = np.min([blocks[lag] for lag in ({2} if period == 1 else range(1, period))], axis=0)
        candidates = np.flatnonzero(_mark_rows(np.asarray(blocks[period] <= np.minimum(1.1 * least, limits))))
        if len(candidates):
            periods.append((period, candidates))
    return periods


def _difference(values: NDArray[Any], cells: int, lag: int) -> NDArray[np.float32]:
    """Return how much values differ from those `lag` behind, (cells, _STEP)."""
    differences = np.zeros(cells * _STEP, np.float32)
    span = min(len(values) - lag, len(differences))
    np.abs(np.subtract(values[lag : lag + span], values[:span], out=differences[:span]), out=differences[:span])
    return differences.reshape(cells, _STEP)


def _sum_blocks(cells: NDArray[Any], period: int) -> NDArray[Any]:
    """Return the sums over blocks of twice as many cells as the period, which overlap by half."""
    halves = cells[: len(cells) // period * period].reshape(-1, period).sum(1)
    return np.asarray(halves[:-1] + halves[1:])


def _mark_rows(marks: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the marks that are `_BLOCKS` or more in a row."""
    rows = np.zeros_like(marks)
    if len(marks) >= _BLOCKS:
        full = np.lib.stride_tricks.sliding_window_view(marks, _BLOCKS).all(1)
        for offset in range(_BLOCKS):
            rows[offset : offset + len(marks) - _BLOCKS + 1] |= full
    return rows


def _have_smooth_channels(values: NDArray[Any], period: int, blocks: NDArray[np.intp]) -> bool:
    """Return whether blocks in a row have columns that look like channels, and else only such as count or stand still.

    Two columns that are alike within themselves only are the corners of polygons, or the runs of masks.
    """
    rows = values[: len(values) // period * period].reshape(-1, period)
    windows = np.lib.stride_tricks.sliding_window_view(rows, _ROWS, axis=0)[::_STEP]
    marks = np.zeros(len(windows), bool)
    for start in range(0, len(blocks), 512):
        part = blocks[start : start + 512]
        part = part[part < len(windows)]
        marks[part] = _are_channels(windows[part])
    return bool(_mark_rows(marks).any())


def _are_channels(windows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return for blocks (N, columns, rows) whether they look like pixels."""
    changes = np.diff(windows, axis=2)
    middle = np.median(changes, axis=2, keepdims=True)
    repeats = (np.abs(changes - middle) <= 1e-6 * np.abs(middle)).mean(2)
    rising = np.maximum((changes >= 0).mean(2), (changes <= 0).mean(2))
    is_regular = (repeats >= _MOST_REPEATS) | (rising >= 0.99)
    edges = np.sort(windows, axis=2)[:, :, [_OUTLIERS, -1 - _OUTLIERS]]
    clipped = np.clip(windows, edges[:, :, :1], edges[:, :, 1:])
    deviations = clipped - clipped.mean(2, keepdims=True)
    variances = (deviations**2).mean(2)
    correlations = 1 - (np.diff(clipped, axis=2) ** 2).mean(2) / (2 * np.maximum(variances, 1e-30))
    is_above = deviations > 0
    crossings = (is_above[:, :, 1:] != is_above[:, :, :-1]).mean(2)
    is_smooth = (correlations >= _LEAST_CORRELATION) & (crossings >= _LEAST_CROSSINGS)
    channels = (~is_regular).sum(1)
    spreads = np.sqrt(variances)
    widest = np.where(is_regular, 0, spreads).max(1)
    narrowest = np.where(is_regular, widest[:, None], spreads).min(1)
    is_one_scale = (channels == 1) | ((channels != 2) & (widest <= _MOST_SPREAD * narrowest))
    sums, squares = np.where(is_regular[:, :, None], 0, deviations).sum(1), np.where(is_regular, 0, variances).sum(1)
    products = ((sums**2).mean(1) - squares) / 2  # of two channels: their covariance
    is_one_scale |= (channels == 2) & (products >= _LEAST_LIKENESS * widest * narrowest)
    result: NDArray[np.bool_] = (is_regular | is_smooth).all(1) & (channels > 0) & is_one_scale
    return result
