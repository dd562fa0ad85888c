"""Folders on S3 as folders of this node: brought here once, verified, within a size limit.

CACHE/data/BUCKET/KEY         the files, laid out as on S3, so that labels are found beside their images
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from depers import resources, storage
from depers.errors import UserError
from depers.storage import Entry

_READERS = 16  # threads that mostly wait for storage
_SPARE = 256 * 2**20  # bytes of the disk that are left alone


class DatasetCache:
    """A cache of S3 folders below `folder`, of at most `limit` bytes; what it gave out stays until `close`."""

    def __init__(self, folder: str, limit: float) -> None:
        self._root, self._limit = Path(folder), limit
        self._held: dict[str, IO[Any]] = {}

    def local(self, uris: Sequence[str]) -> dict[str, str]:
        """Where the folders are on this node, those on S3 fetched. Raises UserError where they do not fit."""
        remote = [uri for uri in dict.fromkeys(uris) if storage.is_s3(uri)]
        places = {uri: uri for uri in uris} | {uri: str(self._place(uri)) for uri in remote}
        if remote:
            (self._root / "folders").mkdir(parents=True, exist_ok=True)
            with _locked(self._root / "folders" / ".lock"):
                self._fetch({uri: storage.list_files(uri) if storage.is_dir(uri) else [] for uri in remote})
        return places

    def close(self) -> None:
        """Lets go of the folders: another process may clear them away to make room."""
        for file in self._held.values():
            file.close()
        self._held.clear()

    def _place(self, uri: str) -> Path:
        return self._root / "data" / uri[5:].rstrip("/")

    def _fetch(self, folders: dict[str, list[Entry]]) -> None:
        missing = {uri: self._missing(uri, entries) for uri, entries in folders.items()}
        size = sum(max(entry.size, 0) for entries in folders.values() for entry in entries)
        wanted = sum(entry.size for entries in missing.values() for entry in entries)
        named = ", ".join(folders)
        if size > self._limit:
            needed, limit = resources.shown(size), resources.shown(self._limit)
            raise UserError(f"--cache-limit must be at least {needed} for {named}, but is {limit}")
        self._make_room(wanted, set(folders))
        free = resources.free_disk(self._root)
        if wanted + _SPARE > free:
            raise UserError(
                f"{self._root}: {named} needs {resources.shown(wanted)}, but {resources.shown(free)} are free"
            )
        for uri, entries in folders.items():
            with ThreadPoolExecutor(_READERS) as pool:
                for _ in pool.map(lambda entry, uri=uri: self._bring(uri, entry), missing[uri]):
                    pass
            self._remove_others(uri, entries)
            record = {"uri": uri, "entries": [list(entry) for entry in entries]}
            storage.write_bytes(str(self._record(uri)), json.dumps(record).encode())
            if uri not in self._held:
                self._held[uri] = self._record(uri).with_suffix(".lock").open("a")
                fcntl.flock(self._held[uri], fcntl.LOCK_SH)

    def _record(self, uri: str) -> Path:
        return self._root / "folders" / f"{hashlib.sha256(uri.encode()).hexdigest()[:32]}.json"

    def _recorded(self, record: Path) -> dict[str, Entry]:
        try:
            entries = json.loads(record.read_bytes())["entries"]
        except (OSError, ValueError, KeyError):
            return {}
        return {path: Entry(path, size, etag) for path, size, etag in entries}

    def _missing(self, uri: str, entries: Sequence[Entry]) -> list[Entry]:
        """The entries that are not here as they are on S3 now."""
        known, place = self._recorded(self._record(uri)), self._place(uri)

        def here(entry: Entry) -> bool:
            with suppress(OSError):
                return known.get(entry.path) == entry and (place / entry.path).stat().st_size == entry.size
            return False

        return [entry for entry in entries if not here(entry)]

    def _bring(self, uri: str, entry: Entry) -> None:
        """One file, whole: its size, and where the tag is an MD5 sum, its content are what S3 says."""
        source = storage.join(uri, entry.path)
        try:
            data = storage.read_bytes(source)
        except OSError as error:
            raise UserError(f"{source}: not readable ({error})") from None
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        plain = re.fullmatch(r"[0-9a-f]{32}", entry.etag)  # not of an upload in parts, nor encrypted with a key
        if len(data) != entry.size or (plain and digest != entry.etag):
            found = f"{len(data)} bytes with sum {digest}"
            raise UserError(f"{source}: must be {entry.size} bytes with sum {entry.etag}, but {found} arrived")
        with storage.translated_write_errors(str(self._place(uri))):
            storage.write_bytes(str(self._place(uri) / entry.path), data)

    def _remove_others(self, uri: str, entries: Sequence[Entry]) -> None:
        """Removes what is no longer on S3: it would be listed as a part of the dataset."""
        wanted = {entry.path for entry in entries}
        for path in self._recorded(self._record(uri)):
            if path not in wanted:
                (self._place(uri) / path).unlink(missing_ok=True)

    def _make_room(self, wanted: int, kept: set[str]) -> None:
        """Clears folders that nobody uses, the longest unused first, until `wanted` bytes fit below the limit."""
        records = sorted((self._root / "folders").glob("*.json"), key=lambda path: path.stat().st_mtime)
        sizes = {path: sum(entry.size for entry in self._recorded(path).values()) for path in records}
        used = sum(sizes.values())
        for path in records:
            if used + wanted <= self._limit and wanted + _SPARE <= resources.free_disk(self._root):
                return
            with suppress(OSError, ValueError, KeyError):
                uri = json.loads(path.read_bytes())["uri"]
                if uri in kept:
                    continue
                with path.with_suffix(".lock").open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: in use
                    shutil.rmtree(self._place(uri), ignore_errors=True)
                    path.unlink()
                    used -= sizes[path]
        if used + wanted > self._limit:
            used_now = f"{resources.shown(used)} in use there and {resources.shown(wanted)} to bring"
            raise UserError(f"--cache-limit {resources.shown(self._limit)} is too little for {used_now}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
