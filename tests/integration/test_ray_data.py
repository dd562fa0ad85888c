"""The pass as a Ray Data job: a file that ends the process that works on it, or never ends, costs one row."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import ray
from ray import cloudpickle

from depers.detection.detections import SCHEMA
from depers.detection.settings import InferenceSettings
from depers.errors import as_user_error
from depers.pipeline import local, ray_data, run
from depers.pipeline.box_tables import Row
from depers.pipeline.ray_data import PassRun
from depers.pipeline.steps import Item, Outcome, PassJob
from depers.runtime import tasks, units
from depers.runtime.crash_ledger import CRASHED
from depers.runtime.file_guard import FileGuard
from depers.runtime.local_pool import PoolPlan, open_pool
from depers.runtime.tasks import run_file_tasks, run_tasks
from depers.storage.failures import OutageError


def finish(item: Item, boxes: Sequence[Row]) -> Outcome:
    """Record a file as failed; poisonous ones end the process, slow ones never end."""
    if item.path.startswith("poisonous") and "ends the process" not in item.reason:
        os._exit(1)
    while item.path.startswith("slow") and "took longer" not in item.reason:
        pass
    sides = {"width": 0, "height": 0, "boxes": []}
    return Outcome({"path": item.path, "status": "failed", "reason": item.reason} | sides, None)


@pytest.fixture(params=["fused", "staged", "local"])
def topology(request: pytest.FixtureRequest) -> Iterator[str]:
    """How a pass runs, with what it runs on."""
    name: str = request.param
    if name == "local":
        with open_pool(PoolPlan(("depers.pipeline.local",), 1)):
            yield name
    else:
        request.getfixturevalue("ray_local")
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its processes do not find this module
        yield name
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_poisonous_file_costs_one_row(topology: str, tmp_path: Path) -> None:
    for name in ("a", "poisonous", "e", "f", "slow"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")

    settings = InferenceSettings(imgsz=64)
    job = PassJob(
        str(tmp_path / "in"), str(tmp_path / "out"), (), (), settings, 8, 80, False, SCHEMA, finish, file_seconds=1
    )
    everything, _ = run.plan_units(job)
    if topology == "local":
        assert list(local.run(job, (), everything, {}, frozenset(), 1, {}))
    else:
        assert list(ray_data.run(PassRun(job, ray.put([]), 32, topology == "staged", 1), everything))
    rows = [row for table in units.read_records(job.records, everything, SCHEMA) for row in table.to_pylist()]
    reasons = {row["path"]: row["reason"] for row in rows}
    assert len(reasons) == 5
    assert reasons.pop("poisonous/x.jpg") == CRASHED
    assert reasons.pop("slow/x.jpg") == "took longer than 1 s"
    assert all("ends the process" not in reason for reason in reasons.values())


def test_code_in_c_that_keeps_pythons_lock_ends_its_process() -> None:
    script = (
        "import re; from depers.runtime import time_budget; time_budget._GRACE_SECONDS = 0.2\n"
        "time_budget.enforce(0.2, print)\n"
        "with time_budget.watch('file'): re.match('(a+)+$', 'a' * 40 + 'b')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1 and "Timeout" in ended.stderr and not ended.stdout


def work(names: Sequence[str], guard: FileGuard) -> list[str]:
    reasons = [guard.find_reason(offset) for offset in range(len(names))]
    for offset, name in enumerate(names):
        with guard.watch(offset):
            if name == "crash" and not reasons[offset]:
                os._exit(1)
            while name == "slow" and not reasons[offset]:
                pass
    return reasons


def fail(guard: FileGuard) -> None:
    raise OutageError(errno.EPERM, "the credentials have expired", "s3://b/a.jpg")


class OddError(Exception):
    """One that can be pickled and not be made again."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


def fail_oddly(guard: FileGuard) -> None:
    raise OddError(7, "out of paper")


def test_an_error_that_cannot_be_sent_is_told_all_the_same() -> None:
    with open_pool(PoolPlan((), 1)), pytest.raises(RuntimeError, match=r"OddError.*out of paper \(7\)"):
        list(run_file_tasks(fail_oddly, [()]))


@pytest.fixture(params=["ray", "local"])
def workers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray, or processes of this machine."""
    if request.param == "ray":
        request.getfixturevalue("ray_local")
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its processes do not find this module
        yield
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    else:
        with open_pool(PoolPlan(())):
            yield


def test_a_task_that_files_end_names_them(workers: None) -> None:
    calls = [(["a", "crash", "slow"],), (["b", "c"],)]
    reasons = sorted(run_file_tasks(work, calls, file_seconds=0.5))
    assert reasons == [["", ""], ["", CRASHED, "took longer than 0.5 s"]]


def linger(marker: str, guard: FileGuard) -> str:
    """What the first process to come here does in a minute, every other at once."""
    if marker and not Path(marker).exists():
        Path(marker).touch()
        time.sleep(60)
    return marker


def test_what_takes_much_longer_is_given_out_again(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its processes do not find this module
    monkeypatch.setattr(tasks, "_TWIN_SECONDS", 0.5)
    monkeypatch.setattr(tasks, "_LOOK_SECONDS", 0.2)
    start, marker = time.monotonic(), str(tmp_path / "marker")
    assert sorted(run_file_tasks(linger, [(marker,), ("",), ("",)])) == ["", "", marker]
    assert time.monotonic() - start < 40
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def name_process(note: str, is_slow: bool) -> bool:
    """Note which process this is, and take a minute; the other waits for the note."""
    if is_slow:
        Path(f"{note}.part").write_text(str(os.getpid()))
        Path(f"{note}.part").rename(note)
        time.sleep(60)
    while not Path(note).exists():
        time.sleep(0.05)
    return is_slow


@pytest.mark.slow  # after many other tests in one Ray, ending a task by force takes as long as the task
def test_no_task_outlives_a_caller_who_stops(ray_local: None, tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    note = tmp_path / "process"
    results = run_tasks(name_process, [(str(note), True), (str(note), False)])
    assert next(results) is False and psutil.pid_exists(int(note.read_text()))
    results.close()  # type: ignore[attr-defined]
    process = int(note.read_text())
    assert not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_an_outage_in_a_task_is_the_users_to_put_right(workers: None) -> None:
    with pytest.raises(Exception, match="expired") as caught:
        list(run_file_tasks(fail, [()]))
    line = "s3://b/a.jpg: storage fails (the credentials have expired): the same command takes up the work again"
    assert str(as_user_error(caught.value)) == line
