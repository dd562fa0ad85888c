"""Listings of millions of files in columns: 70 bytes a file, not 400, and entries only while they are looked at."""

import pickle
import re
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise, repeat
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depers.storage.paths import Entry

_ROWS = 65_536  # of a batch
_MD5 = re.compile(r"^[0-9a-f]{32}$")  # most tags of S3, which take half the bytes without their digits
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_SCHEMA = pa.schema(
    [
        ("path", pa.binary()),
        ("size", pa.int64()),
        ("tag", pa.binary()),
        ("is_md5", pa.bool_()),
        ("status", pa.binary()),
        ("reason", pa.binary()),
        ("change_time", pa.binary()),
    ]
)

_EMPTY = pa.repeat(pa.scalar(b"", pa.binary()), _ROWS)  # which the columns of texts share that have none


class FileListing(Sequence[Entry]):
    """Entries in the order of the bytes of their paths, made when they are asked for; a slice shares what it is of."""

    def __init__(self, batches: Sequence[pa.RecordBatch], start: int = 0, stop: int | None = None) -> None:
        """Take batches of `_SCHEMA`, none of them empty, of which rows `start` to `stop` (not included) count."""
        self._batches = batches
        self._starts = [0]
        for batch in batches:
            self._starts.append(self._starts[-1] + len(batch))
        self._range = range(start, self._starts[-1] if stop is None else stop)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "FileListing":
        """Return entries as a listing, sorted if they were not; what is named twice stays so."""
        iterator, batches, last, is_sorted = iter(entries), list[pa.RecordBatch](), b"", True
        while part := list(islice(iterator, _ROWS)):
            batch = _make_batch(part)
            paths = batch.column(0)
            is_sorted = is_sorted and last <= paths[0].as_py() and _is_sorted(paths)
            last = paths[-1].as_py()
            batches.append(batch)
        if not is_sorted:
            table = pa.Table.from_batches(batches, _SCHEMA)
            batches = table.take(pc.sort_indices(table["path"])).combine_chunks().to_batches(_ROWS)
        return cls(batches)

    def __len__(self) -> int:
        return len(self._range)

    def __iter__(self) -> Iterator[Entry]:
        for batch in self._list_batches():
            yield from _read_batch(batch)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> "FileListing": ...
    def __getitem__(self, index: int | slice) -> "Entry | FileListing":
        if isinstance(index, slice):
            part = self._range[index]
            assert part.step == 1
            listing = FileListing.__new__(FileListing)
            listing._batches, listing._starts, listing._range = self._batches, self._starts, part
            return listing
        number, row = self._locate(self._range[index])
        return next(_read_batch(self._batches[number].slice(row, 1)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # it is a sequence

    def __reduce__(self) -> Any:
        # Millions of units wait for workers at a time, and paths of neighbors are alike.
        return _unpack, (zlib.compress(pickle.dumps([tuple(entry) for entry in self], 5), 1),)

    def _locate(self, position: int) -> tuple[int, int]:
        number = bisect_right(self._starts, position) - 1
        return number, position - self._starts[number]

    def _list_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches, the first and the last of them cut to the range."""
        position = self._range.start
        while position < self._range.stop:
            number, row = self._locate(position)
            batch = self._batches[number].slice(row, self._range.stop - position)
            yield batch
            position += len(batch)

    def find(self, path: str) -> int:
        """Return how many entries have a smaller path."""
        return self._find(_encode(path))

    def _find(self, key: bytes) -> int:
        low, high = 0, len(self._range)
        while low < high:
            middle = (low + high) // 2
            number, row = self._locate(self._range[middle])
            if self._batches[number].column(0)[row].as_py() < key:
                low = middle + 1
            else:
                high = middle
        return low

    def get(self, path: str) -> Entry | None:
        """Return the entry of a path; None where there is none."""
        index = self.find(path)
        entry = self[index] if index < len(self) else None
        return entry if entry is not None and entry.path == path else None

    def near(self, entries: Sequence[Entry]) -> dict[str, Entry]:
        """Return by its path every entry between the first and the last of others, which are sorted."""
        if not entries or not len(self):
            return {}
        first, last = self.find(entries[0].path), self.find(entries[-1].path)
        return {entry.path: entry for entry in self[first : last + 1]}

    def without(self, other: "FileListing") -> Iterator[Entry]:
        """Yield the entries of which the other listing has none of that path."""
        for batch in self._list_batches():
            paths = batch.column(0)
            first, last = other._find(paths[0].as_py()), other._find(paths[-1].as_py())
            parts = [part.column(0) for part in other[first : last + 1]._list_batches()]
            is_absent = pc.invert(pc.is_in(paths, pa.concat_arrays([*parts, pa.array([], pa.binary())])))
            yield from _read_batch(batch.filter(is_absent))

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield path, size, tag and time of change as batches, with the bytes of texts."""
        for batch in self._list_batches():
            path, size, tag, is_md5, _, _, change_time = batch.columns
            digits = _to_hex(tag.filter(is_md5))
            texts = pc.replace_with_mask(tag, is_md5, digits).cast(pa.string())
            columns = [path, size, texts, change_time.cast(pa.string())]
            yield pa.RecordBatch.from_arrays(columns, ["path", "size", "tag", "change_time"])

    @classmethod
    def join(cls, parts: Iterable["FileListing"]) -> "FileListing":
        """Return parts of listings, in their order, as one that shares what they are of."""
        return cls([batch for part in parts for batch in part._list_batches()])

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> Iterator["FileListing"]:
        """Yield the sorted stretches of a batch of `to_batches`, each as a listing."""
        path, size, tag, change_time = (batch.column(name) for name in ("path", "size", "tag", "change_time"))
        is_md5 = pc.match_substring_regex(tag, _MD5.pattern)
        tag = tag.cast(pa.binary())
        tags = pc.replace_with_mask(tag, is_md5, _from_hex(tag.filter(is_md5)))
        columns = [path, size, tags, is_md5, *(_make_texts([""] * len(batch)),) * 2, change_time.cast(pa.binary())]
        rows = pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)
        ends = np.flatnonzero(pc.greater(path[:-1], path[1:]).to_numpy(zero_copy_only=False)) + 1
        for start, stop in pairwise([0, *ends.tolist(), len(rows)]):
            if start < stop:
                yield cls([rows.slice(start, stop - start)])


def _to_hex(digests: pa.BinaryArray) -> pa.BinaryArray:
    """Return digests of 16 bytes as hexadecimal digits."""
    fixed = digests.cast(pa.binary(16))
    values = np.frombuffer(fixed.buffers()[1] or b"", np.uint8)[16 * fixed.offset :][: 16 * len(fixed)]
    digits = np.stack([_DIGITS[values >> 4], _DIGITS[values & 15]], axis=-1)
    return _make_fixed(digits, 32, len(fixed))


def _from_hex(texts: pa.BinaryArray) -> pa.BinaryArray:
    """Return 32 hexadecimal digits as 16 bytes."""
    fixed = texts.cast(pa.binary(32))
    digits = np.frombuffer(fixed.buffers()[1] or b"", np.uint8)[32 * fixed.offset :][: 32 * len(fixed)]
    values = np.where(digits < ord("a"), digits - ord("0"), digits - ord("a") + 10).astype(np.uint8)
    return _make_fixed(values[0::2] * np.uint8(16) + values[1::2], 16, len(fixed))


def _make_fixed(data: np.ndarray[Any, np.dtype[np.uint8]], width: int, count: int) -> pa.BinaryArray:
    array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, pa.py_buffer(data.tobytes())])
    return array.cast(pa.binary())


