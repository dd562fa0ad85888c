"""Folders on S3 as folders of this node: brought here once, verified, within a size limit.

CACHE/data/BUCKET/KEY         the files, laid out as on S3, so that labels are found beside their images (those of
                              other stores: CACHE/data-SCHEME/…)
CACHE/folders/NAME.json       what was brought of one folder: paths, sizes and tags (`cache_notes`)
CACHE/folders/NAME.lock       held shared by the processes that use it, so that nothing in use is cleared away

Of several processes on a node one fetches, the others wait for it. A file is noted as soon as it has its name, so that
what follows a fetch that was killed goes on from there, and removes what that one left and S3 does not have.
"""

import fcntl
import hashlib
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from depers import resources, storage
from depers.errors import UserError, short_reason
from depers.storage import Entry, file_table, local, remote
from depers.storage.cache_notes import NoteAppender, read_notes, read_uri, write_notes
from depers.storage.paths import UnsafePathError, explain_no_target, is_own_name, is_s3, locate, split_uri

_READERS = 16  # threads that mostly wait for storage
_ROWS = 65_536  # files that are objects at a time
_COLUMNS = ["path", "size", "etag"]  # of a listing: what of its files is fetched and noted
_SPARE = 256 * resources.MIB  # bytes of the disk that are left alone


class _FetchPlan(NamedTuple):
    """What there is to do for a folder: the files that are to be fetched, and all that are to be here, as columns."""

    listing: pa.Table
    absent: pa.Table
    present: pa.Table
    """Those that are on this node as they are on S3."""
    stale_paths: list[str]
    """What is on this node, as far as that is known, and not on S3."""
    is_complete: bool
    """Whether nothing was left undone before."""


