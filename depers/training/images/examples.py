"""The examples of a training: images with their labels, kept by column so that a million of them fit in memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Example(NamedTuple):
    """An image, and its labels: `class_ids` int64 (N,); `boxes_xywh` float64 (N, 4), center and size in 0…1.

    `labelled` are the classes that the image has labels for: objects of others may be there without. So may those of
    a class in its ignore regions, `ignored_ids` int64 (R,) and `ignored_xywh` float64 (R, 4).
    """

    path: str
    size_wh: tuple[int, int]
    class_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    labelled: frozenset[int]
    ignored_ids: NDArray[np.int64] = np.zeros(0, np.int64)
    ignored_xywh: NDArray[np.float64] = np.zeros((0, 4))


class _BoxColumns:
    """The boxes of all examples, one after another, with their classes, and where each example's begin."""

    def __init__(self, starts: "array[int]", class_ids: "array[int]", boxes: "array[float]") -> None:
        # Texts have six decimals, as many as float32 keeps of a number below 1.
        self.starts = np.frombuffer(starts, np.int64)
        self.class_ids = np.frombuffer(class_ids, np.int32)
        self.boxes_xywh = np.frombuffer(boxes, np.float32).reshape(-1, 4)

    def get(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        rows = slice(self.starts[index], self.starts[index + 1])
        return self.class_ids[rows].astype(np.int64), self.boxes_xywh[rows].astype(np.float64)


class ExampleTable(Sequence[Example]):
    """Examples by index, made when they are asked for; what they hold lies in columns."""

    def __init__(self, examples: Iterable[Example]) -> None:
        """Take the examples one by one; none of them is kept."""
        paths: list[pa.Array] = []
        chunk: list[str] = []
        sizes, codes = array("i"), array("i")
        kinds: dict[frozenset[int], int] = {}
        columns = [(array("q", [0]), array("i"), array("f")) for _ in range(2)]
        for example in examples:
            chunk.append(example.path)
            if len(chunk) == _CHUNK:
                paths.append(pa.array(chunk, pa.large_string()))
                chunk = []
            sizes.extend(example.size_wh)
            codes.append(kinds.setdefault(example.labelled, len(kinds)))
            pairs = ((example.class_ids, example.boxes_xywh), (example.ignored_ids, example.ignored_xywh))
            for (starts, class_ids, boxes), (ids, boxes_xywh) in zip(columns, pairs, strict=True):
                if len(ids):
                    class_ids.frombytes(ids.astype(np.int32).tobytes())
                    boxes.frombytes(np.ascontiguousarray(boxes_xywh, np.float32).tobytes())
                starts.append(len(class_ids))
        paths.append(pa.array(chunk, pa.large_string()))
        self.paths = pa.concat_arrays(paths)
        """Of the images, text (N,)."""
        self.sizes_wh = np.frombuffer(sizes, np.int32).reshape(-1, 2)
        """Widths and heights of the images, int32 (N, 2)."""
        self.labels, self.ignored = (_BoxColumns(*column) for column in columns)
        self._codes = np.frombuffer(codes, np.int32)
        self._kinds = list(kinds)

    def __len__(self) -> int:
        return len(self.sizes_wh)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> "list[Example]": ...

    def __getitem__(self, index: int | slice) -> "Example | list[Example]":
        """Return one example, or those of a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # also from the end; raises IndexError
        width, height = self.sizes_wh[number].tolist()
        labelled = self._kinds[self._codes[number]]
        path = self.paths[number].as_py()
        return Example(path, (width, height), *self.labels.get(number), labelled, *self.ignored.get(number))

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def find_labelled(self, class_count: int) -> NDArray[np.bool_]:
        """Return bool (N, C): the classes that each image has labels for."""
        kinds = np.zeros((max(len(self._kinds), 1), class_count), np.bool_)
        for code, labelled in enumerate(self._kinds):
            kinds[code, sorted(labelled)] = True
        return kinds[self._codes]

    def group(self) -> Sequence[object]:
        """Return a number for each example that is the same where they are labelled for the same classes."""
        return list(self._codes.tolist())


_CHUNK = 65_536