def _unpack(data: bytes) -> tuple[Entry, ...]:
    return tuple(Entry(*fields) for fields in pickle.loads(zlib.decompress(data)))


class Results:
    """What lies in OUT, by the paths of its inputs: `aliases` has what is called otherwise there."""

    def __init__(
        self,
        listing: FileListing,
        aliases: Mapping[str, Entry] | None = None,
        removed: frozenset[str] = frozenset(),
        strangers: Sequence[str] = (),
    ) -> None:
        """Keep them, but for those with the paths that are `removed`; `strangers` are paths of nobody's results."""
        self._listing, self._aliases, self._removed, self._strangers = listing, aliases or {}, removed, strangers

    @classmethod
    def of(cls, entries: Iterable[Entry], to_input_name: Callable[[str], str | None] | None = None) -> "Results":
        """Return the files among entries, each by the name that `to_input_name` gives it; without one, it is no result.

        Of several with one name, the last counts.
        """
        if to_input_name is None:
            return cls(FileListing.of(entry for entry in entries if not entry.status))
        results, strangers = dict[str, Entry](), list[str]()
        for entry in entries:
            if entry.status:
                continue
            if (name := to_input_name(entry.path)) is None:
                strangers.append(entry.path)
            else:
                results[name] = entry
        aliases = {name: entry for name, entry in results.items() if name != entry.path}
        listing = FileListing.of(entry._replace(path=name) for name, entry in results.items())
        return cls(listing, aliases, strangers=strangers)

    def near(self, entries: Sequence[Entry]) -> dict[str, Entry]:
        """Return the results between the first and the last of inputs, which are sorted, by their paths."""
        results = self._listing.near(entries)
        if not self._aliases and not self._removed:
            return results
        pairs = ((name, self._aliases.get(name, entry)) for name, entry in results.items())
        return {name: entry for name, entry in pairs if entry.path not in self._removed}

    def get(self, path: str) -> Entry | None:
        """Return the result of an input; None where there is none."""
        entry = self._listing.get(path)
        entry = None if entry is None else self._aliases.get(path, entry)
        return None if entry is None or entry.path in self._removed else entry

    def remove(self, paths: Iterable[str]) -> "Results":
        """Return the results without those that have these paths in OUT."""
        return Results(self._listing, self._aliases, self._removed | frozenset(paths), self._strangers)

    def list_without(self, inputs: FileListing) -> Iterator[str]:
        """Yield the names of those that are no result of these inputs, and what is nobody's."""
        yield from (path for path in self._strangers if path not in self._removed)
        for entry in self._listing.without(inputs):
            if self._aliases.get(entry.path, entry).path not in self._removed:
                yield entry.path


