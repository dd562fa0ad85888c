"""Worker processes of this machine, for a verb that needs no cluster: Ray alone takes seconds to start and to end.

Each is a Python of its own with a pipe, which imports what the verb's tasks need as it starts, and ends with the
process that started it. `runtime.tasks` gives them the calls that it would give to Ray, with the same care for files
that end a process or take too long: the `CrashLedger` lies here in the job's own process, and hears of them.
"""

import contextlib
import gc
import importlib
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

from depers import resources
from depers.errors import typed_reason
from depers.observation.collector import collect
from depers.observation.meter import count, take
from depers.observation.metrics import RETRIES
from depers.runtime import time_budget
from depers.runtime.crash_ledger import Attempt, CrashLedger, Position, refuse_losses
from depers.runtime.file_guard import FileGuard

T = TypeVar("T")

_STAGE = "task"
_AHEAD = 2  # calls per process that are given out or wait: enough to keep all of them busy
_MAIN = f"import sys; from {__name__} import be_worker; be_worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])"
_PARENT_SECONDS = 0.5  # between two looks whether the process that started this one is still there

_pool: "Pool | None" = None


class PoolPlan(NamedTuple):
    """What `open_pool` is to open: processes that import these modules, by default one more than there are cores."""

    modules: Sequence[str]
    size: int | None = None


class _PoolCall(NamedTuple):
    """One call as a worker gets it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    number: int
    isolated: bool
    poisonous: Mapping[Position, str]
    file_seconds: float


class _PoolProcess:
    """A process that does one call after another."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._connection, other_end = Pipe()
        paths = os.pathsep.join(path for path in sys.path if path)
        is_debug = logging.getLogger("depers").isEnabledFor(logging.DEBUG)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, str(other_end.fileno()), str(os.getpid()), *modules],
            env={"OMP_NUM_THREADS": "1", **resources.SPARING, **os.environ, "PYTHONPATH": paths},
            pass_fds=[other_end.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if is_debug else subprocess.DEVNULL,
        )
        other_end.close()

    def do(self, call: _PoolCall, hear: Callable[[str, Any], None]) -> Any:
        """Return the result of a call; `hear` gets what the process says meanwhile.

        Raise what the call raises, and EOFError or OSError where the process ends.
        """
        self._connection.send(call)
        while True:
            kind, value = self._connection.recv()
            if kind == "result":
                return value
            if kind == "error":
                raise _TaskError(value)
            hear(kind, value)

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._connection.close()


class _TaskError(Exception):
    """What a call has raised, as its only argument."""


