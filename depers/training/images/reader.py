"""Reads the images of datasets, in folders and in tars, into rows of examples.

What a dataset's index says of an image is taken where a listing vouches for it; all else is read, file by file. Both
give the same bits.
"""

import posixpath
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers import storage
from depers.datasets import ignore_regions, image_index, labels, shards
from depers.datasets.data_yaml import Dataset
from depers.datasets.ignore_regions import IgnoreFolder
from depers.datasets.labels import Labels
from depers.datasets.shards import Shards, TarImage
from depers.errors import UserError
from depers.imaging.headers import ImageError, read_header
from depers.storage import file_table
from depers.storage.cache import DatasetCache
from depers.training.images.examples import Example, LabelKinds, SizeWH, tabulate
from depers.training.images.labelling import Labelling

_READERS = 16  # threads that mostly wait for storage
_READ_AHEAD = 4096  # examples: each that is read and not yet kept is some objects
_JPEG = b"\xff\xd8"
_HEADER_BYTES = 1 << 16
_SPLIT = "train"  # of images in tars
_NO_LABELS = Labels.of([], [])
_IMAGE = Example("", (0, 0), *_NO_LABELS, frozenset())


class _Listing(NamedTuple):
    """A split's folder on this node, and its listings: of the images, and of their texts by `labels` and `ignore`."""

    folder: str
    images: pa.Table
    texts: dict[str, pa.Table]


class ExampleReader:
    """Reads folders and tars into rows of examples, with class ids that index `names`.

    `kinds` are the sets of classes that the rows' images are labelled for; `notes` are lines on how they were read.
    """

    def __init__(self, names: tuple[str, ...], cache: DatasetCache | None) -> None:
        """Take what brings datasets from S3 to this node, if anything does."""
        self._names, self._cache = names, cache
        self.kinds = LabelKinds()
        self.notes: list[str] = []

    def read_folder(self, dataset: Dataset, folder: str, exact: bool = False) -> pa.Table:
        """Return the examples of one folder, by path; no label file means no objects. `exact` as in `Labelling`."""
        labelling = Labelling(dataset, self._names, exact)
        place, paths, rows, is_known, problem = self._find_rows(folder)
        files = file_table.join_paths(place, paths.filter(pa.array(is_known)))
        members = pa.repeat(pa.scalar(b"", pa.large_binary()), len(files))
        table, is_refused = labelling.make_rows(rows, files, members, self.kinds)
        if is_refused.any():  # reading says what is wrong, and where
            is_known[np.flatnonzero(is_known)[is_refused]] = False
            table = table.filter(pa.array(~is_refused))
        unknown = paths.filter(pa.array(~is_known))
        if problem and len(unknown):
            self.notes.append(f"{folder}: {len(unknown)} of {len(paths)} images were read one by one: {problem}")
        return _merge(table, self._read_files(labelling, place, unknown), is_known)

    def _find_rows(self, folder: str) -> tuple[str, pa.Array, pa.Table, NDArray[np.bool_], str]:
        """Bring a folder to this node, and look what the index says of it.

        Return its place here, the paths of its images, the rows of those of which the index says what is so, which
        those are, bool (N,), and why others are not among them.
        """
        place = image_index.find_place(folder)
        index = image_index.read_index(*place) if place else image_index.NO_INDEX
        rows = index.rows.filter(pc.is_valid(index.rows["labels_bytes"]))  # those in tars have none
        listing = self._list(folder, with_texts=len(rows) > 0)
        numbers = image_index.find_unchanged(rows, listing.images, listing.texts)
        is_known = numbers >= 0
        known_rows = _take(rows.select(image_index.CONTENT), numbers[is_known])
        problem = index.problem or (
            "edited, added or copied after the index of their dataset was written" if len(rows) else ""
        )
        return listing.folder, listing.images["path"].combine_chunks(), known_rows, is_known, problem

    def _list(self, folder: str, with_texts: bool) -> _Listing:
        """Bring a folder to this node, and list it. Raise UserError where what is called an image is no file."""
        sidecars = {name: ignore_regions.locate_folder(folder, name) for name in ("labels", ignore_regions.FOLDER)}
        place = self._bring([folder, *sidecars.values()])
        images = self._tabulate(folder)
        images = images.filter(labels.find_images(images["path"]))
        if faults := images.filter(pc.is_valid(images["reason"])).slice(0, 1).to_pylist():
            image = storage.join(place, file_table.decode(faults[0]["path"]))
            raise UserError(f"{image}: must be a file, but is {faults[0]['reason']}")
        texts = {
            name: self._tabulate(uri) if with_texts and storage.is_dir(uri) else file_table.SCHEMA.empty_table()
            for name, uri in sidecars.items()
        }
        return _Listing(place, images, texts)

    def _bring(self, uris: list[str]) -> str:
        """Bring folders to this node; return where the first one is."""
        return self._cache.fetch(uris)[uris[0]] if self._cache else uris[0]

    def _tabulate(self, uri: str) -> pa.Table:
        """Return the listing of a folder that was brought: of S3, where it is from there."""
        if self._cache and storage.is_remote(uri):
            return self._cache.get_listing(uri)
        return file_table.tabulate_files(uri)

    def _read_files(self, labelling: Labelling, folder: str, paths: pa.Array) -> pa.Table:
        class_count = len(labelling.dataset.names)
        ignore_folder = IgnoreFolder(folder, class_count)

        def read(encoded_path: bytes) -> Example:
            path = file_table.decode(encoded_path)
            image = storage.join(folder, path)
            label_file = labels.label_path(image)
            entries = labels.read_labels(label_file, class_count)
            example = _measure(_IMAGE._replace(path=image))
            return labelling.make_example(path, label_file, entries, ignore_folder.read(image), example)

        return tabulate(_map_ahead(read, _iterate(paths)), self.kinds)

    def read_shards(self, dataset: Dataset, tars: Shards) -> pa.Table:
        """Return the examples in the tars of a dataset, by path."""
        labelling = Labelling(dataset, self._names, exact=False)
        place = self._bring([tars.folder])
        listing = self._tabulate(tars.folder)
        listing = listing.filter(pc.is_null(listing["reason"]))
        shards.check_shards(tars, [file_table.decode(path) for path in listing["path"].to_pylist()])
        root, name = posixpath.split(tars.folder)
        index = image_index.read_index(root or ".", _SPLIT)
        names = {f"{name}/{tar}": tar for tar in tars.names}
        rows = index.rows.filter(pc.is_in(index.rows["file"], value_set=pa.array(names, pa.string())))
        rows = image_index.find_unchanged_tars(rows, listing, name)
        files = file_table.join_paths(
            posixpath.dirname(place) or ".", rows["file"].cast(pa.large_binary()).combine_chunks()
        )
        members = rows["path"].cast(pa.large_binary()).combine_chunks()
        table, is_refused = labelling.make_rows(rows, files, members, self.kinds)
        if is_refused.any():  # reading says what is wrong, and where
            table, rows = (image_index.drop_files(columns, ~is_refused) for columns in (table, rows))
        indexed_files = set(pc.unique(rows["file"]).to_pylist())
        unknown = [tar for file, tar in names.items() if file not in indexed_files]
        if unknown:
            reason = index.problem or "they were copied or edited after the index of their dataset was written"
            self.notes.append(f"{tars.folder}: {len(unknown)} of {len(names)} tars were read image by image: {reason}")
        table = pa.concat_tables([table, self._read_tars(labelling, place, unknown)])
        return table.take(pc.sort_indices(table["member"]))

    def _read_tars(self, labelling: Labelling, folder: str, names: list[str]) -> pa.Table:
        class_count = len(labelling.dataset.names)

        def read(pair: tuple[str, TarImage]) -> Example:
            tar, member = pair
            stem = f"{tar}: {member.name.rpartition('.')[0]}"
            entries = labels.decode_labels(member.labels, class_count, f"{stem}.txt")
            ignored = labels.decode_labels(member.ignored, class_count, f"{stem}{shards.IGNORE_SUFFIX}")
            image = _IMAGE._replace(path=tar, member=member.name, offset=member.offset, byte_count=member.byte_count)
            ignored = labels.drop_doubles(ignored)
            return labelling.make_example(member.name, f"{stem}.txt", entries, ignored, _measure(image))

        def list_pairs() -> Iterator[tuple[str, TarImage]]:
            for name in names:
                tar = storage.join(folder, name)
                with storage.translated_errors(tar), Path(tar).open("rb") as file:
                    yield from ((tar, member) for member in shards.read_members(tar, file))

        return tabulate(_map_ahead(read, list_pairs()), self.kinds)


