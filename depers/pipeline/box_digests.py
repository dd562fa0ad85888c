"""What boxes from elsewhere say, as a part of the names of units: edited boxes redo the units that they are about."""

import bisect
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from depers import storage
from depers.pipeline.box_sources import BoxSource, check_class_lists, label_name
from depers.pipeline.box_tables import PrecomputedRows
from depers.runtime import units
from depers.runtime.units import Unit
from depers.storage import Entry


def describe_source(source: BoxSource | None) -> dict[str, Any] | None:
    """Return what decides how boxes are read, which is the same for all units: all but where they are."""
    if source is None:
        return None
    return {name: value for name, value in source._asdict().items() if name not in ("uri", "labels", "ambiguous")}


def name_by_boxes(all_units: Sequence[Unit], source: BoxSource, digests: Sequence[str] | None) -> list[Unit]:
    """Return the units, their names also a hash of what the source says about their files.

    `digests` are those of a table's rows about each unit. Texts are known by their sizes and tags, as images are. Raise
    UserError where among them is another list of classes.
    """
    if digests is not None:
        return [units.rename(unit, digest) for unit, digest in zip(all_units, digests, strict=True)]
    texts = {entry.path: entry for entry in _list_texts(source.labels)}
    paths = sorted(texts)
    check_class_lists(source, paths)
    return [_rename(unit, source, texts, paths) for unit in all_units]


def _list_texts(folder: str) -> list[Entry]:
    return storage.list_files(folder, follow_links=True) if storage.is_dir(folder) else []


def _find_texts(unit: Unit, texts: dict[str, Entry], paths: Sequence[str]) -> list[Entry | None]:
    """Return the texts about the files of a unit, of an archive those about all members."""
    if unit.archive is None:
        return [texts.get(label_name(entry.path)) for entry in unit.entries]
    prefix = str(PurePosixPath(unit.entries[0].path)) + "/"
    first, last = (bisect.bisect_left(paths, end) for end in (prefix, prefix[:-1] + chr(ord("/") + 1)))
    return [texts[path] for path in paths[first:last]]


def _find_ambiguous(unit: Unit, source: BoxSource) -> list[str]:
    """Return the texts that say nothing about a unit's files, since others share them."""
    if unit.archive:
        prefix = f"{PurePosixPath(unit.entries[0].path)}/"
        return sorted(name for name in source.ambiguous if name.startswith(prefix))
    names = {name for entry in unit.entries for name in (label_name(entry.path), entry.path)}
    return sorted(names & source.ambiguous)


def _rename(unit: Unit, source: BoxSource, texts: dict[str, Entry], paths: Sequence[str]) -> Unit:
    unit_texts, ambiguous = _find_texts(unit, texts, paths), _find_ambiguous(unit, source)
    if unit.archive:
        return units.rename(unit, [unit_texts, ambiguous])
    contents = [
        json.dumps([text, [name for name in (label_name(entry.path), entry.path) if name in source.ambiguous]])
        for entry, text in zip(unit.entries, unit_texts, strict=True)
    ]
    return units.rename(unit, [unit_texts, ambiguous], contents)


def identify(unit: Unit, rows: PrecomputedRows) -> dict[str, str]:
    """Return a hash of all that decides what becomes of each file, by path: also of the `rows` of a table about it."""
    if not rows:
        return unit.identify()
    contents = tuple(repr(rows[entry.path]) if rows.get(entry.path) else "" for entry in unit.entries)
    return unit._replace(contents=contents).identify()
