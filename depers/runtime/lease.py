"""One driver at a time on an OUT and its records: a lease, refreshed while the work lasts, and removed at its end.

The lease is a file `lease.json` among the records, which names its owner, and where these lie beside OUT, a second one
in OUT, which names nobody: drivers whose records differ meet there. A second driver refuses while it is refreshed. One
that was left behind is taken over: at once where its process is gone from this machine, else when it has not been
refreshed for `EXPIRY_SECONDS` by the clock of the storage.
"""

import json
import os
import secrets
import socket
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from depers import storage
from depers.errors import UserError
from depers.runtime.progress import report
from depers.storage import conditional
from depers.storage.conditional import Version
from depers.storage.failures import CLOCK
from depers.storage.paths import LEASE

T = TypeVar("T")

NAME = "lease.json"
REFRESH_SECONDS = 15.0
EXPIRY_SECONDS = 120.0
_TRIES = 5  # at a lease that comes and goes meanwhile


class Lease:
    """The right to write below one OUT; `confirm` says whether it still holds."""

    def __init__(self, owners: Mapping[str, dict[str, Any]], folder: str) -> None:
        """Refresh the files of a lease that is held, given with what they say of its owner."""
        self._owners, self._folder = owners, folder
        self._count = 0
        self._is_lost = False
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._refresh_often, name="lease", daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Refresh the lease now: before something is removed. Raise UserError where another run has taken it over."""
        self._refresh()
        self.check()

    def check(self) -> None:
        """Raise UserError where another run has taken the lease over."""
        if self._is_lost:
            raise UserError(f"{self._folder}: another run has taken over, since this one did not refresh its lease")

    def guard(self, results: Iterable[T]) -> Iterator[T]:
        """Yield the results as long as the lease holds. Raise UserError."""
        for result in results:
            self.check()
            yield result

    def release(self) -> None:
        """End refreshing, and remove the lease where it still is this one's."""
        self._end.set()
        self._thread.join()
        for uri, owner in self._owners.items():
            _release(uri, owner)

    def _refresh_often(self) -> None:
        while not self._end.wait(REFRESH_SECONDS):
            with suppress(OSError):  # storage that fails for a while takes nobody's lease
                self._refresh()

    def _refresh(self) -> None:
        with self._lock:
            if self._is_lost:
                return
            self._count += 1
            for uri, owner in self._owners.items():
                data = _format(owner | {"refreshed": self._count})
                version = conditional.read(uri)
                if version is None:  # removed by somebody
                    conditional.create(uri, data)
                elif _parse(version).get("owner") == owner["owner"]:
                    conditional.replace(uri, data, version.tag)
                else:
                    self._is_lost = True


@contextmanager
def hold(records: str, folder: str, *, is_writer: bool = True) -> Iterator[Lease]:
    """Hold the lease in the folder `records` within the block; `folder` is what messages call the place.

    Who writes to a `folder` beside its records leaves a mark in it, too, for those whose records are elsewhere: a
    random number, since `folder` is to be published. Raise UserError where another run holds it.
    """
    _refuse_links(records, folder)
    token = secrets.token_hex(16)
    owners = {storage.join(records, NAME): {"owner": token} | describe_process()}
    if is_writer and not f"{records}/".startswith(f"{folder}/"):
        owners[storage.join(folder, LEASE)] = {"owner": token}
    is_new = not storage.is_remote(folder) and not storage.exists(folder)
    lease, has_failed = None, True
    try:
        _acquire_all(owners, folder)
        lease = Lease(owners, folder)
        yield lease
        has_failed = False
    finally:
        with CLOCK.lose_patience() if has_failed else nullcontext():  # storage may be what has failed
            if lease is not None:
                lease.release()
        for path in (records, *([folder] if is_new else [])):
            if not storage.is_remote(path):
                storage.remove_empty_folders(str(Path(path).parent), Path(path).name)


