"""The raw boxes of all images on disk: added in any order, given back image by image, whatever their number.

Images, label files and classes are numbers here; their names are the caller's.
"""

import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
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
PRAGMA cache_size = -65536;
CREATE TABLE boxes (image INTEGER, file INTEGER, line INTEGER, class INTEGER, cx REAL, cy REAL, w REAL, h REAL,
    ignored INTEGER);
CREATE TABLE undecided (image INTEGER, file INTEGER, line INTEGER, class INTEGER, cx REAL, cy REAL, w REAL, h REAL,
    ignored INTEGER, reading TEXT);
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
_INSERT = "INSERT INTO boxes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ROWS = 16_384  # that are read at once


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
        self._totals: list[tuple[int, int, int]] | None = None  # as long as no box comes or goes

    def close(self) -> None:
        """Close the file, which is the caller's to remove with its folder."""
        self._db.close()

    def add_boxes(self, boxes: Iterable[IndexedBox]) -> None:
        """Add boxes, in any order."""
        self._totals = None
        self._db.executemany(_INSERT, boxes)

    def add_lines(self, image: int, file: int, class_numbers: NDArray[np.int64], boxes: NDArray[np.float64]) -> None:
        """Add the boxes (N, 4) of a file that has one in each line, with their classes (N,)."""
        self._totals = None
        columns = (itertools.repeat(image), itertools.repeat(file), itertools.count(1), class_numbers.tolist())
        rows = zip(*columns, *boxes.T.tolist(), itertools.repeat(0), strict=False)
        self._db.executemany(_INSERT, rows)

    def add_undecided(self, reading: str, boxes: Iterable[IndexedBox]) -> None:
        """Add boxes that count if this is decided to be the reading of their lines."""
        self._db.executemany(
            "INSERT INTO undecided VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", ((*box, reading) for box in boxes)
        )

    def decide(self, reading: str) -> int:
        """Add the boxes of this reading to the others, and forget those of another; return their number."""
        self._totals = None
        columns = "image, file, line, class, cx, cy, w, h, ignored"
        count = self._db.execute(
            f"INSERT INTO boxes SELECT {columns} FROM undecided WHERE reading = ?", (reading,)
        ).rowcount
        self._db.execute("DELETE FROM undecided")
        return count

    def classes_by_file(self, files: Sequence[int]) -> set[tuple[int, int]]:
        """Return (file, class) of the classes of which files have objects."""
        marks = ", ".join("?" * len(files))
        return set(self._db.execute(f"SELECT DISTINCT file, class FROM boxes WHERE file IN ({marks})", files))

    def boxes_of_files(self, files: Sequence[int]) -> Iterator[tuple[int, list[tuple[int, IndexedBox]]]]:
        """Yield (image, [(number of its row, box)…]) of every image of which these files have boxes, in order."""
        marks = ", ".join("?" * len(files))
        rows = self._db.execute(f"SELECT rowid, * FROM boxes WHERE file IN ({marks}) ORDER BY image, rowid", files)
        for image, group in itertools.groupby(rows, key=lambda row: row[1]):
            yield image, [(row[0], IndexedBox._make((*row[1:-1], bool(row[-1])))) for row in group]

    def remove_boxes(self, rows: Iterable[int]) -> None:
        """Remove boxes by the numbers of their rows."""
        self._totals = None
        self._db.executemany("DELETE FROM boxes WHERE rowid = ?", ((row,) for row in rows))

    def count_as_objects(self, file: int) -> None:
        """Make no box of a file one that is ignored."""
        self._totals = None
        self._db.execute("UPDATE boxes SET ignored = 0 WHERE file = ?", (file,))

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

    def count_like_corners(self, first_image: int, last_image: int, is_centered: bool) -> tuple[int, int, int, int]:
        """Return how many boxes the images in a range have, and how many of them could be two corners.

        `is_centered`: the numbers that were read are a center and a size, else a corner and a size. With them, how many
        of those that could be corners, and of all, reach over the edge of their image.
        """
        first_x, first_y = ("cx", "cy") if is_centered else ("cx - w / 2", "cy - h / 2")
        corners = f"w > {first_x} AND h > {first_y}"
        over = (
            f"max(-(cx - w / 2) / wide, (cx + w / 2) / wide - 1, -(cy - h / 2) / high, (cy + h / 2) / high - 1)"
            f" > {_OVER}"
        )
        size = "iif(width > 0, width, {}) AS wide, iif(height > 0, height, {}) AS high"
        unknown = (1, 1) if is_centered else (1e9, 1e9)
        rows = (
            f"SELECT cx, cy, w, h, {size.format(*unknown)} FROM boxes LEFT JOIN sizes USING (image)"
            " WHERE image BETWEEN ? AND ? AND line > 0"
        )
        sums = (f"COALESCE(SUM({condition}), 0)" for condition in (corners, f"{corners} AND {over}", over))
        query = f"SELECT COUNT(*), {', '.join(sums)} FROM ({rows})"
        total, count, count_over, all_over = self._db.execute(query, (first_image, last_image)).fetchone()
        return total, count, count_over, all_over

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

    def sort(self) -> None:
        """Order the boxes, once all of them are there and before they are read."""
        self._db.execute("CREATE INDEX boxes_in_order ON boxes (image, file, line)")

    def class_counts(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield (image, [(class, boxes)…]) of every image that has boxes, in order."""
        rows = self._db.execute(
            "SELECT image, class, COUNT(*) FROM boxes WHERE NOT ignored GROUP BY image, class ORDER BY image, class"
        )
        for image, group in itertools.groupby(rows, key=lambda row: row[0]):
            yield image, [(class_number, count) for _, class_number, count in group]

    def class_totals(self) -> list[tuple[int, int, int]]:
        """Return (class, boxes, images with it) of every class that occurs."""
        if self._totals is None:
            counts = "SELECT class, COUNT(*) AS number FROM boxes WHERE NOT ignored GROUP BY class, image"
            rows = f"SELECT class, SUM(number), COUNT(*) FROM ({counts}) GROUP BY class ORDER BY class"
            self._totals = list(self._db.execute(rows))
        return self._totals

    def region_totals(self) -> dict[int, int]:
        """Return the number of objects that are ignored, by class."""
        return dict(
            self._db.execute(
                "SELECT class, COUNT(*) FROM boxes WHERE ignored AND line > 0 GROUP BY class ORDER BY class"
            )
        )

    def sizes(self) -> Iterator[tuple[int, int, int]]:
        """Yield the declared sizes, in the order of the images."""
        yield from self._db.execute("SELECT image, width, height FROM sizes ORDER BY image")

    def boxes(self) -> Iterator[tuple[int, NDArray[np.void]]]:
        """Yield (image, its boxes as `INDEXED_BOX` (N,), by file and line) of every image that has boxes, in order."""
        cursor = self._db.execute("SELECT * FROM boxes ORDER BY image, file, line, rowid")
        rest = np.empty(0, _STORED_BOX)
        while rows := cursor.fetchmany(_ROWS):
            table = np.concatenate([rest, np.array(rows, _STORED_BOX)])
            starts = np.flatnonzero(np.diff(table["image"], prepend=-1))
            for start, end in itertools.pairwise(starts.tolist()):
                yield int(table["image"][start]), table[start:end].view(INDEXED_BOX)
            rest = table[starts[-1] :]  # more of that image may follow
        if len(rest):
            yield int(rest["image"][0]), rest.view(INDEXED_BOX)

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


def _to_problem(row: tuple[str, int, str, str, str]) -> Problem:
    path, line, kind, action, detail = row
    return Problem(path, line, kind, ProblemAction(action), detail)
