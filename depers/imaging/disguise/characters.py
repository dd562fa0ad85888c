"""Characters that no ordinary text has, or not so many of: control characters, invisible ones, drawings, alphabets."""

import re
import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_CONTROLS = 16
_BREAKS = (9, 10, 12, 13)  # tab, ends of lines and pages
_MOST_INVISIBLE_ROWS, _MOST_INVISIBLE_SHARE, _LEAST_INVISIBLE = 64, 0.2, 256
_JOINERS = (0xFE0F, 0x200D)  # of emoji
_FLAG_START = "\U0001f3f4"
_FLAG = re.compile(_FLAG_START + "[\U000e0061-\U000e007a]{3,6}\U000e007f")  # of a country within another
_MOST_DRAWN = 256  # neighboring characters of which drawings are made
_DRAWINGS = ((0x2580, 0x25FF), (0x2800, 0x28FF), (0x1F7E0, 0x1F7EB), (0x2B1B, 0x2B1C), (0x1FB00, 0x1FBFF))
_BLOCK, _MOST_DISTINCT, _MOST_DISTINCT_LATIN, _LATIN_END = 1024, 600, 128, 0x250
_LEAST_FLAT, _MOST_FLAT_SHARE = 128, 0.015  # of the most frequent letter: in every language one occurs more often
_MOST_HIGH_SHARE, _HIGH_RUN = 0.3, b"\1" * 12  # of bytes beyond ASCII in a text of an old encoding
_CONTROLS = bytes(character for character in range(32) if character not in _BREAKS) + b"\x7f"
_HIGH = bytes(character >= 128 for character in range(256))
_ENCODINGS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (
        b"\xfe\xff",
        "utf-16-be",
    ),
)


def read_text(data: bytes) -> str | None:
    """Return what the bytes are as text, of an old encoding with high bytes as Latin-1; None where they are none."""
    for mark, encoding in _ENCODINGS:
        if data.startswith(mark):
            return _decode(data, encoding)
    if b"\0" in data[:64]:
        for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
            if (text := _decode(data, encoding)) is not None and _is_mostly_ascii(text[:2048]):
                return text
        return None
    if (text := _decode(data, "utf-8")) is not None:
        return text
    high = data.translate(_HIGH)
    if len(data) - len(data.translate(None, _CONTROLS)) or sum(high) > _MOST_HIGH_SHARE * len(data):
        return None
    return None if _HIGH_RUN in high else data.decode("latin-1").translate(dict.fromkeys(range(128, 160), "x"))


def _decode(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_mostly_ascii(text: str) -> bool:
    return sum(32 <= ord(character) < 127 or character in "\t\r\n" for character in text) > 0.7 * len(text)


def explain_strange(text: str) -> str:
    """Return what is in a text that ordinary ones have not, in words that follow "holds"; empty where nothing is."""
    text = _FLAG.sub("", text) if _FLAG_START in text else text
    if text.isascii() and not any(chr(character) in text for character in _CONTROLS):
        return ""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_control = (codes < 32) & ~np.isin(codes, _BREAKS) | (codes >= 127) & (codes < 160)
    if (codes == 0).any() or int(is_control.sum()) > _MOST_CONTROLS:
        return "bytes written as characters"
    wide = codes[codes >= 128]
    if len(wide) < _LEAST_INVISIBLE // 4:
        return ""
    kinds = np.unique(wide)
    invisible = kinds[[_is_invisible(int(code)) for code in kinds]]
    marks = np.isin(codes, invisible)
    rows = marks[2:] & marks[1:-1] & marks[:-2]
    if rows.sum() > _MOST_INVISIBLE_ROWS or marks.sum() > max(_LEAST_INVISIBLE, _MOST_INVISIBLE_SHARE * len(codes)):
        return "invisible characters, which may say anything"
    is_drawing = np.zeros(len(codes), bool)
    for first, last in _DRAWINGS:
        is_drawing |= (codes >= first) & (codes <= last)
    if (is_drawing[1:] & is_drawing[:-1]).sum() > _MOST_DRAWN:
        return "a drawing of characters"
    return "letters of which too many differ" if _has_too_many_letters(wide) else ""


def to_plain(text: str) -> str:
    """Return the text with letters and digits of other scripts and widths as the plain ones that they stand for."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text)
    digits = {ord(character): str(unicodedata.digit(character)) for character in set(text) if character.isdecimal()}
    return text.translate(digits)


def _is_invisible(code: int) -> bool:
    if code in _JOINERS:
        return False
    is_selector = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
    return is_selector or unicodedata.category(chr(code)) in ("Cf", "Co", "Cn", "Cs")


def _has_too_many_letters(wide: NDArray[Any]) -> bool:
    """Return whether a thousand letters in a row are of more kinds than any script's, or each as frequent: bytes."""
    latin = wide[wide < _LATIN_END]
    for letters, most in ((wide, _MOST_DISTINCT), (latin, _MOST_DISTINCT_LATIN)):
        for start in range(0, len(letters) - _BLOCK // 2, _BLOCK // 2):
            part = letters[start : start + _BLOCK]
            kinds, counts = np.unique(part, return_counts=True)
            is_flat = len(kinds) >= _LEAST_FLAT and counts.max() <= _MOST_FLAT_SHARE * len(part)
            if len(part) >= _BLOCK // 2 and (is_flat or len(kinds) > most * len(part) / _BLOCK):
                return True
    return False
