"""Where INPUT, OUT and records may lie: apart, links resolved."""

from pathlib import Path

import pytest

from depers.commands import anonymize, audit
from depers.errors import UserError
from depers.pipeline.options import find_records
from depers.pipeline.run import refuse_overlap


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"OUT": "out", "INPUT": "in", "records": "out-records"}, ""),
        ({"OUT": "out", "INPUT": "in", "records": None}, ""),
        ({"OUT": "out", "INPUT": "in", "records": "out/records"}, "OUT must lie outside records and records outside"),
        ({"OUT": "out", "INPUT": "in", "records": "link-to-out/records"}, "OUT must lie outside records"),
        ({"OUT": "records/out", "INPUT": "in", "records": "records"}, "OUT must lie outside records"),
        ({"OUT": "out", "INPUT": "in", "records": "in"}, "INPUT must lie outside records and records outside INPUT"),
        ({"OUT": "out", "INPUT": "out-records/in", "records": "out-records"}, "INPUT must lie outside records"),
        ({"OUT": "out", "INPUT": "link-to-out", "records": "x"}, "OUT must lie outside INPUT and INPUT outside OUT"),
        ({"OUT": "s3://b/out", "INPUT": "s3://b/in", "records": "s3://b/out-records"}, ""),
        ({"OUT": "s3://b/out", "INPUT": "s3://b/in", "records": "s3://b/out/x"}, "OUT must lie outside records"),
        ({"OUT": "s3://b/out", "INPUT": "s3://b", "records": "s3://b/out-records"}, ""),
        ({"OUT": "s3://b/out", "INPUT": "s3://b", "records": "s3://b/out/x"}, "OUT must lie outside records"),
        ({"OUT": "s3://b", "INPUT": "s3://b", "records": "s3://c"}, "OUT must lie outside INPUT"),
        ({"OUT": "s3://b/a/out", "INPUT": "s3://b/a", "records": "s3://c"}, "OUT must lie outside INPUT"),
        ({"OUT": "s3://b", "INPUT": "s3://b/a", "records": "s3://c"}, "OUT must lie outside INPUT"),
        ({"OUT": "s3://b", "INPUT": "in", "records": "s3://b/x"}, "OUT must lie outside records"),
    ],
)
def test_places_lie_apart(tmp_path: Path, places: dict[str, str | None], message: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link-to-out").symlink_to("out")
    uris = {name: uri if uri is None or "://" in uri else f"{tmp_path}/{uri}" for name, uri in places.items()}
    if not message:
        refuse_overlap(uris)
        return
    with pytest.raises(UserError, match=message):
        refuse_overlap(uris)


def test_records_are_found_beside_out_or_where_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_records("safe/", None) == f"{tmp_path}/safe-records"
    assert find_records("s3://bucket/safe", None) == "s3://bucket/safe-records"
    assert find_records("s3://bucket", "s3://other/records/") == "s3://other/records"


def test_a_whole_bucket_needs_a_place_for_its_records() -> None:
    message = r"^s3://bucket: has no folder beside it for its records, which must not lie in it: name it \(--records\)$"
    with pytest.raises(UserError, match=message):
        anonymize.Options("in", "s3://bucket", boxes="boxes")
    with pytest.raises(UserError, match=message):
        audit.Options("s3://bucket")
    anonymize.Options("in", "s3://bucket", boxes="boxes", records="s3://other")
