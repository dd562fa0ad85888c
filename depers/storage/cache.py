"""Folders on S3 as folders of this node: brought here once, verified, within a size limit.

CACHE/data/BUCKET/KEY         the files, laid out as on S3, so that labels are found beside their images (those of
                              other stores: CACHE/data-SCHEME/…)
CACHE/folders/NAME.json       what was brought of one folder: paths, sizes and tags
CACHE/folders/NAME.lock       held shared by the processes that use it, so that nothing in use is cleared away

Of several processes on a node one fetches, the others wait for it.
"""

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from depers import resources, storage
from depers.errors import UserError, short_reason
from depers.storage import Entry, file_table, remote
from depers.storage.paths import UnsafePathError, explain_no_target, is_s3, locate, split_uri

_READERS = 16  # threads that mostly wait for storage
_NOTED = 2000  # files, after which it is noted which are here
_SPARE = 256 * resources.MIB  # bytes of the disk that are left alone


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
                self._listings |= {uri: file_table.tabulate(entries) for uri, entries in listings.items()}
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

    def _fetch_all(self, folders: dict[str, list[Entry]]) -> None:
        absent = {uri: self._absent(uri, entries) for uri, entries in folders.items()}
        size = sum(max(entry.size, 0) for entries in folders.values() for entry in entries)
        fetch_size = sum(entry.size for entries in absent.values() for entry in entries)
        names = ", ".join(folders)
        if size > self._limit:
            least, limit = resources.format_bytes(size), resources.format_bytes(self._limit)
            raise UserError(f"--cache-limit must be at least {least} for {names}, but is {limit}")
        self._make_room(fetch_size, set(folders))
        free = resources.available_disk(self._root)
        if fetch_size + _SPARE > free:
            size_text, free_text = resources.format_bytes(fetch_size), resources.format_bytes(free)
            raise UserError(f"{self._root}: {names} needs {size_text}, but {free_text} are free")
        for uri, entries in folders.items():
            self._replace(uri, absent[uri], entries)
            self._note(uri, entries)
            if uri not in self._locks:
                self._locks[uri] = self._record(uri).with_suffix(".lock").open("a")
                fcntl.flock(self._locks[uri], fcntl.LOCK_SH)

    def _record(self, uri: str) -> Path:
        return self._root / "folders" / f"{hashlib.sha256(uri.encode()).hexdigest()[:32]}.json"

    def _note(self, uri: str, entries: Sequence[Entry]) -> None:
        """Record what is here of a folder, as far as it is known to be."""
        record = {"uri": uri, "entries": [list(entry) for entry in entries]}
        storage.write_bytes(str(self._record(uri)), json.dumps(record).encode())

    def _recorded(self, record: Path) -> dict[str, Entry]:
        try:
            entries = [Entry(*fields) for fields in json.loads(record.read_bytes())["entries"]]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {entry.path: entry for entry in entries}

    def _absent(self, uri: str, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries that are not on this node as they are on S3 now."""
        recorded, folder = self._recorded(self._record(uri)), str(self._folder(uri))

        def is_present(entry: Entry) -> bool:
            with suppress(OSError):
                place = Path(locate(folder, entry.path))
                return recorded.get(entry.path) == entry and place.stat().st_size == entry.size
            return False

        for entry in entries:
            if reason := explain_no_target(folder, entry.path):
                raise UserError(f"{storage.join(uri, entry.path)}: cannot be brought to this node: {reason}")
        return [entry for entry in entries if not is_present(entry)]

    def _fetch_files(self, uri: str, absent: Sequence[Entry], pool: ThreadPoolExecutor) -> None:
        """Fetch files, and note which are here also where not all are: the next attempt goes on from there."""
        replaced_paths = {entry.path for entry in absent}
        recorded = self._recorded(self._record(uri)).values()
        present = [entry for entry in recorded if entry.path not in replaced_paths]

        def fetch(entry: Entry) -> None:
            self._fetch_file(uri, entry)
            present.append(entry)

        try:
            for start in range(0, len(absent), _NOTED):
                list(pool.map(fetch, absent[start : start + _NOTED]))
                self._note(uri, list(present))
        finally:
            pool.shutdown(cancel_futures=True)
            with suppress(OSError):  # of a full disk, which has its own error
                self._note(uri, list(present))

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

    def _make_room(self, size: int, uris: set[str]) -> None:
        """Clear folders that nobody uses, the oldest first and none of `uris`, until `size` bytes fit in the limit."""
        records = self._list_records()
        sizes = {path: sum(entry.size for entry in self._recorded(path).values()) for path in records}
        total = sum(sizes.values())
        for uri in records.values():
            if total + size <= self._limit and size + _SPARE <= resources.available_disk(self._root):
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
        if total + size > self._limit:
            demand = f"{resources.format_bytes(total)} in use there and {resources.format_bytes(size)} to fetch"
            raise UserError(f"--cache-limit {resources.format_bytes(self._limit)} is too little for {demand}")

    def _list_records(self) -> dict[Path, str]:
        """Return what was brought here: records with the URIs of their folders, the oldest first."""
        records = {}
        for path in sorted((self._root / "folders").glob("*.json"), key=lambda path: path.stat().st_mtime):
            with suppress(OSError, ValueError, KeyError, TypeError):
                records[path] = str(json.loads(path.read_bytes())["uri"])
        return records

    @contextmanager
    def _unused(self, records: Sequence[Path]) -> Iterator[None]:
        """Keep others from using the folders of `records` within the block. Raise BlockingIOError where one does."""
        with ExitStack() as stack:
            for path in records:
                lock = stack.enter_context(path.with_suffix(".lock").open("a"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def _replace(self, uri: str, absent: Sequence[Entry], entries: Sequence[Entry]) -> None:
        """Bring the `absent` files of a folder here, and remove what is no longer among its `entries` on S3.

        Raise UserError where that would change what another process uses.
        """
        folder = str(self._folder(uri))
        paths = {entry.path for entry in entries}
        stale_paths = [path for path in self._recorded(self._record(uri)) if path not in paths]
        is_change = bool(stale_paths) or any(Path(locate(folder, entry.path)).exists() for entry in absent)
        neighbors = [path for path, other in self._list_records().items() if storage.overlap(uri, other)]
        try:
            with self._unused(neighbors if is_change else []), ThreadPoolExecutor(_READERS) as pool:
                self._fetch_files(uri, absent, pool)
                for path in stale_paths:  # it would be listed as a part of the dataset
                    storage.delete_below(folder, path)
        except BlockingIOError:
            problem = "has changed since it was brought to this node, where another process still uses it"
            raise UserError(f"{uri}: {problem}: wait until that ends, or name another --cache-folder") from None


def _list_dataset(uri: str) -> list[Entry]:
    """Return the files of a folder on S3; none where there is no such folder."""
    return [entry for entry in storage.list_files(uri) if not entry.status] if storage.is_dir(uri) else []


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
