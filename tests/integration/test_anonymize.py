"""`depers anonymize` for real: real Ray, real JPEGs, real S3 protocol, a real kill."""

import hashlib
import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import read_records, records, run_and_kill, run_depers, tree

from depers import storage
from depers.commands import anonymize
from depers.commands.anonymize import Options
from depers.errors import UserError
from depers.imaging.decoding import decode
from depers.storage import tables
from depers.street_scenes.scenes import draw_scene

NAMES = ["plain.jpg", "24-11-2021_05-31-51_AM.jpg", "a b/c=d#1.png", "a b/ü/straße.webp", "deep/e.r/x.bmp", "y.tif"]


@pytest.fixture(scope="session")
def weights(untrained: Callable[..., str]) -> str:
    return untrained("human", "car")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Street scenes in every format below odd names, and two files that are no images."""
    root = tmp_path_factory.mktemp("input")
    for index, name in enumerate(NAMES * 3):
        path = root / str(index // len(NAMES)) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_scene(index, 7, (320, 192)).image).save(path)
    (root / "notes.jpg").write_text("these are notes")
    (root / "empty.png").touch()
    return root


def options(folder: Path | str, out: Path | str, weights: str, **more: object) -> Options:
    return Options(input=str(folder), out=str(out), weights=(weights,), imgsz=320, confidence=0.003, **more)


@pytest.fixture(scope="session")
def done(ray_local: None, folder: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed run, which leaves its input as it was."""
    out, before = tmp_path_factory.mktemp("runs") / "out", tree(folder)
    assert anonymize.run(options(folder, out, weights)).partial
    assert tree(folder) == before
    return out


def test_every_input_has_one_row_and_its_mirror(done: Path, folder: Path) -> None:
    rows = tables.read_table(f"{done}-records/manifest.parquet").to_pylist()
    inputs = sorted(entry.path for entry in storage.list_files(str(folder)))
    assert [row["path"] for row in rows] == inputs
    for row in rows:
        target = done / row["path"]
        if row["path"] in ("notes.jpg", "empty.png"):
            assert row["status"] == "failed" and row["reason"] and not target.exists()
            continue
        assert row["status"] == "redacted"
        source, output = (folder / row["path"]).read_bytes(), target.read_bytes()
        assert row["input_sha256"] == hashlib.sha256(source).hexdigest()
        assert row["output_sha256"] == hashlib.sha256(output).hexdigest()
        assert Image.open(io.BytesIO(output)).format == Image.open(io.BytesIO(source)).format == row["format"]
        assert (row["width"], row["height"]) == Image.open(io.BytesIO(output)).size


def test_boxes_and_their_margin_are_redacted(done: Path, folder: Path) -> None:
    for row in tables.read_table(f"{done}-records/manifest.parquet").to_pylist():
        if row["status"] != "redacted" or not row["path"].endswith((".png", ".bmp")):
            continue
        before, after = (decode((root / row["path"]).read_bytes()).pixels for root in (folder, done))
        touched = np.zeros(before.shape[:2], bool)
        for box in row["boxes"]:
            grow_x, grow_y = 0.1 * (box["x_max"] - box["x_min"]), 0.1 * (box["y_max"] - box["y_min"])
            x0, y0 = max(0, int(box["x_min"] - grow_x)), max(0, int(box["y_min"] - grow_y))
            x1, y1 = int(np.ceil(box["x_max"] + grow_x)), int(np.ceil(box["y_max"] + grow_y))
            touched[y0:y1, x0:x1] = True
        assert (before[~touched] == after[~touched]).all()
        assert (before[touched] != after[touched]).any(axis=1).mean() > 0.5


def test_s3_on_both_sides_gives_the_same_bytes(
    done: Path, folder: Path, weights: str, s3_bucket: str, tmp_path: Path
) -> None:
    for entry in storage.list_files(str(folder)):
        storage.write_bytes(f"{s3_bucket}/in put/{entry.path}", (folder / entry.path).read_bytes())
    assert anonymize.run(options(f"{s3_bucket}/in put", f"{s3_bucket}/out=1#ö", weights)).partial
    for folder_name in ("out=1#ö", "out=1#ö-records"):
        for entry in storage.list_files(f"{s3_bucket}/{folder_name}"):
            data = storage.read_bytes(f"{s3_bucket}/{folder_name}/{entry.path}")
            storage.write_bytes(f"{tmp_path}/{folder_name}/{entry.path}", data)
    assert tree(tmp_path / "out=1#ö") == tree(done)
    here, there = tree(Path(f"{done}-records")), tree(tmp_path / "out=1#ö-records")
    assert all(there[name] == here[name] for name in ("manifest.parquet", "report.html"))


def test_staged_gives_the_same_images_as_fused(done: Path, folder: Path, weights: str, tmp_path: Path) -> None:
    assert anonymize.run(options(folder, tmp_path / "out", weights, topology="staged")).partial
    assert tree(tmp_path / "out") == tree(done)


