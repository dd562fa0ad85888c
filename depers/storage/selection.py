"""Which files of a folder are inputs: patterns that let in and keep out, and a sample of a number of them."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import NamedTuple

from depers import storage
from depers.storage.paths import Entry, is_remote, is_s3, split_uri


class Selection(NamedTuple):
    """What is selected of a listing: what matches one of `include`, if there are any, and none of `exclude`.

    A pattern is one of the shell (`*` also stands for `/`), of a path below the folder or of its last part. Of all that
    is selected so, `limit` is how many are taken: those whose paths have the smallest hashes, which is a fair sample,
    and holds a smaller one. `as_of` is the time of which what S3 held then is listed, instead of what it holds.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    as_of: str | None = None

    def admits(self, path: str) -> bool:
        """Return whether the patterns let a path in."""
        return (not self.include or _matches(path, self.include)) and not _matches(path, self.exclude)

    def apply(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries that are selected, in their order."""
        if self.include or self.exclude:
            entries = (entry for entry in entries if self.admits(entry.path))
        if self.limit is not None:
            entries = sorted(heapq.nsmallest(self.limit, entries, key=lambda entry: _draw(entry.path)))
        yield from entries


def _matches(path: str, patterns: Sequence[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path, pattern) or fnmatchcase(name, pattern) for pattern in patterns)


def _draw(path: str) -> bytes:
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16, person=b"depers-limit").digest()


def is_bucket(uri: str) -> bool:
    """Return whether `uri` is a whole bucket."""
    return is_remote(uri) and not split_uri(uri.rstrip("/"))[2]


def parse_moment(text: str) -> datetime:
    """Return a time with its zone, such as 2026-11-29T14:00:00Z. Raise ValueError for anything else, and the future."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("it has no time zone, such as a Z at the end")
    if moment > datetime.now(UTC):
        raise ValueError("it is not past")
    return moment


def list_selected(
    root: str, follow_links: bool, apart: Sequence[str | None], selection: Selection | None = None
) -> Iterator[Entry]:
    """Yield the files below `root` that are selected, without those in the places of the job itself that are `apart`.

    The first of these is OUT. Raise UserError as `storage.list_files`.
    """
    moment = parse_moment(selection.as_of) if selection is not None and selection.as_of and is_s3(root) else None
    entries = storage.list_sorted(root, follow_links, apart[0], moment)
    places = [place.rstrip("/") for place in apart if place is not None]
    inner_places = [place for place in places if is_remote(root) and place.startswith(f"{root}/")]
    prefixes = tuple(f"{place[len(root) + 1 :]}/" for place in inner_places)
    if prefixes:
        entries = (entry for entry in entries if not entry.path.startswith(prefixes))
    yield from entries if selection is None else selection.apply(entries)
