"""One training of an experiment: alone in this process, with what bootstrapping over images needs of it kept."""

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from depers import storage
from depers.evaluation.experiment_statistics import TrainingResult, format_matches, sort_matches
from depers.evaluation.metrics import MatchedImage
from depers.training.callbacks import TrainingCallback
from depers.training.options import Options
from depers.training.processes.outputs import read_results
from depers.training.processes.process_group import ProcessGroup
from depers.training.processes.worker import work


class ValidationKeeper(TrainingCallback):
    """Writes the matched detections of every validation to a file of its own, before the state that comes after it."""

    def __init__(self, out: str) -> None:
        self._out = out

    def on_validation(self, epoch: int, matches: Sequence[MatchedImage], class_count: int) -> None:
        """Write the file of a validation."""
        data = format_matches(sort_matches(matches, class_count))
        storage.write_bytes(locate_matches(self._out, epoch), data)


def locate_matches(out: str, epoch: int) -> str:
    """Return where the matched detections after an epoch of the training in `out` are."""
    return storage.join(out, "validations", f"{epoch}.parquet")


def train_arm(
    options: Options, size: int, arm: str, synthetic: int, record: str, device: str, threads: int
) -> TrainingResult:
    """Train from where it stopped, with `threads` of torch, and write the `record` at the end; return what it holds."""
    start = time.monotonic()
    group = ProcessGroup(device=device, threads=threads)
    work(options, options.list_datasets(), group, ValidationKeeper(options.out), uuid.uuid4().hex[:12])
    rows = read_results(options.out)
    steps = tuple((options.steps or 0) * round(row["epoch"]) // options.epochs for row in rows)
    figures = (tuple(row[name] for row in rows) for name in ("map50", "map50_95"))
    seconds = max(time.monotonic() - start, sum(row["seconds"] for row in rows))
    result = TrainingResult(size, options.seed, arm, synthetic, seconds, steps, *figures)
    storage.write_bytes(record, json.dumps(result._asdict(), indent=1).encode())
    return result


def read_record(record: str) -> TrainingResult:
    """Return the result of a training that is done."""
    content = json.loads(storage.read_bytes(record))
    values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in content.values()]
    return TrainingResult(*values)
