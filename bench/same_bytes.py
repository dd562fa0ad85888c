"""Prove that a refactoring changes no output byte: run the verbs of two checkouts on the same inputs and compare.

    python bench/same_bytes.py BEFORE AFTER [--data DIR] [--work DIR]

Data (images, archives, labels, data.yaml) must be the same byte for byte; Parquet tables and JSON are compared decoded.
In them, words of `RENAMES` count as the same: they are replaced on both sides, so that it does not matter how far a
renaming has come. `VERSIONS` and HTML are left out. Exit code 1: something differs.

Without the real data (DEPERS_DATA, see tests/conftest.py) it runs on drawn street scenes alone, with an untrained
detector, which finds boxes everywhere.
"""

import argparse
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from comparison_inputs import make_inputs

from depers.datasets import image_index

RENAMES = {
    "a picture": "an image",
    "picture": "image",
    "decoy": "distractor",
    "ok": "detected",
    "found": "detail",
    "left out with its image": "skipped_with_image",
    "left out": "skipped",
    "left_out": "skipped",
    "kept as background": "as_background",
    "kept": "passed_through",
    "accepted": "passed_through",  # what `kept` became of labels
    "its bounding box taken": "bounding_box",
    "taken from the image": "taken_from_image",
    "labels turned upright": "turned_upright",
    "labels taken as upright": "taken_as_upright",
    "colour": "color",
    "centre": "center",
    "grey": "gray",
}
"""Old words and new ones, in the names of columns, keys and files, in values and in messages."""
OPTIONS = {"--decoys": "--distractors"}
"""Old options and new ones; the new one is used where `depers VERB --help` lacks the old one."""
VERSIONS = {"depers", "version", "layout", "plan", "tables", "extracted_sha256"}
"""Columns and keys that count formats and versions, or digest what holds names: they change, and are not compared."""

RUNS = {
    "normalize": "normalize {IN}/scenes {OUT} --val-fraction 0.25 --unlabelled background",
    "normalize-voc": "normalize {IN}/voc {OUT} --group-by ^street-1-000[23] --add {IN}/coco/",
    "extract": "extract {OUTS}/normalize {OUT} --no-keep-labels",
    "extract-keep": "extract {OUTS}/{DATASET} {OUT} --keep-labels --fill confetti --weights {WEIGHTS}",
    "synthesize-scene": "synthesize {OUTS}/extract {OUT} --count 48",
    "synthesize-exchange": "synthesize {OUTS}/extract-keep {OUT} --count 48 --placement exchange --decoys 0.5",
    "synthesize-shards": "synthesize {OUTS}/extract {OUT} --count 24 --shards --placement uniform --variants 2",
    "detect": "detect {IN}/few {OUT} --weights {WEIGHTS} {FIND} --augment --format yolo",
    "anonymize": "anonymize {IN}/photos {OUT} --weights {WEIGHTS} {FIND} --keep *.json",
    "anonymize-blur": "anonymize {IN}/few {OUT} --weights {WEIGHTS} {PLATES} {FIND} --mode blur --keep-metadata date",
    "anonymize-fill": "anonymize {IN}/photos {OUT} --previous-detections {OUTS}/anonymize {FIND} --mode fill",
    "evaluate": "evaluate {OUTS}/{DATASET} {OUT} --weights {WEIGHTS} --target-recall 0.9",
}
"""Commands by the name of their OUT."""
REAL_RUNS = {
    "normalize-yolo": "normalize {IN}/yolo {OUT} --class-map 0=human,2=car,*= --classes human --classes car",
    "normalize-add": "normalize {IN}/yolo {OUT} --class-map 0=human,2=car,*= --add {IN}/plates/:0=carplate",
}
"""Those that need real data; they come first."""


