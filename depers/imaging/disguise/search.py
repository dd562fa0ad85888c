"""Images in whatever dress, in data that is meant to hold none: what a user keeps, and what an audit finds kept."""

from depers.imaging.disguise import signatures, texts

_MOST_LAYERS = 4
_MIN_BYTES = 32
Finding = str
"""What was found, in words that follow "holds"; empty where nothing was."""


def find_image(data: bytes) -> Finding:
    """Return what image, or what that may hold images, lies anywhere in the data, written in any usual way."""
    return _find(data, 0)


def _find(data: bytes, layer: int) -> Finding:
    if len(data) < _MIN_BYTES:
        return ""
    if kind := signatures.find_at_start(data, is_file=not layer):
        return _name(kind)
    if kind := signatures.find_inside(data):
        return f"{_name(kind)} within other bytes"
    if len(data) < texts.LEAST_TEXT:
        return ""
    if mark := texts.find_mark(data):
        return f"a {mark}"
    try:
        if (content := signatures.unpack(data)) and (kind := _find(content, layer + 1)):
            return f"{kind}, compressed"
    except ValueError as error:
        return f"compressed data that {error}"
    if layer == _MOST_LAYERS or (layer and b"\0" in data):  # chance, of which most of what could be text is made
        return ""
    for writing in texts.decode(data):
        if writing.are_pixels:
            return f"a {writing.way} that may be pixels"
        if kind := _find(writing.content, layer + 1):
            return kind if " in " in kind else f"{kind} in {writing.way}"
    return ""


def _name(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aO" else f"a {kind}"
