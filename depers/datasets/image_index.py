"""A dataset's index: what its images and labels say, in one table, so that a training need not open a million files.

DATASET/index.parquet is written by who writes the dataset, before data.yaml, from what was written. A row counts only
where a listing vouches for it: where each file that it speaks of is the one that was written, by its size and by when a
disk last saw it change, or by the tag that S3 gives to its content. All else is read file by file, as without an index.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from depers import storage
from depers.datasets.labels import Labels, drop_doubles, parse_yolo, sort_labels
from depers.errors import one_line
from depers.storage import file_table, tables
from depers.storage.tables import column, parquet_text

NAME = "index.parquet"
TAIL_BYTES = 4096
"""Of an image file: with its size, its end tells it from others as well as all of it."""

_MD5 = "MD5 sum of the {}, in hexadecimal digits, which is also its tag on S3 where it was uploaded at once"
_STAMP = "of the {}: when a disk last saw it change, in nanoseconds, or its tag on S3"
SCHEMA = tables.schema(
    column("split", pa.string(), "`train`, `val` or `calibration`"),
    column("path", pa.string(), "path of the image in its split's folder, also where it is in a tar"),
    column("file", pa.string(), "path below DATASET of the file that holds it: the image itself, or a tar"),
    column("file_bytes", pa.int64(), "size of that file"),
    column("file_md5", pa.string(), _MD5.format("file")),
    column("file_stamp", pa.string(), _STAMP.format("file")),
    column("offset", pa.int64(), "where in the file the image begins: 0, or in a tar the first byte of its content"),
    column("bytes", pa.int64(), "size of the image"),
    column(
        "digest", pa.uint64(), "first 8 bytes of the SHA-256 of the image's size and last 4 KiB, as in seen.parquet"
    ),
    column("width", pa.int32(), "width of the upright image in pixels"),
    column("height", pa.int32(), "height of the upright image in pixels"),
    column("labels_bytes", pa.int64(), "size of its label file; null in a tar"),
    column("labels_md5", pa.string(), _MD5.format("label file")),
    column("labels_stamp", pa.string(), _STAMP.format("label file")),
    column("ignore_bytes", pa.int64(), "size of the file of its ignore regions; null where it has none, and in a tar"),
    column("ignore_md5", pa.string(), _MD5.format("file of its ignore regions")),
    column("ignore_stamp", pa.string(), _STAMP.format("file of its ignore regions")),
    column("class_ids", pa.list_(pa.int32()), "class of each label, sorted by class and box, each once"),
    column(
        "boxes", pa.list_(pa.float32()), "four numbers for each: center x, center y, width, height, as its text says"
    ),
    column("ignored_ids", pa.list_(pa.int32()), "class of each ignore region, in the order of the text, each once"),
    column("ignored_boxes", pa.list_(pa.float32()), "four numbers for each"),
)
"""DATASET/index.parquet: a row for every image."""
RECORD_COLUMN = column("indexed", pa.struct(list(SCHEMA)), "the image's row of index.parquet; null where it is skipped")
"""A column of the records of units, from which the index is put together."""
_TEXTS = ("labels", "ignore")
_LABELS = ("class_ids", "boxes", "ignored_ids", "ignored_boxes")
_NEVER_NULL = ("split", "path", "file", "file_bytes", "offset", "bytes", "digest", "width", "height", *_LABELS)
_MOST_OF_IMAGE = np.float32(1.001)  # as texts may say
_SPLIT_FOLDER = re.compile(r"(.+)/images/([^/]+)", re.DOTALL)


CONTENT = ("path", "file", "offset", "bytes", "width", "height", *_LABELS)
"""Columns that say what an image is; the others say whether that is still so."""
TAR_COLUMNS = ("file", "file_bytes", "file_md5", "file_stamp", "digest")
"""Those that tell the images in a tar, and whether it is the one that was written."""


class WrittenFile(NamedTuple):
    """A file as it was written: its path below the dataset, its content, and the stamp that storage gave to it."""

    path: str
    data: bytes
    stamp: str


def digest_image(size: int, tail: bytes) -> int:
    """Return what tells an image file of `size` bytes from others, by its last `TAIL_BYTES`."""
    return int.from_bytes(hashlib.sha256(b"%d %b" % (size, tail)).digest()[:8], "big")


def describe(
    split: str,
    path: str,
    size_wh: tuple[int, int],
    image: WrittenFile,
    labels: WrittenFile,
    ignored: WrittenFile | None,
    contents: tuple[Labels, Labels] | None = None,
) -> dict[str, Any]:
    """Return the row of an image whose files were written, `path` being that in its split's folder.

    `contents` are what the texts of labels and ignore regions say where that is known: numbers of six decimals.
    """
    contents = contents or (_parse(labels.data, path), _parse(ignored.data if ignored else b"", path))
    row = _describe_image(split, path, size_wh, image.data, *contents)
    row |= {"file": parquet_text(image.path), "offset": 0}
    for prefix, file in (("file", image), ("labels", labels), ("ignore", ignored)):
        if file:
            row |= {
                f"{prefix}_bytes": len(file.data),
                f"{prefix}_md5": hashlib.md5(file.data, usedforsecurity=False).hexdigest(),
                f"{prefix}_stamp": file.stamp,
            }
    return row


def describe_member(
    split: str, path: str, size_wh: tuple[int, int], data: bytes, labels: bytes, ignored: bytes, offset: int
) -> dict[str, Any]:
    """Return the row of an image that begins at `offset` in a tar, but for what `add_tar` says of that."""
    contents = _parse(labels, path), _parse(ignored, path)
    return _describe_image(split, path, size_wh, data, *contents) | {"offset": offset}


def add_tar(rows: list[dict[str, Any]], tar: WrittenFile) -> None:
    """Add to the rows of the images in a tar what that is."""
    digest = hashlib.md5(tar.data, usedforsecurity=False).hexdigest()
    for row in rows:
        row |= {"file": tar.path, "file_bytes": len(tar.data), "file_md5": digest, "file_stamp": tar.stamp}


def _describe_image(
    split: str, path: str, size_wh: tuple[int, int], data: bytes, labels: Labels, ignored: Labels
) -> dict[str, Any]:
    rows, regions = sort_labels(labels), drop_doubles(ignored)
    return {
        "split": split,
        "path": parquet_text(path),
        "bytes": len(data),
        "digest": digest_image(len(data), data[-TAIL_BYTES:]),
        "width": size_wh[0],
        "height": size_wh[1],
        "class_ids": rows.class_ids.astype(np.int32),
        "boxes": rows.boxes_xywh.ravel().astype(np.float32),
        "ignored_ids": regions.class_ids.astype(np.int32),
        "ignored_boxes": regions.boxes_xywh.ravel().astype(np.float32),
    }


def _parse(text: bytes, source: str) -> Labels:
    """Return what reading the text gives: its numbers have six decimals, those that it was made of more."""
    return parse_yolo(text.decode(), _ANY_CLASS, source)


_ANY_CLASS = 1 << 30


def write_index(root: str, records: Iterable[pa.Table]) -> None:
    """Write ROOT/index.parquet, whole, from the records of units, which are asked for one by one."""
    with tables.TableWriter(storage.join(root, NAME), SCHEMA) as writer:
        for record in records:
            if RECORD_COLUMN.name in record.schema.names:  # an earlier version recorded none: those are read one by one
                rows = record[RECORD_COLUMN.name].drop_null().combine_chunks()
                writer.write(pa.Table.from_struct_array(rows))


class FolderIndex(NamedTuple):
    """What an index says of one split; `problem` says why it says nothing, where it should."""

    rows: pa.Table
    problem: str = ""


NO_INDEX = FolderIndex(tables.plain_schema(SCHEMA).empty_table())


def find_place(folder: str) -> tuple[str, str] | None:
    """Return the dataset, and the split, whose images are in a folder; None where it is not called so."""
    match = _SPLIT_FOLDER.fullmatch(folder.rstrip("/"))
    return (match[1], match[2]) if match else None


def read_index(root: str, split: str, columns: Sequence[str] | None = None) -> FolderIndex:
    """Return the rows of a split in ROOT/index.parquet, or these columns of them; none where there is no index."""
    uri = storage.join(root, NAME)
    names = SCHEMA.names if columns is None else list(columns)
    plain = tables.plain_schema(SCHEMA)
    schema = pa.schema([plain.field(name) for name in names])
    try:
        source: Any = io.BytesIO(storage.read_bytes(uri)) if storage.is_remote(uri) else uri
        table = pq.read_table(source, columns=names, filters=pc.field("split") == split, partitioning=None)
        table = table.cast(schema).combine_chunks()
        if columns is None:
            _check(table)
    except FileNotFoundError:
        return FolderIndex(schema.empty_table())
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        return FolderIndex(schema.empty_table(), f"{uri}: cannot be used ({one_line(error, 100)})")
    return FolderIndex(table)


def _check(table: pa.Table) -> None:
    """Raise ValueError where rows say what no image or label can have."""
    for name in _NEVER_NULL:
        if table[name].null_count:
            raise ValueError(f"{name} must not be null")
    sizes = {name: table[name].to_numpy() for name in ("width", "height", "offset", "bytes", "file_bytes")}
    if (np.minimum(sizes["width"], sizes["height"]) < 1).any():
        raise ValueError("width and height must be at least 1")
    if ((sizes["offset"] < 0) | (sizes["bytes"] < 0) | (sizes["offset"] + sizes["bytes"] > sizes["file_bytes"])).any():
        raise ValueError("images must lie in their files")
    for ids, boxes in (("class_ids", "boxes"), ("ignored_ids", "ignored_boxes")):
        id_counts, box_counts = (pc.list_value_length(table[name]).to_numpy() for name in (ids, boxes))
        if not np.array_equal(id_counts * 4, box_counts):
            raise ValueError(f"{boxes} must be four numbers for each of {ids}")
        values = [pc.list_flatten(table[name]) for name in (ids, boxes)]
        numbers = values[1].to_numpy().reshape(-1, 4)
        if values[0].null_count or (pc.min(values[0]).as_py() or 0) < 0:
            raise ValueError(f"{ids} must be whole numbers from 0 on")
        if not ((numbers >= 0) & (numbers <= _MOST_OF_IMAGE)).all() or not (numbers[:, 2:] > 0).all():
            raise ValueError(f"{boxes} must be numbers in 0…1, width and height more than 0")


def find_unchanged(rows: pa.Table, images: pa.Table, texts: Mapping[str, pa.Table]) -> NDArray[np.int64]:
    """Return for each listed image the number of its row, int64 (N,); -1 where none counts.

    `images`, and `texts` by `labels` and `ignore`, are listings (`storage.file_table`) of a split's folders.
    """
    numbers = _find(images["path"], rows["path"])
    text_paths = _locate_texts(images["path"])
    valid = _is_same(rows, "file", numbers, images, np.arange(len(images)))
    for name in _TEXTS:
        valid &= _is_same(rows, name, numbers, texts[name], _find(text_paths, texts[name]["path"]))
    return np.where(valid, numbers, -1)


def find_unchanged_tars(rows: pa.Table, files: pa.Table, folder: str) -> pa.Table:
    """Return the rows of the tars that are listed as they were written.

    `files` is the listing of a folder below the dataset.
    """
    places = _find(rows["file"], file_table.join_paths(folder, files["path"]))
    return drop_files(rows, (places >= 0) & _is_same(rows, "file", np.arange(len(rows)), files, places))


def drop_files(rows: pa.Table, is_good: NDArray[np.bool_]) -> pa.Table:
    """Return the rows of the files of which all rows are good."""
    if is_good.all():
        return rows
    bad = pc.unique(rows["file"].filter(pa.array(~is_good)))
    return rows.filter(pc.invert(pc.is_in(rows["file"], value_set=bad)))


def find_text_sums(root: str, split: str, prefix: str, files: pa.Table) -> pa.Array:
    """Return the MD5 sums of listed texts of a split, `prefix` being `labels` or `ignore`; null where none counts."""
    rows = read_index(root, split, ["path", *_describing(prefix)]).rows
    rows = rows.filter(pc.is_valid(rows[f"{prefix}_bytes"]))
    names = _locate_texts(rows["path"].cast(pa.large_binary()))
    return _find_values(rows, prefix, _find(files["path"], names), files, f"{prefix}_md5")


def find_tar_sums(root: str, split: str, folder: str, files: pa.Table) -> pa.Array:
    """Return the MD5 sums of the listed tars in a folder below ROOT; null where none counts."""
    rows = read_index(root, split, ["file", *_describing("file")]).rows
    return _find_values(
        rows, "file", _find(file_table.join_paths(folder, files["path"]), rows["file"]), files, "file_md5"
    )


def find_digests(root: str, split: str, images: pa.Table) -> pa.Array:
    """Return the digests (`digest_image`) of listed images of a split; null where none counts."""
    rows = read_index(root, split, ["path", "digest", "labels_bytes", *_describing("file")]).rows
    rows = rows.filter(pc.is_valid(rows["labels_bytes"]))  # those in tars have none
    return _find_values(rows, "file", _find(images["path"], rows["path"]), images, "digest")


def _describing(prefix: str) -> list[str]:
    return [f"{prefix}_{name}" for name in ("bytes", "md5", "stamp")]


def _find_values(rows: pa.Table, prefix: str, numbers: NDArray[np.int64], files: pa.Table, name: str) -> pa.Array:
    """Return a value for each of the files that is the one that row `numbers` speaks of, else null."""
    is_valid = _is_same(rows, prefix, numbers, files, np.arange(len(files)))
    return rows[name].combine_chunks().take(pa.array(np.where(is_valid, numbers, 0), mask=~is_valid))


def _find(values: pa.ChunkedArray, among: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return where each value is, int64 (N,); -1 where it is nowhere."""
    keys = among.cast(pa.large_binary()).combine_chunks()
    places = pc.index_in(values.cast(pa.large_binary()), value_set=keys)
    return np.asarray(pc.fill_null(places, -1).to_numpy(), np.int64)


