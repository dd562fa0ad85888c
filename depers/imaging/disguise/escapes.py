"""Text whose characters are written as escapes: those of JSON, Python, C, URIs, mails and HTML."""

import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

_LEAST = 32
"""Escapes of a kind: with fewer, no image is written."""
_ESCAPE = re.compile(r"\\+(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2}|0(?![0-9])))")
_BACKSLASHES = re.compile(rb"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[0-3][0-7]{2}|U000)")
_PERCENT = re.compile(rb"%[0-9a-fA-F]{2}")
_EQUALS = re.compile(rb"=[0-9A-F]{2}(?:=\r?\n)?=[0-9A-F]{2}")
_ENTITY = re.compile(r"&#(?:[xX]([0-9a-fA-F]{1,6})|([0-9]{1,7}));")
_ENTITIES = re.compile(rb"&#[xX]?[0-9a-fA-F]{1,7};")
_LAST = 0x10FFFF


def read_escapes(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield how a text is escaped, and what it is without, as bytes of UTF-8, or those that were escaped."""
    if b"\\" in text and _has(_BACKSLASHES, text):
        plain = _join_halves(_ESCAPE.sub(_read_escape, text.decode("utf-8", "replace")))
        if (data := _encode(plain)) != text:
            yield "escapes", data
    if b"%" in text and _has(_PERCENT, text):
        yield "percent signs", unquote_to_bytes(text)
    if b"=" in text and _has(_EQUALS, text, _LEAST // 2):
        yield "quoted-printable", binascii.a2b_qp(text)
    if b"&#" in text and _has(_ENTITIES, text):
        yield "entities", _encode(_ENTITY.sub(_read_entity, text.decode("utf-8", "replace")))


def _has(pattern: re.Pattern[bytes], text: bytes, least: int = _LEAST) -> bool:
    return any(number >= least for number, _ in enumerate(pattern.finditer(text), 1))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _join_halves(text: str) -> str:
    """Return a text whose pairs of surrogates are the characters that they stand for."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _read_escape(match: re.Match[str]) -> str:
    digits = match[1] or match[2] or match[3]
    code = int(digits, 16) if digits else int(match[4], 8)
    return chr(min(code, _LAST))


def _read_entity(match: re.Match[str]) -> str:
    return chr(min(int(match[1], 16) if match[1] else int(match[2]), _LAST))
