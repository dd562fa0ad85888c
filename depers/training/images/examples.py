"""The examples of a training: images with their labels, kept by column so that a million of them fit in memory."""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from depers import storage

SizeWH = tuple[int, int]
"""Width and height."""


class Example(NamedTuple):
    """An image, and its labels: `class_ids` int64 (N,); `boxes_xywh` float64 (N, 4), center and size in 0…1.

    `labelled` are the classes that the image has labels for: objects of others may be there without. So may those of
    a class in its ignore regions, `ignored_ids` int64 (R,) and `ignored_xywh` float64 (R, 4).

    The image is the file at `path`, or with `member`, its name there, `byte_count` bytes from `offset` on of a tar.
    """

    path: str
    size_wh: SizeWH
    class_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    labelled: frozenset[int]
    ignored_ids: NDArray[np.int64] = np.zeros(0, np.int64)
    ignored_xywh: NDArray[np.float64] = np.zeros((0, 4))
    member: str = ""
    offset: int = 0
    byte_count: int = -1

    @property
    def name(self) -> str:
        """What messages call the image."""
        return f"{self.path}: {self.member}" if self.member else self.path

    def read(self, most_bytes: int | None = None) -> bytes:
        """Return the bytes of the image, or the first of them. Raise OSError."""
        if self.member:
            size = self.byte_count if most_bytes is None else min(most_bytes, self.byte_count)
            return storage.read_range(self.path, self.offset, size)
        return storage.read_bytes(self.path) if most_bytes is None else storage.read_range(self.path, 0, most_bytes)


