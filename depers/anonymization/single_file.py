"""One file instead of a folder: the same pass over a folder that holds it alone, in a place that is removed again.

What a folder's run keeps beside OUT, to be resumed and audited, is of no use to one file, so nothing is left but OUT.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from depers import storage
from depers.errors import UserError

_FORMATS = {".jpeg": ".jpg", ".jpe": ".jpg", ".tiff": ".tif"}
"""Suffixes that mean the same."""


class SingleFile(NamedTuple):
    """A file, and what is to become of it."""

    source: str
    target: str

    @property
    def name(self) -> str:
        """What it is called in the folder that holds it alone."""
        return self.source.rpartition("/")[2]


def find_single_file(source: str, out: str) -> SingleFile | None:
    """Return the file that INPUT is, and where it goes; None where INPUT is a folder, or is not there.

    An OUT that ends in `/` or is a folder gets the file under its own name. Raise UserError for an OUT of another
    suffix, since the format stays, for the file itself, and where nothing is there that is called as a file is.
    """
    if not storage.is_file(source):
        if PurePosixPath(source).suffix and not storage.is_dir(source):
            raise UserError(f"{source}: no such file or folder")
        return None
    source, target = storage.absolute(source), storage.absolute(out)
    if out.endswith("/") or storage.is_dir(target):
        target = storage.join(target, source.rpartition("/")[2])
    suffixes = [PurePosixPath(uri).suffix.lower() for uri in (source, target)]
    if _FORMATS.get(suffixes[0], suffixes[0]) != _FORMATS.get(suffixes[1], suffixes[1]):
        expectation = f"end in {suffixes[0]} as INPUT does" if suffixes[0] else "have no suffix, as INPUT"
        raise UserError(f"{out}: must {expectation}, whose format stays, or be a folder (…/)")
    if storage.real_place(source) == storage.real_place(target):
        raise UserError(f"{out}: must be another file than INPUT, which is not touched")
    return SingleFile(source, target)


@contextmanager
def hold_alone(file: SingleFile) -> Iterator[tuple[str, str]]:
    """Yield a folder that holds the file alone and a folder for the result, which vanish at the end."""
    with tempfile.TemporaryDirectory(prefix="depers-") as folder:
        source, result = Path(folder, "in", file.name), Path(folder, "out")
        source.parent.mkdir()
        if storage.is_remote(file.source):
            with storage.translated_errors(file.source):
                source.write_bytes(storage.read_bytes(file.source))
        else:
            source.symlink_to(file.source)
        yield str(source.parent), str(result)


def deliver(file: SingleFile, result: str) -> bool:
    """Write the result, if there is one, to where it goes, whole or not at all; return whether there is."""
    path = Path(result, file.name)
    if not path.is_file():
        return False
    with (
        storage.translated_write_errors(file.target),
        storage.open_writer(file.target) as writer,
        path.open("rb") as reader,
    ):
        shutil.copyfileobj(reader, writer)
    return True
