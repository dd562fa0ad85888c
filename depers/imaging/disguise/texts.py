"""Bytes written as text, in whatever way: base64 and its kin, hexadecimal digits, lists of numbers."""

import base64
import binascii
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.imaging import sniffing
from depers.imaging.disguise import escapes, number_lists, values

LEAST_TEXT = 64
"""Characters: with fewer, no image is written in any way."""
_WINDOW, _OVERLAP = 1 << 20, 1 << 17
_BLOCK = 16  # a run of twice as many characters holds a whole one, wherever it begins
_GAP = 48  # characters between two lines of one text: quotes, line ends, indentation
_LEAST_NUMBERS = 96  # characters
_VALUE = 4000  # characters of a text that is one word, enough of them to tell what it is
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_NUMBERS = b"0123456789abcdefABCDEFxX. \t\r\n,;:+-[](){}\"'"
_IS_BASE64, _IS_NUMBER = 1, 2
_KINDS = bytes(_IS_BASE64 * (character in _BASE64) | _IS_NUMBER * (character in _NUMBERS) for character in range(256))
_DIGITS = b"0123456789"
_STANDARD = bytes.maketrans(b"-_", b"+/")
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64))
_URI = re.compile(rb"data:image/(?!svg)[\w.+-]+[^,\s\"'<>)]{0,80},[\w+/%=\\-]{32}", re.IGNORECASE)
_LETTERS = re.compile(rb"^(?:begin(?:-base64)? [0-7]{3,4} \S|=ybegin )", re.MULTILINE)
_DUMP = re.compile(
    rb"ff ?d8 ff|89 ?50 4e ?47|\b(?:ffd8ff[c-f][0-9a-f]|89504e47) [0-9a-f]{8} [0-9a-f]{8} ", re.IGNORECASE
)
_DUMP_MARKS = (b"ff d8 ff", b"ffd8 ff", b"89 50 4e", b"8950 4e", b"ffd8ff", b"89504e47 ")
_HEX = bytes(character in b"0123456789abcdefABCDEF" for character in range(256))
_BASE32 = bytes(character in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" for character in range(256))
_LONG = 32
_HEX_DIGITS = (b"0123456789abcdef", b"0123456789ABCDEF")
_WHOLE_NUMBER = re.compile(rb"(?<![\w+/=-])\d{9,}(?![\w+/=-])")  # no letters of base64, or of hexadecimal digits
_WORD = re.compile(rb"[\w+/-]+")
_UUID = re.compile(rb"([0-9a-fA-F]{8})-(\w{4})-(\w{4})-(\w{4})-(\w{12})")
_ONE_HASH = re.compile(rb"[0-9a-f]{32,}|[0-9A-F]{32,}")
_HEX_CASES = tuple(bytes(character in digits for character in range(256)) for digits in _HEX_DIGITS)
_TO_BLANKS = bytes(character if character in b"0123456789abcdefABCDEF" else 32 for character in range(256))
_LEAST_PAIRS, _LEAST_SIDE = 32, 24
_WHOLE, _LEAST_WORDS, _WIDEST = re.compile(rb"(?<![\w.])\d+(?![\w.])"), 16, 8  # numbers of several bytes each
FILES = ("JPEG", "PNG", "GIF", "TIFF", "WEBP")
"""Formats that their first bytes tell beyond chance."""
_ORDERS: tuple[Literal["big", "little"], ...] = ("big", "little")
_NO_BYTE = 1000
_LONG_RUN = 2048  # characters; formats that only their first bytes tell are looked for in those alone
_DECIMAL = bytes(set(_NUMBERS) - set(b"abcdfABCDFxX"))
_XBM = re.compile(rb"#\s*define\s+\w*width\s+\d[^{]{0,400}_bits\s*\[\s*\]")
_XPM = re.compile(rb"/\*\s*XPM\s*\*/")
_PNM = re.compile(rb"P[123]\s+(?:#[^\n]*\n\s*)*\d{1,5}\s+\d{1,5}(?:\s+[\d\s]){64}")
_SHAPE = re.compile(  # those of CVAT's XML have labels and names
    rb"<(?:\w+:)?(?:(?:rect|circle|ellipse|path|line|use|td\s[^>]{0,99}color)\b"
    rb"|(?:polygon|polyline)\b(?![^>]{0,200}\blabel=)|image\b(?![^>]{0,200}\bname=))"
)
_COLOR = re.compile(rb"#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b")
_LONG_PATH = re.compile(rb"\sd=[\"'][^\"']{8192}")
_MOST_SHAPES, _MOST_COLORS = 512, 768
_BASE85_STARTS: tuple[tuple[bytes, Callable[..., bytes]], ...] = tuple(
    (start, decode)
    for decode, starts in (
        (base64.a85decode, (b"s4I", b"M,6r;%14!")),
        (base64.b85decode, (b"|Je", b"iBL{Q4GJ0x")),
    )
    for start in starts
) + tuple(
    (encode(start), decoder)
    for encode, decoder in ((base64.a85encode, base64.a85decode), (base64.b85encode, base64.b85decode))
    for start in (b"RIFF", b"GIF8", b"II*\0", b"MM\0*")
)
_ESCAPED, _LONGEST_START = re.compile(rb"\\(.)"), 160  # characters
_ESCAPED_SLASH = re.compile(rb"\\+/")  # as many times as there is JSON in JSON
_SLASH_ENTITIES, _PLUS_ENTITIES = re.compile(rb"&#(?:[xX]0*2[fF]|0*47);"), re.compile(rb"&#(?:[xX]0*2[bB]|0*43);")
_LATER_ENTITIES = re.compile(rb"&#(?:x0*[aAdD9]|0*(?:9|10|13));")


def find_mark(text: bytes) -> str:
    """Return what the text itself says of an image in it; empty where it says nothing."""
    lower = text.lower()
    if b"data:image/" in lower and _URI.search(text):
        return "data URI of an image"
    if b"begin" in text and _LETTERS.search(text):
        return "file written as letters"
    if any(mark in lower for mark in _DUMP_MARKS) and _DUMP.search(lower):
        return "image as a hex dump"
    if b"_bits" in text and _XBM.search(text):
        return "bitmap as C (XBM)"
    if b"XPM" in text and _XPM.search(text):
        return "bitmap as C (XPM)"
    if any(mark in text for mark in (b"P1", b"P2", b"P3")) and _PNM.search(text):
        return "PNM in letters"
    if b"<" in text and len(_SHAPE.findall(text)) > _MOST_SHAPES:
        return f"drawing of more than {_MOST_SHAPES} shapes"
    if b"<path" in text and _LONG_PATH.search(text):
        return "drawing of a long path"
    if b"#" in text and len(_COLOR.findall(text)) > _MOST_COLORS:
        return f"list of more than {_MOST_COLORS} colors"
    return ""


class Writing(NamedTuple):
    """What a stretch of text may say: the way it is written, and its bytes.

    `is_text`: those have to be text again. `is_refused`: whatever they say, nobody can know that it is no image.
    """

    way: str
    content: bytes
    is_text: bool = False
    is_refused: bool = False


def decode(text: bytes) -> Iterator[Writing]:
    """Yield what stretches of the text may be the writing of."""
    for way, content in escapes.read_escapes(text):
        yield Writing(way, content, is_text=True)
    if len(text[:_VALUE].split(None, 1)) == 1:
        for _, decoder in _BASE85_STARTS[::2]:
            if content := _decode_base85(text[:_VALUE], decoder):
                yield Writing("base85", content)
    for mark, decoder in _BASE85_STARTS:
        position = text.find(mark)
        while position >= 0:
            letters = _ESCAPED.sub(rb"\1", text[position : position + _LONGEST_START].split()[0])
            if content := _decode_base85(letters, decoder):
                yield Writing("base85", content)
            position = text.find(mark, position + 1)
    yield from _decode_words(text)
    text = _remove_line_ends(text)
    yield from _decode_runs(text)
    if text.count(b"\n") * 2 * _BLOCK > len(text):  # lines so short that they may hold no whole block
        yield from _decode_runs(text.translate(None, b" \t\r\n"))
    for stretch, has_signs in values.find_groups(text):
        for content in _decode_base64(_WHOLE_NUMBER.sub(b"", stretch).translate(_STANDARD, _NOT_BASE64)):
            yield Writing("base64 in groups", content)
        if has_signs:
            yield Writing("letters that may say anything", b"", is_refused=True)
    for digits, are_bytes in values.find_digits(text):
        yield from _decode_hex(digits, are_bytes)


def _decode_runs(text: bytes) -> Iterator[Writing]:
    for first in range(0, max(1, len(text) - _OVERLAP), _WINDOW - _OVERLAP):
        window = text[first : first + _WINDOW]
        kinds = np.frombuffer(window.translate(_KINDS).ljust(-len(window) % _BLOCK + len(window), b"\0"), np.uint64)
        for start, end in _find_runs(kinds, _IS_BASE64, LEAST_TEXT, _GAP):
            yield from _decode_letters(window[start:end])
        short: tuple[list[bytes], list[bytes]] = ([], [])
        for start, end in _find_runs(kinds, _IS_NUMBER, _LEAST_NUMBERS, 0):
            run = window[start:end]
            is_hex = len(run.translate(None, _DECIMAL)) * 16 > len(run)
            if end - start < _LONG_RUN:
                short[is_hex].append(run)
            else:
                yield from _decode_hex_pairs(run) if is_hex else _decode_numbers(run)
        yield from _decode_numbers(b",".join(short[0]))
        yield from _decode_hex_pairs(b",".join(short[1]))


def _remove_line_ends(text: bytes) -> bytes:
    """Return the text without the ways in which JSON, XML and URIs write what is between lines of base64, and `/`."""
    if b"\\" in text:
        text = _ESCAPED_SLASH.sub(b"/", text)
        for escape, character in ((b"\\n", b" "), (b"\\r", b" "), (b"\\t", b" "), (b"\\u002", b"\\x2")):
            text = text.replace(escape, character)
        text = re.sub(rb"\\x2([bBfF])", lambda match: b"+" if match[1] in b"bB" else b"/", text)
    if b"&#" in text:
        text = _LATER_ENTITIES.sub(b" ", text)
        text = _PLUS_ENTITIES.sub(b"+", _SLASH_ENTITIES.sub(b"/", text))
    if b"%2" in text:
        for escape, character in ((b"%2B", b"+"), (b"%2b", b"+"), (b"%2F", b"/"), (b"%2f", b"/")):
            text = text.replace(escape, character)
    return text


def _find_runs(kinds: NDArray[np.uint64], kind: int, least: int, gap: int) -> list[tuple[int, int]]:
    """Return where runs of characters of a kind begin and end, of which each holds whole blocks.

    Runs with at most `gap` characters between them are one; shorter ones than `least` are left out.
    `kinds` has a byte per character.
    """
    mask = np.uint64(int.from_bytes(bytes([kind] * 8), "little"))
    halves = (kinds & mask) == mask
    whole = np.zeros(len(halves) // 2 + 2, np.int8)
    whole[1:-1] = halves[::2] & halves[1::2]
    edges = np.flatnonzero(np.diff(whole))
    starts, ends = edges[::2] * _BLOCK, edges[1::2] * _BLOCK
    if not len(starts):
        return []
    reach = 2 * _BLOCK + gap  # of each run, up to a block lies before its first whole one, and behind its last
    parts = np.flatnonzero(starts[1:] - ends[:-1] > reach)
    starts, ends = starts[np.r_[0, parts + 1]], ends[np.r_[parts, len(ends) - 1]]
    characters = np.zeros(len(kinds) * 8 + 2, np.int8)
    characters[1:-1] = kinds.view(np.uint8) & kind > 0
    edges = np.flatnonzero(np.diff(characters))
    starts = np.maximum(edges[::2][np.searchsorted(edges[::2], starts, "right") - 1], starts - _BLOCK)
    ends = np.minimum(edges[1::2][np.searchsorted(edges[1::2], ends, "left")], ends + _BLOCK)
    long = ends - starts >= least
    return list(zip(starts[long].tolist(), ends[long].tolist(), strict=True))


def _decode_letters(run: bytes) -> Iterator[Writing]:
    """Yield what lines of base64 may say, wherever the first group of four begins; and base32 and hexadecimal digits.

    A run is lines with little between them, of which the last may be short.
    """
    letters = _WHOLE_NUMBER.sub(b"", run).translate(_STANDARD, _NOT_BASE64)
    yield from _decode_joined(letters)
    values_alone = _list_values(run).translate(_STANDARD, _NOT_BASE64)
    if values_alone != letters:
        yield from _decode_joined(values_alone)


def _list_values(run: bytes) -> bytes:
    """Return the values among a run's words: those of the most frequent length, and the last; names are of others."""
    words = [_UUID.sub(rb"\1\2\3\4\5", word) for word in _WORD.findall(run) if len(word) >= _BLOCK]
    length = max(Counter(map(len, words)).items(), key=lambda item: item[1], default=(0, 0))[0]
    return b" ".join(word for n, word in enumerate(words, 1) if len(word) == length or n == len(words))


def _decode_joined(letters: bytes) -> Iterator[Writing]:
    if len(letters) < LEAST_TEXT:
        return
    hashes, letters = _part_hashes(letters)
    yield from _decode_hex(hashes)
    if not letters:
        return
    for start, stop in _find_stretches(letters, _HEX):
        yield from _decode_hex(letters[start:stop])
    for content in _decode_base64(letters):
        yield Writing("base64", content)
    for start, stop in _find_stretches(letters, _BASE32):
        digits = letters[start:stop]
        for shift in range(8):
            part = digits[shift:]
            yield Writing("base32", base64.b32decode(part[: len(part) // 8 * 8]))


def _decode_base64(letters: bytes) -> Iterator[bytes]:
    """Yield what base64 may say, wherever the first group of four begins."""
    for shift in range(4):
        part = letters[shift:]
        if len(part) >= LEAST_TEXT:
            yield binascii.a2b_base64(part[: len(part) // 4 * 4])


def _decode_hex(digits: bytes, are_bytes: bool = False) -> Iterator[Writing]:
    for shift in range(2):
        part = digits[shift:]
        if len(part) < LEAST_TEXT:
            return
        yield Writing("hexadecimal digits", bytes.fromhex(part[: len(part) // 2 * 2].decode()), is_refused=are_bytes)


def _part_hashes(letters: bytes) -> tuple[bytes, bytes]:
    """Return the hashes among the letters, and all else: hexadecimal digits of one case, of usual lengths.

    No four bytes that begin an image are so in base64.
    """
    if _ONE_HASH.fullmatch(letters) and len(letters) < 8 * len(letters.translate(None, _DIGITS)) < 7 * len(letters):
        return letters, b""  # as most runs are
    array = np.frombuffer(letters, np.uint8)
    changes = np.zeros(len(array) + 1, np.int8)
    is_letter = np.r_[0, np.cumsum(array >= ord("A"), dtype=np.int32)]
    for table in _HEX_CASES:
        marks = np.frombuffer(b"\0" + letters.translate(table) + b"\0", np.int8)
        edges = np.flatnonzero(np.diff(marks))
        starts, ends = edges[::2], edges[1::2]
        lengths = ends - starts
        shares = (is_letter[ends] - is_letter[starts]) * 8
        fits = (lengths >= _LONG) & (shares > lengths) & (shares < 7 * lengths)
        changes[starts[fits]] += 1
        changes[ends[fits]] -= 1
    is_hash = np.cumsum(changes[:-1], dtype=np.int8) > 0
    return array[is_hash].tobytes(), array[~is_hash].tobytes()


def _find_stretches(letters: bytes, table: bytes) -> list[tuple[int, int]]:
    """Return where characters that a table of 256 marks with 1 begin and end, not a few of them."""
    return list(values.list_runs(letters.translate(table), _LONG))


def _decode_hex_pairs(run: bytes) -> Iterator[Writing]:
    """Yield the bytes that a list of pairs of hexadecimal digits gives."""
    if len(run.translate(None, _HEX_DIGITS[0] + b"ABCDEF")) < _LEAST_PAIRS - 1:
        return
    groups = run.replace(b"0x", b" ").replace(b"0X", b" ").translate(_TO_BLANKS).split()
    pairs = [group for group in groups if len(group) == 2]
    if len(pairs) >= _LEAST_PAIRS:
        yield Writing("hexadecimal digits", bytes.fromhex(b"".join(pairs).decode()))


def _decode_numbers(run: bytes) -> Iterator[Writing]:
    """Yield the bytes that a list of numbers gives."""
    if b"]" in run and _are_rows_of_pixels(run):
        yield Writing("grid of numbers that may be pixels", b"", is_refused=True)
    numbers = number_lists.read_numbers(run)
    if not len(numbers):
        return
    integers = np.clip(np.where(numbers == np.round(numbers), numbers, _NO_BYTE), -_NO_BYTE, _NO_BYTE).astype(np.int64)
    if (integers != _NO_BYTE).mean() < 0.5:
        return
    for part in (integers, integers[1::2]) if _are_places(integers[:64:2]) else (integers,):
        yield Writing("list of numbers", to_bytes(part))


def _decode_words(text: bytes) -> Iterator[Writing]:
    """Yield the first bytes that whole numbers of several bytes each may be, whichever comes first in them."""
    for content in list_words([int(number) for number in _WHOLE.findall(text[:_VALUE])]):
        yield Writing("list of numbers", content)


def list_words(numbers: Sequence[int]) -> Iterator[bytes]:
    """Yield the bytes of whole numbers of several bytes each, none below 0, in an order in which an image begins."""
    width = (max(numbers, default=0).bit_length() + 7) // 8
    if len(numbers) >= _LEAST_WORDS and 2 <= width <= _WIDEST:
        for order in _ORDERS:
            content = b"".join(number.to_bytes(width, order) for number in numbers)
            if sniffing.sniff_format(content) in FILES:
                yield content


def _are_places(numbers: NDArray[np.int64]) -> bool:
    return bool((numbers == np.arange(len(numbers))).all())


def _are_rows_of_pixels(run: bytes) -> bool:
    """Return whether a list in lists in a list has rows of pixels, each of three or four numbers."""
    brackets = run.translate(None, b" \t\r\n")
    rows = brackets.count(b"]],[[") + 1
    pixels = brackets.count(b"],[") + 1
    channels = (brackets.count(b",") + 1) / pixels
    return rows >= _LEAST_SIDE and pixels >= rows * _LEAST_SIDE and 2.9 < channels < 4.1


def to_bytes(numbers: NDArray[np.int64]) -> bytes:
    """Return numbers as bytes, those below 0 as the signed ones that they are; what is no byte becomes 0."""
    return np.where((numbers < -128) | (numbers > 255), 0, numbers).astype(np.int64).view(np.uint8)[::8].tobytes()


def _decode_base85(text: bytes, decoder: Callable[..., bytes]) -> bytes:
    while len(text := text[: len(text) // 5 * 5]) >= 40:
        try:
            return decoder(text)
        except ValueError:
            text = text[: len(text) // 2]
    return b""