def _is_same(
    rows: pa.Table, prefix: str, numbers: NDArray[np.int64], files: pa.Table, places: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return where the file that row `numbers` speaks of is the one at `places` in a listing, or there is neither."""
    has_row, has_file = numbers >= 0, places >= 0
    if not has_row.any():
        return has_row
    columns = rows.select(_describing(prefix)).take(pa.array(np.maximum(numbers, 0)))
    size, md5, stamp = columns.columns
    is_equal = pc.is_null(size).to_numpy()
    if has_file.any():
        entries = files.take(pa.array(np.maximum(places, 0)))
        is_content = pc.or_(_equal(entries["stamp"], stamp), _equal(entries["etag"], md5))
        is_file = pc.and_(pc.and_(_equal(entries["size"], size), is_content), pc.is_null(entries["reason"]))
        is_equal = np.where(has_file, is_file.to_numpy(), is_equal)
    return np.asarray(has_row & is_equal)


def _equal(first: pa.ChunkedArray, second: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(first, second.cast(first.type)), False)


def _locate_texts(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return what the texts of images are called in the folders of their split's; null where `label_path` differs."""
    texts = pc.replace_substring_regex(paths, r"\.[^./]*$", ".txt")
    unusual = pc.match_substring_regex(paths, r"(^|/)(\.|images/)", ignore_case=True)
    return pc.if_else(unusual, pa.scalar(None, texts.type), texts)
