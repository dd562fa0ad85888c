"""What an audit finds in one object, by its manifest row; runs for real are in test_anonymize_archives."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from depers.anonymization import audit_step
from depers.anonymization.audit_report import FindingStatistics, make_report
from depers.anonymization.audit_step import FindingRow, check_item, measure_coverage
from depers.anonymization.manifest import SCHEMA, ManifestRow, WrittenRows, open_manifest
from depers.detection import detections
from depers.detection.detections import DetectionRow
from depers.errors import UserError
from depers.pipeline.steps import Item
from depers.storage import tables


def box(x0: float, y0: float, x1: float, y1: float, **more: Any) -> dict[str, Any]:
    edges = {"x_min": x0, "y_min": y0, "x_max": x1, "y_max": y1}
    return {"class": "car", "confidence": 0.5, "model": "m", "frame": 0} | edges | more


def jpeg(comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "JPEG", comment=comment)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("found", "redacted", "margin", "share"),
    [
        ((10, 10, 30, 30), [], 0, 0.0),
        ((10, 10, 30, 30), [(10, 10, 30, 30)], 0, 1.0),
        ((10, 10, 30, 30), [(10, 10, 20, 30)], 0, 0.5),
        ((10, 10, 30, 30), [(10, 10, 20, 30), (5, 10, 20, 30)], 0, 0.5),  # what is covered twice counts once
        ((10, 10, 30, 30), [(10, 10, 20, 30), (20, 10, 30, 20)], 0, 0.75),
        ((10, 10, 30, 30), [(12, 12, 28, 28)], 0.125, 1.0),
        ((10, 10, 10, 30), [], 0, 1.0),
    ],
)
def test_how_much_of_a_box_is_redacted(found: Any, redacted: list[Any], margin: float, share: float) -> None:
    precomputed = {"boxes": [box(*one) for one in redacted], "margin": margin}
    assert measure_coverage(box(*found), precomputed, (64, 48)) == share


def test_a_box_in_another_frame_covers_nothing() -> None:
    precomputed = {"boxes": [box(10, 10, 30, 30, frame=1)], "margin": 0}
    assert measure_coverage(box(10, 10, 30, 30), precomputed, (64, 48)) == 0


def row(data: bytes, **more: Any) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    return {"status": "redacted", "member": None, "output_sha256": digest, "boxes": [], "margin": 0.1} | more


@pytest.mark.parametrize(
    ("item", "boxes", "reason"),
    [
        (Item("a.jpg", jpeg(), precomputed=row(jpeg()), size_wh=(64, 48)), [], ""),
        (Item("a.jpg", jpeg()), [], "has no row in the manifest"),
        (
            Item("a.jpg", jpeg(), precomputed=row(b"other"), size_wh=(64, 48)),
            [],
            "its digest is not that in the manifest",
        ),
        (Item("a.jpg", jpeg(b"secret"), precomputed=row(jpeg(b"secret")), size_wh=(64, 48)), [], "holds"),
        (Item("a.jpg", jpeg(), precomputed=row(jpeg()), size_wh=(64, 48)), [box(1, 1, 9, 9)], "still shows 1 × car"),
        (
            Item("a.jpg", jpeg(), precomputed=row(jpeg(), boxes=[box(0, 0, 9, 9)]), size_wh=(64, 48)),
            [box(1, 1, 9, 9)],
            "",
        ),
        (
            Item("a.tar", jpeg(), member="b", number=0, precomputed=row(jpeg(), member="c"), size_wh=(64, 48)),
            [],
            "must be c",
        ),
        (Item("a.txt", b"text", status="passed_through", precomputed=row(b"text", status="passed_through")), [], ""),
        (Item("a.jpg", reason="cannot be read (denied)", retry=True, precomputed=row(jpeg())), [], "cannot be read"),
    ],
)
def test_what_is_wrong_with_one_object(item: Item, boxes: list[dict[str, Any]], reason: str) -> None:
    found = check_item(item, boxes).row
    assert found["status"] == ("wrong" if reason else "sound")
    assert reason in found["reason"] and bool(found["reason"]) == bool(reason)
    assert len(found["boxes"]) == ("still shows" in reason)


def test_the_rows_of_an_archive_are_those_of_the_new_one(tmp_path: Path) -> None:
    statuses = ["failed", "redacted", "skipped", "passed_through", "clean"]
    rows: list[dict[str, Any]] = [
        {"path": "a.tar", "member": str(number), "number": number, "status": status, "boxes": []}
        for number, status in enumerate(statuses)
    ]
    rows += [{"path": "a.tar", "status": "complete", "output_sha256": "x"}, {"path": "b.tar", "status": "failed"}]
    rows += [{"path": "c.jpg", "status": "clean"}, {"path": "d.jpg", "status": "failed"}]
    tables.write_table(str(tmp_path / "m.parquet"), pa.Table.from_pylist(rows, schema=SCHEMA))
    written = WrittenRows(pa.concat_tables(open_manifest(str(tmp_path / "m.parquet")).read()))
    assert {place: one["member"] for place, one in written.of("a.tar").items()} == {0: "1", 1: "3", 2: "4"}
    assert list(written.of("c.jpg")) == [None] and written.of("d.jpg") == {} and written.of("e.jpg") == {}
    assert (written.archive_row("a.tar") or {})["output_sha256"] == "x" and written.archive_row("b.tar") is None


def test_the_report_lists_and_escapes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    rows = [
        {"path": "a.jpg", "status": "wrong", "reason": "still shows 1 × car", "boxes": [box(1, 1, 30, 30)]},
        {"path": "<b>.jpg", "status": "wrong", "reason": "is missing from OUT", "boxes": []},
        {"path": "c.jpg", "status": "sound", "reason": "", "boxes": []},
    ]
    wrong = FindingStatistics()
    wrong.add(pa.Table.from_pylist(rows, schema=audit_step.SCHEMA))
    assert (wrong.total, wrong.wrong) == (3, 2)
    places = {("a.jpg", None): {"path": "a.jpg", "number": None, "output_offset": None}}
    page = make_report(str(tmp_path), wrong, places, with_detector=True)
    assert "&lt;b&gt;.jpg" in page and "<b>" not in page and "data:image/jpeg" in page and "Not checked" not in page
    assert "Not checked" in make_report(str(tmp_path), FindingStatistics(), {}, with_detector=False)


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    for metadata in (None, {"depers.manifest": "1"}, {"depers.detections": "2"}):
        table = pa.Table.from_pylist([], schema=SCHEMA.with_metadata(metadata))
        tables.write_table(str(tmp_path / "m.parquet"), table)
        with pytest.raises(UserError, match=r"must be a table of version 2, but its version is (none|1)"):
            open_manifest(str(tmp_path / "m.parquet"))


def test_rows_have_the_columns_of_their_tables() -> None:
    assert {*ManifestRow._fields, "output_offset", "output_path", "output_member", "arithmetic"} == set(SCHEMA.names)
    assert set(FindingRow._fields) == set(audit_step.SCHEMA.names)
    assert {*DetectionRow._fields, "arithmetic"} == set(detections.SCHEMA.names)
