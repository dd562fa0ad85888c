"""A job's claim on its OUT: what the work there is made with, noted by content, and the lease of the one at work.

What decides the bytes that are written is noted in `job.json`: options, digests of weights, what files say. Where such
files lie is not: they may be moved, and a job resumed from another folder.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from depers import storage
from depers.errors import UserError, one_line
from depers.runtime import lease, units
from depers.runtime.lease import Lease

VERSION = 4
"""Of the columns and words of all tables below an OUT; one of another version is refused, not guessed at."""


@contextmanager
def hold(
    out: str,
    options: Mapping[str, Any],
    *,
    records: str | None = None,
    note: str | None = None,
    empty: bool = True,
    raisable: Collection[str] = (),
    secrets: Collection[str] = (),
) -> Iterator[Lease]:
    """Claim OUT for this job within the block, and remove what was left half written there.

    `options` are those that decide the bytes written; `records` is the folder of the job's records (default: in OUT),
    `note` the file that has the options (default: job.json there). Options that are `raisable` may be larger than
    noted, and are then noted anew; of those that are `secrets` no message tells a value. Raise UserError where another
    run is at work, where OUT holds the work of a job with other options, tables of another version, or before the first
    run (unless `empty` is false) anything else.
    """
    records = records or units.locate_inside(out)
    note = note or storage.join(records, units.JOB)
    content = json.loads(json.dumps({"tables": VERSION, **options}))  # as it will be read: tuples are lists
    check = partial(_check, out, records, note, content, empty, raisable, secrets)
    check()  # before anything is written
    with lease.hold(records, out) as held:
        noted = check()
        if noted:
            storage.remove_partials(out)
            if not records.startswith(f"{out}/"):
                storage.remove_partials(records)
        if not noted or any(noted.get(name) != content[name] for name in raisable):
            with storage.translated_write_errors(out):
                storage.write_bytes(note, json.dumps(content, indent=1, sort_keys=True).encode())
        yield held


def _check(
    out: str,
    records: str,
    note: str,
    content: Mapping[str, Any],
    empty: bool,
    raisable: Collection[str],
    secrets: Collection[str],
) -> dict[str, Any]:
    """Return what is noted of the work to go on with, if there is any.

    Raise UserError where that is another job's, or other files are.
    """
    if storage.exists(note):
        noted = read_note(out, note)
        for name, value, now in _find_differences(noted, content):
            if name in raisable and isinstance(value, int) and value < now:
                continue
            if name in secrets:
                raise UserError(f"{out}: another run has begun here meanwhile: run the same command again")
            hint = "raise it, or choose another folder" if name in raisable else "choose another folder"
            raise UserError(f"{out}: holds a run with {name} {value!r}, but now it is {now!r}: {hint}")
        return noted
    if empty:
        refuse_others(out, records)
    return {}


def _find_differences(noted: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, noted and present value of what differs; of groups of values, those in them."""
    for name, now in content.items():
        value = noted.get(name)
        if isinstance(value, dict) and isinstance(now, dict) and value.keys() == now.keys():
            yield from ((f"{name} {inner}", *values) for inner, *values in _find_differences(value, now))
        elif value != now:
            yield name, value, now


def refuse_others(out: str, records: str) -> None:
    """Raise UserError where OUT is there and holds anything besides a lease, or is no folder."""
    if not storage.exists(out):
        return
    requirement = "must be absent, an empty folder or an earlier run to resume"
    if not storage.is_dir(out):
        raise UserError(f"{out}: {requirement}, but is a file")
    paths = {storage.join(out, entry.path) for entry in storage.list_files(out) if not storage.is_own_name(entry.path)}
    if storage.join(out, units.FOLDER, units.JOB) in paths - {storage.join(records, units.JOB)}:
        hint = "choose another OUT, and do not publish this one: its _depers tells of originals"
        raise UserError(f"{out}: holds a run of an earlier version of depers, or of another verb: {hint}")
    if paths - {storage.join(records, lease.NAME)}:
        hint = "" if records.startswith(f"{out}/") else f", and its records are not at {records}: name them (--records)"
        raise UserError(f"{out}: {requirement}, but holds other files{hint}")


def read_job(out: str, records: str | None = None) -> dict[str, Any]:
    """Return what `hold` noted about OUT. Raise UserError where that is damaged, or of another version."""
    return read_note(out, storage.join(records or units.locate_inside(out), units.JOB))


def read_note(out: str, uri: str) -> dict[str, Any]:
    """Return what a run noted about OUT at `uri`. Raise UserError where that is damaged, or of another version."""
    try:
        job: dict[str, Any] = json.loads(storage.read_bytes(uri))
    except ValueError as error:  # also for what is no text
        raise UserError(f"{uri}: must be JSON that an earlier run wrote, but is none ({one_line(error)})") from None
    if not isinstance(job, dict):
        raise UserError(f"{uri}: must be a JSON object that an earlier run wrote, but is {type(job).__name__}")
    if (version := job.get("tables", 1)) != VERSION:
        raise UserError(
            f"{out}: must hold tables of version {VERSION}, but their version is {version}: choose another folder"
        )
    return job
