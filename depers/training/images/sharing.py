"""One copy of a training's examples for all its workers on a node: one of them reads, all map the same files.

What they map is page cache, whose pages the workers share, and which the kernel takes back when memory runs short.

NAME-train.arrow, NAME-val.arrow    the rows of the examples
NAME.json                           all else, or why there is nothing: written last, it is what the others wait for
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from depers import storage
from depers.errors import UserError, short_reason
from depers.training.images.data import Splits
from depers.training.images.examples import ExampleTable
from depers.training.processes.process_group import ProcessGroup

_POLL_S = 0.1
_NAMES = ("train", "val")


def share_splits(read: Callable[[], Splits], group: ProcessGroup, name: str) -> Splits:
    """Return what `read` does, which one worker of each node calls; `name` is where it leaves that for the others.

    The others wait for a file, not for a message of the group: to bring a dataset from S3 may take longer than one
    may take. Raise UserError where reading does.
    """
    if group.local_world_size == 1:
        return read()
    if group.local_rank == 0:
        note: dict[str, Any] = {"error": "the worker that reads the dataset for this node ended"}
        try:
            note = _write(read(), name)
        except UserError as error:
            note = {"error": str(error)}
        except OSError as error:
            note = {"error": f"{name}: cannot be written ({short_reason(error)})"}
        finally:
            storage.write_bytes(f"{name}.json", json.dumps(note).encode())
    else:
        note = _wait(Path(f"{name}.json"))
    if "error" in note:
        raise UserError(note["error"])
    return _map(note, name)


def remove_shared(group: ProcessGroup, name: str) -> None:
    """Unlink the files that all workers have mapped, or given up: they last as long as one has them."""
    if group.local_world_size > 1 and group.local_rank == 0:
        for suffix in (".json", *(f"-{split}.arrow" for split in _NAMES)):
            Path(f"{name}{suffix}").unlink(missing_ok=True)


def _write(splits: Splits, name: str) -> dict[str, Any]:
    """Write the rows of the examples; return all else."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    note: dict[str, Any] = {"names": splits.names, "parts": splits.parts, "notes": splits.notes}
    for split, examples in zip(_NAMES, (splits.train, splits.val), strict=True):
        table = examples if isinstance(examples, ExampleTable) else ExampleTable.of(examples)
        with pa.OSFile(f"{name}-{split}.arrow", "wb") as file, pa.ipc.new_file(file, table.table.schema) as writer:
            writer.write_table(table.table)
        note[split] = [sorted(kind) for kind in table.kinds]
    return note


def _wait(path: Path) -> dict[str, Any]:
    while True:
        with suppress(FileNotFoundError):
            note: dict[str, Any] = json.loads(path.read_bytes())
            return note
        time.sleep(_POLL_S)


def _map(note: dict[str, Any], name: str) -> Splits:
    train, val = (
        ExampleTable(pa.ipc.open_file(pa.memory_map(f"{name}-{split}.arrow")).read_all(), map(frozenset, note[split]))
        for split in _NAMES
    )
    parts = tuple((size, weight) for size, weight in note["parts"])
    return Splits(tuple(note["names"]), train, val, parts, tuple(note["notes"]))