def _make_batch(entries: Sequence[Entry]) -> pa.RecordBatch:
    is_md5 = [_MD5.fullmatch(entry.etag) is not None for entry in entries]
    columns: list[Any] = [
        [_encode(entry.path) for entry in entries],
        [entry.size for entry in entries],
        [bytes.fromhex(e.etag) if md5 else _encode(e.etag) for e, md5 in zip(entries, is_md5, strict=True)],
        is_md5,
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=False)]
    arrays += [_make_texts([getattr(entry, name) for entry in entries]) for name in _SCHEMA.names[4:]]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _make_texts(texts: Sequence[str]) -> pa.BinaryArray:
    """Return texts as bytes; where all are empty, without memory of their own."""
    if any(texts):
        return pa.array([_encode(text) if text else b"" for text in texts], pa.binary())
    return _EMPTY[: len(texts)]


def _read_batch(batch: pa.RecordBatch) -> Iterator[Entry]:
    columns = batch.columns
    has_texts = any(buffer.size for column in columns[4:] if (buffer := column.buffers()[2]) is not None)
    facts = zip(*(column.to_pylist() for column in columns[:4]), strict=True)
    texts = zip(*([_decode(text) for text in column.to_pylist()] for column in columns[4:]), strict=True)
    for (path, size, tag, is_md5), more in zip(facts, texts if has_texts else repeat(())):  # noqa: B905 (one is endless)
        yield Entry(_decode(path), size, tag.hex() if is_md5 else _decode(tag), *more)


def _is_sorted(paths: pa.BinaryArray) -> bool:
    return len(paths) < 2 or bool(pc.all(pc.less_equal(paths[:-1], paths[1:])).as_py())


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
