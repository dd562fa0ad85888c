"""The walkers of file formats: every block once and in order, and a damaged file to where it is whole."""

import io
import itertools
import struct

import pytest
from PIL import Image

from depers.imaging.formats import gif, isobmff, jpeg_segments, png
from depers.imaging.headers import ImageError, read_header


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("P", (40, 30), index) for index in range(3)]
    frames[0].save(buffer, kind, append_images=frames[1:], **options)
    return buffer.getvalue()


def test_the_blocks_of_a_gif_lie_side_by_side() -> None:
    data = encoded("GIF", save_all=True, comment=b"hello", loop=0)
    blocks = list(gif.walk(data))
    assert [block.introducer for block in blocks].count(gif.EXTENSION) >= 2
    assert blocks[-1].introducer == gif.TRAILER and blocks[-1].end == len(data)
    assert all(first.end == second.start for first, second in itertools.pairwise(blocks))
    assert gif.measure_canvas(data) == (40, 30)


@pytest.mark.parametrize("length", [0, 5, 11, 14, 60])
def test_a_gif_that_is_cut_off_ends_past_its_data(length: int) -> None:
    data = encoded("GIF", comment=b"hello" * 20)[:length]
    assert all(block.introducer != gif.TRAILER for block in gif.walk(data))
    assert gif.measure_canvas(data) == ((40, 30) if length > 9 else (0, 0))


def test_bytes_between_the_blocks_of_a_gif_are_told_apart() -> None:
    data = encoded("GIF")
    blocks = list(gif.walk(data[:-1] + b"\x07" + data[-1:]))
    assert [block.introducer for block in blocks][-2:] == [0x07, gif.TRAILER]


def test_a_frame_of_a_gif_beyond_its_screen_counts() -> None:
    data = bytearray(encoded("GIF"))
    [image] = [block for block in gif.walk(bytes(data)) if block.introducer == gif.IMAGE]
    struct.pack_into("<HHHH", data, image.start + 1, 100, 200, 300, 400)
    assert gif.measure_canvas(bytes(data)) == (400, 600)


def test_the_chunks_of_a_png_are_written_as_they_were_read() -> None:
    data = encoded("PNG")
    chunks = list(png.walk(data))
    assert [chunks[0].name, chunks[-1].name] == [b"IHDR", b"IEND"] and chunks[-1].end == len(data)
    assert png.SIGNATURE + b"".join(png.make_chunk(name, content) for name, content, _ in chunks) == data
    short = list(png.walk(data[:-30]))
    assert short[:-1] == chunks[: len(short) - 1] and short[-1].end > len(data) - 30


def test_boxes_lie_side_by_side_and_the_last_may_reach_to_the_end() -> None:
    large = struct.pack(">I4sQ", 1, b"mdat", 20) + b"abcd"
    data = struct.pack(">I4s", 12, b"free") + b"1234" + large + struct.pack(">I4s", 0, b"rest") + b"xyz"
    boxes = list(isobmff.walk(data))
    assert [(box.kind, data[box.content : box.end]) for box in boxes] == [
        (b"free", b"1234"),
        (b"mdat", b"abcd"),
        (b"rest", b"xyz"),
    ]


@pytest.mark.parametrize("box", [struct.pack(">I4s", size, b"moov") for size in (1, 7, 100)])
def test_a_box_that_does_not_fit_is_refused(box: bytes) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        list(isobmff.walk(box))


@pytest.mark.parametrize(("side", "scans", "most"), [(8, 500, 500), (8, 501, 500), (9000, 64, 64), (9000, 80, 64)])
def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(side: int, scans: int, most: int) -> None:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    (*_, last) = (segment for segment in jpeg_segments.walk(data) if segment.marker == jpeg_segments.SOS)
    scan = jpeg_segments.SCAN + struct.pack(">H", len(last.content) + 2) + last.content + last.scan
    data = data[:-2] + scan * (scans - jpeg_segments.count_scans(data)) + data[-2:]
    trailer = jpeg_segments.SCAN * 1000  # of a motion photo, which is no scan
    assert jpeg_segments.count_scans(data + trailer) == scans
    if scans <= most:
        assert read_header(data + trailer, 100).size_wh == (side, side)
    else:
        with pytest.raises(ImageError, match=f"must have at most {most} scans.* but has {scans}"):
            read_header(data + trailer, 100)
