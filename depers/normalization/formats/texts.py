"""Lines of a label text, whichever system wrote it."""

import codecs
import re

from depers.normalization.rules import LabelError, Problem
from depers.statuses import ProblemAction

_BOM = "\ufeff"
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: str, data: bytes) -> tuple[list[tuple[int, str]], list[Problem]]:
    """Return the lines that are not blank, with their numbers from 1, and what is odd about how they are written.

    Raise LabelError for bytes that are no text.
    """
    problems = []
    is_wide = data.startswith(_WIDE_BOMS)
    try:
        text = data.decode("utf-16" if is_wide else "utf-8")
    except UnicodeDecodeError as error:
        raise LabelError("not a text", f"byte {error.start} is neither UTF-8 nor UTF-16") from None
    if "\x00" in text:
        raise LabelError("not a text", f"character {text.index(chr(0)) + 1} is a zero byte")
    if text.startswith(_BOM) or is_wide:
        problems.append(Problem(path, 0, "byte order mark", ProblemAction.MENDED))
    if "\r" in text:
        problems.append(Problem(path, 0, "Windows line ends", ProblemAction.MENDED))
    lines = enumerate(re.split(r"\r\n|\r|\n", text.removeprefix(_BOM)), 1)
    return [(number, line) for number, line in lines if line.strip()], problems
