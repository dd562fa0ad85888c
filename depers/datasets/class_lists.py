"""The only reader of a class list: a text with a name per line, as classes.txt and obj.names are.

A class id is the number of a line from 0, as labelImg and darknet count: an empty line keeps its number.
"""

import unicodedata
from collections import Counter

from depers.errors import UserError

_EXPECTATION = "must be a list of different class names, a line each"


def parse_class_list(data: bytes, source: str) -> tuple[str, ...]:
    """Return the class names by their ids; "" for an empty line, whose id must not occur.

    Blanks around a name do not count, those in it do. Any kind of line end and a byte order mark are read. Raise
    UserError, which names `source`, for a text that is not UTF-8, names no class or one class twice, or holds control
    characters.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{source}: {_EXPECTATION}, but holds other bytes than UTF-8") from None
    names = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UserError(f"{source}: {_EXPECTATION}, but is empty")
    for number, name in enumerate(names, 1):
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise UserError(f"{source}, line {number}: a class name must be plain text, but is {name[:80]!r}")
    for name, count in Counter(names).items():
        if name and count > 1:
            raise UserError(f"{source}: {_EXPECTATION}, but has {name!r} {count} times")
    return tuple(names)
