"""Rows of records, counted: what became of files, their boxes, and why some failed."""

import pyarrow as pa
import pyarrow.compute as pc

from depers.observation.failure_kinds import classify_reason
from depers.observation.meter import count
from depers.observation.metrics import BOXES, FAILURES, FILES
from depers.statuses import FileStatus

_MOST_CLASSES = 50  # that a label tells one by one: tables from elsewhere may hold any number
_OTHER = "other"


def count_rows(table: pa.Table) -> None:
    """Count the rows of a record; columns that it has not are not counted."""
    names = table.schema.names
    if "status" in names:
        for status, number in _count_values(table["status"]):
            count(FILES, status, number)
        if "reason" in names:
            for reason, number in _count_values(table.filter(pc.equal(table["status"], FileStatus.FAILED))["reason"]):
                count(FAILURES, classify_reason(reason), number)
    if "boxes" in names:
        boxes = pc.list_flatten(table["boxes"])
        if pa.types.is_struct(boxes.type) and boxes.type.get_field_index("class") >= 0:
            for position, (name, number) in enumerate(_count_values(pc.struct_field(boxes, "class"))):
                count(BOXES, name if position < _MOST_CLASSES else _OTHER, number)


def _count_values(column: pa.ChunkedArray) -> list[tuple[str, int]]:
    """Return the texts of a column with how often each is there, the most frequent ones first."""
    pairs = [(str(pair["values"]), int(pair["counts"])) for pair in pc.value_counts(column).to_pylist()]
    return sorted(pairs, key=lambda pair: -pair[1])
