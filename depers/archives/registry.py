"""Which module reads and writes which kind of archive."""

import importlib
import itertools
from typing import cast

from depers.archives.base import ArchiveFormat

_SUFFIXES_BY_KIND = {
    "tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz"),
    "zip": (".zip",),
    "parquet": (".parquet",),
}
SUFFIXES = tuple(itertools.chain.from_iterable(_SUFFIXES_BY_KIND.values()))


def kind_of(path: str) -> str | None:
    """Return `tar`, `zip` or `parquet`, by the name; None for a loose file."""
    lower = path.lower()
    return next((kind for kind, suffixes in _SUFFIXES_BY_KIND.items() if lower.endswith(suffixes)), None)


def load_format(kind: str) -> ArchiveFormat:
    """Return the module for a kind of archive, imported when called for."""
    return cast(ArchiveFormat, importlib.import_module(f"depers.archives.{kind}"))
