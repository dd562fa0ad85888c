"""What a dataset holds as one hash, the same wherever it lies: to tell whether a training may go on with it."""

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from depers import storage
from depers.datasets import ignore_regions
from depers.datasets.data_yaml import read_dataset
from depers.datasets.labels import label_path
from depers.errors import UserError
from depers.storage import Entry

_READERS = 16  # threads that mostly wait for storage


def digest_dataset(uri: str) -> str:
    """Return a hash of class names, images by path and size, and labels by content. Raise UserError.

    Labels on S3 are known by their tags, which for small files are hashes of the content.
    """
    dataset = read_dataset(uri)
    digest = hashlib.sha256(repr((dataset.names, dataset.labelled)).encode())
    for folder in (dataset.train, *dataset.additional_train, dataset.val):
        for line in _describe_split(folder) if folder else ():
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
    for entry in _list_dataset(images):
        yield f"{entry.path} {entry.size}"
    example = storage.join(images, "x.jpg")
    for path in (label_path(example), ignore_regions.ignore_path(example)):
        texts = path.rpartition("/")[0]
        entries = _list_dataset(texts)
        with ThreadPoolExecutor(_READERS) as pool:
            tags = pool.map(lambda entry, texts=texts: _content_tag(texts, entry), entries)
            for entry, tag in zip(entries, tags, strict=True):
                yield f"{entry.path} {tag}"


def _list_dataset(folder: str) -> list[Entry]:
    """Return the files that are read as a part of a dataset."""
    if not storage.is_dir(folder):
        return []
    return [entry for entry in storage.list_files(folder, follow_links=True) if not entry.status]


def _content_tag(folder: str, entry: Entry) -> str:
    """Return the MD5 sum of a file, which is also the tag of what S3 got at once."""
    if re.fullmatch(r"[0-9a-f]{32}", entry.etag):
        return entry.etag
    uri = storage.join(folder, entry.path)
    with storage.translated_errors(uri):
        return hashlib.md5(storage.read_bytes(uri), usedforsecurity=False).hexdigest()
