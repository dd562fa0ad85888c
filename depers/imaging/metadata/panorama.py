"""How a 360° image is to be shown: Google's GPano in XMP, of which numbers and a few words are kept."""

import re

PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
"""What the segment of a JPEG with XMP begins with."""
_NUMBERS = (
    "CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels", "FullPanoWidthPixels", "FullPanoHeightPixels",
    "CroppedAreaLeftPixels", "CroppedAreaTopPixels", "PoseHeadingDegrees", "PosePitchDegrees", "PoseRollDegrees",
    "InitialViewHeadingDegrees", "InitialViewPitchDegrees", "InitialViewRollDegrees", "InitialHorizontalFOVDegrees",
    "LargestValidInteriorRectLeft", "LargestValidInteriorRectTop", "LargestValidInteriorRectWidth",
    "LargestValidInteriorRectHeight", "SourcePhotosCount",
)  # fmt: skip
_WORDS = {
    "ProjectionType": ("equirectangular", "cylindrical"),
    "UsePanoramaViewer": ("True", "False"),
    "ExposureLockUsed": ("True", "False"),
}
_NUMBER = re.compile(r"[+-]?\d{1,7}(?:\.\d{1,6})?")
_VALUE = re.compile(rb"GPano:(\w{1,40})\s*(?:=\s*[\"']|>\s*)([^\"'<]{1,40}?)\s*[\"'<]")
_MOST_BYTES = 1 << 20


def read(data: bytes) -> bytes:
    """Return an XMP packet that says how to show the image in `data`, from what a packet in it says; empty for nothing.

    The same values give the same bytes.
    """
    start = data.find(b"GPano:")
    if start < 0:
        return b""
    values: dict[str, str] = {}
    for match in _VALUE.finditer(data, start, start + _MOST_BYTES):
        name, value = match[1].decode("ascii", "replace"), match[2].decode("ascii", "replace")
        if value in _WORDS.get(name, ()) or (name in _NUMBERS and _NUMBER.fullmatch(value)):
            values.setdefault(name, value)
    if "ProjectionType" not in values:
        return b""
    attributes = "".join(f' GPano:{name}="{values[name]}"' for name in sorted(values))
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"'
        f"{attributes}/></rdf:RDF></x:xmpmeta>"
    ).encode()
