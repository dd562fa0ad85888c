"""Local paths and `s3://` URIs: list, read, write whole.

S3 is configured as AWS users know it (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, roles). Keys may hold any character: they
are never parsed as patterns or URLs.
"""

import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from depers.options import UserError

_PARTIAL = ".depers-partial"  # the suffix of a local file that is still being written


class Entry(NamedTuple):
    """One file below a root: its path relative to it with `/`, size in bytes, and a tag that changes with it."""

    path: str
    size: int
    etag: str


def is_s3(uri: str) -> bool:
    """Whether `uri` names something on S3."""
    return uri.startswith("s3://")


@lru_cache(maxsize=1)
def _s3(process: int) -> Any:
    """The S3 client of this process (a client does not survive a fork)."""
    import s3fs

    retries = {"max_attempts": 8, "mode": "standard"}
    return s3fs.S3FileSystem(
        config_kwargs={"retries": retries, "max_pool_connections": 32},
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def s3() -> Any:
    """The S3 file system of this process; paths are `bucket/key`."""
    return _s3(os.getpid())


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """`uri` as pyarrow's file system and a path in it; for libraries that would read a URI in their own way."""
    from pyarrow import fs

    return (fs.PyFileSystem(fs.FSSpecHandler(s3())), uri[5:]) if is_s3(uri) else (fs.LocalFileSystem(), uri)


def check(uri: str, what: str) -> str:
    """`uri` without a trailing slash; raises UserError for a scheme other than a path or `s3://bucket`."""
    if "://" in uri and not is_s3(uri):
        raise UserError(f"{what} must be a path or an s3:// URI, but got {uri!r}")
    if not uri or uri.rstrip("/") == "s3:":
        raise UserError(f"{what} must name a folder, but got {uri!r}")
    return uri.rstrip("/") or "/"


def join(root: str, *parts: str) -> str:
    """`root/part/…`; the parts are relative and use `/`."""
    return "/".join([root.rstrip("/"), *parts])


def overlap(first: str, second: str) -> bool:
    """Whether one of two folders is the other or lies inside it (links resolved for local paths)."""
    if is_s3(first) != is_s3(second):
        return False
    if is_s3(first):
        a, b = first.rstrip("/") + "/", second.rstrip("/") + "/"
    else:
        a, b = (os.path.realpath(path).rstrip("/") + "/" for path in (first, second))
    return a.startswith(b) or b.startswith(a)


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    return bool(s3().exists(uri[5:])) if is_s3(uri) else Path(uri).exists()


def is_dir(uri: str) -> bool:
    """Whether a folder (on S3: a key below the prefix) is there."""
    return bool(s3().isdir(uri[5:])) if is_s3(uri) else Path(uri).is_dir()


def list_files(root: str) -> list[Entry]:
    """Every file below `root`, sorted by path. Raises UserError where `root` is missing, no folder or unreadable."""
    try:
        entries = _list_s3(root) if is_s3(root) else _list_local(root)
    except FileNotFoundError:
        raise UserError(f"{root}: no such folder") from None
    except NotADirectoryError:
        raise UserError(f"{root}: must be a folder, but is a file") from None
    except PermissionError as error:
        raise UserError(f"{getattr(error, 'filename', None) or root}: not readable (permission denied)") from None
    return sorted(entries)


def _list_local(root: str) -> list[Entry]:
    entries = []

    def stop(error: OSError) -> None:
        raise error  # a folder that cannot be listed would silently lose its files

    os.scandir(root).close()
    for folder, _, names in os.walk(root, onerror=stop, followlinks=True):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 (a million Path objects are slow)
            if name.endswith(_PARTIAL):
                continue
            try:
                status = os.stat(path)  # noqa: PTH116
                size, etag = status.st_size, str(status.st_mtime_ns)
            except OSError:
                size, etag = -1, ""  # a dangling link: it is an input, and will fail as one
            entries.append(Entry(os.path.relpath(path, root), size, etag))
    return entries


def _list_s3(root: str) -> list[Entry]:
    prefix = root[5:].rstrip("/") + "/"
    found = s3().find(prefix, detail=True)
    entries = [
        Entry(key[len(prefix) :], int(info["size"]), str(info.get("ETag", "")).strip('"'))
        for key, info in found.items()
        if not key.endswith("/")
    ]
    if not entries and not s3().exists(prefix):
        raise FileNotFoundError(root)
    return entries


def read_bytes(uri: str) -> bytes:
    """The whole content; raises OSError."""
    return bytes(s3().cat_file(uri[5:])) if is_s3(uri) else Path(uri).read_bytes()


def write_bytes(uri: str, data: bytes) -> None:
    """Writes whole or not at all: one upload, or a neighbour that is renamed into place. Makes folders."""
    if is_s3(uri):
        s3().pipe_file(uri[5:], data)
        return
    path = Path(uri)
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}{_PARTIAL}")
    try:
        partial.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
    partial.replace(path)


def delete(uri: str) -> None:
    """Removes one file; no error where it is absent."""
    if not is_s3(uri):
        Path(uri).unlink(missing_ok=True)
    elif s3().exists(uri[5:]):
        s3().rm_file(uri[5:])


def remove_partials(root: str) -> None:
    """Removes what a killed process left half written below a local `root` (uploads to S3 leave nothing)."""
    if not is_s3(root):
        for folder, _, names in os.walk(root):
            for name in names:
                if name.endswith(_PARTIAL):
                    Path(folder, name).unlink(missing_ok=True)


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file as a table, all of it or these columns; raises OSError or pyarrow's error."""
    return pq.read_table(io.BytesIO(read_bytes(uri)), columns=columns)


def write_table(uri: str, table: pa.Table) -> None:
    """Writes a table as one Parquet file, whole."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(uri, buffer.getvalue())
