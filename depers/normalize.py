"""Merge raw label files, one per image and class, into a dataset with real class ids and a train/val split.

Reads RAW/images/NAME.jpg and RAW/labels/NAME_CLASS..txt (one dot is accepted too), YOLO text whose class id is always
0: the class is in the file's name. Every image that can be decoded is in the dataset, with its boxes or without any,
and whatever was wrong is a row of OUT/problems.parquet. Nothing is dropped silently.
"""

import hashlib
import itertools
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from depers import images, storage
from depers.detections import parquet_text
from depers.labels import CLASSES, IMAGE_SUFFIXES, SPLITS, format_yolo, write_data_yaml
from depers.options import UserError, argument, option
from depers.raw_labels import Problem, match_files, merge

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("line", pa.int32()),
        ("kind", pa.string()),
        ("action", pa.string()),
        ("found", pa.string()),
    ]
)
_CHUNK = 32  # images per Ray task
UNUSABLE = "unusable image"


@dataclass(frozen=True)
class Options:
    """Merge raw label files into a dataset with real class ids, split into train and val."""

    raw: str = argument("folder or s3:// URI with images/NAME.jpg and labels/NAME_CLASS..txt")
    out: str = argument("folder or s3:// URI of the dataset")
    classes: tuple[str, ...] = option(CLASSES, "class names, in the order of their ids", metavar="NAME")
    val_fraction: float = option(0.2, "share of the images in val; 0: all in train")
    seed: int = option(0, "seed of the split")
    group_by: str | None = option(
        None, "images share a split where this regular expression finds the same in their names", metavar="REGEX"
    )
    strict: bool = option(False, "no data.yaml, and exit code 3, if anything was wrong, with labels too")

    def __post_init__(self) -> None:
        for name in self.classes:
            if not name or "/" in name:
                raise UserError(f"--classes must be names without '/', but got {name!r}")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise UserError(f"--classes must be different names, but got {', '.join(self.classes) or 'none'}")
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val-fraction must be at least 0 and below 1, but got {self.val_fraction}")
        if self.group_by is not None:
            try:
                re.compile(self.group_by)
            except re.error as error:
                raise UserError(
                    f"--group-by must be a regular expression, but {self.group_by!r} is none ({error})"
                ) from None


class Task(NamedTuple):
    """One image: its path below RAW/images and OUT/images/SPLIT, its files below RAW/labels, and their class ids."""

    path: str
    split: str
    label_files: tuple[tuple[str, int], ...]


class Result(NamedTuple):
    """What became of some images: how many images and boxes by split and by class id, and what was wrong."""

    images: Counter[str]
    backgrounds: Counter[str]
    boxes: Counter[int]
    problems: list[Problem]

    def add(self, other: "Result") -> None:
        """Counts another's in."""
        self.images.update(other.images)
        self.backgrounds.update(other.backgrounds)
        self.boxes.update(other.boxes)
        self.problems.extend(other.problems)


