"""What becomes of a file: its outcome is finished, written and accounted for, and whatever goes wrong is its row.

Here is the boundary of a pass: what a file causes ends as its failed row, what storage as a whole causes as an
OutageError, and nothing else leaves it.
"""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from depers import storage
from depers.errors import typed_reason
from depers.imaging.headers import ImageError
from depers.pipeline.box_tables import Row
from depers.pipeline.steps import Item, Outcome, PassJob, memory_slot
from depers.statuses import FileStatus
from depers.storage.failures import explain, is_of_name, raise_outage
from depers.storage.tables import parquet_text, plain_schema

_TEXTS = (
    "path",
    "member",
    "reason",
    "output_path",
    "output_member",
)  # columns with text that a file name may be part of


def finish(job: PassJob, item: Item, boxes: Sequence[Row]) -> Outcome:
    """Return the item's outcome; whatever goes wrong in the last step is its failure, never the job's."""
    try:
        with memory_slot(item.size_wh):
            outcome = job.finish(item, boxes)
        noted = {"arithmetic": item.arithmetic} if "arithmetic" in job.schema.names else {}
        return outcome._replace(row=outcome.row | noted, retry=item.retry)
    except ImageError as error:
        return fail(job, item, str(error))
    except OSError as error:  # of a last step that writes files of its own
        return fail(job, item, f"cannot be written ({explain(error)})", retry=not is_of_name(error))
    except Exception as error:
        return fail(job, item, f"cannot be finished ({typed_reason(error)})")


def fail(job: PassJob, item: Item, reason: str, retry: bool = False) -> Outcome:
    """Return the outcome of a file that fails; where not even that can be told, the least that accounts for it."""
    try:
        row = job.finish(replace(item, reason=reason, status="", view=None, image=None), []).row
        to_table(job, [row])
    except Exception as error:
        raise_outage(error)
        row = {"path": item.path, "member": item.member, "number": item.number, "reason": reason, "boxes": []}
        row = {name: value for name, value in row.items() if name in job.schema.names} | {"status": FileStatus.FAILED}
    return Outcome(row, retry=retry or item.retry)


def to_table(job: PassJob, rows: Sequence[Row]) -> pa.Table:
    """Return the rows as a table of the job's schema; names that are not text are escaped."""
    texts = [row | {name: parquet_text(row[name]) for name in _TEXTS if row.get(name)} for row in rows]
    return pa.Table.from_pylist(texts, schema=plain_schema(job.schema))


def account(job: PassJob, items: Sequence[Item], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes, those whose rows the table cannot hold as failures, and without what was written of them."""
    try:
        to_table(job, [outcome.row for outcome in outcomes])
    except Exception:
        return [_account_one(job, item, outcome) for item, outcome in zip(items, outcomes, strict=True)]
    return list(outcomes)


def _account_one(job: PassJob, item: Item, outcome: Outcome) -> Outcome:
    try:
        to_table(job, [outcome.row])
    except Exception as error:
        failed = fail(job, item, f"cannot be recorded ({typed_reason(error)})")
        return write(job, item, failed) if item.number is None else failed
    return outcome


def write(job: PassJob, item: Item, outcome: Outcome) -> Outcome:
    """Write the result of a loose file, or make sure that there is none; return the outcome without its data.

    Where storage fails the input, what an earlier run wrote stays: it may be as good as what could not be made now.
    """
    if not job.mirrors:
        return outcome
    try:
        if outcome.data is not None:
            path = job.locate(item.path)
            stamp = storage.write_below(job.out, path, outcome.data)
            row = outcome.row if path == item.path else outcome.row | {"output_path": path}
            return outcome._replace(row=row, data=None, stamp=stamp)  # a unit's images together are large
        if not outcome.retry:
            storage.delete_below(job.out, job.locate(item.path))  # an earlier version of this input may have succeeded
    except Exception as error:
        reason = explain(error)
        if outcome.data is None and is_of_name(error):
            return outcome  # there can be nothing of such a name
        if not outcome.row.get("reason"):
            reason = f"cannot be written ({reason})"
        else:
            reason = f"{outcome.row['reason']}, and an earlier result cannot be removed ({reason})"
        return fail(job, item, reason, retry=not is_of_name(error))
    return outcome
