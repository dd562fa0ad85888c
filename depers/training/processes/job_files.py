"""Small files that travel with a job: workers elsewhere do not see the driver's disk."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from depers import storage
from depers.errors import UserError, short_reason
from depers.training.callbacks import parse_callback
from depers.training.options import Options

_FILES = ("weights", "model", "hyperparameters", "augmentation", "callback")


def pack_files(options: Options) -> dict[str, bytes]:
    """Return the content of the options' local files, by the names of the options. Raise UserError."""
    contents = {}
    for name in _FILES:
        path = _locate(options, name)
        if path is None or storage.is_remote(path) or (name != "weights" and not Path(path).is_file()):
            continue  # where it is no file, it is a name that the workers know, too
        try:
            contents[name] = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({short_reason(error)})") from None
    return contents


@contextmanager
def unpacked_files(options: Options, contents: Mapping[str, bytes]) -> Iterator[Options]:
    """Write the files to a folder of this machine; yield the options with their paths there."""
    with tempfile.TemporaryDirectory(prefix="depers-files-") as folder:
        changes = {}
        for name, content in contents.items():
            source = _locate(options, name)
            assert source is not None
            path = Path(folder, name, Path(source).name)
            path.parent.mkdir()
            path.write_bytes(content)
            changes[name] = f"{path}:{parse_callback(options.callback or '')[1]}" if name == "callback" else str(path)
        yield replace(options, **changes)  # type: ignore[arg-type]


def _locate(options: Options, name: str) -> str | None:
    """Return what an option names, without what stands behind it."""
    value: str | None = getattr(options, name)
    if value is None or name != "callback":
        return value
    return parse_callback(value)[0]
