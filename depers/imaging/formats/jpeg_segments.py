"""A JPEG's marker segments (ITU-T T.81 annex B), walked, and the stream built anew from those that are needed."""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

SOI, EOI, SOS, DQT, DHT, DRI, DAC, COM = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xCC, 0xFE
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
SCAN = bytes((0xFF, SOS))
"""What begins a scan; elsewhere in a file it can be a coincidence."""
_RESTARTS = range(0xD0, 0xD8)
FRAME_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
IMAGE_MARKERS = FRAME_MARKERS | {DQT, DHT, DRI, DAC, SOS}
"""What is needed to decode the image; whatever else is found is not copied."""
_ICC_CHUNK = 65519
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# The lengths of the standard tables' segments K.3–K.6 contents, as libjpeg writes them: counts of codes by length.
_STANDARD_COUNTS = {
    bytes.fromhex("00010501010101010100000000000000"),
    bytes.fromhex("00030101010101010101010000000000"),
    bytes.fromhex("0002010303020403050504040000017d"),
    bytes.fromhex("00020102040403040705040400010277"),
}


class Segment(NamedTuple):
    """One marker, its content without the length, and for a scan the entropy-coded data that follows it."""

    marker: int
    content: bytes
    scan: bytes = b""


@dataclass
class FrameHeader:
    """What the frame header says, and the tables that it names."""

    marker: int = 0
    precision: int = 0
    size_wh: tuple[int, int] = (0, 0)
    sampling: list[tuple[int, int]] = field(default_factory=list)
    table_of: list[int] = field(default_factory=list)
    tables: dict[int, list[int]] = field(default_factory=dict)
    standard_codes: bool = True

    @property
    def mcu_wh(self) -> tuple[int, int]:
        """Return the size of an MCU in pixels; of a single component, that of a block."""
        if len(self.sampling) == 1:
            return 8, 8
        return 8 * max(h for h, _ in self.sampling), 8 * max(v for _, v in self.sampling)


