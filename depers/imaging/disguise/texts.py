"""Bytes written as text, in whatever way: base64 and its kin, hexadecimal digits, escapes, lists of numbers."""

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from depers.imaging.disguise import pixels

LEAST_TEXT = 64
"""Characters: with fewer, no image is written in any way."""
_WINDOW, _OVERLAP = 1 << 20, 1 << 17
_BLOCK = 16  # a run of twice as many characters holds a whole one, wherever it begins
_GAP = 48  # characters between two lines of one text: quotes, line ends, indentation
_LEAST_NUMBERS = 160  # characters
_VALUE = 4000  # characters of a text that is one word, enough of them to tell what it is
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_NUMBERS = b"0123456789abcdefABCDEFxX \t\r\n,;:-[](){}\"'"
_IS_BASE64, _IS_NUMBER = 1, 2
_KINDS = bytes(_IS_BASE64 * (character in _BASE64) | _IS_NUMBER * (character in _NUMBERS) for character in range(256))
_STANDARD = bytes.maketrans(b"-_", b"+/")
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64))
_URI = re.compile(rb"data:image/(?!svg)[\w.+-]+[^,\s\"'<>)]{0,80},[\w+/%=\\-]{32}", re.IGNORECASE)
_LETTERS = re.compile(rb"^(?:begin(?:-base64)? [0-7]{3,4} \S|=ybegin )", re.MULTILINE)
_DUMP = re.compile(
    rb"ff ?d8 ff|89 ?50 4e ?47|\b(?:ffd8ff[c-f][0-9a-f]|89504e47) [0-9a-f]{8} [0-9a-f]{8} ", re.IGNORECASE
)
_DUMP_MARK = re.compile(rb"d8 ?ff|50 ?4e", re.IGNORECASE)
_HEX = bytes(character in b"0123456789abcdefABCDEF" for character in range(256))
_BASE32 = bytes(character in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" for character in range(256))
_LONG = b"\1" * 80
_HEX_PAIR, _NUMBER = re.compile(rb"(?<![0-9a-fA-F])[0-9a-fA-F]{2}(?![0-9a-fA-F])"), re.compile(rb"-?\d+")
_HEX_LETTERS = re.compile(rb"[a-fA-FxX]+")
_LEAST_PAIRS, _LEAST_PIXELS = 32, 48 * 48  # of the least faces that are published as text
_DECIMAL = bytes(set(_NUMBERS) - set(b"abcdefABCDEFxX"))
_TO_SPACES = bytes(character if character in b"0123456789-" else 32 for character in range(256))
_BASE85_STARTS: tuple[tuple[bytes, Callable[..., bytes]], ...] = tuple(
    (start, decode)
    for decode, starts in (
        (base64.a85decode, (b"s4I", b"M,6r;%14!")),
        (base64.b85decode, (b"|Je", b"iBL{Q4GJ0x")),
    )
    for start in starts
)
_ZERO = re.compile(rb"\\(?:x00|u0000|0)")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|u00([0-9a-fA-F]{2})|([0-3][0-7]{2})|(.))", re.DOTALL)
_CHARACTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f", b"0": b"\0", b"v": b"\v"}
_ESCAPED_SLASH = re.compile(rb"\\+/")  # as many times as there is JSON in JSON
_SLASH_ENTITIES, _PLUS_ENTITIES = re.compile(rb"&#(?:[xX]0*2[fF]|0*47);"), re.compile(rb"&#(?:[xX]0*2[bB]|0*43);")
_LATER_ENTITIES = re.compile(rb"&#(?:x0*[aAdD9]|0*(?:9|10|13));")


def find_mark(text: bytes) -> str:
    """Return what the text itself says of an image in it; empty where it says nothing."""
    if b"data:image/" in text and _URI.search(text):
        return "data URI of an image"
    if b"begin" in text and _LETTERS.search(text):
        return "file written as letters"
    if _DUMP_MARK.search(text) and _DUMP.search(text):
        return "image as a hex dump"
    return ""


