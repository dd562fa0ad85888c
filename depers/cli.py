"""The command line: `depers VERB …`, which parses, calls the verb's function, prints its result or its error.

Verbs are imported by name when called for, so that `depers --help` costs neither torch nor Ray.
"""

import atexit
import importlib
import itertools
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from depers import __version__, api, resources
from depers.errors import UserError, as_user_error, describe, one_line, to_line
from depers.observation.logs import JsonFormatter, LineFormatter
from depers.options.command_line import parse_command
from depers.runtime import cluster, progress

VERBS = {
    "normalize": "make one checked dataset of raw labels in the competition's, YOLO, VOC or COCO layout",
    "label": "have detectors label what people did not, in a partly labelled dataset",
    "extract": "cut a dataset's training images into backgrounds and sprites, to synthesize more from",
    "synthesize": "make new labelled images of extracted backgrounds and sprites",
    "train": "train a YOLOv5 detector on a dataset",
    "detect": "write the boxes that a detector finds in images",
    "evaluate": "measure a detector on a dataset: precision, recall, mAP, report",
    "export": "write a detector as a TorchScript or ONNX program, compared with its weights on images",
    "experiment": "measure whether synthetic images help: equal steps, same validation, several seeds",
    "anonymize": "mirror a folder of images with faces, people and plates made unrecognizable",
    "audit": "check what anonymize wrote: digests, metadata, and what a detector still finds",
    "mission": "the whole way, from raw labels to an audited archive, as one YAML file of the verbs' options",
    "demo": "the whole mission on drawn street scenes, ending in report.html",
}
FINE, FAILED, WRONG_USE, SOME_ITEMS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

log = logging.getLogger("depers")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `depers` with `argv` (default: the process's arguments) and return its exit code.

    0 fine; 1 unexpected error; 2 wrong use or input (UserError); 3 some items failed; 130 interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    prog, debug = "depers", "--debug" in argv
    is_json = "--progress=json" in argv or any(pair == ("--progress", "json") for pair in itertools.pairwise(argv))
    fail = partial(_fail, is_json)
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
        resources.spare_memory()
        return _run(verb, argv[1:], prog)
    except KeyboardInterrupt:
        return fail(prog, "interrupted; the same command takes up the work again", INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        if (cause := as_user_error(error)) is not None:
            return fail(prog, f"error: {one_line(cause)}", WRONG_USE)
        hint = "" if debug else " (--debug shows the traceback)"
        return fail(prog, f"unexpected error: {describe(error)}{hint}", FAILED)


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `depers` as the whole process, as `main`, and end it with the exit code.

    What is registered with `atexit` is done, but Python does not take itself apart: threads of Ray, of S3 clients and
    of Arrow still run then, and some processes that had done all their work crashed.
    """
    code = main(argv)
    cluster.part()
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # there is none where the caller has closed it
        try:
            stream.flush()
        except OSError:  # such as a pipe that nobody reads: what was said did not arrive
            code = code or FAILED
    os._exit(code)


def usage() -> str:
    """Return what `depers --help` prints."""
    verbs = "\n".join(f"  {verb:<11} {summary}" for verb, summary in VERBS.items())
    return (
        "usage: depers VERB … | depers VERB --help | depers --version\n\n"
        "Remove personal data from photographs at archive scale, and build the detector that finds it.\n\n"
        f"verbs:\n{verbs}\n\n"
        "exit codes: 0 fine, 1 unexpected error, 2 wrong use or input, 3 some items failed, 130 interrupted"
    )


def _run(verb: str, argv: Sequence[str], prog: str) -> int:
    """Parse before Ray starts, so that a wrong option costs no waiting; run the verb, print its result."""
    options, settings = parse_command(importlib.import_module(f"depers.commands.{verb}").Options, argv, prog)
    logging.basicConfig(level=logging.WARNING)  # to stderr
    log.setLevel(logging.DEBUG if settings.debug else logging.INFO)
    os.environ.update(settings.s3)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter() if settings.progress == progress.JSON else LineFormatter())
    with progress.shown_on(sys.stderr, settings.progress):
        result = api.run_verb(verb, options, settings.debug)
        code = SOME_ITEMS_FAILED if result.partial else FINE
        if progress.is_json():
            for failure in result.failures.examples:
                progress.report_event("failure", **failure._asdict())
            usage = result.usage.as_fields(settings.core_hour_price)
            progress.report_event("end", code=code, failures=result.failures.count, summary=result.summary(), **usage)
        else:
            for line in result.failures.lines():
                print(to_line(line), file=sys.stderr)
            progress.report_lines(result.usage.lines(settings.core_hour_price))
    for line in result.summary():
        print(to_line(line), flush=True)
    return code


def _fail(is_json: bool, prog: str, message: str, code: int) -> int:
    line = (
        progress.format_event("error", code=code, text=f"{prog}: {message}")
        if is_json
        else to_line(f"{prog}: {message}")
    )
    print(line, file=sys.stderr)
    return code


if __name__ == "__main__":
    run()
