"""Tests of what a process measures: stages add up to a thread's time, and nothing counts twice."""

import threading
import time

import pyarrow as pa
import pytest

from depers.observation import meter
from depers.observation.failure_kinds import FailureKind, classify_reason
from depers.observation.meter import Measurement, Stage, StageTime, count, reading, stage, take, writing
from depers.observation.metrics import BYTES, FAILURES, FILES, METRICS, MetricKind
from depers.observation.rows import count_rows


@pytest.fixture(autouse=True)
def _fresh() -> None:
    take()


def test_an_inner_stage_has_its_seconds_for_itself() -> None:
    with stage(Stage.RECORD):
        time.sleep(0.02)
        with stage(Stage.WRITE):
            time.sleep(0.05)
        time.sleep(0.02)
    stages = take().stages
    assert 0.04 <= stages[Stage.RECORD].seconds < 0.09 and 0.05 <= stages[Stage.WRITE].seconds < 0.1
    assert stages[Stage.RECORD].cpu_seconds < 0.03  # sleeping is no work of a processor
    assert not take().stages  # it was taken


def test_a_stage_that_fails_counts_and_leaves_the_outer_one() -> None:
    with stage(Stage.RECORD):
        with pytest.raises(OSError), stage(Stage.WRITE):
            raise OSError
        time.sleep(0.02)
    stages = take().stages
    assert set(stages) == {Stage.RECORD, Stage.WRITE} and stages[Stage.RECORD].seconds >= 0.02


def test_threads_add_up() -> None:
    def work() -> None:
        for _ in range(100):
            count(FILES, "clean")
            with stage(Stage.DETECT):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measurement = take()
    assert measurement.sum(FILES) == 800 and set(measurement.stages) == {Stage.DETECT}


def test_measurements_add_up() -> None:
    first = Measurement({("a", "x"): 1}, {"read": StageTime(1, 0.5)})
    first.add(Measurement({("a", "x"): 2, ("b", ""): 1}, {"read": StageTime(2, 1), "write": StageTime(3, 0)}))
    assert first == Measurement({("a", "x"): 3, ("b", ""): 1}, {"read": StageTime(3, 1.5), "write": StageTime(3, 0)})


def test_storage_counts_bytes_and_time() -> None:
    assert reading(lambda: b"12345")() == b"12345"
    writing(lambda uri, data: None)("uri", b"123")
    measurement = take()
    assert measurement.counts == {(BYTES.name, "read"): 5, (BYTES.name, "written"): 3}
    assert set(measurement.stages) == {Stage.READ, Stage.WRITE}


def test_rows_are_counted_by_status_class_and_kind_of_failure() -> None:
    rows = [
        {"status": "redacted", "reason": "", "boxes": [{"class": "face"}, {"class": "car"}]},
        {"status": "redacted", "reason": "", "boxes": [{"class": "face"}]},
        {"status": "failed", "reason": "cannot be read (access denied)", "boxes": []},
        {"status": "skipped", "reason": "no image", "boxes": []},
    ]
    count_rows(pa.Table.from_pylist(rows))
    assert take().counts == {
        ("depers_files", "redacted"): 2,
        ("depers_files", "failed"): 1,
        ("depers_files", "skipped"): 1,
        ("depers_failures", FailureKind.STORAGE): 1,
        ("depers_boxes", "face"): 2,
        ("depers_boxes", "car"): 1,
    }


def test_a_table_of_a_thousand_classes_makes_few_labels() -> None:
    boxes = [{"class": f"c{number}"} for number in range(1000)]
    count_rows(pa.table({"boxes": [boxes]}))
    counts = take().counts
    assert len(counts) == 51 and counts["depers_boxes", "other"] == 950


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("cannot be read (access denied)", FailureKind.STORAGE),
        ("cannot be written (No space left on device)", FailureKind.STORAGE),
        ("must have at most 200 megapixels, but has 400", FailureKind.LIMIT),
        ("took longer than 300 s", FailureKind.LIMIT),
        ("has 1001 boxes, more than --max-detections", FailureKind.LIMIT),
        ("ends the process that works on it", FailureKind.CRASH),
        ("has no row in s3://bucket/manifest.parquet", FailureKind.BOXES),
        ("changed since its boxes were found", FailureKind.BOXES),
        ("makes the detector give numbers that are not finite", FailureKind.DETECTOR),
        ("detection failed (ValueError: x)", FailureKind.DETECTOR),
        ("is damaged (broken data stream)", FailureKind.DAMAGED),
        ("cannot be decoded (image file is truncated)", FailureKind.DAMAGED),
        ("a path must not have an empty part", FailureKind.NAME),
        ("something new", FailureKind.OTHER),
        ("", FailureKind.OTHER),
    ],
)
def test_reasons_have_kinds(reason: str, kind: FailureKind) -> None:
    assert classify_reason(reason) is kind


def test_metrics_are_well_named() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) and all(name.startswith("depers_") for name in names)
    assert all(bool(metric.boundaries) == (metric.kind is MetricKind.HISTOGRAM) for metric in METRICS)
    assert FAILURES.exported_name == "ray_depers_failures_total"
    assert not any(name.endswith("_total") for name in names)  # which Ray adds


def test_measuring_costs_next_to_nothing() -> None:
    began = time.thread_time()
    for _ in range(2000):
        with meter.stage(Stage.PREPARE):
            pass
    assert (time.thread_time() - began) / 2000 < 100e-6  # some microseconds; of an image that takes 30 ms
