"""The command line: `depers VERB …`, which parses, starts Ray, runs the verb and turns errors into one line.

Verbs are imported by name when called for, so that `depers --help` costs neither torch nor Ray.
"""

import importlib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence

from depers import __version__
from depers.options import UserError, parse

VERBS = {
    "normalize": "make one checked dataset of raw labels in the competition's, YOLO, VOC or COCO layout",
    "extract": "cut a dataset's training pictures into backgrounds and sprites, to synthesize more from",
    "synthesize": "make new labelled pictures of extracted backgrounds and sprites",
    "train": "train a YOLOv5 detector on a dataset",
    "detect": "write the boxes that a detector finds in images",
    "evaluate": "measure a detector on a dataset: precision, recall, mAP, report",
    "experiment": "measure whether synthetic pictures help: equal steps, same validation, several seeds",
    "anonymize": "mirror a folder of images with faces, people and plates made unrecognizable",
    "audit": "check what anonymize wrote: digests, metadata, and what a detector still finds",
    "demo": "the whole mission on drawn street scenes, ending in report.html",
}
FINE, FAILED, WRONG_USE, SOME_ITEMS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
MIB = 2**20

log = logging.getLogger("depers")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `depers` with `argv` (default: the process's arguments) and return its exit code.

    0 fine; 1 unexpected error; 2 wrong use or input (UserError); 3 some items failed; 130 interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    prog, debug = "depers", "--debug" in argv
    try:
        if argv[:1] == ["--debug"]:
            argv.pop(0)
        if not argv or argv[0] in ("-h", "--help"):
            print(usage(), file=sys.stdout if argv else sys.stderr)
            return FINE if argv else WRONG_USE
        if argv[0] == "--version":
            print(f"depers {__version__}")
            return FINE
        verb = argv[0]
        if verb not in VERBS:
            raise UserError(f"VERB must be one of {', '.join(VERBS)}, but got {verb!r}")
        prog = f"depers {verb}"
        return _run(verb, argv[1:], prog, debug)
    except KeyboardInterrupt:
        return _fail(prog, "interrupted; the same command takes up the work again", INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        if (wrong := user_error(error)) is not None:
            return _fail(prog, f"error: {one_line(wrong)}", WRONG_USE)
        hint = "" if debug else " (--debug shows the traceback)"
        return _fail(prog, f"unexpected error: {describe(error)}{hint}", FAILED)


def usage() -> str:
    """What `depers --help` prints."""
    verbs = "\n".join(f"  {verb:<11} {summary}" for verb, summary in VERBS.items())
    return (
        "usage: depers VERB … | depers VERB --help | depers --version\n\n"
        "Remove personal data from photographs at archive scale, and build the detector that finds it.\n\n"
        f"verbs:\n{verbs}\n\n"
        "exit codes: 0 fine, 1 unexpected error, 2 wrong use or input, 3 some items failed, 130 interrupted"
    )


def _run(verb: str, argv: Sequence[str], prog: str, debug: bool) -> int:
    """Parse before Ray starts, so that a wrong option costs no waiting; then run the verb."""
    module = importlib.import_module(f"depers.{verb}")
    options = parse(module.Options, argv, prog)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")  # to stderr
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    started = start_ray(debug)
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.filterwarnings("ignore", module=r"ray\.")  # advice on Ray Data's tuning
            return int(module.run(options))
    finally:
        if started:
            sys.modules["ray"].shutdown()


def start_ray(debug: bool = False, cpus: int | None = None) -> bool:
    """Join the cluster at RAY_ADDRESS (`ray job submit` sets it), else start one that ends with this process.

    `cpus` bounds a local Ray (default: all). Returns whether this call did it: False where Ray runs already.
    Only RAY_ADDRESS counts: a cluster that happens to run on this machine may be someone else's, or dead.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS must be auto or HOST:PORT, but is the job server {address}: use `ray job submit`, or unset it"
        )
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else each 0-GPU task warns
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    if not debug:
        os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # verbs report progress themselves
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else every actor pool warns about its arguments
    import ray

    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    if address != "local":
        ray.init(address=address, **quiet)
        return True
    # Ray takes its own minimal start, 2 s shorter, where the dashboard's dependencies cannot be imported.
    sys.modules["ray.dashboard.optional_deps"] = None  # type: ignore[assignment]
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=object_store_bytes(),
            **quiet,
        )
    finally:
        del sys.modules["ray.dashboard.optional_deps"]
    return True


def object_store_bytes() -> int:
    """The size of a local object store: an eighth of the machine's memory, 256 MiB to 2 GiB.

    Verbs pass compressed bytes and model-sized inputs, never decoded frames, so more would only hold more in
    flight; the upper bound keeps memory flat whatever the machine and the number of images.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(256 * MIB, min(memory // 8, 2048 * MIB))


def user_error(error: BaseException) -> UserError | None:
    """The UserError in `error` or among its causes, however deep Ray has wrapped it."""
    for cause in _causes(error):
        if isinstance(cause, UserError) and not _is_wrapper(cause):
            return cause
    # What an actor's constructor raised, and causes lost in pickling, are left only as a line of text.
    texts = re.findall(r"^depers\.options\.UserError: (.+)$", str(error), re.MULTILINE)
    return UserError(texts[-1]) if texts else None


def describe(error: BaseException) -> str:
    """`Type: message` of what a task raised in the first place, on one line."""
    # The text of Ray's errors is the worker's traceback, which begins with the first of a chain of exceptions.
    raised = re.search(r"^((?:\w+\.)*\w*(?:Error|Exception): .+)$", str(error), re.MULTILINE)
    if raised and (_is_wrapper(error) or type(error).__module__.startswith("ray.")):
        return raised[1]
    return f"{type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """The message of `error` on one line."""
    return " ".join(str(error).split())


def _is_wrapper(error: BaseException) -> bool:
    """Whether `error` only reports another; Ray's RayTaskError is even an instance of its cause's class."""
    return getattr(error, "cause", None) is not None or bool(getattr(error, "worker_failures", None))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, then what it reports, outermost first: Ray's `cause` and `worker_failures`, Python's own."""
    queue, seen = [error], set()
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)
        inner = [getattr(current, "cause", None), *(failures.values() if isinstance(failures, dict) else [])]
        inner += [current.__cause__, None if current.__suppress_context__ else current.__context__]
        queue += [e for e in inner if isinstance(e, BaseException)]


def _fail(prog: str, message: str, code: int) -> int:
    print(f"{prog}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
