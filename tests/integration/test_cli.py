"""depers.cli: exit codes, one line per error, and what Ray wraps around a UserError."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from depers import __version__, cli
from depers.errors import UserError
from depers.options import argument, option
from depers.runtime import cluster, progress
from depers.runtime.results import Failure, Failures, VerbResult

BAD_WEIGHTS = "weights.pt must be a YOLOv5 model, but is empty"


@dataclass(frozen=True)
class Options:
    out: str = argument("where")
    count: int = option(1, "how many")


def depers(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "depers.cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=120)


@dataclass(frozen=True, kw_only=True)
class Result(VerbResult):
    def summary(self) -> list[str]:
        return ["that is all"]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Options], Result]], None]:
    """Install `depers probe`, a verb that runs the given function."""

    def install(run: Callable[[Options], Result]) -> None:
        module = types.ModuleType("depers.commands.probe")
        module.__dict__.update(Options=Options, run=run)
        monkeypatch.setitem(sys.modules, "depers.commands.probe", module)
        monkeypatch.setitem(cli.VERBS, "probe", "a verb of the tests")

    return install


def test_help_and_version_are_quick_and_import_neither_ray_nor_torch() -> None:
    code = "import sys; from depers.cli import main; main(['--help']); print(sorted(sys.modules))"
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert time.monotonic() - start < 2
    for verb in cli.VERBS:
        assert f"  {verb} " in result.stdout
    for module in ("'ray'", "'torch'", "'numpy'", "'cv2'"):
        assert module not in result.stdout
    assert depers("--version").stdout == f"depers {__version__}\n"


def test_a_dataset_that_cannot_be_read_costs_the_import_of_neither_ray_nor_torch(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [car]")
    code = "import sys; from depers.cli import main; print(main(sys.argv[1:]), {'ray', 'torch'} & set(sys.modules))"
    for verb in ("train", "evaluate", "extract"):
        command = [sys.executable, "-c", code, verb, str(tmp_path), str(tmp_path / "out")]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.stdout == "2 set()\n" and "run `depers normalize` first" in result.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "usage: depers VERB"),
        (["nonsense"], "depers: error: VERB must be one of normalize, label, extract, "),
        (["--mode"], "depers: error: VERB must be one of "),
        (["detect", "in"], "depers detect: error: the following arguments are required: OUT (see"),
        (["detect", "in", "out", "--imgsz", "x"], "depers detect: error: --imgsz must be a whole number"),
    ],
)
def test_wrong_use_is_one_line_and_starts_no_ray(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "start_ray", lambda debug: pytest.fail("Ray was started"))
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith(message)
    assert not out
    assert not argv or err.count("\n") == 1


def test_the_job_server_is_not_an_address_to_join(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verb(lambda options: Result())
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert cli.main(["probe", "out"]) == 2
    assert "RAY_ADDRESS must be auto or HOST:PORT, but is the job server" in capsys.readouterr().err


def test_object_store_is_bounded() -> None:
    assert 256 * 2**20 <= cluster.object_store_bytes() <= 2048 * 2**20


def in_task(error: Exception) -> None:
    import ray

    @ray.remote(max_retries=0)
    def task() -> None:
        raise error

    ray.get(task.remote())


def in_constructor(error: Exception) -> None:
    import ray

    @ray.remote
    class Actor:
        def __init__(self) -> None:
            raise error

        def method(self) -> None: ...

    actor = Actor.remote()
    ray.get(actor.method.remote())


def in_ray_data(error: Exception) -> None:
    import ray.data

    def work(batch: object) -> object:
        raise error

    ray.data.range(2).map_batches(work).take_all()


def in_ray_train(error: Exception) -> None:
    from ray.train import WorkerGroupError

    raise WorkerGroupError("workers failed", {0: ValueError("other"), 1: error})


def in_driver(error: Exception) -> None:
    raise error


PLACES = [in_driver, in_task, in_constructor, in_ray_data, in_ray_train]


@pytest.mark.parametrize("place", PLACES)
def test_user_errors_are_one_line_wherever_they_are_raised(
    place: Callable[[Exception], None],
    verb: Callable[..., None],
    ray_local: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb(lambda options: place(UserError(BAD_WEIGHTS)))
    capsys.readouterr()
    assert cli.main(["probe", "out"]) == 2
    assert f"depers probe: error: {BAD_WEIGHTS}\n" == capsys.readouterr().err.splitlines(keepends=True)[-1]


@pytest.mark.parametrize("place", PLACES[:4])
def test_unexpected_errors_are_one_line_and_debug_shows_the_traceback(
    place: Callable[[Exception], None],
    verb: Callable[..., None],
    ray_local: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb(lambda options: place(ZeroDivisionError("by zero")))
    assert cli.main(["probe", "out"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "depers probe: unexpected error: ZeroDivisionError: by zero (--debug shows the traceback)"
    assert cli.main(["probe", "out", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == "depers probe: unexpected error: ZeroDivisionError: by zero"


def test_results_are_printed_and_decide_the_exit_code(
    verb: Callable[..., None], ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Options] = []
    failures = Failures(12, tuple(Failure(f"{index}.jpg", None, "failed", "no image") for index in range(10)), "table")

    def run(options: Options) -> Result:
        calls.append(options)
        progress.report("under way")
        return Result(failures=failures if options.count == 5 else Failures())

    verb(run)
    assert cli.main(["--debug", "probe", "out", "--count", "5"]) == 3
    assert calls == [Options("out", 5)]
    out, err = capsys.readouterr()
    assert out == "that is all\n"
    assert err.splitlines()[-12:-10] == ["under way", "failed: 0.jpg: no image"]
    assert err.splitlines()[-1] == "… and 2 more failed: see table"
    assert cli.main(["probe", "out"]) == 0
    assert capsys.readouterr() == ("that is all\n", "under way\n")


@pytest.mark.parametrize("address", ["", "10.0.0.1:6379"])
def test_a_process_ends_without_being_taken_apart(address: str) -> None:
    code = """if True:
        import atexit, os, sys, types
        from depers import cli

        class Fragile:
            def __del__(self, abort=os.abort): abort()

        sys.modules["ray"] = types.ModuleType("ray")
        sys.modules["ray"].shutdown = lambda: print("ray stops")
        fragile = Fragile()
        atexit.register(print, "at exit")
        atexit.register(sys.modules["ray"].shutdown)
        cli.run(["--version"])
    """
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "RAY_ADDRESS": address}
    )
    own_ray = "" if address else "ray stops\n"  # a cluster that was joined sees that the process is gone
    assert (result.returncode, result.stdout) == (0, f"depers {__version__}\n{own_ray}at exit\n")


def test_what_could_not_be_said_is_no_success() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, "-m", "depers.cli", "--version"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert process.returncode == cli.FAILED


@pytest.mark.parametrize(("argv", "code"), [("--version >&-", cli.FINE), ("bogus 2>&-", cli.WRONG_USE)])
def test_a_stream_that_the_caller_has_closed_changes_no_exit_code(argv: str, code: int) -> None:
    result = subprocess.run(
        ["sh", "-c", f'"$0" -m depers.cli {argv}', sys.executable], capture_output=True, text=True, check=False
    )
    assert result.returncode == code and "Traceback" not in result.stderr


def test_interrupt_is_one_line_and_leaves_no_process(tmp_path: Path) -> None:
    """A real Ctrl-C at a real local Ray, in a process of its own."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
            import sys, time, types
            from dataclasses import dataclass
            from depers import cli

            @dataclass(frozen=True)
            class Options: ...

            def run(options):
                import ray
                address = ray.get_runtime_context().gcs_address
                task = ray.remote(lambda: time.sleep(60)).remote()
                print(address, flush=True)
                ray.get(task)

            sys.modules["depers.commands.probe"] = types.ModuleType("depers.commands.probe")
            sys.modules["depers.commands.probe"].__dict__.update(Options=Options, run=run)
            cli.VERBS["probe"] = "a verb of the tests"
            sys.exit(cli.main(["probe"]))
        """)
    )
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in a shell's background ignores it
    command = [sys.executable, program]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "depers probe: interrupted; the same command takes up the work again"
    assert "Traceback" not in err
    deadline = time.monotonic() + 10
    while address in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline, "processes of its Ray are left"
        time.sleep(0.2)


_NOTE = b"[2030-01-01 I 1 1] logging.cc:303: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n"


@pytest.mark.parametrize(
    ("end", "said"), [("", "the raylet died\n"), ("os._exit(1)", "the raylet died\ndepers: error: bad\n")]
)
def test_a_process_that_ends_while_it_joins_says_so(end: str, said: str) -> None:
    program = f"""
import os
from depers.runtime import cluster
with cluster._witnessed(False, "bad"):
    os.write(2, {_NOTE!r} + b"the raylet died\\n")
    {end or "pass"}
"""
    job = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert job.stderr == said and job.returncode == bool(end)


def test_a_process_that_needs_no_pandas_does_without_and_may_have_it_later() -> None:
    code = """if True:
        import sys
        from depers import resources
        resources.keep_pandas_out()
        import pyarrow as pa
        assert pa.array([[1], [2]]).to_pylist() == [[1], [2]]
        assert pa.schema([("a", pa.int8())]).empty_table().num_rows == 0
        assert "pandas" not in sys.modules
        import pandas
        assert len(pandas.DataFrame({"a": [1, 2]})) == 2
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