def _refuse_links(records: str, folder: str) -> None:
    """Raise UserError where records would be written, or removed, through a link that is none of the user's naming."""
    if storage.is_remote(records) or not os.path.isdir(records):  # noqa: PTH112
        return
    links = [item.path for item in os.scandir(records) if item.is_symlink()]
    if records.startswith(f"{folder}/") and os.path.islink(records):  # noqa: PTH114
        links.append(records)
    if links:
        raise UserError(f"{min(links)}: must be no link, since records are written and removed there: remove it")


def _acquire_all(owners: Mapping[str, dict[str, Any]], folder: str) -> None:
    """Make the files of a lease, or take them over: all of them, or none. Raise UserError."""
    predecessors: set[str] = set()
    uris: list[str] = []
    try:
        for uri, owner in owners.items():
            place = uri.rpartition("/")[0]
            with storage.translated_write_errors(folder if place.startswith(f"{folder}/") else place):
                predecessors |= {_acquire(uri, folder, owner, predecessors)} - {""}
            uris.append(uri)
    except BaseException:
        for uri in uris:
            _release(uri, owners[uri])
        raise


def _acquire(uri: str, folder: str, owner: dict[str, Any], predecessors: Collection[str]) -> str:
    """Make a file of the lease, or take it over; return whose it was, if anybody's.

    Those of `predecessors` are known to be dead. Raise UserError where it is another's.
    """
    data, predecessor = _format(owner), ""
    for _ in range(_TRIES):
        version = conditional.read(uri)  # also of what was just written: some stores know no conditions
        if version is None:
            conditional.create(uri, data)
            continue
        holder = _parse(version)
        if holder.get("owner") == owner["owner"]:
            return predecessor
        reason = "its process is gone" if is_gone(holder) or holder.get("owner") in predecessors else ""
        if not reason and version.age_seconds > EXPIRY_SECONDS:
            reason = f"it was not refreshed for {version.age_seconds:.0f} s"
        if not reason:
            raise UserError(f"{folder}: {_describe_holder(holder, version.age_seconds)}")
        if holder.get("owner") not in predecessors:
            report(f"{folder}: takes over from a run that did not end ({_name_holder(holder)}: {reason})")
        predecessor = str(holder.get("owner", ""))
        conditional.replace(uri, data, version.tag)
    raise UserError(f"{folder}: is in use by another run: wait until that ends")


def _release(uri: str, owner: dict[str, Any]) -> None:
    """Remove a file of the lease where it still is its owner's."""
    with suppress(OSError, UserError):
        version = conditional.read(uri)
        if version is not None and _parse(version).get("owner") == owner["owner"]:
            storage.delete(uri)


def _name_holder(holder: dict[str, Any]) -> str:
    known_process = f"process {holder.get('pid')} on {holder.get('host', '?')}"
    return known_process if "pid" in holder else "its records are elsewhere"


def _describe_holder(holder: dict[str, Any], age_seconds: float) -> str:
    remaining = EXPIRY_SECONDS - age_seconds
    return (
        f"is in use by another run ({_name_holder(holder)}; it said so {max(0.0, age_seconds):.0f} s ago): wait"
        f" until that ends; if it is dead, its lease ends in {remaining:.0f} s"
    )


def _format(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _parse(version: Version) -> dict[str, Any]:
    """Return what a lease says; nothing where it is damaged, or just being written."""
    try:
        content = json.loads(version.data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def describe_process() -> dict[str, Any]:
    """Return what tells this process from all others: its machine, as it was booted, namespace, number and start."""
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "start": _start_of(os.getpid())}


def is_gone(process: dict[str, Any]) -> bool:
    """Return whether a process is known to have ended; those of other machines may live."""
    pid = process.get("pid")
    if not isinstance(pid, int) or process.get("machine") != _machine() or process.get("host") != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # somebody else's
    return _start_of(pid) != process.get("start")


def _machine() -> str:
    """Return what changes with every boot and container; empty where the system does not tell."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _start_of(pid: int) -> str:
    """Return when a process was started, in ticks since the boot; empty for one that has ended, or is not told of."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
