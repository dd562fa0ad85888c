"""Boxes from elsewhere: every source says the same, and what it does not speak of fails."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depers.detection.detections import SCHEMA
from depers.errors import UserError
from depers.imaging.headers import ImageError
from depers.pipeline.box_sources import (
    BoxSource,
    ImageFacts,
    check_class_lists,
    find_ambiguous_texts,
    find_box_source,
    find_previous_source,
    read_boxes,
)
from depers.pipeline.box_tables import DOUBLED, BoxTable, Row, RowsByPath

BOX: dict[str, Any] = {"class": "car", "confidence": 0.5, "x_min": 1.0, "y_min": 2.0, "x_max": 11.0, "y_max": 22.0}


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> str:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return str(path)


def read_rows(uri: str) -> RowsByPath:
    return RowsByPath(pa.concat_tables(BoxTable(uri).read()))


def test_rows_are_found_by_path_and_number(tmp_path: Path) -> None:
    rows = [{"path": "b.tar", "number": number, "boxes": []} for number in (1, 0)]
    rows += [{"path": "b.tar", "status": "complete"}, {"path": "a.jpg", "boxes": [BOX]}, {"path": "ü.jpg", "boxes": []}]
    found = read_rows(write(tmp_path / "d.parquet", rows))
    assert (
        set(found.of("b.tar")) == {0, 1, None}
        and found.of("c.jpg") == {}
        and sorted(found) == ["a.jpg", "b.tar", "ü.jpg"]
    )
    assert found.of("a.jpg")[None]["boxes"][0]["x_max"] == 11


def read(source: BoxSource, row: Row | None, classes: tuple[str, ...] = (), **facts: Any) -> list[Row]:
    image: dict[str, Any] = {"place": "a.jpg", "data": b"data", "size_wh": (50, 50)}
    return read_boxes(source, row, ImageFacts(**image | facts), classes)


def test_boxes_below_the_threshold_do_not_count() -> None:
    row = {"boxes": [BOX, BOX | {"class": "face", "confidence": 0.2}, BOX | {"confidence": None}]}

    def names(source: BoxSource, classes: tuple[str, ...] = ()) -> list[str]:
        return [box["class"] for box in read(source, row, classes)]

    assert names(BoxSource("t")) == ["car", "face", "car"]
    assert names(BoxSource("t", confidence=0.3)) == ["car", "car"]
    assert names(BoxSource("t", confidence=0.3, thresholds={"face": 0.1, "car": 0.6})) == ["face", "car"]
    assert names(BoxSource("t"), ("face",)) == ["face"]


DIGEST = hashlib.sha256(b"data").hexdigest()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (None, "has no row in t"),
        ({"status": "failed", "reason": "broken", "boxes": []}, "failed when its boxes were found: broken"),
        ({"status": "skipped", "boxes": []}, "is skipped in t: nobody looked for boxes"),
        ({"status": "passed_through", "boxes": []}, "is passed_through in t"),
        ({"status": "complete", "boxes": []}, "is complete in t"),
        ({"boxes": None}, "has lost its boxes"),
        ({"status": "redacted", "boxes": []}, "has lost its boxes"),
        ({"boxes": [], DOUBLED: True}, "has several rows in t"),
        ({"input_sha256": hashlib.sha256(b"other").hexdigest(), "boxes": []}, "changed since its boxes were found"),
        ({"boxes": [], "width": 50, "height": 60}, "is 50 × 50 pixels, but its boxes are of 50 × 60"),
        ({"boxes": [], "frames": 2}, "holds 1 frames, but its boxes are of 2"),
        ({"boxes": [], "member": "b.jpg"}, "is called b.jpg in t"),
        ({"boxes": [None]}, "has a box without edges"),
    ],
)
def test_a_row_that_says_nothing_of_this_image_fails(row: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read(BoxSource("t"), row, member="a.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_min": None}, "must be numbers"),
        ({"x_min": math.nan}, "must be numbers"),
        ({"x_max": math.inf}, "must be numbers"),
        ({"x_max": 1e300}, "must be numbers"),  # float32 holds none
        ({"x_min": 20.0}, "must be x_min < x_max and y_min < y_max"),
        ({"y_max": 2.0}, "must be x_min < x_max and y_min < y_max"),
        ({"x_max": 1.0 + 1e-9}, "must be x_min < x_max and y_min < y_max"),
        ({"x_min": 50.0, "x_max": 60.0}, "must lie in its 50 × 50 pixels"),
        ({"y_min": -9.0, "y_max": 0.0}, "must lie in its 50 × 50 pixels"),
        ({"x_min": 0.2, "y_min": 0.2, "x_max": 0.6, "y_max": 1.0}, "must be pixels, not shares"),
        ({"x_min": 0.2, "y_min": 0.2, "x_max": 0.6, "y_max": 1.0000001}, "must be pixels, not shares"),
        ({"confidence": math.nan}, "confidence nan, which must lie in 0…1"),
        ({"confidence": math.inf}, "confidence inf, which must lie in 0…1"),
        ({"confidence": -0.1}, "confidence -0.1, which must lie in 0…1"),
        ({"confidence": 1.5}, "confidence 1.5, which must lie in 0…1"),
        ({"frame": 1}, "holds 1 frames, but has a box in frame 1"),
        ({"frame": -1}, "holds 1 frames, but has a box in frame -1"),
        ({"frame": 0.5}, "holds 1 frames, but has a box in frame 0.5"),
    ],
)
def test_a_box_that_cannot_be_meant_fails_its_image(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read(BoxSource("t", confidence=0.9), {"boxes": [BOX, BOX | change]})


def test_a_box_may_reach_over_the_edge() -> None:
    [box] = read(BoxSource("t"), {"boxes": [BOX | {"x_min": -9.0, "y_max": 99.0, "frame": 0.0}]})
    assert (box["x_min"], box["y_max"], box["frame"]) == (-9, 99, 0)


def test_boxes_of_several_frames_say_in_which() -> None:
    assert [box["frame"] for box in read(BoxSource("t"), {"boxes": [BOX | {"frame": 1}]}, frames=2)] == [1]
    with pytest.raises(ImageError, match="holds 2 frames, but has a box that does not say in which"):
        read(BoxSource("t"), {"boxes": [BOX]}, frames=2)


def test_an_earlier_run_is_believed_about_its_own_files_only() -> None:
    row = {"status": "redacted", "boxes": [BOX]}
    assert read(BoxSource("t", checked=True), row | {"input_sha256": DIGEST.upper()})
    with pytest.raises(ImageError, match="has no digest in t"):
        read(BoxSource("t", checked=True), row)


@pytest.mark.parametrize("name", ["Car", " car", "CAR ", "ｃａｒ", None, ""])
def test_a_class_that_may_be_meant_is_not_left_out(name: str | None) -> None:
    assert read(BoxSource("t"), {"boxes": [BOX | {"class": name}]})
    with pytest.raises(ImageError, match="which may be meant by --classes car"):
        read(BoxSource("t"), {"boxes": [BOX | {"class": name}]}, ("car",))


def test_all_boxes_of_an_earlier_run_count_unless_this_one_says_which(tmp_path: Path) -> None:
    table = write(tmp_path / "d.parquet", [])
    assert find_previous_source(table, None, {}).confidence == 0
    assert find_previous_source(table, 0.3, {}).confidence == 0.3
    assert find_previous_source(table, 0.3, {"face": 0.1, "car": 0.6}).confidence == 0.1
    assert find_previous_source(table, None, {"face": 0.5}).confidence == 0.5


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels/d").mkdir(parents=True)
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbflicense plate\r\n\r\n  human \r\n")
    return tmp_path


def test_yolo_texts_are_boxes_in_pixels(labels: Path) -> None:
    (labels / "labels/d/a.1.txt").write_text("2 0.5 0.5 0.2 0.4 0.77\n")
    source = find_box_source(str(labels), ["human"])
    assert source.names == ("license plate", "", "human")
    [box] = read(source, None, ("human",), place="d/a.1.jpg", size_wh=(100, 50))
    assert box == {"class": "human", "confidence": None, "x_min": 40, "y_min": 15, "x_max": 60, "y_max": 35} | {
        "model": "labels", "frame": 0,
    }  # fmt: skip
    (labels / "labels/d/empty.txt").touch()
    assert read(source, None, place="d/empty.png") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no labels at"),
        (b"7 0.5 0.5 0.2 0.4", "labels that cannot be read .*class id"),
        (b"-1 0.5 0.5 0.2 0.4", "class id"),
        (b"1 0.5 0.5 0.2 0.4", "every class id must have a name, but 1 has none"),
        (b"2 0.5 0.5 0.2", "must be five numbers"),
        (b"2 0.5 0.5 0.2 0.4 nan", "the confidence must be a number in 0…1, but got 'nan'"),
        (b"2 0.5 0.5 0.2 0.4 55", "the confidence must be a number in 0…1"),
        (b"2 0.5 0.5 nan 0.4", "the width must be a number"),
        (b"2 0.5 0.5 0.2 0", "width and height must be more than 0"),
        (b"2 320 240 60 40", "the center x must be a number in 0…1"),
        (b"2 1 0.5 1e-12 0.4", "must be x_min < x_max"),
        (b"2 1.001 0.5 0.00001 0.4", "must lie in its 100 × 50 pixels"),
        (b"\0\0\0\0", "labels that cannot be read"),
        (b"2 0.5 0.5 0.2 0.4\0", "labels that cannot be read"),
        ("# übrig".encode("latin-1"), "labels that cannot be read"),
        ("2 0.5 0.5 0.2 0.4".encode("utf-16"), "labels that cannot be read"),
    ],
)
def test_texts_that_say_nothing_fail_their_image(labels: Path, text: bytes | None, message: str) -> None:
    if text is not None:
        (labels / "labels/a.txt").write_bytes(text)
    with pytest.raises(ImageError, match=message):
        read(find_box_source(str(labels)), None, size_wh=(100, 50))


def test_a_text_speaks_of_one_image_with_one_frame(labels: Path) -> None:
    (labels / "labels/a.txt").write_text("2 0.5 0.5 0.2 0.4")
    source = find_box_source(str(labels))
    with pytest.raises(ImageError, match=r"holds 2 frames, but a YOLO text, a\.txt, can speak of one only"):
        read(source, None, frames=2)
    ambiguous = find_ambiguous_texts(["a.jpg", "a.PNG", "b.jpg", "b.json", "d/a.heic"])
    assert ambiguous == {"a.txt"}
    assert find_ambiguous_texts(["a.jpg", "a.pjpeg", "b", "b.png", "c.bin", "c.txt"]) == {"a.pjpeg", "b"}
    assert find_ambiguous_texts(["a.zip/b.png", "a.zip/d/c", "b.png", "c.zip/b.png"], {"a.zip"}) == {
        "a.zip/b.txt", "a.zip/d/c.txt",
    }  # fmt: skip
    assert find_ambiguous_texts(["a.bin", "a.dat", "b.dat", ".", "x/."]) == {"a.bin", "a.dat"}
    with pytest.raises(ImageError, match=r"shares its labels, a\.txt, with another image"):
        read(source._replace(ambiguous=frozenset({"a.jpg"})), None)
    with pytest.raises(ImageError, match=r"shares its labels, a\.txt, with another image"):
        read(source._replace(ambiguous=ambiguous), None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.txt", b"", "is empty"),
        ("classes.txt", b"\n \n", "is empty"),
        ("classes.txt", "plaque d'été".encode("latin-1"), "holds other bytes than UTF-8"),
        ("classes.txt", b"car\ncar\n", "a list of different class names, .* but has 'car' 2 times"),
        ("classes.txt", b"ca\0r\n", "line 1: a class name must be plain text"),
        ("classes.txt", b"license plate\nHuman\n", "--classes must be among those of .* but got 'human'"),
        ("labels/d/classes.txt", b"human\nlicense plate\n", "d/classes.txt: the classes must be those of"),
        ("data.yaml", b"names: [human]\n", "the classes must be the same in .*classes.txt and .*data.yaml, but differ"),
    ],
)
def test_class_lists_that_will_not_do(labels: Path, name: str, content: bytes, message: str) -> None:
    (labels / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        source = find_box_source(str(labels), ["human"])
        check_class_lists(source, ["d/a.txt", "d/classes.txt"])


def test_partly_labelled_datasets_say_nothing_of_the_rest(tmp_path: Path) -> None:
    for folder in ("images/train", "labels"):
        (tmp_path / folder).mkdir(parents=True)
    text = "train: images/train\nval: images/train\nnames: [car, face]\nlabelled: {cars/: [car]}\n"
    (tmp_path / "data.yaml").write_text(text)
    assert find_box_source(str(tmp_path), ["car"]).names == ("car", "face")
    with pytest.raises(UserError, match="images below 'cars/' must be labelled for face, but are only for car"):
        find_box_source(str(tmp_path))


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a table of detections, or a folder"):
        find_box_source(str(tmp_path))
    with pytest.raises(UserError, match="must hold a manifest or detections"):
        find_previous_source(str(tmp_path), 0.1, {})
    with pytest.raises(UserError, match="no such table"):
        BoxTable(str(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(UserError, match="must be a Parquet table of boxes"):
        BoxTable(str(tmp_path / "text.parquet"))
    with pytest.raises(UserError, match="has no boxes"):
        read_rows(write(tmp_path / "x.parquet", [{"path": "a"}], pa.schema([("path", pa.string())])))


@pytest.mark.parametrize(
    ("status", "metadata", "message"),
    [
        ("detected", {"depers.detections": "2"}, ""),
        ("clean", {"depers.manifest": "2"}, ""),
        ("detected", None, ""),  # edited by a program that loses the version
        ("ok", None, "status must be one of .*, but is 'ok'"),
        ("detected", {"depers.detections": "1"}, "must be a table of version 2, but its version is 1"),
        ("clean", {"depers.manifest": "3"}, "must be a table of version 2, but its version is 3"),
    ],
)
def test_tables_of_another_version_are_refused(
    tmp_path: Path, status: str, metadata: dict[str, str] | None, message: str
) -> None:
    rows = [{"path": "a.jpg", "status": status, "boxes": [BOX]}]
    table = write(tmp_path / "d.parquet", rows, SCHEMA.with_metadata(metadata))
    if not message:
        assert list(read_rows(table)) == ["a.jpg"]
        return
    with pytest.raises(UserError, match=message):
        read_rows(table)
