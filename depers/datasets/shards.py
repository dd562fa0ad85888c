"""Images in tars, with their texts beside them: what `synthesize --shards` writes, and a training reads.

NAME.jpg         the image; NAME is its path in its split's folder, where it would be a file
NAME.txt         its labels, as YOLO text
NAME.ignore.txt  its ignore regions, if it has any

data.yaml names the tars of a folder as WebDataset does: shards/{000000..000012}.tar.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from posixpath import splitext
from typing import BinaryIO, NamedTuple

from depers import storage
from depers.datasets.labels import IMAGE_SUFFIXES
from depers.errors import UserError, one_line
from depers.storage import Entry

IGNORE_SUFFIX = ".ignore.txt"
_PATTERN = re.compile(
    r"(?P<folder>.+)/(?P<head>[^/{}]*)\{(?P<first>\d+)\.\.(?P<last>\d+)\}(?P<tail>[^/{}]*\.tar)", re.DOTALL
)
_MOST_SHARDS = 10_000_000


class Shards(NamedTuple):
    """The tars of one dataset: their folder, their names in it, and the text that names them all."""

    folder: str
    names: tuple[str, ...]
    pattern: str


class TarImage(NamedTuple):
    """An image in a tar: its name, where its bytes lie, and the texts beside it, empty where there is none."""

    name: str
    offset: int
    byte_count: int
    labels: bytes
    ignored: bytes


def parse_shards(pattern: str, source: str) -> Shards:
    """Return the tars that a text such as `…/shards/{000000..000012}.tar` names. Raise UserError naming `source`."""
    match = _PATTERN.fullmatch(pattern)
    if not match or len(match["first"]) != len(match["last"]):
        raise UserError(f"{source}: shards must be like shards/{{000000..000012}}.tar, but is {pattern!r}")
    first, last = int(match["first"]), int(match["last"])
    if not first <= last < first + _MOST_SHARDS:
        raise UserError(f"{source}: shards must be numbered upwards, but is {pattern!r}")
    width = len(match["first"])
    names = tuple(f"{match['head']}{number:0{width}}{match['tail']}" for number in range(first, last + 1))
    return Shards(match["folder"], names, pattern)


def list_shards(shards: Shards) -> list[Entry]:
    """Return the tars as they are listed, in their order. Raise UserError where one is not there."""
    entries = {entry.path: entry for entry in storage.list_files(shards.folder, follow_links=True) if not entry.status}
    check_shards(shards, list(entries))
    return [entries[name] for name in shards.names]


def check_shards(shards: Shards, names: Sequence[str]) -> None:
    """Raise UserError where one of the tars is not among the `names` of files in their folder."""
    if absent := sorted(set(shards.names).difference(names)):
        number = f"{len(absent)} of {len(shards.names)} tars are not there"
        raise UserError(
            f"{shards.folder}: must hold {shards.names[0]} to {shards.names[-1]}, but {number}: {absent[0]}"
        )


def read_members(tar: str, file: BinaryIO) -> Iterator[TarImage]:
    """Yield the images in the open file of a tar. Raise UserError where it is damaged, or an image has no labels."""
    images: dict[str, tarfile.TarInfo] = {}
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as members:
            for info in members:
                if info.isreg() and info.name.lower().endswith(IMAGE_SUFFIXES):
                    images[info.name] = info
                elif info.isreg() and info.name.endswith(".txt"):
                    content = members.extractfile(info)
                    texts[info.name] = content.read() if content else b""
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{tar}: must be a tar of images and labels, but {one_line(error, 100)}") from None
    for name, info in images.items():
        text = f"{splitext(name)[0]}.txt"
        if text not in texts:
            raise UserError(f"{tar}: {name}: must have its labels beside it, in {text}, but there is no such member")
        ignored = texts.get(f"{splitext(name)[0]}{IGNORE_SUFFIX}", b"")
        yield TarImage(name, info.offset_data, info.size, texts[text], ignored)
