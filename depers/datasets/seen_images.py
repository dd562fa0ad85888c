"""Which images a training has seen, by content: what chose the weights may not certify them.

Beside its weights, a training leaves a table of the images that it learnt from and that it was validated with;
measuring compares with it, wherever the images lie now and whatever they are called.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from depers import storage
from depers.datasets.data_yaml import read_dataset
from depers.datasets.labels import IMAGE_SUFFIXES
from depers.errors import UserError
from depers.storage import Entry, tables
from depers.storage.tables import column

NAME = "seen.parquet"
SCHEMA = tables.schema(
    column("split", pa.string(), "what it was used for: `train` or `val`"),
    column("digest", pa.uint64(), "first 8 bytes of the SHA-256 of an image file's size and last 4 KiB"),
)
"""OUT/seen.parquet of a training: a row for every image."""
_READERS = 16  # threads that mostly wait for storage
_TAIL = 4096  # bytes: with its size, the end of an image file tells it from others as well as all of it
_WEIGHTS = ("weights/best.pt", "weights/last.pt")


def digest_folder(folder: str) -> NDArray[np.uint64]:
    """Return the digests of the images in a folder (N,), in the order of their paths. Raise UserError."""

    def digest(entry: Entry) -> int:
        uri = storage.join(folder, entry.path)
        tail = storage.read_range(uri, max(0, entry.size - _TAIL), _TAIL)
        return int.from_bytes(hashlib.sha256(b"%d %b" % (entry.size, tail)).digest()[:8], "big")

    entries = [entry for entry in storage.list_files(folder, follow_links=True) if not entry.status]
    images = [entry for entry in entries if entry.path.lower().endswith(IMAGE_SUFFIXES)]
    with storage.translated_errors(folder), ThreadPoolExecutor(_READERS) as pool:
        return np.fromiter(pool.map(digest, images), np.uint64, len(images))


def write_seen(out: str, datasets: Sequence[str]) -> None:
    """Write OUT/seen.parquet for a training on those datasets, the first of which has the images for validation."""
    folders = dict(_list_folders(datasets))
    digests = {folder: digest_folder(folder) for folder in folders}
    splits = np.repeat(list(folders.values()), [len(values) for values in digests.values()])
    columns = {"split": splits, "digest": np.concatenate(list(digests.values()))}
    tables.write_table(storage.join(out, NAME), pa.Table.from_pydict(columns, schema=SCHEMA))


def _list_folders(datasets: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, uri in enumerate(datasets):
        dataset = read_dataset(uri)
        for folder in (dataset.train, *dataset.additional_train):
            if folder is not None:
                yield folder, "train"
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
            split: count for split in ("train", "val") if (count := int(np.isin(digests, seen[splits == split]).sum()))
        }
    return counts


def describe_seen(counts: Mapping[str, Mapping[str, int] | None], total: int) -> list[str]:
    """Return a warning for each of the weights whose training used some of the `total` images that are measured."""
    lines = []
    for uri, by_split in counts.items():
        parts = [f"{count} in {split}" for split, count in (by_split or {}).items()]
        if parts:
            reason = "which taught or chose them: figures and thresholds are too good"
            lines.append(f"warning: of {total} images, the training of {uri} used {' and '.join(parts)}, {reason}")
    return lines


def _read_seen(weights: str) -> Any:
    """Return the table of the training that wrote these weights, None where they lie beside none."""
    place = weights.rstrip("/")
    for suffix in _WEIGHTS:
        if place == suffix or place.endswith(f"/{suffix}"):
            uri = storage.join(place.removesuffix(suffix).rstrip("/") or ".", NAME)
            if not storage.exists(uri):
                return None
            try:
                return tables.read_table(uri, SCHEMA.names)
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{uri}: must be a table of images that a training wrote, but {error}") from None
    return None
