"""Boxes from elsewhere than a detector: labels, detections edited by a person, or those of an earlier run.

An image that they say nothing about fails: an empty list of boxes must be said, too.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.boxes import EDGES, from_normalized_xywh
from depers.datasets.data_yaml import read_dataset
from depers.datasets.labels import parse_yolo
from depers.detection.detections import VERSION, make_box
from depers.errors import UserError, one_line
from depers.imaging.headers import ImageError
from depers.runtime import units
from depers.statuses import ArchiveStatus, FileStatus
from depers.storage import tables
from depers.storage.tables import parquet_text

Row = dict[str, Any]
_REQUIRED = ("path", "boxes")
_USED = (
    "path",
    "member",
    "number",
    "status",
    "reason",
    "boxes",
    "input_sha256",
    "margin",
    "output_sha256",
    "output_bytes",
    "output_offset",
)
_VERSION_KEYS = (b"depers.detections", b"depers.manifest")
_STATUSES = {*FileStatus, *ArchiveStatus}


class BoxSource(NamedTuple):
    """Where boxes are: a table of rows by path and number, or YOLO texts below `labels`, whose classes are `names`.

    `confidence` and `thresholds` are the least of a box that counts; `checked` that a file must be the one that the
    boxes were found in.
    """

    uri: str
    names: tuple[str, ...] = ()
    labels: str = ""
    confidence: float = 0.0
    thresholds: Mapping[str, float] = {}
    checked: bool = False


def find_box_source(uri: str) -> BoxSource:
    """Return what `--boxes` names: a table of detections, or a folder of YOLO labels. Raise UserError."""
    if not storage.is_dir(uri):
        return BoxSource(uri)
    if storage.exists(storage.join(uri, "classes.txt")):
        text = storage.read_bytes(storage.join(uri, "classes.txt")).decode()
        return BoxSource(uri, tuple(text.split()), storage.join(uri, "labels"))
    if storage.exists(storage.join(uri, "data.yaml")):
        dataset = read_dataset(uri)
        folder = storage.join(uri, "labels")
        return BoxSource(uri, tuple(dataset.names), folder)
    if tables_there := _find_tables(uri):
        return BoxSource(tables_there[-1])
    raise UserError(f"{uri}: must be a table of detections, or a folder with labels/ and classes.txt or data.yaml")


def _find_tables(folder: str) -> list[str]:
    """Return the tables of boxes that an OUT has, in it or in the records beside it, or a folder of records."""
    records = units.locate_beside(storage.absolute(folder))
    places = [storage.join(records, "manifest.parquet")] if records else []
    places += [storage.join(folder, name) for name in ("manifest.parquet", "detections.parquet")]
    return [place for place in places if storage.exists(place)]


def find_previous_source(uri: str, confidence: float, thresholds: Mapping[str, float]) -> BoxSource:
    """Return what `--previous-detections` names: a manifest, a table of detections, or the OUT that holds one."""
    table = uri
    if storage.is_dir(uri):
        tables_there = _find_tables(uri)
        if not tables_there:
            raise UserError(f"{uri}: must hold a manifest or detections.parquet of an earlier run, but holds neither")
        table = tables_there[0]
    least = min([confidence, *thresholds.values()])  # for a class of which no threshold is known
    return BoxSource(table, confidence=least, thresholds=thresholds, checked=True)


class RowsByPath:
    """The rows of a table by path and number; read once, by the driver, which sends each unit its own."""

    def __init__(self, uri: str, version_key: bytes | None = None) -> None:
        """Read the table; with a `version_key`, only one whose metadata have that. Raise UserError for another."""
        table = _read_table(uri, version_key)
        if "status" in table.schema.names:  # rows about what is gone would hide those about what is there
            table = table.filter(pc.not_equal(pc.fill_null(table["status"], ""), FileStatus.REMOVED))
        self._table = table.sort_by("path").combine_chunks()
        paths = pc.run_end_encode(self._table["path"].combine_chunks()) if len(table) else None
        self._spans: dict[str, tuple[int, int]] = {}
        start = 0
        if paths is not None:
            for path, stop in zip(paths.values.to_pylist(), paths.run_ends.to_pylist(), strict=True):
                self._spans[path] = (start, stop)
                start = stop

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def digest(self, paths: Sequence[str]) -> str:
        """Return a hash of the rows of some inputs, which does not depend on the others."""
        spans = [self._spans.get(parquet_text(path), (0, 0)) for path in paths]
        rows = self._table.take(np.concatenate([np.arange(*span) for span in spans])).combine_chunks()
        digest = hashlib.sha256(repr([stop - start for start, stop in spans]).encode())
        for batch in rows.to_batches():
            digest.update(batch.serialize())
        return digest.hexdigest()

    def of(self, path: str) -> dict[int | None, Row]:
        """Return the rows of one input by their numbers in it; of a loose file by None."""
        start, stop = self._spans.get(parquet_text(path), (0, 0))
        rows = self._table.slice(start, stop - start).to_pylist()
        return {row.get("number"): row for row in rows}


def _read_table(uri: str, version_key: bytes | None) -> pa.Table:
    """Return the columns of a table of boxes that are used. Raise UserError for what is none, or of another version."""
    try:
        table = tables.read_table(uri)
    except FileNotFoundError:
        raise UserError(f"{uri}: no such table of boxes") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{uri}: must be a Parquet table of boxes ({one_line(error)})") from None
    if absent := [name for name in _REQUIRED if name not in table.schema.names]:
        raise UserError(f"{uri}: must have the columns path and boxes, but has no {absent[0]}")
    if table.schema.field("boxes").type.value_type.get_field_index("x_min") < 0:
        raise UserError(f"{uri}: boxes must be a list of structs with {', '.join(EDGES)}")
    _check_version(uri, table, version_key)
    return table.select([name for name in table.schema.names if name in _USED])


def _check_version(uri: str, table: pa.Table, version_key: bytes | None) -> None:
    """Raise UserError for a table that another version of depers has written.

    Tables of boxes may also be made elsewhere, and programs that edit them lose the version: only their words count.
    """
    metadata = table.schema.metadata or {}
    versions = {metadata[key].decode() for key in _VERSION_KEYS if key in metadata}
    if version_key is not None:
        versions = {metadata.get(version_key, b"none").decode()}
    if versions - {str(VERSION)}:
        text = f"{uri}: must be a table of version {VERSION}, but its version is {min(versions)}"
        raise UserError(f"{text}: write it anew with this depers")
    if "status" in table.schema.names:
        for status in pc.unique(table["status"]).to_pylist():
            if status is not None and status not in _STATUSES:
                words = ", ".join(sorted(_STATUSES))
                raise UserError(
                    f"{uri}: status must be one of {words}, but is {status!r}: write it anew with this depers"
                )


def read_boxes(
    source: BoxSource,
    precomputed: Row | None,
    data: bytes,
    place: str,
    size_wh: tuple[int, int],
    classes: Sequence[str],
) -> list[Row]:
    """Return the boxes of one image as rows of `detections.BOX`. Raise ImageError where nothing is said about it."""
    rows = _read_labels(source, place, size_wh) if source.labels else _select_boxes(source, precomputed, data)
    return [row for row in rows if not classes or row["class"] in classes]


def _read_labels(source: BoxSource, place: str, size_wh: tuple[int, int]) -> list[Row]:
    name = storage.join(source.labels, str(PurePosixPath(place).with_suffix(".txt")))
    try:
        lines = storage.read_bytes(name).decode("utf-8-sig").splitlines()
        text = "\n".join(_without_confidence(line) for line in lines)
        labels = parse_yolo(text, len(source.names), name)
    except FileNotFoundError:
        raise ImageError(f"has no labels at {name}; an image without boxes must have an empty text") from None
    except (UserError, UnicodeDecodeError) as error:
        raise ImageError(f"has labels that cannot be read ({error})") from None
    boxes = from_normalized_xywh(labels.boxes_xywh, size_wh)
    return [
        make_box(source.names[class_id], None, box, "labels", 0)
        for class_id, box in zip(labels.class_ids.tolist(), boxes.tolist(), strict=True)
    ]


def _without_confidence(line: str) -> str:
    """Return a label without its sixth number, which is a confidence as `depers detect` writes it."""
    numbers = line.split()
    return " ".join(numbers[:5]) if len(numbers) == 6 else line


def _select_boxes(source: BoxSource, row: Row | None, data: bytes) -> list[Row]:
    """Return the boxes of a table's row that count. Raise ImageError for a row that says nothing about `data`."""
    if row is None:
        raise ImageError(f"has no row in {source.uri}")
    if row.get("status") == FileStatus.FAILED:
        raise ImageError(f"failed when its boxes were found: {row.get('reason')}")
    if source.checked and row.get("input_sha256") not in (None, hashlib.sha256(data).hexdigest()):
        raise ImageError("changed since its boxes were found")
    boxes = []
    for box in row["boxes"] or ():
        edges = [box[name] for name in EDGES]
        if any(value is None for value in edges) or not np.isfinite(edges).all():
            raise ImageError(f"has a box with edges {edges}, which must be numbers")
        name, confidence = str(box.get("class") or "thing"), box.get("confidence")
        if confidence is not None and confidence < source.thresholds.get(name, source.confidence):
            continue
        boxes.append(make_box(name, confidence, edges, box.get("model"), box.get("frame") or 0))
    return boxes
