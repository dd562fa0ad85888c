"""Tests of results: what failed is counted, and the first of it told."""

import pyarrow as pa

from depers.runtime.results import FailureCounter


def test_failures_that_are_not_told_are_counted_and_somewhere() -> None:
    counter = FailureCounter("out/backgrounds.parquet")
    paths = [str(number) for number in range(14)]
    counter.add(pa.table({"path": paths, "status": ["failed"] * 13 + ["used"], "reason": ["gone"] * 14}))
    failures = counter.failures()
    assert failures.count == 13 and len(failures.lines()) == 11
    assert failures.lines()[-2:] == ["failed: 9: gone", "… and 3 more failed: see out/backgrounds.parquet"]


def test_failures_name_the_member() -> None:
    counter = FailureCounter("manifest")
    rows = {"path": ["a.tar"] * 3, "member": [None, "x.jpg", "y.jpg"], "reason": ["cut off", "damaged", None]}
    counter.add(pa.table(rows | {"status": ["incomplete", "failed", "clean"]}))
    assert counter.failures().lines() == ["incomplete: a.tar: cut off", "failed: a.tar: x.jpg: damaged"]
