"""The raw boxes of all pictures on disk: added in any order, given back picture by picture, whatever their number.

Pictures, label files and classes are numbers here; their names are the caller's.
"""

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from depers.normalization.rules import Problem
from depers.storage.tables import parquet_text

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -65536;
CREATE TABLE boxes (picture INTEGER, file INTEGER, line INTEGER, class INTEGER, cx REAL, cy REAL, w REAL, h REAL);
CREATE TABLE sizes (picture INTEGER PRIMARY KEY, width INTEGER, height INTEGER);
CREATE TABLE problems (path TEXT, line INTEGER, kind TEXT, action TEXT, found TEXT);
"""


class IndexedBox(NamedTuple):
    """A box of the picture `picture` in the label file `file`, as `RawBox` has it."""

    picture: int
    file: int
    line: int
    class_number: int
    cx: float
    cy: float
    w: float
    h: float


class LabelIndex:
    """A temporary SQLite file; used by one thread."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def close(self) -> None:
        """Nothing is kept: the folder of the file is the caller's to remove."""
        self._db.close()

    def add_boxes(self, boxes: Iterable[IndexedBox]) -> None:
        """Adds boxes, in any order."""
        self._db.executemany("INSERT INTO boxes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", boxes)

    def add_sizes(self, sizes: Iterable[tuple[int, int, int]]) -> None:
        """Adds declared sizes, (picture, width, height); the first of a picture counts."""
        self._db.executemany("INSERT OR IGNORE INTO sizes VALUES (?, ?, ?)", sizes)

    def add_problems(self, problems: Iterable[Problem]) -> None:
        """Adds problems, their text made fit for Parquet."""
        rows = (problem._replace(path=_text(problem.path), found=_text(problem.found)) for problem in problems)
        self._db.executemany("INSERT INTO problems VALUES (?, ?, ?, ?, ?)", rows)

    def sort(self) -> None:
        """To be called when all boxes are there, before they are read."""
        self._db.execute("CREATE INDEX boxes_in_order ON boxes (picture, file, line)")

    def class_counts(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """(picture, [(class, boxes)…]) of every picture that has boxes, in order."""
        rows = self._db.execute(
            "SELECT picture, class, COUNT(*) FROM boxes GROUP BY picture, class ORDER BY picture, class"
        )
        for picture, group in itertools.groupby(rows, key=lambda row: row[0]):
            yield picture, [(class_number, count) for _, class_number, count in group]

    def class_totals(self) -> list[tuple[int, int, int]]:
        """(class, boxes, pictures with it) of every class that occurs."""
        rows = self._db.execute(
            "SELECT class, COUNT(*), COUNT(DISTINCT picture) FROM boxes GROUP BY class ORDER BY class"
        )
        return list(rows)

    def sizes(self) -> Iterator[tuple[int, int, int]]:
        """The declared sizes, in the order of the pictures."""
        yield from self._db.execute("SELECT picture, width, height FROM sizes ORDER BY picture")

    def boxes(self) -> Iterator[tuple[int, list[IndexedBox]]]:
        """(picture, its boxes by file and line) of every picture that has boxes, in order."""
        rows = self._db.execute("SELECT * FROM boxes ORDER BY picture, file, line, rowid")
        for picture, group in itertools.groupby(rows, key=lambda row: row[0]):
            yield picture, [IndexedBox(*row) for row in group]

    def problems(self) -> Iterator[Problem]:
        """All problems in the order of their paths."""
        rows = self._db.execute("SELECT * FROM problems ORDER BY path, line, kind, action, found")
        yield from (Problem(*row) for row in rows)

    def problem_kinds(self) -> list[tuple[str, str, int, Problem]]:
        """(action, kind, number, the first of them) of all that went wrong."""
        counts = self._db.execute(
            "SELECT action, kind, COUNT(*) FROM problems GROUP BY action, kind ORDER BY action, kind"
        )
        first = "SELECT * FROM problems WHERE action = ? AND kind = ? ORDER BY path, line, found LIMIT 1"
        return [
            (action, kind, count, Problem(*self._db.execute(first, (action, kind)).fetchone()))
            for action, kind, count in counts.fetchall()
        ]


def _text(text: str) -> str:
    """Text that SQLite and Parquet can hold."""
    try:
        return parquet_text(text)
    except UnicodeEncodeError:  # halves of a pair, as JSON may write them
        return text.encode("utf-8", "backslashreplace").decode()
