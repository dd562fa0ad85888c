"""The gate that every path of a listing passes before it is cut into units: it has a place of its own below OUT.

What can have none fails, and is neither read nor written nor deleted; two inputs with one place end the run before it
begins, since one would silently replace the other.
"""

import os
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from depers import storage
from depers.archives import registry
from depers.errors import UserError
from depers.runtime import units
from depers.statuses import FileStatus
from depers.storage import Entry
from depers.storage.tables import parquet_text

_IGNORED = "Cf"  # the category of characters without a shape, which file systems of macOS ignore in names
Fold = Callable[[str], str]


def check_inputs(root: str, entries: Sequence[Entry]) -> list[Entry]:
    """Return the listing of `root`, of which fails what cannot be read by its name. Raise UserError.

    That is for two inputs that tables would call the same.
    """
    checked = list(entries)
    if storage.is_remote(root):
        checked = [_fail(entry, storage.explain_no_target(root, entry.path)) for entry in checked]
    if not all(_is_text(entry.path) for entry in checked):
        _refuse_namesakes(root, checked, parquet_text, "tables would call both")
    return checked


def check_keys(root: str, out: str | None, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries of a listing of S3; those fail that cannot be read, or placed below `out`, also on S3."""
    for entry in entries:
        reason = storage.explain_no_target(root, entry.path)
        yield _fail(entry, reason or ("" if out is None else storage.explain_no_target(out, entry.path)))


def refuse_namesakes_in_tables(root: str, entries: Iterable[Entry]) -> None:
    """Raise UserError for two inputs that tables would call the same."""
    strange = [entry for entry in entries if not _is_text(entry.path)]
    if strange:
        _refuse_namesakes(root, entries, parquet_text, "tables would call both")


def _is_text(path: str) -> bool:
    return path.isascii() or parquet_text(path) == path


def check_outputs(
    out: str, entries: Sequence[Entry], fold: Fold | None = None, locate: Callable[[str], str] = str
) -> list[Entry]:
    """Return the entries, of which those fail that can have no place below OUT: `locate` says which. Raise UserError.

    That is for two inputs with one place. `fold` returns what is left of a path where OUT does not tell names apart by
    all of it, which some file systems do not; by default that is tried out.
    """
    checked = [_fail(entry, storage.explain_no_target(out, locate(entry.path))) for entry in entries]
    if storage.is_remote(out):
        return checked
    fold = fold or probe_names(out)

    def place(path: str) -> str:
        return fold(locate(path)) if fold else locate(path)

    if fold is not None:
        _refuse_namesakes(out, checked, place, "its file system would call both")
    folders = _list_folders(place(entry.path) for entry in checked if not entry.status)
    reason = "must differ from a folder, but other inputs lie below one of that name"
    return [_fail(entry, reason if place(entry.path) in folders else "") for entry in checked]


def refuse_shared(out: str, entries: Iterable[Entry], locate: Callable[[str], str], fold: Fold | None = None) -> None:
    """Raise UserError where two inputs have one place below OUT, as `locate` says, since one would replace the other.

    `fold` is as for `check_outputs`.
    """
    fold = fold or find_fold(out) or str
    _refuse_namesakes(out, entries, lambda path: fold(locate(path)), "their result would be called")


def check_renamed(out: str, entries: Sequence[Entry], locate: Callable[[str], str]) -> list[Entry]:
    """Return the entries as `check_outputs` does, where `locate` gives results other names than their inputs have.

    Raise UserError also for a name that says that a result is another kind of archive, or depers's own, and where an
    input that has no result would share the place of one that has.
    """
    fold = find_fold(out) or str
    with_place = [entry for entry in entries if not storage.explain_no_target(out, locate(entry.path))]
    for entry in with_place:
        name = locate(entry.path)
        if registry.kind_of(name) != registry.kind_of(entry.path):
            raise UserError(f"{out}: a new name must keep the suffix of archives, but {entry.path!r} would be {name!r}")
        if storage.is_own_name(name) or name.partition("/")[0].casefold() == units.FOLDER:
            raise UserError(f"{out}: a new name must be none of depers's own, but {entry.path!r} would be {name!r}")
    refuse_shared(out, (entry._replace(status="") for entry in with_place), locate, fold)
    return check_outputs(out, entries, fold, locate)


def make_namer(
    paths: Iterable[str], fold: Fold | None, locate: Callable[[str], str] | None = None
) -> Callable[[str], str | None]:
    """Return a function that gives the path of a result the name of its input, the last of `paths` that it may be.

    Where OUT takes `A.jpg` and `a.jpg` for the same, what INPUT calls otherwise now is the same file there. `locate`
    says where results are, if not at the paths of their inputs. What is no result of theirs has the name that it has,
    or with `locate` none.
    """
    fold = fold or str
    names = {fold(locate(path) if locate else path): path for path in paths}
    return lambda path: names.get(fold(path), None if locate else path)


def find_fold(out: str) -> Fold | None:
    """Return what is left of a path below OUT; None where names are told apart by all of it, as on S3."""
    return None if storage.is_remote(out) else probe_names(out)


def _fail(entry: Entry, reason: str) -> Entry:
    if not reason or entry.status:
        return entry
    return entry._replace(status=FileStatus.FAILED, reason=reason)


def _refuse_namesakes(root: str, entries: Iterable[Entry], fold: Fold, relation: str) -> None:
    paths: dict[str, str] = {}
    for entry in entries:
        if entry.status:
            continue
        name = fold(entry.path)
        if (path := paths.setdefault(name, entry.path)) != entry.path:
            pair = f"{path!r} and {entry.path!r}"
            raise UserError(f"{root}: two inputs must have two names, but for {pair} {relation} {parquet_text(name)}")


def _list_folders(paths: Iterable[str]) -> set[str]:
    folders: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders


def probe_names(out: str) -> Fold | None:
    """Return how the file system of a local OUT takes names for the same; None where it tells all apart.

    That is tried out with a file in OUT, which is made for it; the folder's time stays, since OUT may be refused.
    """
    folder = Path(out)
    is_new = not folder.exists()
    stat = None if is_new else folder.stat()
    probe = folder / f".depers-{uuid.uuid4().hex}é.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        is_blind = probe.with_name(probe.name.upper()).exists()
        is_normalizing = probe.with_name(unicodedata.normalize("NFD", probe.name)).exists()
        is_trimming = probe.with_name(f"{probe.name}.").exists()
    except OSError:  # what cannot be written there will be said when it is
        return None
    finally:
        with suppress(OSError):
            probe.unlink()
        with suppress(OSError):
            if stat is None:
                folder.rmdir()
            else:
                os.utime(folder, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return make_fold(is_blind, is_normalizing, is_trimming)


def make_fold(is_blind: bool, is_normalizing: bool, is_trimming: bool) -> Fold | None:
    """Return what is left of a path: blind to case, to how accents are written, to dots and spaces at a name's end."""

    def fold(path: str) -> str:
        if is_normalizing:
            path = unicodedata.normalize("NFD", path)
        if is_blind:
            path = "".join(c for c in path.casefold() if unicodedata.category(c) != _IGNORED)
            path = unicodedata.normalize("NFD", path) if is_normalizing else path
        return "/".join(part.rstrip(". ") for part in path.split("/")) if is_trimming else path

    return fold if is_blind or is_normalizing or is_trimming else None
