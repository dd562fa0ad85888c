"""The raw boxes of all images on disk: added in any order, given back image by image, whatever their number.

Images, label files and classes are numbers here; their names are the caller's. Boxes lie in blocks, many images of
neighboring numbers in one, since a row of a database for each would cost more than all else that is done with it.
"""

import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.normalization.rules import IN_FRACTIONS, NO_AREA, OUTSIDE, Problem
from depers.statuses import ProblemAction
from depers.storage.tables import parquet_text

_OVER = 0.02  # share of the image's side by which a box reaches over its edge by more than rounding
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -8192;
CREATE TABLE boxes (reading TEXT, block INTEGER, rows BLOB);
CREATE INDEX boxes_in_order ON boxes (reading, block);
CREATE TABLE sizes (image INTEGER PRIMARY KEY, width INTEGER, height INTEGER);
CREATE TABLE problems (path TEXT, line INTEGER, kind TEXT, action TEXT, detail TEXT);
"""


INDEXED_BOX = np.dtype(
    [
        ("image", "<i4"),
        ("file", "<i4"),
        ("line", "<i4"),
        ("class_number", "<i4"),
        ("box", "<f8", (4,)),
        ("ignored", "?"),
    ]
)
"""An `IndexedBox` as a row of a table; `box` is cx, cy, w, h."""
_STORED_BOX = np.dtype(
    [(name, "<i4") for name in ("image", "file", "line", "class_number")]
    + [(name, "<f8") for name in ("cx", "cy", "w", "h")]
    + [("ignored", "?")]
)
_DECIDED = ""  # the reading of boxes of which it is known what they are
_BLOCK = 128  # images whose boxes lie together
_WAITING = 2**16  # boxes that are cut into blocks at once: 3 MB


class IndexedBox(NamedTuple):
    """A box of the image `image` in the label file `file`, as `RawBox` has it."""

    image: int
    file: int
    line: int
    class_number: int
    cx: float
    cy: float
    w: float
    h: float
    ignored: bool = False


class LabelIndex:
    """A temporary SQLite file; used by one thread."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")
        self._waiting: dict[str, list[NDArray[np.void]]] = {}  # by reading
        self._waiting_count = 0
        self._counts: _ClassCounts | None = None  # as long as no box comes or goes

    def close(self) -> None:
        """Close the file, which is the caller's to remove with its folder."""
        self._db.close()

    def add_boxes(self, boxes: Iterable[IndexedBox]) -> None:
        """Add boxes, in any order."""
        self._add(_DECIDED, np.array([*boxes], _STORED_BOX).view(INDEXED_BOX))

    def add_lines(self, image: int, file: int, class_numbers: NDArray[np.int64], boxes: NDArray[np.float64]) -> None:
        """Add the boxes (N, 4) of a file that has one in each line, with their classes (N,)."""
        lines, ignored = np.arange(1, len(boxes) + 1), np.zeros(len(boxes), np.bool_)
        self.add_columns(np.full(len(boxes), image), file, lines, class_numbers, boxes, ignored)

    def add_columns(
        self,
        images: NDArray[np.int64],
        file: int,
        lines: NDArray[np.int64],
        class_numbers: NDArray[np.int64],
        boxes: NDArray[np.float64],
        ignored: NDArray[np.bool_],
    ) -> None:
        """Add boxes (N, 4) of one file, of many images; the others are (N,)."""
        rows = np.empty(len(boxes), INDEXED_BOX)
        rows["image"], rows["file"], rows["line"], rows["class_number"] = images, file, lines, class_numbers
        rows["box"], rows["ignored"] = boxes, ignored
        self._add(_DECIDED, rows)

    def add_undecided(self, reading: str, boxes: Iterable[IndexedBox]) -> None:
        """Add boxes that count if this is decided to be the reading of their lines."""
        self._add(reading, np.array([*boxes], _STORED_BOX).view(INDEXED_BOX))

    def decide(self, reading: str) -> int:
        """Add the boxes of this reading to the others, and forget those of another; return their number."""
        self._flush()
        self._counts = None
        size = "SELECT COALESCE(SUM(LENGTH(rows)), 0) FROM boxes WHERE reading = ?"
        (total,) = self._db.execute(size, (reading,)).fetchone()
        self._db.execute("UPDATE boxes SET reading = ? WHERE reading = ?", (_DECIDED, reading))
        self._db.execute("DELETE FROM boxes WHERE reading <> ?", (_DECIDED,))
        return int(total) // INDEXED_BOX.itemsize

    def _add(self, reading: str, rows: NDArray[np.void]) -> None:
        """Add boxes (`INDEXED_BOX`) with a reading; they wait until they are many."""
        self._counts = None
        if len(rows):
            self._waiting.setdefault(reading, []).append(rows)
            self._waiting_count += len(rows)
        if self._waiting_count >= _WAITING:
            self._flush()

    def _flush(self) -> None:
        """Write the boxes that wait as blocks."""
        for reading, tables in self._waiting.items():
            table = np.concatenate(tables)
            table = table[np.argsort(table["image"] // _BLOCK, kind="stable")]
            blocks = table["image"] // _BLOCK
            starts = [*np.flatnonzero(np.diff(blocks, prepend=-1)).tolist(), len(table)]
            rows = ((reading, int(blocks[i]), table[i:end].tobytes()) for i, end in itertools.pairwise(starts))
            self._db.executemany("INSERT INTO boxes VALUES (?, ?, ?)", rows)
        self._waiting.clear()
        self._waiting_count = 0

    def blocks(self) -> Iterator[tuple[int, NDArray[np.void]]]:
        """Yield (number, boxes as `INDEXED_BOX` (N,), by image, file and line) of every block, in order.

        A block holds all boxes of its images, and may be replaced while it is the last that was given.
        """
        self._flush()
        last_block = -1
        while True:
            query = "SELECT block, rows FROM boxes WHERE reading = ? AND block = ({}) ORDER BY rowid"
            following = "SELECT MIN(block) FROM boxes WHERE reading = ? AND block > ?"
            parts = self._db.execute(query.format(following), (_DECIDED, _DECIDED, last_block)).fetchall()
            if not parts:
                return
            last_block = parts[0][0]
            table = np.frombuffer(b"".join(rows for _, rows in parts), INDEXED_BOX)
            yield last_block, table[np.lexsort((table["line"], table["file"], table["image"]))]

    def replace_block(self, block: int, boxes: NDArray[np.void]) -> None:
        """Put other boxes in the place of those of a block."""
        self._counts = None
        self._db.execute("DELETE FROM boxes WHERE reading = ? AND block = ?", (_DECIDED, block))
        if len(boxes):
            self._db.execute("INSERT INTO boxes VALUES (?, ?, ?)", (_DECIDED, block, boxes.tobytes()))

    def count_as_objects(self, file: int) -> None:
        """Make no box of a file one that is ignored."""
        for block, table in self.blocks():
            is_changed = table["ignored"] & (table["file"] == file)
            if is_changed.any():
                table["ignored"] &= ~is_changed
                self.replace_block(block, table)

    def classes_by_file(self) -> set[tuple[int, int]]:
        """Return (file, class) of the classes of which files have objects."""
        pairs: set[tuple[int, int]] = set()
        for _, table in self.blocks():
            pairs.update(np.unique(table[["file", "class_number"]]).tolist())
        return pairs

    def count_dropped(self, prefix: str) -> tuple[int, int, Problem | None]:
        """Return how many labels of the files whose path begins with `prefix` cost their image.

        With it, how many of them have a box here, which lies nowhere in the image, and the first label or file of all
        that do. A file that cannot be read at all counts for none: nobody knows how many labels it has.
        """
        rows = "FROM problems WHERE action = ? AND substr(path, 1, ?) = ?"
        values = (ProblemAction.SKIPPED_WITH_IMAGE, len(prefix), prefix)
        count, placed = self._db.execute(
            f"SELECT COALESCE(SUM(line > 0), 0), COALESCE(SUM(kind IN (?, ?, ?)), 0) {rows}",
            (OUTSIDE, NO_AREA, IN_FRACTIONS, *values),
        ).fetchone()
        first = self._db.execute(f"SELECT * {rows} ORDER BY line = 0, path, line LIMIT 1", values).fetchone()
        return count, placed, _to_problem(first) if first else None

    def first_problem(self, prefix: str, kind: str) -> Problem | None:
        """Return the first problem of a kind in the files whose path begins with `prefix`; None where there is none."""
        rows = "SELECT * FROM problems WHERE kind = ? AND substr(path, 1, ?) = ? ORDER BY path, line LIMIT 1"
        first = self._db.execute(rows, (kind, len(prefix), prefix)).fetchone()
        return _to_problem(first) if first else None

    def count_like_corners(
        self, first_image: int, last_image: int, is_centered: bool
    ) -> tuple[int, int, int, int, int]:
        """Return how many boxes the images in a range have, and how many of them could be two corners.

        `is_centered`: the numbers that were read are a center and a size, else a corner and a size. With them, how many
        of those that could be corners, and of all, reach over the edge of their image; and how many over the left or
        upper one.
        """
        counts = np.zeros(5, np.int64)
        for block, table in self.blocks():
            table = table[(table["image"] >= first_image) & (table["image"] <= last_image) & (table["line"] > 0)]
            sizes_wh = np.full((_BLOCK, 2), 1.0 if is_centered else 1e9)
            query = "SELECT image, width, height FROM sizes WHERE image BETWEEN ? AND ?"
            for image, *size_wh in self._db.execute(query, (block * _BLOCK, (block + 1) * _BLOCK - 1)):
                sizes_wh[image % _BLOCK] = np.where(np.array(size_wh) > 0, size_wh, sizes_wh[image % _BLOCK])
            centers, box_wh, image_wh = table["box"][:, :2], table["box"][:, 2:], sizes_wh[table["image"] % _BLOCK]
            low, high = (centers - box_wh / 2) / image_wh, (centers + box_wh / 2) / image_wh
            is_over = np.maximum(-low, high - 1).max(1, initial=-np.inf) > _OVER
            are_corners = (box_wh > (centers if is_centered else centers - box_wh / 2)).all(1)
            is_before = (-low).max(1, initial=-np.inf) > _OVER
            counts += [len(table), are_corners.sum(), (are_corners & is_over).sum(), is_over.sum(), is_before.sum()]
        total, corners, corners_over, over, before = counts.tolist()
        return total, corners, corners_over, over, before

    def add_sizes(self, sizes: Iterable[tuple[int, int, int]]) -> None:
        """Add declared sizes, (image, width, height); the first of an image counts."""
        self._db.executemany("INSERT OR IGNORE INTO sizes VALUES (?, ?, ?)", sizes)

    def add_problems(self, problems: Iterable[Problem]) -> None:
        """Add problems, their text made fit for Parquet."""
        rows = (
            problem._replace(path=parquet_text(problem.path), detail=parquet_text(problem.detail))
            for problem in problems
        )
        self._db.executemany("INSERT INTO problems VALUES (?, ?, ?, ?, ?)", rows)

    def class_counts(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield (image, [(class, boxes)…]) of every image that has boxes, in order."""
        for _, table in self.blocks():
            pairs, counts = _count_classes(table)
            rows = zip(pairs["image"].tolist(), pairs["class_number"].tolist(), counts.tolist(), strict=True)
            for image, group in itertools.groupby(rows, key=lambda row: row[0]):
                yield image, [(class_number, count) for _, class_number, count in group]

    def class_totals(self) -> list[tuple[int, int, int]]:
        """Return (class, boxes, images with it) of every class that occurs."""
        counts = self._count_all()
        return [(number, boxes, counts.images[number]) for number, boxes in sorted(counts.boxes.items())]

    def region_totals(self) -> dict[int, int]:
        """Return the number of objects that are ignored, by class."""
        return dict(sorted(self._count_all().regions.items()))

    def _count_all(self) -> "_ClassCounts":
        """Return how often every class occurs, looked up as long as no box comes or goes."""
        if self._counts is None:
            totals = _ClassCounts(Counter(), Counter(), Counter())
            for _, table in self.blocks():
                pairs, counts = _count_classes(table)
                for class_number, count in zip(pairs["class_number"].tolist(), counts.tolist(), strict=True):
                    totals.boxes[class_number] += count
                    totals.images[class_number] += 1
                is_region = table["ignored"] & (table["line"] > 0)
                totals.regions.update(table["class_number"][is_region].tolist())
            self._counts = totals
        return self._counts

    def sizes(self) -> Iterator[tuple[int, int, int]]:
        """Yield the declared sizes, in the order of the images."""
        yield from self._db.execute("SELECT image, width, height FROM sizes ORDER BY image")

    def boxes(self) -> Iterator[tuple[int, NDArray[np.void]]]:
        """Yield (image, its boxes as `INDEXED_BOX` (N,), by file and line) of every image that has boxes, in order."""
        for _, table in self.blocks():
            starts = [*np.flatnonzero(np.diff(table["image"], prepend=-1)).tolist(), len(table)]
            for start, end in itertools.pairwise(starts):
                yield int(table["image"][start]), table[start:end]

    def problems(self) -> Iterator[Problem]:
        """Yield all problems in the order of their paths."""
        rows = self._db.execute("SELECT * FROM problems ORDER BY path, line, kind, action, detail")
        yield from map(_to_problem, rows)

    def problem_kinds(self) -> list[tuple[str, str, int, Problem]]:
        """Return (action, kind, number, the first of them) of all that went wrong."""
        counts = self._db.execute(
            "SELECT action, kind, COUNT(*) FROM problems GROUP BY action, kind ORDER BY action, kind"
        )
        first = "SELECT * FROM problems WHERE action = ? AND kind = ? ORDER BY path, line, detail LIMIT 1"
        return [
            (action, kind, count, _to_problem(self._db.execute(first, (action, kind)).fetchone()))
            for action, kind, count in counts.fetchall()
        ]


class _ClassCounts(NamedTuple):
    """By class: objects, images with one, and objects that are ignored."""

    boxes: Counter[int]
    images: Counter[int]
    regions: Counter[int]


_PAIR = np.dtype([("image", "<i4"), ("class_number", "<i4")])


def _count_classes(table: NDArray[np.void]) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Return the pairs (`_PAIR`) of an image and a class of its objects, in order, and the number of each."""
    objects = table[~table["ignored"]]
    keys = objects["image"].astype(np.int64) << 32 | objects["class_number"]
    keys, counts = np.unique(keys, return_counts=True)
    pairs = np.empty(len(keys), _PAIR)
    pairs["image"], pairs["class_number"] = keys >> 32, keys & 0xFFFFFFFF
    return pairs, counts


def _to_problem(row: tuple[str, int, str, str, str]) -> Problem:
    path, line, kind, action, detail = row
    return Problem(path, line, kind, ProblemAction(action), detail)
