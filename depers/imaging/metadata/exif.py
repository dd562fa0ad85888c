"""EXIF (CIPA DC-008): the orientation alone, and by request the tags that a user may keep; never a thumbnail."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from PIL import ExifTags, Image

ORIENTATION = 0x0112
_EXIF, _GPS = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
_MAIN = 0
_TAGS: dict[str, dict[int, tuple[str, ...]]] = {
    "date": {
        _MAIN: ("DateTime",),
        _EXIF: ("DateTimeOriginal", "DateTimeDigitized", "OffsetTime", "OffsetTimeOriginal", "OffsetTimeDigitized"),
    },
    "camera": {
        _MAIN: ("Make", "Model"),
        _EXIF: ("ExposureTime", "FNumber", "ExposureProgram", "ISOSpeedRatings", "ShutterSpeedValue", "ApertureValue")
        + ("BrightnessValue", "ExposureBiasValue", "MeteringMode", "Flash", "FocalLength", "FocalLengthIn35mmFilm")
        + ("LensMake", "LensModel", "WhiteBalance", "DigitalZoomRatio"),
    },
    "gps": {
        _GPS: ("GPSLatitudeRef", "GPSLatitude", "GPSLongitudeRef", "GPSLongitude", "GPSAltitudeRef", "GPSAltitude")
        + ("GPSTimeStamp", "GPSDateStamp", "GPSImgDirectionRef", "GPSImgDirection", "GPSDOP", "GPSMapDatum"),
    },
}
GROUPS = tuple(_TAGS)
"""What `keep_metadata` may name. Serial numbers, owners, comments and makers' notes are in no group."""
_MAX_TEXT = 100


@cache
def _numbers() -> dict[int, dict[str, int]]:
    """The tags' numbers by directory and name."""
    base = {tag.name: tag.value for tag in ExifTags.Base}
    return {_MAIN: base, _EXIF: base, _GPS: {tag.name: tag.value for tag in ExifTags.GPS}}


def tag_ids(groups: Sequence[str]) -> dict[int, set[int]]:
    """The tags of some groups by directory: 0 (the first), Exif and GPS."""
    numbers = _numbers()
    found: dict[int, set[int]] = {}
    for group in groups:
        if group not in _TAGS:
            raise ValueError(f"metadata to keep must be among {', '.join(GROUPS)}, but got {group!r}")
        for directory, names in _TAGS[group].items():
            found.setdefault(int(directory), set()).update(numbers[int(directory)][name] for name in names)
    return found


def kept(image: Image.Image, groups: Sequence[str]) -> dict[int, dict[int, Any]]:
    """The values of the image's tags that belong to the groups, by directory. Raises ValueError."""
    wanted = tag_ids(groups)
    if not wanted:
        return {}
    try:
        source = image.getexif()
        directories = {number: dict(source.get_ifd(number)) if number else dict(source) for number in wanted}
    except Exception:  # damaged EXIF: there is nothing to keep
        return {}
    found = {
        number: {tag: value for tag, value in directories[number].items() if tag in tags and _is_plain(value)}
        for number, tags in wanted.items()
    }
    return {number: values for number, values in found.items() if values}


def _is_plain(value: Any) -> bool:
    """Whether it is a short text or up to four numbers: longer values could hold anything."""
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT and value.isprintable()
    if isinstance(value, bytes):
        return len(value) <= 1
    values = value if isinstance(value, tuple) else (value,)
    try:
        return len(values) <= 4 and all(math.isfinite(float(one)) for one in values)
    except (TypeError, ValueError, ZeroDivisionError):
        return False


def build(values: dict[int, dict[int, Any]], orientation: int = 1) -> bytes:
    """An EXIF block (from the TIFF header on) of these tags and an orientation; empty where it would say nothing."""
    if not values and orientation == 1:
        return b""
    block = Image.Exif()
    for tag, value in values.get(_MAIN, {}).items():
        block[tag] = value
    for directory in (_EXIF, _GPS):
        if directory in values:
            block[directory] = values[directory]
    if orientation != 1:
        block[ORIENTATION] = orientation
    return block.tobytes().removeprefix(b"Exif\0\0")