def walk(data: bytes, scans: bool = True) -> Iterator[Segment]:
    """Yield the segments from SOI to EOI, without `scans` those of SOS empty. Raises ValueError for no whole stream."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    yield Segment(SOI, b"")
    position = 2
    while True:
        start = data.find(b"\xff", position)
        if start < 0:
            raise ValueError("ends without an end marker")
        position = start + 1
        while data[position : position + 1] == b"\xff":
            position += 1
        if position >= len(data):
            raise ValueError("ends without an end marker")
        marker = data[position]
        position += 1
        if marker == EOI:
            yield Segment(EOI, data[position:])  # what lies behind the end
            return
        if marker in _RESTARTS or marker in (0, 1, SOI):
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2 or position + length > len(data):
            raise ValueError("a segment runs past the end")
        content = data[position + 2 : position + length]
        position += length
        if marker != SOS:
            yield Segment(marker, content)
            continue
        if scans:
            end = _scan_end(data, position)
            yield Segment(SOS, content, data[position:end])
        else:  # whose end is looked for only if more is asked for
            yield Segment(SOS, content)
            end = _scan_end(data, position)
        position = end


def _scan_end(data: bytes, position: int) -> int:
    """Return where the entropy-coded data ends: at a marker that is neither a stuffed byte nor a restart."""
    match = _MARKER.search(data, position)
    if not match:
        raise ValueError("ends within a scan")
    return match.start()


def count_scans(data: bytes) -> int:
    """Return how many scans a JPEG has up to its end marker, or to where it is damaged."""
    count = 0
    with suppress(ValueError):
        for marker, _, _ in walk(data, scans=False):
            count += marker == SOS
    return count


def read_frame_header(data: bytes) -> FrameHeader:
    """Return what the header of the one frame says, its tables and its coding. Raises ValueError."""
    header, codes = FrameHeader(), set[bytes]()
    for marker, content, _ in walk(data, scans=False):
        if marker in FRAME_MARKERS:
            if header.marker:
                raise ValueError("has more than one frame")
            header.marker, header.precision = marker, content[0]
            header.size_wh = (int.from_bytes(content[3:5], "big"), int.from_bytes(content[1:3], "big"))
            parts = [content[6 + 3 * i : 9 + 3 * i] for i in range(content[5])]
            if any(len(part) < 3 for part in parts):
                raise ValueError("a frame header is too short")
            header.sampling = [(part[1] >> 4, part[1] & 15) for part in parts]
            header.table_of = [part[2] for part in parts]
        elif marker == DQT:
            _read_tables(content, header.tables)
        elif marker == DHT:
            while len(content) >= 17:
                codes.add(content[1:17])
                content = content[17 + sum(content[1:17]) :]
        elif marker == SOS and header.marker not in (0xC2, 0xCA) and content[:1] == bytes([len(header.sampling)]):
            break  # the only scan; what follows can be long
    if not header.marker or min(header.size_wh) < 1 or not header.sampling:
        raise ValueError("has no frame")
    if any(not (1 <= h <= 4 and 1 <= v <= 4) for h, v in header.sampling):
        raise ValueError("has sampling factors that are not allowed")
    if any(table not in header.tables for table in header.table_of):
        raise ValueError("lacks a quantization table")
    header.standard_codes = codes <= _STANDARD_COUNTS
    return header


def _read_tables(content: bytes, tables: dict[int, list[int]]) -> None:
    """Add the quantization tables of a DQT segment, in zigzag order. Raises ValueError."""
    while content:
        width = 2 if content[0] >> 4 else 1
        values = content[1 : 1 + 64 * width]
        if len(values) != 64 * width:
            raise ValueError("a quantization table is too short")
        tables[content[0] & 15] = [int.from_bytes(values[i : i + width], "big") for i in range(0, len(values), width)]
        content = content[1 + 64 * width :]


def rebuild(data: bytes, exif: bytes, icc_profile: bytes | None) -> bytes:
    """Return the stream with nothing but the image, a plain JFIF or Adobe header, an EXIF block and a color profile.

    `exif` from its TIFF header on, or empty. Raises ValueError.
    """
    heads: list[bytes] = []
    body: list[bytes] = []
    for segment in walk(data):
        if segment.marker == APP0 and segment.content[:5] == b"JFIF\0" and not heads:
            heads.append(_make_segment(APP0, segment.content[:12] + b"\0\0"))  # no thumbnail
        elif segment.marker == APP14 and segment.content[:5] == b"Adobe":
            heads.append(_make_segment(APP14, b"Adobe\0\x64\0\0\0\0" + segment.content[11:12]))
        elif segment.marker in IMAGE_MARKERS:
            body.append(_make_segment(segment.marker, segment.content) + segment.scan)
    if exif:
        heads.append(_make_segment(APP1, b"Exif\0\0" + exif))
    profile = make_profile_segments(icc_profile) if icc_profile else b""
    return b"\xff\xd8" + b"".join(heads) + profile + b"".join(body) + b"\xff\xd9"


def insert_document(data: bytes, content: bytes) -> bytes:
    """Return the stream with an APP1 segment behind its first application segments. Raises ValueError."""
    position = 2
    while data[position + 1] in (APP0, APP1):
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data[:position] + _make_segment(APP1, content) + data[position:]


def make_profile_segments(profile: bytes) -> bytes:
    """Return an ICC profile as APP2 segments (ICC.1:2010, annex B.4). Raises ValueError where it is too large."""
    parts = [profile[i : i + _ICC_CHUNK] for i in range(0, len(profile), _ICC_CHUNK)]
    if len(parts) > 255:
        raise ValueError(f"color profile must have at most {255 * _ICC_CHUNK} bytes, but has {len(profile)}")
    return b"".join(
        b"\xff\xe2" + struct.pack(">H", len(part) + 16) + b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part
        for number, part in enumerate(parts, 1)
    )


def _make_segment(marker: int, content: bytes) -> bytes:
    if len(content) > 65533:
        raise ValueError("a segment is too long")
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