class Pool:
    """The processes of a plan; one that ends is replaced."""

    def __init__(self, plan: PoolPlan) -> None:
        self._modules = plan.modules
        self._size = plan.size or len(os.sched_getaffinity(0)) + 1  # one waits for the disk
        self._workers = [_PoolProcess(plan.modules) for _ in range(self._size)]
        self._idle = list(self._workers)
        self._lock = threading.Lock()
        self._has_ended = False

    def end(self) -> None:
        """End all processes, whatever they are doing."""
        with self._lock:
            self._has_ended = True
            for worker in self._workers:
                worker.end()

    def _take(self) -> _PoolProcess:
        """Return a process that has nothing to do. Raise EOFError where the pool has ended."""
        with self._lock:
            if self._has_ended:
                raise EOFError("the pool has ended")
            if not self._idle:
                self._workers.append(_PoolProcess(self._modules))
                return self._workers[-1]
            return self._idle.pop()

    def _replace(self, worker: _PoolProcess) -> None:
        """Forget a process that has ended."""
        with self._lock:
            self._workers.remove(worker)
            worker.end()

    def run(
        self, function: Callable[..., T], calls: Iterable[tuple[Any, ...]], file_seconds: float, limit: int | None
    ) -> Iterator[T]:
        """Yield the results of `runtime.tasks.run_file_tasks`, which says more."""
        ledger, given = CrashLedger(), queue.SimpleQueue[tuple[int, tuple[Any, ...]] | None]()
        results = queue.SimpleQueue[tuple[T | None, BaseException | None]]()
        size = min(limit or self._size, self._size)
        threads = [
            threading.Thread(target=self._serve, args=(function, file_seconds, ledger, given, results), daemon=True)
            for _ in range(size)
        ]
        for thread in threads:
            thread.start()
        try:
            in_flight = 0
            for numbered in enumerate(calls):
                given.put(numbered)
                in_flight += 1
                if in_flight == _AHEAD * size:
                    yield _unpack(results.get())
                    in_flight -= 1
            for _ in range(in_flight):
                yield _unpack(results.get())
        finally:
            with contextlib.suppress(queue.Empty):
                while True:  # what nobody waits for any more
                    given.get_nowait()
            for _ in threads:
                given.put(None)

    def _serve(
        self,
        function: Callable[..., T],
        file_seconds: float,
        ledger: CrashLedger,
        given: "queue.SimpleQueue[tuple[int, tuple[Any, ...]] | None]",
        results: "queue.SimpleQueue[tuple[T | None, BaseException | None]]",
    ) -> None:
        """Have one process at a time do calls until there are none."""
        while (numbered := given.get()) is not None:
            try:
                results.put((self._do(function, file_seconds, ledger, *numbered), None))
            except _TaskError as error:
                results.put((None, error.args[0]))
            except BaseException as error:
                results.put((None, error))

    def _do(
        self,
        function: Callable[..., T],
        file_seconds: float,
        ledger: CrashLedger,
        number: int,
        arguments: tuple[Any, ...],
    ) -> T:
        """Return the result of a call, which is begun anew where its process ends."""

        def hear(kind: str, value: Any) -> None:
            with self._lock:
                if kind == "measurement":
                    collect(value)
                elif kind == "note":
                    ledger.note(_STAGE, number, value)
                else:
                    ledger.give_up(number, value, time_budget.describe_overrun(file_seconds), [(_STAGE, number)])

        while True:
            with self._lock:
                attempt: Attempt = ledger.begin(_STAGE, number)
            refuse_losses(attempt)
            worker = self._take()
            call = _PoolCall(function, arguments, number, attempt.isolated, attempt.poisonous, file_seconds)
            try:
                result: T = worker.do(call, hear)
            except (EOFError, OSError):  # the process is gone, and the ledger knows where it was
                self._replace(worker)
                count(RETRIES, "process")
                continue
            except BaseException:
                self._idle.append(worker)
                raise
            self._idle.append(worker)
            with self._lock:
                ledger.end(_STAGE, number)
            return result


def _unpack(result: tuple[T | None, BaseException | None]) -> T:
    value, error = result
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # which may be None, if that is what T is


@contextlib.contextmanager
def open_pool(plan: PoolPlan) -> Iterator[None]:
    """Have processes of this machine do the work within the block."""
    global _pool
    former, _pool = _pool, Pool(plan)
    try:
        yield
    finally:
        _pool.end()
        _pool = former


def find_pool() -> Pool | None:
    """Return the pool that is open; None where Ray does the work."""
    return _pool


def _work(connection: Connection) -> None:
    """Do the calls that come through the pipe, until it is closed."""
    while True:
        try:
            call: _PoolCall = connection.recv()
        except EOFError:
            return

        def give_up(place: Any) -> None:
            connection.send(("give up", Position(place[1])))

        def note(position: Position) -> None:
            connection.send(("note", position))

        time_budget.enforce(call.file_seconds, give_up)
        guard = FileGuard(call.number, call.poisonous, note if call.isolated else None)
        try:
            message = "result", call.function(*call.arguments, guard)
        except Exception as error:
            message = "error", _as_sendable(error)
        connection.send(("measurement", take()))
        connection.send(message)


def _as_sendable(error: Exception) -> Exception:
    """Return an exception that can be read where it is sent to: some can be pickled, and not be made again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(typed_reason(error))
    return error


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def be_worker(descriptor: int, parent: int, modules: Sequence[str]) -> None:
    """Do what comes through the pipe with this descriptor, as long as the process `parent` is there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one hears of it, and ends this one
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    resources.keep_pandas_out()
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # what is loaded stays: collecting garbage goes through it no more
    _work(Connection(descriptor))
