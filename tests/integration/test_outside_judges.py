"""What other programs make of results: exiftool, djpeg, and jpegtran, which writes codings that no library does."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import simplejpeg
from archive_files import CONTENT, NAMES, make_tar, make_zip, rebuild
from jpegs import BOXES, assert_lossless, box_per_frame, make_pixels
from PIL import Image

from depers.imaging.formats import jpeg_segments
from depers.imaging.headers import ImageError
from depers.imaging.metadata.residue import find_residue
from depers.redaction.colors import MODES
from depers.redaction.files import redact_file

ALLOWED = {"ExifTool", "System", "File", "Composite", "JFIF", "ICC-header", "ICC_Profile", "PNG", "RIFF", "GIF"}
ALLOWED |= {"QuickTime", "Meta", "Adobe", "SourceFile", "PNG-pHYs"}
ALLOWED_IFD0 = {"Orientation", "ImageWidth", "ImageHeight", "BitsPerSample", "Compression", "PhotometricInterpretation"}
ALLOWED_IFD0 |= {"StripOffsets", "SamplesPerPixel", "RowsPerStrip", "StripByteCounts", "PlanarConfiguration"}
ALLOWED_IFD0 |= {"SubfileType", "ExtraSamples", "SampleFormat", "ColorMap", "Predictor", "FillOrder", "XResolution"}
ALLOWED_IFD0 |= {"YResolution", "ResolutionUnit"}


def tool(name: str) -> str:
    """Return the path of an installed tool, or skip the test."""
    path = shutil.which(name)
    if not path:
        package = "libimage-exiftool-perl" if name == "exiftool" else "libjpeg-turbo-progs"
        pytest.skip(f"no {name}: Debian's {package} is not installed")
    return path


def test_arithmetic_coding_is_encoded_again_and_said() -> None:
    jpegtran = tool("jpegtran")
    huffman = simplejpeg.encode_jpeg(make_pixels((333, 217)), 88, "RGB", "420")
    data = subprocess.run([jpegtran, "-arithmetic"], input=huffman, capture_output=True, check=True).stdout
    result = redact_file(data, [BOXES])
    assert result.method == "re-encoded: arithmetic coding"
    source, target = jpeg_segments.read_frame_header(data), jpeg_segments.read_frame_header(result.data)
    assert (source.sampling, source.tables) == (target.sampling, target.tables)
    assert find_residue(result.data) == []


@pytest.mark.parametrize("mode", MODES)
def test_components_in_scans_of_their_own(mode: str, tmp_path: Path) -> None:
    jpegtran = tool("jpegtran")
    (tmp_path / "scans").write_text("0;\n1;\n2;\n")
    together = simplejpeg.encode_jpeg(make_pixels((333, 217)), 88, "RGB", "420")
    command = [jpegtran, "-scans", tmp_path / "scans"]
    data = subprocess.run(command, input=together, capture_output=True, check=True).stdout
    assert data.count(b"\xff\xda") == 3
    assert_lossless(data, BOXES, mode)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_outside_judges_take_the_results(options: dict[str, object]) -> None:
    djpeg, jpegtran = tool("djpeg"), tool("jpegtran")
    buffer = io.BytesIO()
    Image.fromarray(make_pixels((333, 217))).save(buffer, "JPEG", **options)
    for mode in MODES:
        data = redact_file(buffer.getvalue(), [BOXES], mode=mode).data
        for command in ([djpeg, "-strict"], [jpegtran, "-strict", "-copy", "all"]):
            judge = subprocess.run(command, input=data, capture_output=True, check=False)
            assert (judge.returncode, judge.stderr) == (0, b""), command


@pytest.mark.parametrize("folder", ["exif", "big"])
def test_real_files_leak_nothing_that_exiftool_finds(folder: str, data: Path, tmp_path: Path) -> None:
    exiftool, djpeg = tool("exiftool"), tool("djpeg")
    sources = {}
    for number, path in enumerate(sorted(p for p in (data / folder).rglob("*") if p.is_file())):
        content = path.read_bytes()
        try:
            result = redact_file(content, box_per_frame(content))
        except ImageError as error:
            assert str(error)
            continue
        assert find_residue(result.data) == [], path
        out = tmp_path / f"{number}{path.suffix}"
        out.write_bytes(result.data)
        sources[out] = path
        if result.format == "JPEG":
            judge = subprocess.run(
                [djpeg, "-strict", "-scale", "1/8"], input=result.data, capture_output=True, check=False
            )
            assert (judge.returncode, judge.stderr) == (0, b""), path
    assert len(sources) > 0.9 * len([p for p in (data / folder).rglob("*") if p.is_file()])
    command = [exiftool, "-json", "-a", "-G1", "-s", "-m"]
    results = json.loads(subprocess.run([*command, tmp_path], capture_output=True, check=True).stdout)
    assert len(results) == len(sources)
    for tags in results:
        for name in tags:
            group, _, tag = name.rpartition(":")
            assert not group or group in ALLOWED or (group == "IFD0" and tag in ALLOWED_IFD0), (
                tags["SourceFile"],
                name,
            )
    texts = json.loads(
        subprocess.run([*command, "-x", "System:all", "-x", "File:all", *sources.values()], capture_output=True).stdout
    )
    for tags, (out, path) in zip(texts, sources.items(), strict=True):
        redacted = out.read_bytes()
        for name, value in tags.items():
            group = name.partition(":")[0]
            if (
                isinstance(value, str)
                and len(value.strip()) >= 8
                and group in ("IFD0", "ExifIFD", "IPTC", "Photoshop", "Canon")
            ):
                assert value.encode() not in redacted, (path, name)


@pytest.mark.skipif(not shutil.which("unzip"), reason="no unzip on this machine")
def test_other_programs_read_archives(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(rebuild("zip", make_zip(CONTENT[:40])))
    (tmp_path / "a.tar.gz").write_bytes(rebuild("tar", make_tar(CONTENT[:40], "gz")))
    subprocess.run(["unzip", "-tq", tmp_path / "a.zip"], check=True, capture_output=True)
    listed = subprocess.run(["tar", "-tzf", tmp_path / "a.tar.gz"], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == NAMES[:40]
