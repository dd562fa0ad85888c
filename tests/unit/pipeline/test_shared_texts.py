"""YOLO texts that several images would have: refused where names tell, failed rows where only reading does."""

from typing import Any

import pyarrow as pa
import pytest

from depers.commands import detect
from depers.detection.detections import SCHEMA
from depers.errors import UserError
from depers.pipeline.steps import Item
from depers.storage import Entry

OUT = "s3://bucket/out"


def entries(*paths: str) -> list[Entry]:
    return [Entry(path, 1, "tag") for path in paths]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("b.jpg", "b.png"), r"for 'b\.jpg' and 'b\.png' their result would be called labels/b\.txt$"),
        (("a/x.jpg", "a//x.jpg"), "be called labels/a/x.txt"),
        (("a.zip", "a.zip/b.png"), r"'a\.zip/b\.png' lies below the archive 'a\.zip', whose members may have its text"),
        (("a.zip", "a.zip/deep/b"), "lies below the archive"),
        (("a.tar", "a.tar/b.zip"), "lies below the archive"),
    ],
)
def test_what_names_tell_is_refused(paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        detect.check_texts(OUT, entries(*paths))
    assert "\n" not in str(caught.value)


def test_what_only_reading_tells_fails_by_place() -> None:
    listing = entries("a.jpg", "a.zip", "a.json", "a.txt", "b.jpg", "b.heics", "c.bin", "c.dat", "d.zip", ".")
    assert detect.check_texts(OUT, listing) == {"b.heics", "c.bin", "c.dat"}
    assert detect.check_texts(OUT, [Entry("x.jpg", 0, "", "skipped", "a link"), *entries("x.png")]) == frozenset()


def test_an_image_of_another_name_writes_no_text_over_another(tmp_path: Any) -> None:
    item = Item("b.heics", b"image", size_wh=(8, 8))
    row = detect.write_boxes(item, [], str(tmp_path), ambiguous=frozenset({"b.heics"})).row
    assert row["status"] == "failed" and row["reason"].startswith("shares its YOLO text, labels/b.txt, with another")
    assert not list(tmp_path.iterdir())
    assert detect.write_boxes(item, [], str(tmp_path)).row["status"] == "detected"


def test_members_that_share_a_text_fail() -> None:
    members = {"a.jpg": "", "a.png": "", "deep/a.png": "", "A.jpg": "", "a.gif": "holds 3 frames", "n.txt": ""}
    rows: list[dict[str, Any]] = [{"path": "z.zip", "status": "complete"}]
    for number, (name, reason) in enumerate(members.items()):
        status = "skipped" if name == "n.txt" else "detected"
        rows.append({"path": "z.zip", "member": name, "number": number, "status": status, "reason": reason})
    table = pa.Table.from_pylist(rows, SCHEMA)
    checked = detect.fail_shared_texts(table)
    assert checked.schema == table.schema
    failed = [row["member"] for row in checked.to_pylist() if row["status"] == "failed"]
    assert failed == ["a.jpg", "a.png"]
    failed = [row["member"] for row in detect.fail_shared_texts(table, str.casefold).to_pylist() if row["reason"]]
    assert failed == ["a.jpg", "a.png", "A.jpg", "a.gif"]
    assert detect.fail_shared_texts(table.slice(0, 2)).equals(table.slice(0, 2))