def test_without_ray_come_the_same_images_and_manifest(done: Path, folder: Path, weights: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["anonymize", str(folder), str(out), "--weights", weights, "--imgsz", "320", "--confidence", "0.003"]
    code, said = run_depers(*command)  # the folder is small
    assert code == 3 and "local (processes of this machine, without Ray)" in said, said
    assert tree(out) == tree(done)
    assert tree(Path(f"{out}-records"))["manifest.parquet"] == tree(Path(f"{done}-records"))["manifest.parquet"]


def test_one_file_is_redacted_as_in_its_folder(done: Path, folder: Path, weights: str, tmp_path: Path) -> None:
    [name] = [name for name in NAMES if name == "plain.jpg"]
    for out, target in (("safe.JPEG", "safe.JPEG"), ("safe/", f"safe/{name}")):
        result = anonymize.run(options(folder / "0" / name, f"{tmp_path}/{out}", weights))
        assert result.out == str(tmp_path / target) and not result.partial
        assert Path(result.out).read_bytes() == (done / "0" / name).read_bytes()
        assert "looked for" in "\n".join(result.summary()) and result.manifest is None
    assert set(tree(tmp_path)) == {"safe.JPEG", f"safe/{name}"}
    (tmp_path / "broken.jpg").write_bytes((folder / "0" / name).read_bytes()[:1000])
    result = anonymize.run(options(tmp_path / "broken.jpg", tmp_path / "none.jpg", weights))
    assert result.partial and not (tmp_path / "none.jpg").exists()
    assert "nothing is written to" in result.summary()[0]


def test_killed_in_the_middle_and_run_again(done: Path, folder: Path, weights: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["anonymize", str(folder), str(out), "--weights", weights]
    command += ["--imgsz", "320", "--confidence", "0.003", "--workers", "1"]
    before = run_and_kill(out, *command)
    assert 0 < len(before) < len(records(done))
    code, said = run_depers(*command)
    assert code == 3, said
    assert records(out).items() >= before.items()
    assert tree(out) == tree(done)
    assert read_records(Path(f"{out}-records")) == read_records(Path(f"{done}-records"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "missing"}, "no such folder"),
        ({"input": "missing.jpg"}, "no such file or folder"),
        ({"input": "empty"}, "must hold at least one file"),
        ({"input": "file.jpg", "out": "file.png"}, "must end in .jpg as INPUT does"),
        ({"input": "file.jpg", "out": "file.jpg"}, "must be another file than INPUT"),
        ({"input": "file.jpg", "out": "safe.jpg", "records": "records"}, "--records is for folders"),
        ({"input": "text.pt", "out": "safe.pt"}, "must be an image, or an archive of images, but is neither"),
        ({"out": "input"}, "OUT must lie outside INPUT"),
        ({"out": "input/out"}, "OUT must lie outside INPUT"),
        ({"out": "."}, "OUT must lie outside INPUT"),
        ({"out": "full"}, "must be absent, an empty folder or an earlier run"),
        ({"weights": ("none.pt",)}, "no such weights file"),
        ({"weights": ("zero.pt",)}, "the file is empty"),
        ({"weights": ("text.pt",)}, "must be a YOLOv5 checkpoint"),
        ({"weights": ("any.pt:person=human",)}, "the class map names 'person', but the model's classes are human, car"),
        ({"classes": ("dog",)}, "--classes must be among those of the weights"),
    ],
)
def test_wrong_input_is_one_clear_line(
    ray_local: None, folder: Path, weights: str, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    for name in ("input/a.jpg", "file.jpg", "full/precious.jpg"):
        shutil.copy(folder / "0/plain.jpg", tmp_path / name)
    (tmp_path / "zero.pt").touch()
    (tmp_path / "text.pt").write_text("no weights")
    shutil.copy(weights, tmp_path / "any.pt")
    values: dict[str, object] = {"input": "input", "out": "out", "weights": ("any.pt",)} | change
    here = {name: f"{tmp_path}/{values[name]}" for name in ("input", "out", "records") if name in values}
    all_weights = tuple(f"{tmp_path}/{one}" for one in values["weights"])  # type: ignore[attr-defined]
    classes = values.get("classes", ())
    before = tree(tmp_path)
    with pytest.raises(Exception, match=r".") as caught:
        anonymize.run(Options(**here, weights=all_weights, classes=classes))  # type: ignore[arg-type]
    from depers.errors import as_user_error

    wrong = as_user_error(caught.value)
    assert isinstance(wrong, UserError) and message in str(wrong)
    assert "\n" not in str(wrong)
    assert tree(tmp_path) == before


def test_another_run_with_other_options_is_refused(done: Path, folder: Path, weights: str) -> None:
    with pytest.raises(UserError, match="holds a run with mode 'pixelate', but now it is 'fill'"):
        anonymize.run(options(folder, done, weights, mode="fill"))


def test_another_run_with_other_weights_is_refused(folder: Path, untrained: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    (tmp_path / "in").mkdir()
    shutil.copy(folder / "0" / "plain.jpg", tmp_path / "in")
    shutil.copy(untrained("human", "car"), file)
    first = replace(options(tmp_path / "in", tmp_path / "out", str(file)), confidence=0.99)
    with pytest.raises(UserError, match=r"^--stop-after-clean 1: 1 images in a row have not one box: check --weights"):
        anonymize.run(replace(first, stop_after_clean=1))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["plain.jpg"]  # nor is anything left of the lease
    shutil.copy(untrained("human"), file)  # other bytes under the same name
    with pytest.raises(UserError, match="holds a run with weights_sha256"):
        anonymize.run(first)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"confidence": 2.0}, "--confidence must be above 0 and below 1, but got 2"),
        ({"imgsz": 100}, "--imgsz must be a positive multiple of 32, but got 100"),
        ({"margin": -1.0}, "--margin must be between 0 and 2, but got -1"),
        ({"weights": ("w.pt:person=dog",)}, "a class must be one of car, head, face, human, carplate, but got 'dog'"),
        ({"input": "http://x"}, "INPUT must be a path or an s3:// URI"),
    ],
)
def test_wrong_options_fail_before_ray_starts(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options(**({"input": "in", "out": "out", "weights": ("w.pt",)} | wrong))  # type: ignore[arg-type]