class Writing(NamedTuple):
    """What a stretch of text may say: the way it is written, its bytes, and whether those may be pixels as they are."""

    way: str
    content: bytes
    are_pixels: bool = False


def decode(text: bytes) -> Iterator[Writing]:
    """Yield what stretches of the text may be the writing of."""
    yield from _decode_escapes(text)
    if len(text[:_VALUE].split(None, 1)) == 1:
        for _, decoder in _BASE85_STARTS[::2]:
            if content := _decode_base85(text[:_VALUE], decoder):
                yield Writing("base85", content)
    for mark, decoder in _BASE85_STARTS:
        position = text.find(mark)
        while position >= 0:
            if content := _decode_base85(text[position : position + 80].split()[0], decoder):
                yield Writing("base85", content)
            position = text.find(mark, position + 1)
    text = _remove_line_ends(text)
    yield from _decode_runs(text)
    if text.count(b"\n") * 2 * _BLOCK > len(text):  # lines so short that they may hold no whole block
        yield from _decode_runs(text.translate(None, b" \t\r\n"))


def _decode_runs(text: bytes) -> Iterator[Writing]:
    for first in range(0, max(1, len(text) - _OVERLAP), _WINDOW - _OVERLAP):
        window = text[first : first + _WINDOW]
        kinds = np.frombuffer(window.translate(_KINDS).ljust(-len(window) % _BLOCK + len(window), b"\0"), np.uint64)
        for start, end in _find_runs(kinds, _IS_BASE64, LEAST_TEXT, _GAP):
            yield from _decode_letters(window[start:end])
        for start, end in _find_runs(kinds, _IS_NUMBER, _LEAST_NUMBERS, 0):
            yield from _decode_numbers(window[start:end])


def _remove_line_ends(text: bytes) -> bytes:
    """Return the text without the ways in which JSON, XML and URIs write what is between lines of base64, and `/`."""
    if b"\\" in text:
        text = _ESCAPED_SLASH.sub(b"/", text)
        for escape, character in ((b"\\n", b" "), (b"\\r", b" "), (b"\\t", b" "), (b"\\u002", b"\\x2")):
            text = text.replace(escape, character)
        text = re.sub(rb"\\x2([bBfF])", lambda match: b"+" if match[1] in b"bB" else b"/", text)
    if b".0," in text:  # whole numbers as floating ones
        text = text.replace(b".0,", b",")
    if b"&#" in text:
        text = _LATER_ENTITIES.sub(b" ", text)
        text = _PLUS_ENTITIES.sub(b"+", _SLASH_ENTITIES.sub(b"/", text))
    if b"%2" in text:
        for escape, character in ((b"%2B", b"+"), (b"%2b", b"+"), (b"%2F", b"/"), (b"%2f", b"/")):
            text = text.replace(escape, character)
    return text


def _decode_escapes(text: bytes) -> Iterator[Writing]:
    """Yield the text with backslashes, percent or equals signs read as escapes, or its characters as bytes.

    Whatever is binary holds zero bytes.
    """
    if b"\\" in text and _ZERO.search(text):
        with contextlib.suppress(UnicodeDecodeError):  # characters of which each stands for a byte, too
            text = text if text.isascii() else text.decode("utf-8").encode("latin-1", "replace")
        yield Writing("escapes", _ESCAPE.sub(_read_escape, text))
    if b"%" in text and b"%00" in text:
        yield Writing("percent signs", unquote_to_bytes(text))
    if b"=" in text and b"=00" in text:
        yield Writing("quoted-printable", binascii.a2b_qp(text))
    if b"\0" in text and not text.isascii():
        with contextlib.suppress(UnicodeDecodeError):
            yield Writing("text", text.decode("utf-8").encode("latin-1", "replace"))
    if b"\0" in text[:4096]:
        for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
            if _is_wide(text[:4096], encoding):
                yield Writing(encoding, text.decode(encoding, "ignore").encode("utf-8", "ignore"))
    if text.count(b"\0") >= LEAST_TEXT:  # base64 in two bytes, behind letters that are not ASCII
        yield Writing("letters of several bytes", text.translate(None, b"\0"))


