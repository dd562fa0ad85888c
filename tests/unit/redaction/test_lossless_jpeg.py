"""Lossless redaction: coefficients outside the touched MCUs are identical, whatever the coding and the sampling."""

import io
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from depers.imaging.decoding import ImageError, decode, decode_frames
from depers.imaging.formats import jpeg_segments, turbojpeg
from depers.imaging.metadata.residue import find_residue
from depers.redaction.files import redact_file
from depers.redaction.regions import MODES

SIZES = {"444": "1x1", "422": "2x1", "420": "2x2", "411": "4x1", "440": "1x2"}
BOXES = np.array([[50, 60, 120.5, 130], [100, 100, 150, 160], [320, 200, 333, 217]], np.float32)


def pixels(size_wh: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (max(1, size_wh[1] // 8), max(1, size_wh[0] // 8), 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size_wh, Image.Resampling.BICUBIC))


def coefficients(data: bytes) -> list[NDArray[np.int16]]:
    """The quantized coefficients of every component, int16 (rows, columns, 64)."""
    found: list[NDArray[np.int16]] = []

    def collect(components: list[turbojpeg.Coefficients]) -> None:
        found.extend(blocks[:height].copy() for blocks, height in components)

    rows = [v for _, v in jpeg_segments.read_frame_header(data).sampling]
    turbojpeg.transform(data, collect, rows, progressive=False, optimize=False)
    return found


def assert_lossless(data: bytes, boxes: NDArray[np.float32], mode: str) -> bytes:
    result = redact_file(data, [boxes], mode=mode)
    assert result.method == "lossless"
    before, after = jpeg_segments.read_frame_header(data), jpeg_segments.read_frame_header(result.data)
    assert (before.marker, before.sampling, before.size_wh) == (after.marker, after.sampling, after.size_wh)
    assert [before.tables[i] for i in before.table_of] == [after.tables[i] for i in after.table_of]
    width, height = before.mcu_wh
    touched = np.zeros((-(-before.size_wh[1] // height), -(-before.size_wh[0] // width)), bool)
    for x0, y0, x1, y1 in boxes:
        touched[int(y0 // height) : int(-(-y1 // height)), int(x0 // width) : int(-(-x1 // width))] = True
    pairs = list(zip(coefficients(data), coefficients(result.data), strict=True))
    for (first, second), (h, v) in zip(pairs, before.sampling, strict=True):
        h, v = (1, 1) if len(pairs) == 1 else (h, v)
        inside = touched.repeat(v, axis=0).repeat(h, axis=1)[: first.shape[0], : first.shape[1]]
        assert (first[~inside] == second[~inside]).all()
        if mode != "blur":
            assert not second[inside][:, 1:].any()  # flat blocks
    assert find_residue(result.data) == []
    assert decode(result.data).size_wh == decode(data).size_wh  # Pillow's and simplejpeg's libjpeg take it
    assert cv2.imdecode(np.frombuffer(result.data, np.uint8), cv2.IMREAD_COLOR) is not None
    return result.data


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampling", [*SIZES, "Gray"])
def test_every_sampling(sampling: str, mode: str) -> None:
    image = pixels((333, 217))
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
        Image.fromarray(pixels((333, 217))).save(buffer, "JPEG", **options)
        assert_lossless(buffer.getvalue(), BOXES, mode)


@settings(deadline=None, max_examples=60)
@given(
    size_wh=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    sampling=st.sampled_from(list(SIZES)),
    corners=st.lists(st.tuples(*[st.floats(0, 80, width=32)] * 4), max_size=4),
    mode=st.sampled_from(MODES),
)
def test_odd_sizes_and_any_boxes(
    size_wh: tuple[int, int], sampling: str, corners: list[tuple[float, ...]], mode: str
) -> None:
    data = simplejpeg.encode_jpeg(pixels(size_wh), 90, "RGB", sampling)
    limits = np.array(size_wh * 2, np.float32)
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners], np.float32)
    boxes = np.minimum(boxes.reshape(-1, 4), limits)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    assert_lossless(data, boxes, mode)


def test_four_components_stay_as_they_are() -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels((90, 70))).convert("CMYK").save(buffer, "JPEG", quality=92)
    data = assert_lossless(buffer.getvalue(), np.array([[20, 20, 60, 50]], np.float32), "pixelate")
    assert Image.open(io.BytesIO(data)).mode == "CMYK"


def tool(name: str) -> str:
    path = shutil.which(name)
    if not path:
        pytest.skip(f"no {name}: Debian's libjpeg-turbo-progs is not installed")
    return path


def test_arithmetic_coding_is_encoded_again_and_said() -> None:
    jpegtran = tool("jpegtran")
    huffman = simplejpeg.encode_jpeg(pixels((333, 217)), 88, "RGB", "420")
    data = subprocess.run([jpegtran, "-arithmetic"], input=huffman, capture_output=True, check=True).stdout
    result = redact_file(data, [BOXES])
    assert result.method == "re-encoded: arithmetic coding"
    before, after = jpeg_segments.read_frame_header(data), jpeg_segments.read_frame_header(result.data)
    assert (before.sampling, before.tables) == (after.sampling, after.tables)
    assert find_residue(result.data) == []


@pytest.mark.parametrize("mode", MODES)
def test_components_in_scans_of_their_own(mode: str, tmp_path: Path) -> None:
    jpegtran = tool("jpegtran")
    (tmp_path / "scans").write_text("0;\n1;\n2;\n")
    together = simplejpeg.encode_jpeg(pixels((333, 217)), 88, "RGB", "420")
    command = [jpegtran, "-scans", tmp_path / "scans"]
    data = subprocess.run(command, input=together, capture_output=True, check=True).stdout
    assert data.count(b"\xff\xda") == 3
    assert_lossless(data, BOXES, mode)


@pytest.mark.parametrize("mode", MODES)
def test_without_the_library_it_is_encoded_again_with_its_own_tables(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turbojpeg, "load_library", lambda: None)
    for sampling in SIZES:
        data = simplejpeg.encode_jpeg(pixels((333, 217)), 88, "RGB", sampling)
        result = redact_file(data, [BOXES], mode=mode)
        assert result.method == "re-encoded: there is no TurboJPEG library 3"
        before, after = jpeg_segments.read_frame_header(data), jpeg_segments.read_frame_header(result.data)
        assert (before.sampling, before.tables) == (after.sampling, after.tables)
        [shown] = decode_frames(result.data)
        assert np.abs(np.diff(shown[68:122, 58:114].astype(int), axis=1)).mean() < 3


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt()])
def test_an_error_in_the_filter_is_raised_not_swallowed(failure: BaseException) -> None:
    """ctypes prints what a callback raises and goes on: the image would come out as it was."""

    def edit(components: list[turbojpeg.Coefficients]) -> None:
        raise failure

    data = simplejpeg.encode_jpeg(pixels((64, 48)), 88, "RGB", "420")
    with pytest.raises(type(failure)):
        turbojpeg.transform(data, edit, [2, 1, 1], progressive=False, optimize=False)


def test_rows_in_an_order_that_is_not_known_are_refused() -> None:
    data = simplejpeg.encode_jpeg(pixels((64, 48)), 88, "RGB", "420")
    with pytest.raises(turbojpeg.TransformError, match="not all coefficients were seen"):
        turbojpeg.transform(data, lambda components: None, [2, 1, 4], progressive=False, optimize=False)


def test_a_library_that_forgets_what_is_written_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    library = turbojpeg.load_library()
    assert library is not None
    assert turbojpeg._writes_what_is_edited(library)
    given = turbojpeg._coefficients

    def apart(addresses: list[int], size_wh: tuple[int, int]) -> turbojpeg.Coefficients:
        found = given(addresses, size_wh)
        return found._replace(blocks=found.blocks.copy())

    monkeypatch.setattr(turbojpeg, "_coefficients", apart)
    assert not turbojpeg._writes_what_is_edited(library)


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.98])
def test_a_truncated_file_fails(cut: float) -> None:
    data = simplejpeg.encode_jpeg(pixels((333, 217)), 88, "RGB", "420")
    with pytest.raises(ImageError):
        redact_file(data[: int(len(data) * cut)], [BOXES])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_outside_judges_take_the_results(options: dict[str, object]) -> None:
    djpeg, jpegtran = tool("djpeg"), tool("jpegtran")
    buffer = io.BytesIO()
    Image.fromarray(pixels((333, 217))).save(buffer, "JPEG", **options)
    for mode in MODES:
        data = redact_file(buffer.getvalue(), [BOXES], mode=mode).data
        for command in ([djpeg, "-strict"], [jpegtran, "-strict", "-copy", "all"]):
            done = subprocess.run(command, input=data, capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, b""), command
