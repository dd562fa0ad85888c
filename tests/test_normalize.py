"""Merging raw label files: the pure parts by tables, the whole verb on a real local Ray, over folders and S3."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depers import storage
from depers.labels import CLASSES, format_yolo, pairs, parse_yolo, read_dataset, read_labels
from depers.normalize import Options, plan, run, split
from depers.options import UserError
from depers.raw_labels import label_target, match_files, merge

BOX = "0 0.5 0.5 0.2 0.2\n"


def jpeg(shade: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), shade, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_raw(root: str, names: list[str], labels: dict[str, str | bytes]) -> str:
    for name in names:
        storage.write_bytes(storage.join(root, "images", name), jpeg())
    for name, text in labels.items():
        data = text if isinstance(text, bytes) else text.encode()
        storage.write_bytes(storage.join(root, "labels", name), data)
    return root


def problems_of(out: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(out / "problems.parquet").to_pylist())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_car..txt", ("a", "car")),
        ("a_car.txt", ("a", "car")),
        ("a_car.TXT", ("a", "car")),
        ("cam.1 - 2022_01.05_head..txt", ("cam.1 - 2022_01.05", "head")),
        ("x_face_car..txt", ("x_face", "car")),
        ("deep/er/a_carplate..txt", ("deep/er/a", "carplate")),
        ("missing_car..txt", ("", "car")),
        ("a_bus..txt", None),
        ("a..txt", None),
        ("a_car...txt", None),
        ("a_car", None),
        ("classes.txt", None),
    ],
)
def test_label_target(name: str, expected: tuple[str, str] | None) -> None:
    stems = dict.fromkeys(["a", "cam.1 - 2022_01.05", "x_face", "x", "deep/er/a"], "")
    assert label_target(name, stems, CLASSES) == expected


def test_label_target_of_classes_that_end_alike() -> None:
    classes = ("plate", "licence_plate")
    assert label_target("a_licence_plate..txt", {"a": ""}, classes) == ("a", "licence_plate")
    assert label_target("a_licence_plate..txt", {"a_licence": ""}, classes) == ("a_licence", "plate")
    assert label_target("a_licence_plate..txt", {"a": "", "a_licence": ""}, classes) == ("a", "licence_plate")


def test_match_files_reports_all_that_belongs_nowhere() -> None:
    files, problems = match_files(
        ["b.jpg", "a.png", "a.jpg", "Thumbs.db"], ["a_face..txt", "a_car..txt", "c_car..txt", "notes.txt"], CLASSES
    )
    assert files == {"a.jpg": [("a_car..txt", 0), ("a_face..txt", 2)], "b.jpg": []}
    assert {(p.path, p.kind, p.action) for p in problems} == {
        ("images/Thumbs.db", "not an image name", "left out"),
        ("images/a.png", "same name as another image", "left out"),
        ("labels/c_car..txt", "label without image", "left out"),
        ("labels/notes.txt", "not a label name", "left out"),
    }


@pytest.mark.parametrize(
    ("line", "boxes", "kind"),
    [
        ("0 0.5 0.5 0.2 0.2", [[0.5, 0.5, 0.2, 0.2]], ""),
        ("  0\t0.5 5e-1 .2 0.2  ", [[0.5, 0.5, 0.2, 0.2]], ""),
        ("0.0 0.5 0.5 1 1.000002", [[0.5, 0.5, 1, 1]], ""),
        ("0 0 0.5 0.2 0.2", [[0.05, 0.5, 0.1, 0.2]], "box outside the image"),
        ("0 0.5 0.5 3 3", [[0.5, 0.5, 1, 1]], "box outside the image"),
        ("0 1.5 0.5 0.2 0.2", [], "box outside the image"),
        ("0 320 240 64 48", [], "box outside the image"),
        ("0 0.5 0.5 0 0.2", [], "box without area"),
        ("0 0.5 0.5 -0.2 0.2", [], "box without area"),
        ("0 0.5 0.5 0.2 1e-9", [], "box without area"),
        ("0 nan 0.5 0.2 0.2", [], "not a finite number"),
        ("0 0.5 0.5 inf 0.2", [], "not a finite number"),
        ("0 0,5 0.5 0.2 0.2", [], "not a finite number"),
        ("car 0.5 0.5 0.2 0.2", [], "not a finite number"),
        ("0 0.5 0.5 0.2", [], "not five fields"),
        ("0 0.5 0.5 0.2 0.2 0.9", [], "not five fields"),
        ("3 0.5 0.5 0.2 0.2", [[0.5, 0.5, 0.2, 0.2]], "class id is not 0"),
        ("0 0.5 0.5 0.2 0.2\n0 0.5000001 0.5 0.2 0.2", [[0.5, 0.5, 0.2, 0.2]], "duplicate"),
    ],
)
def test_merge_lines(line: str, boxes: list[list[float]], kind: str) -> None:
    labels, problems = merge([("labels/a_face..txt", 2, line)])
    assert labels.class_ids.tolist() == [2] * len(boxes)
    np.testing.assert_allclose(labels.boxes_xywh, np.array(boxes).reshape(-1, 4), atol=2e-6)
    assert [problem.kind for problem in problems] == ([kind] if kind else [])


def test_merge_tells_lines_and_actions() -> None:
    text = "\ufeff0 0.5 0.5 0.2 0.2\r\n\r\n0 0 0 0.2 0.2\r\n0 0.5 0.5\r\n4 0.1 0.1 0.1 0.1\r\n0 0.5 0.5 0.2 0.2\r\n"
    labels, problems = merge([("labels/a_car..txt", 0, text), ("labels/a_head..txt", 1, "0 0.5 0.5 0.2 0.2")])
    assert labels.class_ids.tolist() == [0, 0, 0, 1]  # the same box of two classes is no duplicate
    assert [(problem.line, problem.action) for problem in problems] == [
        (3, "clipped"),
        (4, "dropped"),
        (5, "kept"),
        (6, "dropped"),
    ]


@given(st.text(alphabet="01.,-e naif_\n\r\t\x00x", max_size=80))
def test_merge_gives_valid_labels_whatever_the_text(text: str) -> None:
    labels, problems = merge([("labels/a_car..txt", 0, text)])
    assert len(parse_yolo(format_yolo(labels), 1, "it").class_ids) == len(labels.class_ids)
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    lost = [problem for problem in problems if problem.action == "dropped"]
    assert len(labels.class_ids) + len(lost) == len(lines)  # every line is a box or a problem


names = st.lists(st.text("abc019_. ", min_size=1, max_size=8), min_size=2, max_size=40, unique=True)


@given(names, st.floats(0, 0.99), st.integers(0, 5), st.randoms())
def test_split(paths: list[str], fraction: float, seed: int, random: Any) -> None:
    result = split(paths, fraction, seed)
    assert set(result) == set(paths)
    count = list(result.values()).count("val")
    assert abs(count - fraction * len(paths)) <= 1
    assert count < len(paths)
    assert (count > 0) == (fraction > 0)
    shuffled = random.sample(paths, len(paths))
    assert split(shuffled, fraction, seed) == result


def test_split_follows_the_seed_and_keeps_groups_whole() -> None:
    paths = [f"cam{camera}_{index:02}.jpg" for camera in range(8) for index in range(5)]
    assert split(paths, 0.25, 0) != split(paths, 0.25, 1)
    for pattern in (r"^cam\d", r"^cam(\d)_"):
        result = split(paths, 0.25, 0, pattern)
        cameras = {name: {path[3] for path in paths if result[path] == name} for name in ("train", "val")}
        assert not cameras["train"] & cameras["val"]
        assert len(cameras["val"]) == 2
    lopsided = ["a1", "a2", "a3", "a4", "b1", "b2", "b3"]
    assert set(split(lopsided, 0.01, 0, "^[ab]").values()) == {"train", "val"}
    with pytest.raises(UserError, match=r"--group-by .* 'cam0_00.jpg'"):
        split(paths, 0.25, 0, r"^dash")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"val_fraction": 1.0}, r"--val-fraction must be .* got 1"),
        ({"val_fraction": -0.1}, r"--val-fraction must be .* got -0.1"),
        ({"group_by": "("}, r"--group-by must be a regular expression"),
        ({"classes": ("car", "car")}, r"--classes must be different"),
        ({"classes": ("a/b",)}, r"--classes must be names without '/'"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options("raw", "out", **wrong)


def test_plan_refuses_what_gives_no_dataset(tmp_path: Path) -> None:
    raw, out = str(tmp_path / "raw"), str(tmp_path / "out")
    with pytest.raises(UserError, match="raw: no such folder"):
        plan(Options(raw, out))
    write_raw(raw, [], {"a.txt": BOX})
    with pytest.raises(UserError, match="raw/images: no such folder"):
        plan(Options(raw, out))
    storage.write_bytes(f"{raw}/images/readme.md", b"")
    with pytest.raises(UserError, match=r"must hold images .* none of 1"):
        plan(Options(raw, out))
    write_raw(raw, ["a.jpg"], {})
    with pytest.raises(UserError, match=r"IMAGE_CLASS..txt .* 'a.txt'"):
        plan(Options(raw, out))
    write_raw(raw, [], {"a_car..txt": BOX})
    for inside in (raw, f"{raw}/out", str(tmp_path)):
        with pytest.raises(UserError, match="OUT must lie outside RAW"):
            plan(Options(raw, inside))
    assert len(plan(Options(raw, out))[0]) == 1
    storage.write_bytes(f"{out}/images/val/old.jpg", jpeg())
    with pytest.raises(UserError, match=r"holds images/val/old.jpg"):
        plan(Options(raw, out))


def test_run(tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    names = ["street no.0.jpg", "street_1.x.jpg", "sub/street 2.jpg", *(f"plain{index}.jpg" for index in range(40))]
    write_raw(
        str(raw),
        names,
        {
            "street no.0_car..txt": BOX,
            "street no.0_carplate..txt": "0 0.1 0.1 0.1 0.1\r\n0 0 0 1 1\r\n",
            "street_1.x_face.txt": BOX * 2,
            "sub/street 2_head..txt": b"\xff\xfe broken",
            "nobody_car..txt": BOX,
        },
    )
    assert run(Options(str(raw), str(out), val_fraction=0.25)) == 0
    dataset = read_dataset(out)
    assert dataset.names == CLASSES
    assert dataset.train is not None and dataset.val is not None
    found = {image.removeprefix(f"{folder}/"): text for folder in dataset[2:4] for image, text in pairs(str(folder))}
    assert set(found) == set(names)
    assert len(pairs(dataset.val)) == 11
    labels = {path: read_labels(text, 5) for path, text in found.items()}
    assert labels["street no.0.jpg"].class_ids.tolist() == [0, 4, 4]
    assert labels["street no.0.jpg"].boxes_xywh[2].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert labels["street_1.x.jpg"].class_ids.tolist() == [2]
    assert labels["plain7.jpg"].class_ids.tolist() == []
    assert all(Path(text).is_file() for text in found.values())  # a background has an empty file
    rows = [(row["path"], row["line"], row["kind"], row["action"]) for row in problems_of(out)]
    assert rows == [
        ("labels/nobody_car..txt", 0, "label without image", "left out"),
        ("labels/street no.0_carplate..txt", 2, "box outside the image", "clipped"),
        ("labels/street_1.x_face.txt", 2, "duplicate", "dropped"),
        ("labels/sub/street 2_head..txt", 1, "not five fields", "dropped"),
    ]
    text = capsys.readouterr().out
    assert "32 images in train" in text and "11 images in val" in text
    assert "4 boxes: car 1, head 0, face 1, human 0, carplate 2" in text
    assert text.endswith(f"4 problems: {out}/problems.parquet\n")

    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert run(Options(str(raw), str(out), val_fraction=0.25)) == 0
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before
    assert run(Options(str(raw), str(out), val_fraction=0.25, strict=True)) == 3
    assert not (out / "data.yaml").exists()
    with pytest.raises(UserError, match="hold the same dataset"):
        run(Options(str(raw), str(out), val_fraction=0.25, seed=1))


def test_run_without_val_and_with_unusable_images(tmp_path: Path, ray_local: None) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_raw(str(raw), ["a.jpg", "b.jpg", "c.jpg"], {"a_car..txt": BOX, "b_car..txt": BOX})
    (raw / "images" / "b.jpg").write_bytes(jpeg()[:-200])
    (raw / "images" / "c.jpg").write_bytes(b"")
    assert run(Options(str(raw), str(out), val_fraction=0)) == 3
    dataset = read_dataset(out)
    assert dataset.val is None and dataset.train is not None
    assert [Path(image).name for image, _ in pairs(dataset.train)] == ["a.jpg"]
    assert [(row["path"], row["kind"]) for row in problems_of(out)] == [
        ("images/b.jpg", "unusable image"),
        ("images/c.jpg", "unusable image"),
    ]
    (raw / "images" / "a.jpg").write_bytes(b"text")
    with pytest.raises(UserError, match=r"no image can be decoded, such as images/a.jpg: not an image"):
        run(Options(str(raw), str(tmp_path / "none")))


def test_run_over_s3_gives_the_same_files(tmp_path: Path, s3_bucket: str, ray_local: None) -> None:
    names = ["a #1=é.jpg", "b c.jpg", "d.jpg"]
    labels: dict[str, str | bytes] = {"a #1=é_car..txt": BOX, "b c_face..txt": BOX, "d_head..txt": "0 0 0 1 1"}
    roots = {}
    for kind, base in (("local", str(tmp_path)), ("s3", s3_bucket)):
        raw = write_raw(storage.join(base, "raw"), names, labels)
        roots[kind] = storage.join(base, "out")
        assert run(Options(raw, roots[kind])) == 0
    local, remote = (
        {entry.path: storage.read_bytes(storage.join(root, entry.path)) for entry in storage.list_files(root)}
        for root in roots.values()
    )
    assert len(local) == 8
    assert remote == local