def main() -> int:
    """Run everything in both checkouts, print a line per run, and return 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout of the code before the refactoring")
    parser.add_argument("after", type=Path, help="checkout of the code after it")
    default = os.environ.get("DEPERS_DATA") or Path(__file__).resolve().parents[1] / "../shared/data"
    parser.add_argument("--data", type=Path, default=Path(default), help="real images and weights, if any")
    parser.add_argument("--work", type=Path, help="folder in which inputs and outputs stay (default: a temporary one)")
    options = parser.parse_args()
    work = (options.work or Path(tempfile.mkdtemp(prefix="depers-same-bytes-"))).resolve()
    for name in ("inputs", "outputs", "before", "after"):
        shutil.rmtree(work / name, ignore_errors=True)
    real = options.data.is_dir()
    words = make_inputs(work / "inputs", options.data.resolve() if real else None)
    words |= {"IN": str(work / "inputs"), "OUTS": str(work / "outputs")}
    runs = REAL_RUNS | RUNS if real else RUNS
    verdicts = {}
    for side in ("before", "after"):
        verdicts[side] = run_all(runs, getattr(options, side).resolve(), work, words)
        (work / "outputs").rename(work / side)  # both write to the same folder, since outputs name it
    total = 0
    for name in runs:
        count, differences = compare(name, work / "before" / name, work / "after" / name)
        (code, line), (new_code, _) = (verdicts[side][name] for side in ("before", "after"))
        differences += [f"exit code {code}, then {new_code}"] if code != new_code else []
        different = len(differences)
        print(f"{name}: {count} files compared, {count - different} identical, {different} different ({line})")
        for difference in differences[:5]:
            print(f"    {difference}")
        total += different
    if not options.work:
        shutil.rmtree(work)
    print(f"{total} differences" if total else "all identical")
    return int(total > 0)


def run_all(runs: dict[str, str], checkout: Path, work: Path, words: dict[str, str]) -> dict[str, tuple[int, str]]:
    """Run every command with the code of `checkout`; return exit code and last line of each by its name."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONWARNINGS": "ignore"}
    environment.pop("RAY_ADDRESS", None)

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)

    origin = call("-c", "import depers; print(depers.__file__)").stdout.strip()
    if not Path(origin).is_relative_to(checkout):
        raise SystemExit(f"{checkout}: must hold the code that runs, but that lies in {origin or 'no folder'}")
    verdicts = {}
    for name, command in runs.items():
        started = time.monotonic()
        out = work / "outputs" / name
        arguments = command.format_map(words | {"OUT": str(out)}).split()
        if OPTIONS.keys() & set(arguments):
            usage = call("-m", "depers.cli", arguments[0], "--help").stdout
            arguments = [word if word in usage else OPTIONS.get(word, word) for word in arguments]
        process = call("-m", "depers.cli", *arguments)
        if process.returncode not in (0, 3):  # 3: some images failed, as they should
            raise SystemExit(f"{checkout}: {' '.join(arguments)}: exit code {process.returncode}\n{process.stderr}")
        for path in out.rglob("*"):
            os.utime(path, (0, 0))  # what is computed from these outputs may depend on their times
        verdicts[name] = process.returncode, process.stdout.strip().split("\n")[-1].split(";")[0]
        print(f"{checkout}: {name} took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return verdicts


def compare(run: str, old_root: Path, new_root: Path) -> tuple[int, list[str]]:
    """Compare two outputs of one run; return the number of files and, for each that differs, how."""
    trees = [{rename(name): path for name, path in list_outputs(root).items()} for root in (old_root, new_root)]
    names = sorted(name for name in trees[0].keys() | trees[1].keys() if not name.endswith(".html"))
    differences = []
    for name in names:
        if not all(name in tree for tree in trees):
            differences.append(f"{name}: only {'before' if name in trees[0] else 'after'}")
            continue
        first, second = (tree[name] for tree in trees)
        if first.read_bytes() == second.read_bytes():
            continue
        mirrored = run.startswith("anonymize") and "_depers/" not in name
        if mirrored or first.suffix not in (".parquet", ".json"):
            differences.append(f"{name}: {first.stat().st_size} bytes, then {second.stat().st_size}")
        elif describe(first) != describe(second):
            lines = difflib.unified_diff(describe(first), describe(second), n=0, lineterm="")
            changes = [line[:200] for line in lines if line[:3] not in ("---", "+++") and line[0] in "+-"]
            differences.append(f"{name}: {len(changes)} lines, such as " + " and ".join(changes[:1] + changes[-1:]))
    return len(names), differences


def list_outputs(root: Path) -> dict[str, Path]:
    """Return all files of OUT by their names, and the records beside it as if they lay in it, where they once were."""
    folders = {"": root, "_depers/": Path(f"{root}-records")}
    return {
        prefix + name_output(path, folder): path
        for prefix, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and path.name != image_index.NAME  # which says when files were written
    }


def name_output(path: Path, root: Path) -> str:
    """Return a path below `root`; of a unit's record, whose name is a hash, what its first row names."""
    if path.parent.name == "units":
        path = path.parent / str(pq.read_table(path)[0][0])
    return str(path.relative_to(root))


def describe(path: Path) -> list[str]:
    """Decode a table or JSON into lines, one per value, with the words of `RENAMES` replaced."""
    if path.suffix == ".json":
        text = rename(path.read_text(encoding="utf-8"))
        content = json.loads(text, object_pairs_hook=without_versions, parse_int=float)
        return json.dumps(content, indent=1, sort_keys=True).splitlines()
    table = pq.read_table(path)
    table = table.select([name for name in table.schema.names if name != image_index.RECORD_COLUMN.name])
    lines = [rename(f"{field.name}: {field.type}") for field in table.schema if field.name not in VERSIONS]
    for number, row in enumerate(table.to_pylist()):
        lines += [rename(f"{number} {name}: {value!r}") for name, value in row.items() if name not in VERSIONS]
    return lines


def without_versions(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object without `VERSIONS`."""
    return {name: value for name, value in pairs if name not in VERSIONS}


def rename(text: str) -> str:
    """Replace the old words by the new ones."""
    return re.sub(f"(?<![A-Za-z])({'|'.join(RENAMES)})", lambda match: RENAMES[match[0]], text)


if __name__ == "__main__":
    sys.exit(main())
