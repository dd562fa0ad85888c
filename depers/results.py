"""Reads single results back, by their manifest rows."""

from depers import storage
from depers.steps import Row


def read_result(out: str, row: Row) -> bytes | None:
    """The bytes that a manifest row stands for; None where they are compressed among others.

    Raises OSError.
    """
    uri = storage.join(out, row["path"])
    if row["number"] is None:
        return storage.read_bytes(uri)
    if row["output_offset"] is not None:
        return storage.read_range(uri, row["output_offset"], row["output_bytes"])
    return None