def _read_escape(match: re.Match[bytes]) -> bytes:
    if match[3]:
        return bytes([int(match[3], 8) & 255])
    if digits := match[1] or match[2]:
        return bytes.fromhex(digits.decode())
    return _CHARACTERS.get(match[4], match[4])


def _is_wide(head: bytes, encoding: str) -> bool:
    """Return whether text in this encoding is mostly ASCII."""
    decoded = head.decode(encoding, "replace")
    return len(decoded) > 8 and sum(map(str.isascii, decoded)) > 0.7 * len(decoded) > decoded.count("\0") * 2


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
    characters, runs = kinds.view(np.uint8) & kind, []
    for start, end in zip(
        starts[np.r_[0, parts + 1]].tolist(), ends[np.r_[parts, len(ends) - 1]].tolist(), strict=True
    ):
        before, after = characters[max(0, start - _BLOCK) : start], characters[end : end + _BLOCK]
        start -= int(np.argmin(before[::-1])) if len(before) and not before.all() else len(before)
        end += int(np.argmin(after)) if len(after) and not after.all() else len(after)
        runs.append((start, end))
    return runs


def _decode_letters(run: bytes) -> Iterator[Writing]:
    """Yield what lines of base64 may say, wherever the first group of four begins; and base32 and hexadecimal digits.

    A run is lines with little between them, of which the last may be short.
    """
    letters = run.translate(_STANDARD, _NOT_BASE64)
    if len(letters) < LEAST_TEXT:
        return
    for shift in range(4):
        part = letters[shift:]
        yield Writing("base64", binascii.a2b_base64(part[: len(part) // 4 * 4]))
    for digits in _find_stretches(letters, _HEX):
        for shift in range(2):
            part = digits[shift:]
            yield Writing("hexadecimal digits", bytes.fromhex(part[: len(part) // 2 * 2].decode()))
    for digits in _find_stretches(letters, _BASE32):
        for shift in range(8):
            part = digits[shift:]
            yield Writing("base32", base64.b32decode(part[: len(part) // 8 * 8]))


def _find_stretches(letters: bytes, table: bytes) -> list[bytes]:
    """Return the stretches of the characters that a table of 256 marks with 1, not the short ones."""
    marks, stretches, end = letters.translate(table), [], 0
    while (start := marks.find(_LONG, end)) >= 0:
        end = marks.find(b"\0", start)
        end = len(marks) if end < 0 else end
        stretches.append(letters[start:end])
    return stretches


def _decode_numbers(run: bytes) -> Iterator[Writing]:
    """Yield the bytes that a list of numbers gives, decimal or hexadecimal."""
    letters = len(run.translate(None, _DECIMAL))
    if letters * 16 > len(run):
        pairs = _HEX_PAIR.findall(run.replace(b"0x", b" ").replace(b"0X", b" "))
        if len(pairs) >= _LEAST_PAIRS:
            yield Writing("hexadecimal digits", bytes.fromhex(b"".join(pairs).decode()))
        return
    if letters:
        run = max(_HEX_LETTERS.split(run), key=len)
    if b"-" in run:
        run = b" ".join(_NUMBER.findall(run))
    try:
        values = np.fromstring(run.translate(_TO_SPACES), np.int64, sep=" ")
    except (ValueError, OverflowError):
        return
    for part in (values, values[1::2]) if (values[:64:2] == np.arange(len(values[:64:2]))).all() else (values,):
        yield Writing("list of numbers", to_bytes(part), len(part) >= _LEAST_PIXELS and pixels.are_pixels(part))


def to_bytes(values: NDArray[np.int64]) -> bytes:
    """Return numbers as bytes, those below 0 as the signed ones that they are; what is no byte becomes 0."""
    return np.where((values < -128) | (values > 255), 0, values).astype(np.int64).view(np.uint8)[::8].tobytes()


def _decode_base85(text: bytes, decoder: Callable[..., bytes]) -> bytes:
    while len(text := text[: len(text) // 5 * 5]) >= 40:
        try:
            return decoder(text)
        except ValueError:
            text = text[: len(text) // 2]
    return b""