class DatasetCache:
    """A cache of S3 folders below `folder`, of at most `limit` bytes; what it gave out stays until `close`."""

    def __init__(self, folder: str, limit: float) -> None:
        self._root, self._limit = Path(folder), limit
        self._locks: dict[str, IO[Any]] = {}
        self._listings: dict[str, pa.Table] = {}

    def fetch(self, uris: Sequence[str]) -> dict[str, str]:
        """Return where the folders are on this node, those on S3 fetched. Raise UserError where they do not fit."""
        remote_uris = [uri for uri in dict.fromkeys(uris) if storage.is_remote(uri)]
        folders = {uri: uri for uri in uris} | {uri: str(self._folder(uri)) for uri in remote_uris}
        if remote_uris:
            (self._root / "folders").mkdir(parents=True, exist_ok=True)
            with _locked(self._root / "folders" / ".lock"):
                listings = {uri: _list_dataset(uri) for uri in remote_uris}
                self._fetch_all(listings)
                self._listings |= listings
        return folders

    def get_listing(self, uri: str) -> pa.Table:
        """Return the listing of a folder on S3 that `fetch` brought, as it was then."""
        return self._listings[uri]

    def close(self) -> None:
        """Let go of the folders: another process may clear them away to make room."""
        for file in self._locks.values():
            file.close()
        self._locks.clear()

    def _folder(self, uri: str) -> Path:
        """Return the place of a folder of S3. Raise UserError for one whose name would lead out of the cache."""
        scheme, bucket, key = split_uri(uri.rstrip("/"))
        data = self._root / ("data" if is_s3(uri) else f"data-{scheme}")
        return Path(locate(str(data), f"{bucket}/{key}".rstrip("/")))

    def _fetch_all(self, listings: Mapping[str, pa.Table]) -> None:
        plans = {uri: self._plan(uri, listing) for uri, listing in listings.items()}
        size = sum(_sum_sizes(listing) for listing in listings.values())
        fetch_size = sum(_sum_sizes(plan.absent) for plan in plans.values())
        names = ", ".join(plans)
        if size > self._limit:
            least, limit = resources.format_bytes(size), resources.format_bytes(self._limit)
            raise UserError(f"--cache-limit must be at least {least} for {names}, but is {limit}")
        self._make_room(size, fetch_size, set(plans))
        free = resources.available_disk(self._root)
        if fetch_size + _SPARE > free:
            size_text, free_text = resources.format_bytes(fetch_size), resources.format_bytes(free)
            raise UserError(f"{self._root}: {names} needs {size_text}, but {free_text} are free")
        for uri, plan in plans.items():
            self._replace(uri, plan)
            if uri not in self._locks:
                self._locks[uri] = self._record(uri).with_suffix(".lock").open("a")
                fcntl.flock(self._locks[uri], fcntl.LOCK_SH)

    def _record(self, uri: str) -> Path:
        return self._root / "folders" / f"{hashlib.sha256(uri.encode()).hexdigest()[:32]}.json"

    def _plan(self, uri: str, listing: pa.Table) -> _FetchPlan:
        """Compare a folder on this node with its listing. Raise UserError where a file of it can have no place here."""
        notes, folder = read_notes(self._record(uri)), str(self._folder(uri))
        is_present = notes.find_listed(listing)
        for number, entry in enumerate(_iterate_entries(listing)):
            if reason := explain_no_target(folder, entry.path):
                raise UserError(f"{storage.join(uri, entry.path)}: cannot be brought to this node: {reason}")
            is_present[number] = is_present[number] and _is_here(folder, entry)
        stale_paths = _find_unlisted(notes.files["path"], listing)
        if not notes.is_complete:  # what came and was not noted, or was to be replaced, may have left S3 since
            paths = (file_table.encode(entry.path) for entry in _list_folder(folder))
            while part := list(islice(paths, _ROWS)):
                stale_paths += _find_unlisted(pa.array(part, pa.large_binary()), listing)
        columns = listing.select(_COLUMNS)
        absent, present = (columns.filter(pa.array(mask)) for mask in (~is_present, is_present))
        return _FetchPlan(listing, absent, present, stale_paths, notes.is_complete)

    def _fetch_files(self, uri: str, files: pa.Table, notes: NoteAppender) -> None:
        """Fetch files, each noted when it is here. Raise the first error, when what is on its way has come."""
        entries, lock, has_ended = _iterate_entries(files), threading.Lock(), threading.Event()

        def fetch() -> None:
            while not has_ended.is_set():
                with lock:
                    entry = next(entries, None)
                if entry is None:
                    return
                try:
                    self._fetch_file(uri, entry)
                    with storage.translated_write_errors(str(self._root)):
                        notes.append(entry)
                except BaseException:
                    has_ended.set()
                    raise

        with ThreadPoolExecutor(_READERS) as pool:
            try:
                for future in [pool.submit(fetch) for _ in range(min(_READERS, len(files)))]:
                    future.result()
            finally:
                has_ended.set()

    def _fetch_file(self, uri: str, entry: Entry) -> None:
        """Fetch one file, whole: its size, and where the tag is an MD5 sum, its content are what S3 says."""
        source = storage.join(uri, entry.path)
        try:
            data = storage.read_entry(uri, entry)
        except OSError as error:
            raise UserError(f"{source}: not readable ({short_reason(error)})") from None
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        plain = re.fullmatch(r"[0-9a-f]{32}", entry.etag)  # not of an upload in parts
        is_damaged = plain is not None and digest != entry.etag and remote.find_store(uri).has_md5_tag(source)
        if len(data) != entry.size or is_damaged:
            arrival = f"{len(data)} bytes with sum {digest}"
            raise UserError(f"{source}: must be {entry.size} bytes with sum {entry.etag}, but {arrival} arrived")
        with storage.translated_write_errors(str(self._folder(uri))):
            storage.write_below(str(self._folder(uri)), entry.path, data)

    def _make_room(self, size: int, fetch_size: int, uris: set[str]) -> None:
        """Clear folders that nobody uses, the oldest first and none of `uris`, until these fit in the limit.

        They take `size` bytes in all, of which `fetch_size` are to be fetched.
        """
        records = self._list_records()
        sizes = {path: _sum_sizes(read_notes(path).files) for path, uri in records.items() if uri not in uris}
        total = size + sum(sizes.values())
        for uri in records.values():
            if total <= self._limit and fetch_size + _SPARE <= resources.available_disk(self._root):
                return
            # A folder may lie in another: what is cleared goes with all that it holds.
            neighbors = [path for path, other in records.items() if storage.overlap(uri, other) and path.exists()]
            if any(storage.overlap(uri, requested) for requested in uris):
                continue
            with suppress(BlockingIOError), self._unused(neighbors):
                for path in neighbors:
                    with suppress(UnsafePathError):  # such as no version of depers would write today
                        shutil.rmtree(self._folder(records[path]), ignore_errors=True)
                    path.unlink()
                    total -= sizes[path]
        if total > self._limit:
            use, demand = resources.format_bytes(total - fetch_size), resources.format_bytes(fetch_size)
            demand = f"{use} in use there and {demand} to fetch"
            raise UserError(f"--cache-limit {resources.format_bytes(self._limit)} is too little for {demand}")

    def _list_records(self) -> dict[Path, str]:
        """Return what was brought here: records with the URIs of their folders, the oldest first."""
        records = {}
        for path in sorted((self._root / "folders").glob("*.json"), key=lambda path: path.stat().st_mtime):
            with suppress(OSError, ValueError, KeyError, TypeError):
                records[path] = read_uri(path)
        return records

    @contextmanager
    def _unused(self, records: Sequence[Path]) -> Iterator[None]:
        """Keep others from using the folders of `records` within the block. Raise BlockingIOError where one does."""
        with ExitStack() as stack:
            for path in records:
                lock = stack.enter_context(path.with_suffix(".lock").open("a"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def _replace(self, uri: str, plan: _FetchPlan) -> None:
        """Bring the absent files of a folder here, and remove what is no longer on S3.

        Raise UserError where that would change what another process uses.
        """
        folder, record = str(self._folder(uri)), self._record(uri)
        if plan.is_complete and not len(plan.absent) and not plan.stale_paths:
            os.utime(record)  # it is among the last that are cleared away
            return
        is_change = not all(map(is_own_name, plan.stale_paths)) or any(
            os.path.lexists(locate(folder, entry.path)) for entry in _iterate_entries(plan.absent)
        )
        neighbors = [path for path, other in self._list_records().items() if storage.overlap(uri, other)]
        try:
            with self._unused(neighbors if is_change else []):
                # What is about to be replaced is no longer vouched for, before it is: whatever happens then.
                if is_change:
                    self._withdraw(uri, plan.absent, [path for path in neighbors if path != record])
                self._note(uri, plan.present, is_complete=False)
                with NoteAppender(record) as notes:
                    self._fetch_files(uri, plan.absent, notes)
                for path in plan.stale_paths:  # it would be taken for a part of the dataset
                    storage.delete_below(folder, path)
                self._note(uri, plan.listing, is_complete=True)
        except BlockingIOError:
            problem = "has changed since it was brought to this node, where another process still uses it"
            raise UserError(f"{uri}: {problem}: wait until that ends, or name another --cache-folder") from None

    def _withdraw(self, uri: str, files: pa.Table, records: Sequence[Path]) -> None:
        """Drop notes of other folders about what lies in them, too, and is about to become these files of a folder."""
        targets = file_table.join_paths(str(self._folder(uri)), files["path"]).combine_chunks()
        for record in records:
            notes = read_notes(record)
            with suppress(UnsafePathError):
                places = file_table.join_paths(str(self._folder(notes.uri)), notes.files["path"])
                numbers = pc.index_in(places, targets)
                tags = files["etag"].take(numbers)
                is_sure = pc.or_(pc.is_null(numbers), pc.fill_null(pc.equal(tags, notes.files["etag"]), False))
                if not pc.all(is_sure).as_py():
                    sure_files = notes.files.filter(pc.and_(is_sure, pc.is_valid(notes.files["etag"])))
                    self._note(notes.uri, sure_files, is_complete=False)

    def _note(self, uri: str, files: pa.Table, is_complete: bool) -> None:
        """Write down which files of a folder are here, when they are surely on the disk."""
        with storage.translated_write_errors(str(self._root)):
            if len(files):
                storage.flush(str(self._folder(uri)))
            write_notes(self._record(uri), uri, files, is_complete)


def _list_dataset(uri: str) -> pa.Table:
    """Return the files of a folder on S3, by path; none where there is no such folder."""
    if not storage.is_dir(uri):
        return file_table.SCHEMA.empty_table()
    with storage.translated_errors(uri):
        table = file_table.tabulate(storage.iterate_files(uri))
    return table.filter(pc.is_null(table["reason"])).combine_chunks()


def _list_folder(folder: str) -> Iterator[Entry]:
    """Yield all that lies in a folder of the cache, which need not be there, but what a link leads to."""
    if Path(folder).is_dir():
        with storage.translated_errors(folder):
            yield from local.list_files(folder, follow_links=False)


def _iterate_entries(files: pa.Table) -> Iterator[Entry]:
    for batch in files.select(_COLUMNS).to_batches(_ROWS):
        for path, size, etag in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield Entry(file_table.decode(path), size, etag)


def _find_unlisted(paths: Any, listing: pa.Table) -> list[str]:
    """Return which paths of a column are not those of a listing."""
    is_listed = pc.is_in(paths, listing["path"].combine_chunks())
    return [file_table.decode(path) for path in paths.filter(pc.invert(is_listed)).to_pylist()]


def _is_here(folder: str, entry: Entry) -> bool:
    """Return whether a regular file of the entry's size lies below a folder, which no link leads out of."""
    with suppress(OSError):
        status = os.lstat(locate(folder, entry.path))
        return stat.S_ISREG(status.st_mode) and status.st_size == entry.size
    return False


def _sum_sizes(files: pa.Table) -> int:
    """Return the bytes of all files together."""
    return int(pc.sum(files["size"]).as_py() or 0)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
