"""Images in whatever dress, in data that is meant to hold none: what a user keeps, and what an audit finds kept.

What is kept has to be text, and plain: words, and values that are short or shown to be no pixels. All else could be an
image that nothing here knows, and is one as far as is known.
"""

from depers.imaging.disguise import characters, drawings, number_lists, pixels, signatures, texts, values

_MOST_LAYERS = 4
_MIN_BYTES = 32
_SMALL = 64  # bytes of a kind that is not known: a digest, an identifier
_WINDOW, _OVERLAP = 1 << 22, 1 << 17
Finding = str
"""What was found, in words that follow "holds"; empty where nothing was."""


def find_image(data: bytes) -> Finding:
    """Return what image, or what that may hold images, lies anywhere in the data, written in any usual way.

    So are bytes that are no text, and text that could say anything.
    """
    return _find(data, 0, is_text=True)


def find_image_in_bytes(data: bytes) -> Finding:
    """Return what image, or what that may hold images, lies in bytes that numbers give, which most often are chance."""
    return _find(data, 1)


def _find(data: bytes, layer: int, is_text: bool = False) -> Finding:
    """Search the data, and what it may be the writing of; where it has to be text, all that is none is a finding."""
    if len(data) < _MIN_BYTES:
        return ""
    if kind := signatures.find_at_start(data, is_file=not layer):
        return _name(kind)
    if kind := signatures.find_inside(data):
        return f"{_name(kind)} within other bytes"
    if len(data) < texts.LEAST_TEXT:
        return ""
    may_be_text = layer == 0 or b"\0" not in data  # chance, of which most of what could be text is made, holds some
    if (may_be_text or b"data:image/" in data) and (mark := texts.find_mark(data)):
        return f"a {mark}"
    try:
        content = signatures.unpack(data)
        if content and data.isascii():  # which digits begin well by chance: what comes out then is chance, too
            if kind := signatures.find(content):
                return f"{_name(kind)}, compressed"
        elif content and (kind := _find(content, layer + 1)):
            return f"{kind}, compressed"
    except ValueError as error:
        return f"compressed data that {error}"
    if is_text:
        if len(data) <= _SMALL or pixels.is_whole_array(data):
            return ""
        text = characters.read_text(data)
        if text is None:
            return "bytes of a kind that cannot be looked into"
        if reason := characters.explain_strange(text):
            return reason
        data = characters.to_plain(text).encode("utf-8", "surrogatepass")
    elif number_lists.are_raw_pixels(data):
        return "bytes that may be pixels"
    if layer == _MOST_LAYERS or not may_be_text:
        return ""
    return _find_in_text(values.remove_masks(data), layer, is_text)


def _find_in_text(text: bytes, layer: int, is_text: bool) -> Finding:
    for writing in texts.decode(text):
        if kind := _find(writing.content, layer + 1, writing.is_text):
            return kind if " in " in kind else f"{kind} in {writing.way}"
        if writing.is_refused and (is_text or text.isascii()):  # else it is chance that wrote it
            return f"{_name(writing.way)}" if writing.way.startswith("grid") else writing.way
    for start in range(0, max(1, len(text) - _OVERLAP), _WINDOW - _OVERLAP):
        part = text[start : start + _WINDOW]
        if number_lists.are_pixels(number_lists.read_numbers(part)) or number_lists.are_packed_pixels(part):
            return "numbers that may be pixels"
    if not is_text:
        return ""
    return values.find_drawing(text) or drawings.find_drawing(text) or values.find_long_value(text)


def _name(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aO" else f"a {kind}"
