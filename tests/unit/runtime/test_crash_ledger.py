"""The ledger of crashes, and the budget of time: who is blamed for the end of a process, and when."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from depers.runtime import time_budget
from depers.runtime.crash_ledger import CRASHED, CrashLedger, Position

THREE, FOUR = Position(3), Position(4)


def test_the_ledger_knows_what_ended_too_often() -> None:
    ledger = CrashLedger()
    assert not ledger.begin("work", "a").isolated
    assert not ledger.begin("work", "a").isolated  # the first died
    assert ledger.begin("work", "a").isolated
    ledger.note("isolated", "a", THREE)
    ledger.note("isolated", "a", FOUR)
    assert ledger.begin("isolated", "a").poisonous == {}  # could have been a node's death
    ledger.note("isolated", "a", FOUR)
    assert ledger.begin("isolated", "a").poisonous == {FOUR: CRASHED}
    assert not ledger.begin("work", "b").isolated
    ledger.end("work", "a")
    assert not ledger.begin("work", "a").isolated


def test_what_took_too_long_is_known_to_all_stages_and_blames_nothing_else() -> None:
    ledger = CrashLedger()
    for _ in range(5):
        ledger.begin("work", "a")
        ledger.begin("work", "b")
        ledger.give_up("a", THREE, "took longer than 5 s", [("work", "a"), ("work", "b")])
    attempt = ledger.begin("finish", "a")
    assert attempt.poisonous == {THREE: "took longer than 5 s"} and not attempt.isolated
    assert not ledger.begin("work", "b").isolated and not ledger.begin("work", "a").isolated


def test_processes_that_end_nowhere_in_particular_are_counted() -> None:
    ledger = CrashLedger()
    assert [ledger.begin("isolated", "a").losses for _ in range(4)] == [0, 1, 2, 3]


def burn(seconds: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


def test_the_time_of_a_file_is_its_threads_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_budget, "_WALL_FACTOR", 1e9)  # however busy this machine is
    found = []
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(burn, 0.2)
        with time_budget.watch("file"):
            other.result()
            found.append(time_budget.find_overdue(0.1))
            with time_budget.pause():
                burn(0.2)
            found.append(time_budget.find_overdue(0.1))
            burn(0.1)
            found.append(time_budget.find_overdue(0.1))
        found.append(time_budget.find_overdue(0))
    assert found == [None, None, "file", None]


def test_waiting_counts_too_but_ten_times_less() -> None:
    with time_budget.watch("asleep"):
        time.sleep(0.1)
        assert time_budget.find_overdue(100) is None and time_budget.find_overdue(0.01) == "asleep"