def _map_ahead(function: Callable[[Any], Example], items: Iterable[Any]) -> Iterator[Example]:
    """Yield what the function returns, in order, some of it ahead of its use."""
    iterator = iter(items)
    with ThreadPoolExecutor(_READERS) as pool:
        while part := list(islice(iterator, _READ_AHEAD)):
            yield from pool.map(function, part)


def _iterate(paths: pa.Array) -> Iterator[bytes]:
    for start in range(0, len(paths), _READ_AHEAD):
        yield from paths.slice(start, _READ_AHEAD).to_pylist()


def _take(rows: pa.Table, numbers: NDArray[np.int64]) -> pa.Table:
    """Return rows by their numbers; where those are all in order, without a copy."""
    if len(numbers) == len(rows) and (np.diff(numbers) == 1).all():
        return rows
    return rows.take(pa.array(numbers)).combine_chunks()


def _merge(first: pa.Table, second: pa.Table, is_first: NDArray[np.bool_]) -> pa.Table:
    """Return rows of two tables in one order, in which those of the first have the places `is_first`, bool (N,)."""
    if not len(second):
        return first
    places = np.empty(len(is_first), np.int64)
    places[is_first], places[~is_first] = np.arange(len(first)), len(first) + np.arange(len(second))
    return pa.concat_tables([first, second]).take(pa.array(places))


def _measure(image: Example) -> Example:
    """Return an image with its size. Raise UserError where it is none."""
    return image._replace(size_wh=_read_size(image))


def _read_size(image: Example) -> SizeWH:
    """Return the upright size of an image: of a JPEG by its first bytes, where size and orientation stand there."""
    try:
        beginning = image.read(_HEADER_BYTES)
        if beginning.startswith(_JPEG):
            with suppress(ImageError):
                return read_header(beginning).upright_wh
        return read_header(image.read()).upright_wh
    except (ImageError, OSError) as error:
        raise UserError(f"{image.name}: must be a readable image, but {error}") from None
