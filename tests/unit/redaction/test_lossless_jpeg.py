"""Lossless redaction: coefficients outside the touched MCUs are identical, whatever the coding and the sampling."""

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from jpegs import BOXES, SAMPLINGS, assert_lossless, make_pixels
from PIL import Image

from depers.imaging.decoding import decode_frames
from depers.imaging.formats import jpeg_segments, turbojpeg
from depers.imaging.headers import ImageError
from depers.redaction.colors import MODES
from depers.redaction.files import redact_file


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampling", [*SAMPLINGS, "Gray"])
def test_every_sampling(sampling: str, mode: str) -> None:
    image = make_pixels((333, 217))
    if sampling == "Gray":
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(image[:, :, :1]), 88, "GRAY", "Gray")
    else:
        data = simplejpeg.encode_jpeg(image, 88, "RGB", sampling)
    assert_lossless(data, BOXES, mode)


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"optimize": True},
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1},
        {"quality": 100},
    ]
    + [{"keep_rgb": True}, {"progressive": True, "subsampling": 0}, {"qtables": [[255] * 64, [7] * 64]}],
)
def test_every_coding(options: dict[str, object]) -> None:
    for mode in MODES:
        buffer = io.BytesIO()
        Image.fromarray(make_pixels((333, 217))).save(buffer, "JPEG", **options)
        assert_lossless(buffer.getvalue(), BOXES, mode)


@settings(deadline=None, max_examples=60)
@given(
    size_wh=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    sampling=st.sampled_from(list(SAMPLINGS)),
    corners=st.lists(st.tuples(*[st.floats(0, 80, width=32)] * 4), max_size=4),
    mode=st.sampled_from(MODES),
)
def test_odd_sizes_and_any_boxes(
    size_wh: tuple[int, int], sampling: str, corners: list[tuple[float, ...]], mode: str
) -> None:
    data = simplejpeg.encode_jpeg(make_pixels(size_wh), 90, "RGB", sampling)
    limits = np.array(size_wh * 2, np.float32)
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners], np.float32)
    boxes = np.minimum(boxes.reshape(-1, 4), limits)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    assert_lossless(data, boxes, mode)


def test_four_components_stay_as_they_are() -> None:
    buffer = io.BytesIO()
    Image.fromarray(make_pixels((90, 70))).convert("CMYK").save(buffer, "JPEG", quality=92)
    data = assert_lossless(buffer.getvalue(), np.array([[20, 20, 60, 50]], np.float32), "pixelate")
    assert Image.open(io.BytesIO(data)).mode == "CMYK"


@pytest.mark.parametrize("mode", MODES)
def test_without_the_library_it_is_encoded_again_with_its_own_tables(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turbojpeg, "load_library", lambda: None)
    for sampling in SAMPLINGS:
        data = simplejpeg.encode_jpeg(make_pixels((333, 217)), 88, "RGB", sampling)
        result = redact_file(data, [BOXES], mode=mode)
        assert result.method == "re-encoded: there is no TurboJPEG library 3"
        source, target = jpeg_segments.read_frame_header(data), jpeg_segments.read_frame_header(result.data)
        assert (source.sampling, source.tables) == (target.sampling, target.tables)
        [rgb] = decode_frames(result.data)
        assert np.abs(np.diff(rgb[68:122, 58:114].astype(int), axis=1)).mean() < 3


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt()])
def test_an_error_in_the_filter_is_raised_not_swallowed(failure: BaseException) -> None:
    """ctypes prints what a callback raises and goes on: the image would come out as it was."""

    def edit(components: list[turbojpeg.Coefficients]) -> None:
        raise failure

    data = simplejpeg.encode_jpeg(make_pixels((64, 48)), 88, "RGB", "420")
    with pytest.raises(type(failure)):
        turbojpeg.transform(data, edit, [2, 1, 1], progressive=False, optimize=False)


def test_rows_in_an_order_that_is_not_known_are_refused() -> None:
    data = simplejpeg.encode_jpeg(make_pixels((64, 48)), 88, "RGB", "420")
    with pytest.raises(turbojpeg.TransformError, match="not all coefficients were seen"):
        turbojpeg.transform(data, lambda components: None, [2, 1, 4], progressive=False, optimize=False)


def test_a_library_that_forgets_what_is_written_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    library = turbojpeg.load_library()
    assert library is not None
    assert turbojpeg._writes_what_is_edited(library)
    original = turbojpeg._coefficients

    def apart(addresses: list[int], size_wh: tuple[int, int]) -> turbojpeg.Coefficients:
        components = original(addresses, size_wh)
        return components._replace(blocks=components.blocks.copy())

    monkeypatch.setattr(turbojpeg, "_coefficients", apart)
    assert not turbojpeg._writes_what_is_edited(library)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_a_truncated_file_fails(share: float) -> None:
    data = simplejpeg.encode_jpeg(make_pixels((333, 217)), 88, "RGB", "420")
    with pytest.raises(ImageError):
        redact_file(data[: int(len(data) * share)], [BOXES])
