"""EXIF (CIPA DC-008): the orientation alone, and by request the tags that a user may keep; never a thumbnail."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from PIL import ExifTags, Image

from depers.imaging.formats import tiff

Tags = dict[int, dict[int, Any]]
"""Values of tags by directory, 0 (the first), Exif and GPS, and number."""
ORIENTATION = tiff.ORIENTATION
_EXIF, _GPS = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
_MAIN = 0
PANORAMA = "panorama"
"""The group that is no EXIF: `depers.imaging.metadata.panorama`."""
_GROUP_TAGS: dict[str, dict[int, tuple[str, ...]]] = {
    "date": {
        _MAIN: ("DateTime",),
        _EXIF: ("DateTimeOriginal", "DateTimeDigitized", "OffsetTime", "OffsetTimeOriginal", "OffsetTimeDigitized")
        + ("SubsecTime", "SubsecTimeOriginal", "SubsecTimeDigitized"),
    },
    "camera": {
        _MAIN: ("Make", "Model"),
        _EXIF: ("ExposureTime", "FNumber", "ExposureProgram", "ISOSpeedRatings", "ShutterSpeedValue", "ApertureValue")
        + ("BrightnessValue", "ExposureBiasValue", "MeteringMode", "Flash", "FocalLength", "FocalLengthIn35mmFilm")
        + ("LensMake", "LensModel", "WhiteBalance", "DigitalZoomRatio"),
    },
    "gps": {
        _GPS: ("GPSLatitudeRef", "GPSLatitude", "GPSLongitudeRef", "GPSLongitude", "GPSAltitudeRef", "GPSAltitude")
        + ("GPSTimeStamp", "GPSDateStamp", "GPSImgDirectionRef", "GPSImgDirection", "GPSDOP", "GPSMapDatum")
        + ("GPSSpeedRef", "GPSSpeed", "GPSTrackRef", "GPSTrack", "GPSHPositioningError", "GPSVersionID"),
    },
    PANORAMA: {},
}
GROUPS = tuple(_GROUP_TAGS)
"""What `keep_metadata` may name. Serial numbers, owners, comments and makers' notes are in no group."""
_MAX_TEXT = 100
_GPS_VERSION = {int(ExifTags.GPS.GPSVersionID): b"\2\3\0\0"}  # which EXIF wants wherever there is a GPS directory


@cache
def _numbers() -> dict[int, dict[str, int]]:
    """Return the tags' numbers by directory and name."""
    base = {tag.name: tag.value for tag in ExifTags.Base}
    return {_MAIN: base, _EXIF: base, _GPS: {tag.name: tag.value for tag in ExifTags.GPS}}


def list_tag_ids(groups: Sequence[str]) -> dict[int, set[int]]:
    """Return the tags of some groups by directory: 0 (the first), Exif and GPS."""
    numbers = _numbers()
    ids: dict[int, set[int]] = {}
    for group in groups:
        if group not in _GROUP_TAGS:
            raise ValueError(f"metadata to keep must be among {', '.join(GROUPS)}, but got {group!r}")
        for directory, names in _GROUP_TAGS[group].items():
            ids.setdefault(int(directory), set()).update(numbers[int(directory)][name] for name in names)
    return ids


def read_tags(image: Image.Image, groups: Sequence[str]) -> Tags:
    """Return the values of the image's tags that belong to the groups, by directory. Raises ValueError."""
    ids = list_tag_ids(groups)
    if not ids:
        return {}
    try:
        source = image.getexif()
        directories = {number: dict(source.get_ifd(number)) if number else dict(source) for number in ids}
    except Exception:  # damaged EXIF: there is nothing to keep
        return {}
    values_by_directory = {
        number: {tag: value for tag, value in directories[number].items() if tag in tags and _is_plain(value)}
        for number, tags in ids.items()
    }
    return {number: values for number, values in values_by_directory.items() if values}


def _is_plain(value: Any) -> bool:
    """Return whether it is a short text or up to four numbers: longer values could hold anything."""
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT and value.isprintable()
    if isinstance(value, bytes):
        return len(value) <= 1
    values = value if isinstance(value, tuple) else (value,)
    try:
        return len(values) <= 4 and all(math.isfinite(float(number)) for number in values)
    except (TypeError, ValueError, ZeroDivisionError):
        return False


def build(tags: Tags, orientation: int = 1) -> bytes:
    """Return an EXIF block (from the TIFF header on) of tags and an orientation; empty where it would say nothing."""
    if not tags and orientation == 1:
        return b""
    block = Image.Exif()
    for tag, value in tags.get(_MAIN, {}).items():
        block[tag] = value
    for directory in (_EXIF, _GPS):
        if directory in tags:
            block[directory] = tags[directory] | (_GPS_VERSION if directory == _GPS else {})
    if orientation != 1:
        block[ORIENTATION] = orientation
    return block.tobytes().removeprefix(b"Exif\0\0")
