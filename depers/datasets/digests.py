"""What a dataset holds as one hash, the same wherever it lies: to tell whether a training may go on with it."""

import hashlib
import posixpath
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.datasets import ignore_regions, image_index
from depers.datasets.data_yaml import read_dataset
from depers.datasets.shards import Shards, list_shards
from depers.errors import UserError
from depers.resources import MIB
from depers.storage import file_table

_READERS = 16  # threads that mostly wait for storage
_CHUNK = 65_536  # files that are objects at a time
_PIECE = 8 * MIB


def digest_dataset(uri: str) -> str:
    """Return a hash of class names, images by path and size, and labels by content. Raise UserError.

    Labels are known by what the dataset's index says of them, and on S3 by their tags, which for small files are hashes
    of the content. Images in tars are known by their paths, and the sizes and tags, or else the content, of the tars.
    """
    dataset = read_dataset(uri)
    digest = hashlib.sha256(repr((dataset.names, dataset.labelled)).encode())
    for folder in (dataset.train, *dataset.additional_train, dataset.val):
        for line in _describe_split(folder) if folder else ():
            digest.update(line.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(b"\n")
    for tars in dataset.shards:
        for line in _describe_shards(tars):
            digest.update(line.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(b"\n")
    return digest.hexdigest()


def digest_file(uri: str) -> str:
    """Return a hash of the content of a file. Raise UserError where it cannot be read."""
    try:
        with storage.translated_errors(uri):
            return hashlib.sha256(storage.read_bytes(uri)).hexdigest()
    except UserError:
        if storage.exists(uri):
            raise
        raise UserError(f"{uri}: no such file") from None


def _describe_split(images: str) -> Iterator[str]:
    if not storage.is_dir(images):
        return  # who reads it says so
    place = image_index.find_place(images)
    for path, size in _iterate(_list_dataset(images), "size"):
        yield f"{path} {size}"
    for prefix, name in (("labels", "labels"), ("ignore", ignore_regions.FOLDER)):
        texts = ignore_regions.locate_folder(images, name)
        files = _list_dataset(texts)
        sums = image_index.find_text_sums(*place, prefix, files) if place else pa.nulls(len(files), pa.string())
        yield from _tag_contents(texts, files, sums)


def _describe_shards(tars: Shards) -> Iterator[str]:
    files = file_table.tabulate(list_shards(tars))
    root, name = posixpath.split(tars.folder)
    yield from _tag_contents(tars.folder, files, image_index.find_tar_sums(root or ".", "train", name, files))


def _list_dataset(folder: str) -> pa.Table:
    """Return the files that are read as a part of a dataset."""
    if not storage.is_dir(folder):
        return file_table.SCHEMA.empty_table()
    files = file_table.tabulate_files(folder)
    return files.filter(pc.is_null(files["reason"]))


def _iterate(files: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    """Yield path and columns of files, some of them objects at a time."""
    for batch in files.select(["path", *names]).to_batches(_CHUNK):
        paths = map(file_table.decode, batch.column(0).to_pylist())
        yield from zip(paths, *(column.to_pylist() for column in batch.columns[1:]), strict=True)


def _tag_contents(folder: str, files: pa.Table, sums: pa.Array) -> Iterator[str]:
    """Yield the path and MD5 sum of each file: the one that is known, else its tag, else that of what is read."""
    table = files.append_column("sum", sums)

    def tag(row: tuple[str, int, str, str | None]) -> str:
        path, size, etag, content_sum = row
        if content_sum:
            return f"{path} {content_sum}"
        if re.fullmatch(r"[0-9a-f]{32}", etag):  # of what S3 got at once
            return f"{path} {etag}"
        uri = storage.join(folder, path)
        with storage.translated_errors(uri):
            return f"{path} {_sum_content(uri, size)}"

    rows = _iterate(table, "size", "etag", "sum")
    with ThreadPoolExecutor(_READERS) as pool:
        while part := list(islice(rows, _CHUNK)):
            yield from map(tag, part) if all(content_sum for *_, content_sum in part) else pool.map(tag, part)


def _sum_content(uri: str, size: int) -> str:
    """Return the MD5 sum of a file, which is also the tag of what S3 got at once; a tar is read in pieces."""
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, max(size, 1), _PIECE):
        digest.update(storage.read_bytes(uri) if size <= _PIECE else storage.read_range(uri, start, _PIECE))
    return digest.hexdigest()
