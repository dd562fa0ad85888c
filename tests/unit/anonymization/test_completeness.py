"""Whether OUT, the manifest and INPUT hold the same, in one bucket and in many."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from depers.anonymization import completeness
from depers.anonymization.completeness import find_missing
from depers.anonymization.manifest import KEPT, SCHEMA, open_manifest
from depers.storage import tables

ROWS: list[dict[str, Any]] = [
    *({"path": f"{number}.jpg", "status": "redacted"} for number in range(40)),
    {"path": "failed.jpg", "status": "failed"},
    {"path": "kept.jpg", "status": "clean", "reason": KEPT},
    {"path": "gone.jpg", "status": "removed"},
    {"path": "a.tar", "status": "complete"},
    *({"path": "a.tar", "member": f"m{number}", "number": number, "status": "clean"} for number in range(3)),
    {"path": "empty.tar", "status": "complete"},
]
OUT = [*(f"{number}.jpg" for number in range(40)), "kept.jpg", "a.tar", "empty.tar"]
INPUTS = [*(f"{number}.jpg" for number in range(40)), "failed.jpg", "a.tar", "empty.tar"]
MEMBERS = {"a.tar": 3, "empty.tar": 0}
MISSING = "is missing from OUT"
ALL_MISSING = [(path, None, MISSING) for path in OUT if path != "a.tar"]
ALL_MISSING += [("a.tar", f"m{number}", MISSING) for number in range(3)]  # type: ignore[misc]


@pytest.mark.parametrize("bucket_rows", [1000, 5])
@pytest.mark.parametrize(
    ("out", "members", "inputs", "expected"),
    [
        (OUT, MEMBERS, INPUTS, []),
        (OUT, MEMBERS, None, []),
        (OUT[1:], MEMBERS, None, [("0.jpg", None, MISSING)]),
        (OUT, MEMBERS | {"a.tar": 2}, None, [("a.tar", "m2", MISSING)]),
        (OUT[:-1], {"a.tar": 3}, None, [("empty.tar", None, MISSING)]),
        (OUT, MEMBERS, [*INPUTS, "new.jpg"], [("new.jpg", None, "is in INPUT, but has no row in the manifest")]),
        (OUT, MEMBERS, INPUTS[1:], [("0.jpg", None, "has a row in the manifest, but is not in INPUT")]),
        ([], {}, None, ALL_MISSING),
    ],
)
def test_what_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bucket_rows: int,
    out: list[str],
    members: dict[str, int],
    inputs: list[str] | None,
    expected: list[tuple[str, str | None, str]],
) -> None:
    monkeypatch.setattr(completeness, "_BUCKET_ROWS", bucket_rows)
    rows = [{"reason": "", **row} for row in ROWS]
    tables.write_table(str(tmp_path / "m.parquet"), pa.Table.from_pylist(rows, schema=SCHEMA))
    parts = find_missing(open_manifest(str(tmp_path / "m.parquet")), out, members, inputs)
    findings = [(row["path"], row.get("member"), row["reason"]) for part in parts for row in part]
    assert sorted(findings, key=str) == sorted(expected, key=str)


def test_results_of_other_names_are_found_by_these(tmp_path: Path) -> None:
    rows = [{"path": f"{name}.jpg", "output_path": f"{name}x.jpg", "status": "clean", "reason": ""} for name in "ab"]
    tables.write_table(str(tmp_path / "m.parquet"), pa.Table.from_pylist(rows, schema=SCHEMA))
    parts = find_missing(open_manifest(str(tmp_path / "m.parquet")), ["ax.jpg", "b.jpg"], {}, ["a.jpg", "c.jpg"])
    assert [(row["path"], row["reason"]) for part in parts for row in part] == [
        ("bx.jpg", MISSING),
        ("c.jpg", "is in INPUT, but has no row in the manifest"),
        ("b.jpg", "has a row in the manifest, but is not in INPUT"),
    ]