def split(paths: Sequence[str], val_fraction: float, seed: int, group_by: str | None = None) -> dict[str, str]:
    """The split, train or val, of every image, whole groups at a time, as near to `val_fraction` as those allow.

    A group is what `group_by` finds in a path (its first bracket, if it has one), else the image alone. With more than
    one group and a fraction above 0 neither split is empty. The order of `paths` does not matter. Raises UserError
    where `group_by` does not find anything, since that image could leak from one split into the other.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        groups[path if group_by is None else _group(path, group_by)].append(path)

    def rank(group: str) -> bytes:
        return hashlib.blake2b(f"{seed} {group}".encode("utf-8", "surrogatepass")).digest()

    wanted, taken = val_fraction * len(paths), 0
    val: set[str] = set()
    ordered = sorted(groups, key=rank)
    for group in ordered:
        size = len(groups[group])
        if abs(taken + size - wanted) < abs(taken - wanted) and len(val) + 1 < len(groups):
            val.add(group)
            taken += size
    if not val and val_fraction > 0 and len(groups) > 1:
        val.add(min(ordered, key=lambda group: len(groups[group])))
    return {path: "val" if group in val else "train" for group, members in groups.items() for path in members}


def _group(path: str, group_by: str) -> str:
    found = re.search(group_by, path)
    part = found and (found[1] if found.re.groups else found[0])
    if not part:
        raise UserError(f"--group-by must find something in every image's name, but {group_by!r} does not in {path!r}")
    return part


def process(raw: str, out: str, tasks: Sequence[Task]) -> Result:
    """Copies images and writes their merged labels; an image that cannot be read or decoded is left out."""
    result = Result(Counter(), Counter(), Counter(), [])
    for task in tasks:
        where = storage.join("images", task.path)
        try:
            data = storage.read_bytes(storage.join(raw, where))
            images.decode(data)  # training would stop at an image that is not whole
        except (images.ImageError, OSError) as error:
            reason = str(error) if isinstance(error, images.ImageError) else error.strerror or str(error)
            result.problems.append(Problem(where, 0, UNUSABLE, "left out", reason))
            continue
        texts = []
        for path, class_id in task.label_files:
            below = storage.join("labels", path)
            try:
                content = storage.read_bytes(storage.join(raw, below))
            except OSError as error:
                found = error.strerror or str(error)
                result.problems.append(Problem(below, 0, "unreadable label file", "left out", found))
                continue
            texts.append((below, class_id, content.decode("utf-8", "replace")))
        labels, problems = merge(texts)
        result.problems.extend(problems)
        name = str(PurePosixPath(task.path).with_suffix(".txt"))
        storage.write_bytes(storage.join(out, "labels", task.split, name), format_yolo(labels).encode())
        storage.write_bytes(storage.join(out, "images", task.split, task.path), data)
        result.images[task.split] += 1
        result.backgrounds[task.split] += not len(labels.class_ids)
        result.boxes.update(labels.class_ids.tolist())
    return result


def plan(options: Options) -> tuple[list[Task], list[Problem]]:
    """What is to be done, in the order of the images. Raises UserError for folders that cannot give a dataset."""
    raw, out = storage.check(options.raw, "RAW"), storage.check(options.out, "OUT")
    if storage.overlap(raw, out):
        raise UserError(f"OUT must lie outside RAW, and RAW outside OUT, but got {options.raw} and {options.out}")
    if not storage.is_dir(raw):
        raise UserError(f"{raw}: no such folder")
    paths = [entry.path for entry in storage.list_files(storage.join(raw, "images"))]
    label_paths = [entry.path for entry in storage.list_files(storage.join(raw, "labels"))]
    files, problems = match_files(paths, label_paths, options.classes)
    if not files:
        raise UserError(
            f"{raw}/images: must hold images ({', '.join(IMAGE_SUFFIXES)}), but none of {len(paths)} is one"
        )
    if not any(files.values()):
        shown = f"none of {len(label_paths)} does, such as {label_paths[0]!r}" if label_paths else "the folder is empty"
        raise UserError(f"{raw}/labels: must hold files named IMAGE_CLASS..txt that belong to an image, but {shown}")
    splits = split(list(files), options.val_fraction, options.seed, options.group_by)
    tasks = [Task(path, splits[path], tuple(found)) for path, found in files.items()]
    _refuse_leftovers(out, tasks)
    return tasks, problems


def _refuse_leftovers(out: str, tasks: Sequence[Task]) -> None:
    """Images of another run would be in both splits, or labels in neither."""
    allowed = {storage.join("images", task.split, task.path) for task in tasks}
    allowed |= {storage.join("labels", task.split, str(PurePosixPath(task.path).with_suffix(".txt"))) for task in tasks}
    for folder in ("images", "labels"):
        root = storage.join(out, folder)
        present = storage.list_files(root) if storage.is_dir(root) else []
        for entry in present:
            if storage.join(folder, entry.path) not in allowed:
                raise UserError(f"{out}: must be empty or hold the same dataset, but holds {folder}/{entry.path}")


def summarize(result: Result, options: Options) -> str:
    """What `run` prints in the end, one fact per line."""
    counts = "; ".join(
        f"{result.images[name]} images in {name} ({result.backgrounds[name]} without boxes)" for name in SPLITS
    )
    boxes = ", ".join(f"{name} {result.boxes[class_id]}" for class_id, name in enumerate(options.classes))
    lines = [counts, f"{result.boxes.total()} boxes: {boxes}"]
    kinds = Counter((problem.kind, problem.action) for problem in result.problems)
    for (kind, action), count in sorted(kinds.items()):
        first = next(problem for problem in result.problems if (problem.kind, problem.action) == (kind, action))
        where = f"{first.path}, line {first.line}" if first.line else first.path
        lines.append(f"{action}: {count} × {kind}, first {where}" + (f": {first.found}" if first.found else ""))
    lines.append(f"{len(result.problems)} problems: {storage.join(options.out, 'problems.parquet')}")
    return "\n".join(lines)


def write_problems(uri: str, problems: Sequence[Problem]) -> None:
    """Writes them as Parquet, a row each."""
    rows = [
        problem._asdict() | {"path": parquet_text(problem.path), "found": parquet_text(problem.found)}
        for problem in problems
    ]
    storage.write_table(uri, pa.Table.from_pylist(rows, schema=SCHEMA))


def run(options: Options) -> int:
    """Writes the dataset with Ray tasks over chunks of images; 3 where images were unusable, or --strict objects."""
    import ray
    from tqdm import tqdm

    tasks, problems = plan(options)
    raw, out = (uri if storage.is_s3(uri) else str(Path(uri).resolve()) for uri in (options.raw, options.out))
    total = Result(Counter(), Counter(), Counter(), problems)
    remote = ray.remote(process)
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    bound = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # chunks in flight: enough to keep all busy
    waiting, running = iter(chunks), {}
    storage.delete(storage.join(out, "data.yaml"))  # it is written last, and says that the dataset is whole
    with tqdm(total=len(tasks), unit="image", file=sys.stderr, mininterval=0.5) as bar:
        for chunk in itertools.islice(waiting, bound):
            running[remote.remote(raw, out, chunk)] = len(chunk)
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            total.add(ray.get(ready))
            bar.update(running.pop(ready))
            for chunk in itertools.islice(waiting, 1):
                running[remote.remote(raw, out, chunk)] = len(chunk)
    total.problems.sort()  # whichever chunk was first

    write_problems(storage.join(out, "problems.parquet"), total.problems)
    unusable = [problem for problem in total.problems if problem.kind == UNUSABLE]
    if len(unusable) == len(tasks):
        raise UserError(f"{raw}: no image can be decoded, such as {unusable[0].path}: {unusable[0].found}")
    print(summarize(total, options), flush=True)
    if options.strict and total.problems:
        print("--strict: the dataset is left without data.yaml", flush=True)
        return 3
    write_data_yaml(out, options.classes, [name for name in SPLITS if total.images[name]])
    return 3 if unusable else 0
