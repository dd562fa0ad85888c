"""Registry."""

from depers.archives.base import ArchiveFormat

_SUFFIXES = {
    ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".tar.bz2": "tar", ".tbz2": "tar", ".tbz": "tar", ".tar.xz": "tar",
    ".txz": "tar", ".zip": "zip", ".parquet": "parquet",
}  # fmt: skip


def kind_of(path: str) -> str | None:
    """`tar`, `zip` or `parquet`, by the name; None for a loose file."""
    lower = path.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lower.endswith(suffix)), None)


def load_format(kind: str) -> ArchiveFormat:
    """The module for a kind of archive, imported when called for."""
    if kind == "tar":
        from depers.archives import tar
    elif kind == "zip":
        from depers.archives import zip as tar  # type: ignore[no-redef]
    else:
        from depers.archives import parquet as tar  # type: ignore[no-redef]
    return tar
