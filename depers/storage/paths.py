"""Relative paths that come from data, such as a listing, a table or an archive: the one gate before they name a target.

Below a local folder a path must be plain: parts between single slashes, none of them empty, `.` or `..`. A key on S3 is
text that nobody resolves, so there any is allowed that S3 can hold. What lies between this and other stores may resolve
keys in its own way, so there they must be plain as well. On a disk and on S3 a backslash is a character like others:
depers does not run on Windows.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from depers.errors import UserError
from depers.statuses import FileStatus

PARTIAL = re.compile(r"\.depers-[0-9a-f]{32}[^.]*\.partial")
"""The name of a file that is still being written: as long as any file's, and nobody else's on any host."""
LEASE = ".depers-lease.json"
"""The name of the file that keeps a second run from an OUT."""
_OWN = "its name is one that depers gives to files of its own, while it writes"
_SUSPECT = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|\0")
_NAME_BYTES, _PATH_BYTES = 255, 4095  # of Linux: NAME_MAX, and PATH_MAX without its zero byte
_KEY_BYTES = 1024  # of S3, and of most stores like it
OTHER_STORES: Mapping[str, str] = {
    "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "oci": "ocifs", "oss": "ossfs",
}  # fmt: skip
"""Schemes besides `s3` that are read and written, and the packages that fsspec does it with.

All of them are stores of objects, in which a write is there whole or not at all.
"""
_REMOTE = ("s3://", *(f"{scheme}://" for scheme in OTHER_STORES))
_RESOLVED = re.compile(r"[?\\\x00-\x1f\x7f]|\.(?:/|\Z)")
"""What some stores, or their packages, would not keep in a key.

That is what looks like a query, a backslash, of which Azure makes a slash, and a dot at a part's end.
"""
_SAFE_LENGTH = 60  # characters that have fewer bytes than any limit


class Entry(NamedTuple):
    """One file below a root: its path relative to it with `/`, size in bytes, and a tag that changes with it.

    `status`, where its listing decides what becomes of it: `skipped` for what is no file to read, `failed` for what can
    have no output; `reason` says why. Such an entry is never opened, written or deleted. `change_time` is when a disk
    last saw anything about it change, which nobody can set; S3 has none.
    """

    path: str
    size: int
    etag: str
    status: str = ""
    reason: str = ""
    change_time: str = ""

    @property
    def stamp(self) -> str:
        """What tells this file from any other that was ever in its place, also one of equal size and time."""
        return self.change_time or self.etag


def skip_own(entry: Entry) -> Entry:
    """Return an entry, skipped where its name says that depers was writing it: it is whole nowhere."""
    return entry._replace(status=FileStatus.SKIPPED, reason=_OWN) if is_own_name(entry.path) else entry


class UnsafePathError(UserError, OSError):
    """A path that does not stay below its root, or not surely: in a pass a failure of that file, else the user's."""


def is_own_name(path: str) -> bool:
    """Return whether a file has a name that depers gives to what it is writing, and to its lease on an OUT."""
    name = path.rpartition("/")[2]
    return name.startswith(".depers-") and (name == LEASE or PARTIAL.fullmatch(name) is not None)


def is_s3(uri: str) -> bool:
    """Return whether `uri` names something on S3."""
    return uri.startswith("s3://")


def is_remote(uri: str) -> bool:
    """Return whether `uri` names something on S3 or in another store of objects."""
    return uri.startswith(_REMOTE)


def split_uri(uri: str) -> tuple[str, str, str]:
    """Return scheme, bucket and key of a remote URI; the key of a bucket is empty."""
    scheme, _, place = uri.partition("://")
    bucket, _, key = place.partition("/")
    return scheme, bucket, key


def name_place(uri: str) -> str:
    """Return a remote URI by the first of the names that its store has."""
    scheme, bucket, key = split_uri(uri)
    package = OTHER_STORES.get(scheme)
    first = next((name for name, other in OTHER_STORES.items() if other == package), scheme) if package else scheme
    return f"{first}://{bucket.partition('@')[0] if package else bucket}/{key}".rstrip("/")


def explain_unsafe(path: str) -> str:
    """Return why a relative path is not plain, so that it could lead out of a local folder; empty where it is."""
    if _SUSPECT.search(path):
        if not path:
            return "a path must not be empty"
        if "\0" in path:
            return "a path must not hold a zero byte"
        if path.startswith("/"):
            return "a path must be relative, but is absolute"
        part = next(part for part in path.split("/") if part in ("", ".", ".."))
        return f"a path must not have the part {part!r}" if part else "a path must not have an empty part"
    if len(path) > _SAFE_LENGTH or not path.isascii():
        try:
            longest = max(len(os.fsencode(part)) for part in path.split("/"))
        except UnicodeEncodeError:
            return "a path must be text that a file name can hold"
        if longest > _NAME_BYTES:
            return f"a name must have at most {_NAME_BYTES} bytes, but has {longest}"
    return ""


def _shorten(path: str) -> str:
    """Return a path for a message: what is said of it must not be cut off."""
    return repr(path if len(path) <= _SAFE_LENGTH else f"{path[: _SAFE_LENGTH - 1]}…")


def explain_resolved(path: str) -> str:
    """Return why a relative path may be another one in a store besides S3; empty where it is surely not."""
    if problem := explain_unsafe(path):
        return problem
    if not (match := _RESOLVED.search(path)):
        return ""
    what = "a part that ends in a dot" if match[0].startswith(".") else f"the character {match[0]!r}"
    return f"a key of this store must not have {what}"


def explain_no_target(root: str, path: str) -> str:
    """Return why nothing can be written at a relative path below `root`; empty where it can."""
    if not is_remote(root):
        problem = explain_unsafe(path)
        if problem or len(root) + len(path) < _PATH_BYTES // 4:
            return problem
        size = len(os.fsencode(f"{root}/{path}"))
        too_long = f"a path must have at most {_PATH_BYTES} bytes with its folder, but has {size}"
        return too_long if size > _PATH_BYTES else ""
    if not is_s3(root) and (problem := explain_resolved(path)):
        return problem
    key = split_uri(f"{root.rstrip('/')}/{path}")[2] if path else ""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "a key of S3 must be UTF-8, but the name is not" if is_s3(root) else "a key must be UTF-8, but is not"
    if not key or size > _KEY_BYTES:
        return f"a key of S3 must have 1 to {_KEY_BYTES} bytes, but has {size}"
    return ""


def join(root: str, *parts: str) -> str:
    """Return `root/part/…`; the parts are relative and use `/`.

    Raise UnsafePathError where one leaves a local root, or is not plain in a store besides S3.
    """
    if not is_s3(root):
        for part in parts:
            if problem := explain_resolved(part) if is_remote(root) else explain_unsafe(part):
                raise UnsafePathError(f"{_shorten(part)} below {root}: {problem}")
    return "/".join([root.rstrip("/"), *parts])


def locate(root: str, path: str) -> str:
    """Return where to write or delete what data name: `root/path`, no folder below the root being a link elsewhere.

    Raise UnsafePathError where it can be no target, OSError where a link leads out of the root or to another's place.
    """
    if problem := explain_no_target(root, path):
        raise UnsafePathError(f"{_shorten(path)} below {root}: {problem}")
    target = join(root, path)
    if not is_remote(root):
        end = target.find("/", len(root.rstrip("/")) + 1)
        while end > 0:
            if os.path.islink(target[:end]):  # noqa: PTH114 (Path objects cost more than the question)
                raise OSError(f"{target[:end]}: must be a folder, but is a link")
            end = target.find("/", end + 1)
    return target
