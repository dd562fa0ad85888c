"""What a training leaves below OUT: the names of its files, its figures and how far it is. No torch here."""

import json
from typing import NamedTuple

from depers import storage

STATE = "state/last.pt"
"""All to go on from."""
PROGRESS = "state/progress.json"
"""How far that state is."""
BEST, LAST = "weights/best.pt", "weights/last.pt"
"""Ordinary YOLOv5 weights."""
RESULTS = "results.csv"
REPORT = "report.html"


def read_results(out: str) -> list[dict[str, float]]:
    """Return the rows of OUT/results.csv, one per epoch so far."""
    path = storage.join(out, RESULTS)
    if not storage.exists(path):
        return []
    header, *lines = storage.read_bytes(path).decode().splitlines()
    return [dict(zip(header.split(","), map(float, line.split(",")), strict=True)) for line in lines]


class Progress(NamedTuple):
    """How far the state below OUT is: `batches` from the first; `finished_epochs` is --epochs where all is done."""

    batches: int = 0
    finished_epochs: int = 0


def format_progress(progress: Progress) -> bytes:
    """Return the content of the file `PROGRESS`."""
    return json.dumps(progress._asdict()).encode()


def read_progress(root: str) -> Progress:
    """Return how far the state below `root` is; of a training that has left none, or a damaged note, no batch."""
    uri = storage.join(root, PROGRESS)
    if not storage.exists(uri):
        return Progress()
    try:
        content = json.loads(storage.read_bytes(uri))
        return Progress(int(content["batches"]), int(content["finished_epochs"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Progress()
