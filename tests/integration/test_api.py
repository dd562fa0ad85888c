"""depers in Python: importing it is quick, a detector and redaction work on single images, verbs return results."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import depers
from depers import Detection
from depers.storage import tables
from depers.street_scenes.scenes import draw_scene

BOX = (40.0, 30.0, 120.0, 110.0)


def encode(image: Image.Image, name: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.fromarray(draw_scene(3, 7, (320, 192)).image)


@pytest.fixture(scope="module")
def weights(untrained: Callable[..., str]) -> str:
    return untrained("human", "car")


@pytest.mark.parametrize("statement", ["import depers", "from depers import UserError, api", "import depers.cli"])
def test_importing_is_quick_and_loads_nothing_heavy(statement: str) -> None:
    program = f"""
import sys, time
start = time.perf_counter()
{statement}
print(time.perf_counter() - start, sorted({{"numpy", "torch", "ray", "cv2", "pyarrow", "PIL"}} & set(sys.modules)))
"""
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(3)]
    assert all(run.stdout.endswith(" []\n") for run in runs), runs[0].stderr
    if statement == "import depers":
        assert min(float(run.stdout.split()[0]) for run in runs) < 0.05


def test_a_detector_finds_what_the_verb_finds(
    ray_local: None, weights: str, scene: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"imgsz": 320, "confidence": 0.003, "classes": "human"}
    other = Image.fromarray(draw_scene(4, 7, (320, 192)).image)
    images = {
        "plain.jpg": encode(scene),
        "frames.tif": encode(scene, "TIFF", save_all=True, append_images=[other]),
    }
    (tmp_path / "in").mkdir()
    for name, data in images.items():
        (tmp_path / "in" / name).write_bytes(data)
    result = depers.detect(tmp_path / "in", tmp_path / "out", weights=weights, batch_size=1, **options)
    assert (result.inputs, result.failures.count, result.class_names) == (2, 0, ("human",))
    detector = depers.Detector(weights, **options)
    assert detector.class_names == ["human"]
    for row in tables.read_table(result.detections).to_pylist():
        detections = detector.detect(images[row["path"]])
        assert [detection.class_name for detection in detections] == [box["class"] for box in row["boxes"]]
        assert {detection.frame for detection in detections} == ({0, 1} if row["path"] == "frames.tif" else {0})
        for name in Detection._fields[1:6]:
            expected = [box[name] for box in row["boxes"]]
            np.testing.assert_allclose([getattr(detection, name) for detection in detections], expected, rtol=1e-5)
    assert capsys.readouterr() == ("", "")


def test_a_detector_refuses_what_will_not_do(weights: str, scene: Image.Image) -> None:
    for options, message in (
        ({"confidence": 2}, "--confidence must be above 0 and below 1, but got 2"),
        ({"classes": ["dog"]}, "--classes must be among those of the weights"),
        ({"imgsz": 100}, "--imgsz must be a positive multiple of 32, but got 100"),
    ):
        with pytest.raises(depers.UserError, match=message):
            depers.Detector(weights, **options)
    assert set(depers.Detector().class_names) == {"car", "head", "face", "human", "carplate"}  # depers' own
    with pytest.raises(depers.UserError, match="no such weights file"):
        depers.Detector("none.pt")
    with pytest.raises(TypeError, match=r"'confidense' is no option; did you mean confidence\?"):
        depers.Detector(weights, confidense=0.2)
    detector = depers.Detector(weights, imgsz=320)
    for data in (b"", b"no image", encode(scene)[:900]):
        with pytest.raises(depers.UserError, match=r"^the image "):
            detector.detect(data)


def test_redaction_by_arrays_and_by_detections(scene: Image.Image) -> None:
    data = encode(scene, "PNG")
    by_array = depers.redact(data, [BOX], margin=0)
    assert depers.redact(data, np.array([BOX]), margin=0) == by_array
    assert depers.redact(data, [Detection("face", 0.9, *BOX)], margin=0) == by_array
    before, after = np.asarray(scene), np.asarray(Image.open(io.BytesIO(by_array)))
    touched = np.zeros(before.shape[:2], bool)
    touched[30:110, 40:120] = True
    assert (before[~touched] == after[~touched]).all()
    assert (before[touched] != after[touched]).any(axis=1).mean() > 0.5
    filled = np.asarray(Image.open(io.BytesIO(depers.redact(data, [BOX], mode="fill"))))
    assert (filled[25:115, 34:126] == 128).all()  # the margin is a tenth
    for boxes in ([], np.zeros((0, 4))):
        assert (np.asarray(Image.open(io.BytesIO(depers.redact(data, boxes)))) == before).all()


def test_redaction_of_frames(scene: Image.Image) -> None:
    data = encode(scene, "TIFF", save_all=True, append_images=[scene])
    result = Image.open(io.BytesIO(depers.redact(data, [Detection("face", 1.0, *BOX, frame=1)])))
    pages = []
    for page in (0, 1):
        result.seek(page)
        pages.append(np.asarray(result))
    assert (pages[0] == np.asarray(scene)).all() and (pages[1] != np.asarray(scene)).any()
    with pytest.raises(depers.UserError, match="holds 2 frames, but has boxes in frame 2"):
        depers.redact(data, [Detection("face", 1.0, *BOX, frame=2)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "smear"}, "--mode must be one of pixelate, blur, fill, inpaint, but got 'smear'"),
        ({"margin": -1}, "--margin must be between 0 and 2, but got -1"),
        ({"keep_metadata": "owner"}, "--keep-metadata must be one of date, camera, gps, panorama, but got 'owner'"),
        ({"boxes": [[1, 2, 3]]}, r"boxes must be an array \(N, 4\), but its shape is \(1, 3\)"),
        ({"boxes": [[1, 2, 3, float("nan")]]}, "boxes must be finite"),
        ({"boxes": [[10, 10, 5, 5]]}, "a box must have x_min < x_max and y_min < y_max, but is "),
        ({"boxes": [[-50, -50, -10, -10]]}, "a box must lie in the image of "),
        ({"boxes": [[1e6, 0, 2e6, 9]]}, "a box must lie in the image of "),
        ({"boxes": "ab"}, r"boxes must be detections or an array \(N, 4\) of numbers, but got 'ab'"),
        ({"data": b"no image"}, "^the image "),
    ],
)
def test_redaction_refuses_what_will_not_do(scene: Image.Image, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(depers.UserError, match=message):
        depers.redact(**({"data": encode(scene), "boxes": [BOX]} | arguments))  # type: ignore[arg-type]


def test_metadata_is_found_until_it_is_redacted(scene: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0132], exif[0x010F] = "2026:01:01 12:00:00", "a maker"
    data = encode(scene, exif=exif, comment=b"by a person")
    assert depers.find_metadata(data) == ["EXIF tag 0x010F", "EXIF tag 0x0132", "comment"]
    assert depers.find_metadata(data, ["date"]) == depers.find_metadata(data, "date") == ["EXIF tag 0x010F", "comment"]
    assert depers.find_metadata(depers.redact(data, [])) == []
    kept = depers.redact(data, [], keep_metadata=["date"])
    assert depers.find_metadata(kept) == ["EXIF tag 0x0132"] and depers.find_metadata(kept, ["date"]) == []
    assert depers.find_metadata(b"no image") == ["a file of no known format"]
    message = "--keep-metadata must be one of date, camera, gps, panorama, but got 'owner'"
    with pytest.raises(depers.UserError, match=message):
        depers.find_metadata(data, ["owner"])


def test_a_verb_prints_nothing_and_returns_what_it_did(
    ray_local: None, weights: str, scene: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    scene.save(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "b.jpg").write_text("no image")
    out = tmp_path / "out"
    result = depers.anonymize(tmp_path / "in", out, weights=weights, imgsz=320, confidence=0.003)
    assert result.files == {"redacted": 1, "failed": 1} and result.partial
    assert [(failure.path, failure.status) for failure in result.failures.examples] == [("b.jpg", "failed")]
    assert (result.manifest, result.report) == (f"{out}-records/manifest.parquet", f"{out}-records/report.html")
    assert Path(result.manifest).is_file() and Path(result.report).is_file()
    checked = depers.audit(out, input=tmp_path / "in")
    assert not checked.partial and checked.checked == 1
    with pytest.raises(depers.UserError, match="holds a run with mode 'pixelate', but now it is 'fill'"):
        depers.anonymize(tmp_path / "in", out, weights=weights, imgsz=320, confidence=0.003, mode="fill")
    with pytest.raises(depers.UserError, match=r"^--classes must be among those of the weights") as caught:
        depers.detect(tmp_path / "in", tmp_path / "other", weights=[weights], classes=["dog"])
    assert "\n" not in str(caught.value)  # a worker raised it, and Ray wrapped it
    assert capsys.readouterr() == ("", "")


def test_a_verb_starts_ray_and_ends_it(tmp_path: Path) -> None:
    """In a process of its own, where none runs."""
    program = f"""
import depers, ray
result = depers.normalize({str(tmp_path / "raw")!r}, {str(tmp_path / "out")!r}, val_fraction=0)
print(result.images["train"], ray.is_initialized())
"""
    (tmp_path / "raw/images").mkdir(parents=True)
    (tmp_path / "raw/labels").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "raw/images/a.jpg")
    (tmp_path / "raw/labels/a_car.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.stdout == "1 False\n", run.stderr
