"""Which images a training has seen, by content: what chose the weights may not certify them.

As it begins, a training leaves a table of the images that it learns from and is validated with; measuring compares
with it, wherever the images lie now and whatever they are called. Weights that lie with no such table, since they are
a copy or others' work, may have seen any image: that is said, too.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers import storage
from depers.datasets import image_index
from depers.datasets.data_yaml import read_dataset
from depers.datasets.labels import find_images
from depers.datasets.shards import Shards, TarImage, list_shards, read_members
from depers.errors import UserError
from depers.storage import Entry, file_table, tables
from depers.storage.tables import column

NAME = "seen.parquet"
SCHEMA = tables.schema(
    column("split", pa.string(), "what it was used for: `train` or `val`"),
    column("digest", pa.uint64(), "first 8 bytes of the SHA-256 of an image file's size and last 4 KiB"),
)
"""OUT/seen.parquet of a training: a row for every image."""
_READERS = 16  # threads that mostly wait for storage
_SPLITS = ("train", "val")
_WEIGHTS = ("best.pt", "last.pt")  # in OUT/weights of a training
NOT_KNOWN = "not known"
"""What files of figures and thresholds say in place of numbers, where nothing says what taught the weights."""


def digest_folder(folder: str) -> NDArray[np.uint64]:
    """Return the digests of the images in a folder (N,), in the order of their paths. Raise UserError."""
    images = file_table.tabulate_files(folder)
    images = images.filter(pc.and_(pc.is_null(images["reason"]), find_images(images["path"])))
    place = image_index.find_place(folder)
    indexed = image_index.find_digests(*place, images) if place else pa.nulls(len(images), pa.uint64())
    digests = np.asarray(pc.fill_null(indexed, 0).to_numpy(), np.uint64).copy()
    unknown = pc.is_null(indexed)
    files = images.filter(unknown)

    def digest(row: tuple[bytes, int]) -> int:
        path, size = row
        uri = storage.join(folder, file_table.decode(path))
        start = max(0, size - image_index.TAIL_BYTES)
        return image_index.digest_image(size, storage.read_range(uri, start, image_index.TAIL_BYTES))

    rows = zip(files["path"].to_pylist(), files["size"].to_pylist(), strict=True)
    with storage.translated_errors(folder), ThreadPoolExecutor(_READERS) as pool:
        digests[unknown.to_numpy(zero_copy_only=False)] = np.fromiter(pool.map(digest, rows), np.uint64, len(files))
    return digests


def digest_shards(tars: Shards) -> NDArray[np.uint64]:
    """Return the digests of the images in tars (N,), in no order. Raise UserError."""
    root, name = posixpath.split(tars.folder)
    entries = list_shards(tars)
    index = image_index.read_index(root or ".", "train", image_index.TAR_COLUMNS)
    rows = image_index.find_unchanged_tars(index.rows, file_table.tabulate(entries), name)
    indexed_files = set(pc.unique(rows["file"]).to_pylist())

    def digest(entry: Entry) -> list[int]:
        uri = storage.join(tars.folder, entry.path)
        with storage.translated_errors(uri), storage.open_entry(tars.folder, entry) as file:
            members = list(read_members(uri, file))
            return [_digest_member(file, member) for member in members]

    unknown = [entry for entry in entries if f"{name}/{entry.path}" not in indexed_files]
    with ThreadPoolExecutor(_READERS) as pool:
        digests = [digest for tar_digests in pool.map(digest, unknown) for digest in tar_digests]
    return np.concatenate([rows["digest"].to_numpy(), np.array(digests, np.uint64)])


def _digest_member(file: BinaryIO, member: TarImage) -> int:
    tail = min(member.byte_count, image_index.TAIL_BYTES)
    file.seek(member.offset + member.byte_count - tail)
    return image_index.digest_image(member.byte_count, file.read(tail))


def write_seen(out: str, datasets: Sequence[str], weights: str | None = None) -> None:
    """Write OUT/seen.parquet for a training on those datasets, the first of which has the images for validation.

    What taught and chose the `weights` that it starts from, as far as it is known, has taught its own. Raise UserError.
    """
    places: dict[str | Shards, str] = dict(_list_places(datasets))
    digests = [digest_shards(place) if isinstance(place, Shards) else digest_folder(place) for place in places]
    splits = np.repeat(list(places.values()), [len(values) for values in digests])
    columns = {"split": splits, "digest": np.concatenate(digests)}
    table = pa.Table.from_pydict(columns, schema=SCHEMA)
    former = _read_seen(weights) if weights else None
    if former is not None:
        table = pa.concat_tables([table, former])
    tables.write_table(storage.join(out, NAME), table)


def _list_places(datasets: Sequence[str]) -> Iterator[tuple[str | Shards, str]]:
    for number, uri in enumerate(datasets):
        dataset = read_dataset(uri)
        for place in (dataset.train, *dataset.additional_train, *dataset.shards):
            if place is not None:
                yield place, "train"
        if number == 0 and dataset.val is not None:
            yield dataset.val, "val"


def count_seen(weights: Sequence[str], folder: str) -> dict[str, Mapping[str, int] | None]:
    """Return by weights how many images of a folder their training used, by split; None where nothing says that.

    Raise UserError for a table that is none.
    """
    counts: dict[str, Mapping[str, int] | None] = dict.fromkeys(weights)
    digests = None
    for uri in weights:
        table = _read_seen(uri)
        if table is None:
            continue
        digests = digest_folder(folder) if digests is None else digests
        splits, seen = table["split"].to_numpy(zero_copy_only=False), table["digest"].to_numpy()
        counts[uri] = {
            split: count for split in _SPLITS if (count := int(np.isin(digests, seen[splits == split]).sum()))
        }
    return counts


def describe_seen(counts: Mapping[str, Mapping[str, int] | None], total: int) -> list[str]:
    """Return a line for each of the weights whose training used some of the `total` images, or may have."""
    lines = []
    for uri, by_split in counts.items():
        parts = [f"{count} in {split}" for split, count in (by_split or {}).items()]
        if by_split is None:
            doubt = f"whether the training of {uri} used any of the {total} images: no {NAME} lies with it"
            lines.append(f"{NOT_KNOWN}: {doubt}; if so, figures and thresholds are too good")
        elif parts:
            reason = "which taught or chose them: figures and thresholds are too good"
            lines.append(f"warning: of {total} images, the training of {uri} used {' and '.join(parts)}, {reason}")
    return lines


def _read_seen(weights: str) -> Any:
    """Return the table of the training that wrote these weights, None where they lie with none. Raise UserError."""
    for uri in _locate_tables(weights):
        try:
            is_there = storage.exists(uri)
        except UserError:  # whoever may read weights need not be allowed to look around
            continue
        if is_there:
            try:
                return _check(tables.read_table(uri, SCHEMA.names))
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{uri}: must be a table of images that a training wrote, but {error}") from None
    return None


def _check(table: pa.Table) -> pa.Table:
    """Return a table as `SCHEMA` has it. Raise ArrowInvalid for other content, which would count as no image used."""
    table = table.cast(SCHEMA)
    if odd_names := set(table["split"].to_pylist()) - set(_SPLITS):
        raise pa.ArrowInvalid(f"splits must be {' or '.join(_SPLITS)}, but it has {sorted(map(repr, odd_names))[0]}")
    if table["digest"].null_count:
        raise pa.ArrowInvalid("images without a digest are in it")
    return table


def _locate_tables(weights: str) -> list[str]:
    """Return where the table may be: in the OUT of their training, or beside weights that were moved with it.

    Weights are where their path leads from the working folder, and where links lead from there.
    """
    uris = []
    for place in (storage.absolute(weights), storage.real_place(weights)):
        folder, _, name = place.rpartition("/")
        out, _, folder_name = folder.rpartition("/")
        if folder_name == "weights" and name in _WEIGHTS:
            uris.append(storage.join(out or "/", NAME))
        uris.append(storage.join(folder or "/", NAME))
    return list(dict.fromkeys(uris))