SCHEMA = pa.schema(
    [
        pa.field("file", pa.large_binary()),  # as the file system has it
        pa.field("member", pa.large_binary()),  # empty where the file is the image
        pa.field("offset", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("kind", pa.int32()),  # which of `LabelKinds`
        pa.field("class_ids", pa.large_list(pa.int32())),
        pa.field("boxes", pa.large_list(pa.float32())),  # texts have six decimals, as many as it keeps of less than 1
        pa.field("ignored_ids", pa.large_list(pa.int32())),
        pa.field("ignored_boxes", pa.large_list(pa.float32())),
    ]
)
"""The columns of examples, a row each."""


class LabelKinds:
    """The sets of classes that images are labelled for, each with a number."""

    def __init__(self, kinds: Iterable[frozenset[int]] = ()) -> None:
        self._numbers = {kind: number for number, kind in enumerate(kinds)}

    def number(self, labelled: frozenset[int]) -> int:
        """Return the number of a set of classes."""
        return self._numbers.setdefault(labelled, len(self._numbers))

    def __iter__(self) -> Iterator[frozenset[int]]:
        return iter(self._numbers)

    def tabulate(self, class_count: int) -> NDArray[np.bool_]:
        """Return bool (K, C): the classes of each set."""
        table = np.zeros((max(len(self._numbers), 1), class_count), np.bool_)
        for number, labelled in enumerate(self._numbers):
            table[number, sorted(labelled)] = True
        return table


class _BoxColumns:
    """The boxes of all examples, one after another, with their classes, and where each example's begin."""

    def __init__(self, class_ids: pa.LargeListArray, boxes: pa.LargeListArray) -> None:
        self._id_starts, self._box_starts = (column.offsets.to_numpy() for column in (class_ids, boxes))
        self._ids, self._boxes = (column.values.to_numpy() for column in (class_ids, boxes))

    def get(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the class ids and boxes of an example."""
        ids = self._ids[self._id_starts[index] : self._id_starts[index + 1]]
        boxes = self._boxes[self._box_starts[index] : self._box_starts[index + 1]]
        return ids.astype(np.int64), boxes.astype(np.float64).reshape(-1, 4)

    def count(self) -> NDArray[np.int64]:
        """Return how many boxes each example has, int64 (N,)."""
        return np.asarray(np.diff(self._id_starts))

    def flatten(self, start: int = 0, stop: int | None = None) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the class ids (M,) and boxes (M, 4) of examples `start` to `stop`, one after another."""
        rows = slice(start, len(self._id_starts) - 1 if stop is None else stop)
        ids = self._ids[self._id_starts[rows.start] : self._id_starts[rows.stop]]
        boxes = self._boxes[self._box_starts[rows.start] : self._box_starts[rows.stop]]
        return ids, boxes.reshape(-1, 4)


class ExampleTable(Sequence[Example]):
    """Examples by index, made when they are asked for; what they hold lies in columns."""

    def __init__(self, table: pa.Table, kinds: Iterable[frozenset[int]]) -> None:
        """Take rows of `SCHEMA`, and the sets of classes that their `kind` numbers."""
        self.table = table
        columns = {name: _join_chunks(table[name]) for name in SCHEMA.names}
        self._files, self._members = columns["file"], columns["member"]
        self._offsets, self._bytes, self._kind_numbers, widths, heights = (
            columns[name].to_numpy() for name in ("offset", "bytes", "kind", "width", "height")
        )
        self.sizes_wh = np.column_stack([widths, heights])
        """Widths and heights of the images, int32 (N, 2)."""
        self.labels = _BoxColumns(columns["class_ids"], columns["boxes"])
        self._ignored = _BoxColumns(columns["ignored_ids"], columns["ignored_boxes"])
        self.kinds = tuple(kinds)
        """The sets of classes that images are labelled for."""

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "ExampleTable":
        """Return a table of examples, which are taken one by one; none of them is kept."""
        kinds = LabelKinds()
        return cls(tabulate(examples, kinds), kinds)

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> "list[Example]": ...

    def __getitem__(self, index: int | slice) -> "Example | list[Example]":
        """Return one example, or those of a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # also from the end; raises IndexError
        return Example(
            os.fsdecode(self._files[number].as_py()),
            tuple(self.sizes_wh[number].tolist()),
            *self.labels.get(number),
            self.kinds[self._kind_numbers[number]],
            *self._ignored.get(number),
            os.fsdecode(self._members[number].as_py()),
            int(self._offsets[number]),
            int(self._bytes[number]),
        )

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def find_labelled(self, class_count: int) -> NDArray[np.bool_]:
        """Return bool (N, C): the classes that each image has labels for."""
        return np.asarray(LabelKinds(self.kinds).tabulate(class_count)[self._kind_numbers])

    def group(self) -> NDArray[np.int32]:
        """Return a number for each example, int32 (N,), the same where they are labelled for the same classes."""
        return np.asarray(self._kind_numbers)


def map_sizes(examples: Sequence[Example], function: Callable[[SizeWH], SizeWH]) -> list[SizeWH]:
    """Return what the function makes of the size of each image, each of its results an object once."""
    if not isinstance(examples, ExampleTable):
        return [function(example.size_wh) for example in examples]
    keys, places = np.unique(examples.sizes_wh.astype(np.int64) @ [1 << 32, 1], return_inverse=True)
    sizes = [function((key >> 32, key & 0xFFFFFFFF)) for key in keys.tolist()]
    return [sizes[place] for place in places.tolist()]


def _join_chunks(column: pa.ChunkedArray) -> Any:
    """Return a column as one array; the bytes stay where they are if it is one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def tabulate(examples: Iterable[Example], kinds: LabelKinds) -> pa.Table:
    """Return examples as rows of `SCHEMA`; none of them is kept."""
    tables = [SCHEMA.empty_table()]
    rows = _ExampleRows(kinds)
    for example in examples:
        rows.add(example)
        if len(rows) == _CHUNK:
            tables.append(rows.take())
    return pa.concat_tables([*tables, rows.take()]).combine_chunks()


class _ExampleRows:
    """Rows of `SCHEMA` in the making."""

    def __init__(self, kinds: LabelKinds) -> None:
        self._kinds = kinds
        self._clear()

    def _clear(self) -> None:
        self._names: tuple[list[bytes], list[bytes]] = ([], [])
        self._numbers = tuple(array(kind) for kind in "qqiii")
        self._boxes = tuple((array("q", [0]), array("i"), array("f")) for _ in range(2))

    def __len__(self) -> int:
        return len(self._names[0])

    def add(self, example: Example) -> None:
        """Add one."""
        for names, name in zip(self._names, (example.path, example.member), strict=True):
            names.append(os.fsencode(name))
        kind = self._kinds.number(example.labelled)
        values = (example.offset, example.byte_count, *example.size_wh, kind)
        for column, value in zip(self._numbers, values, strict=True):
            column.append(value)
        pairs = ((example.class_ids, example.boxes_xywh), (example.ignored_ids, example.ignored_xywh))
        for (starts, class_ids, boxes), (ids, boxes_xywh) in zip(self._boxes, pairs, strict=True):
            if len(ids):
                class_ids.frombytes(ids.astype(np.int32).tobytes())
                boxes.frombytes(np.ascontiguousarray(boxes_xywh, np.float32).tobytes())
            starts.append(len(class_ids))

    def take(self) -> pa.Table:
        """Return the rows, and begin anew."""
        columns: list[pa.Array] = [pa.array(names, pa.large_binary()) for names in self._names]
        columns += [pa.array(np.frombuffer(numbers, numbers.typecode)) for numbers in self._numbers]
        for starts, class_ids, boxes in self._boxes:
            offsets = np.frombuffer(starts, np.int64)
            for values, dtype, factor in ((class_ids, np.int32, 1), (boxes, np.float32, 4)):
                flat = pa.array(np.frombuffer(values, dtype))
                columns.append(pa.LargeListArray.from_arrays(pa.array(offsets * factor), flat))
        self._clear()
        return pa.Table.from_arrays(
            [column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )


_CHUNK = 65_536
