"""Leases: one driver at a time, told apart from one that is gone, on files and on S3."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from depers import storage
from depers.errors import UserError
from depers.runtime import lease
from depers.storage import conditional
from depers.storage.paths import LEASE


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3_bucket")) if request.param == "s3" else str(tmp_path)


def hold(root: str) -> None:
    """Hold the lease, and let it go."""
    with lease.hold(f"{root}/records", f"{root}/out"):
        pass


def leave_lease(root: str, **changes: Any) -> None:
    """Write the lease of another run, which lives on another machine."""
    holder = lease.describe_process() | {"owner": "other", "host": "elsewhere"} | changes
    storage.write_bytes(f"{root}/records/{lease.NAME}", json.dumps(holder).encode())


def test_a_file_is_written_on_a_condition(root: str) -> None:
    uri = f"{root}/folder/file"
    assert conditional.read(uri) is None
    assert conditional.replace(uri, b"none", "tag") is None
    tag = conditional.create(uri, b"first")
    assert tag is not None and conditional.create(uri, b"second") is None
    version = conditional.read(uri)
    assert version is not None and version[:2] == (b"first", tag) and -2 < version.age_seconds < 20
    following = conditional.replace(uri, b"third", tag)
    assert following is not None and conditional.replace(uri, b"fourth", tag) is None
    assert storage.read_bytes(uri) == b"third"
    assert [entry.path for entry in storage.list_files(f"{root}/folder")] == ["file"]


def test_the_second_driver_refuses_and_leaves_the_first_alone(root: str) -> None:
    records = f"{root}/records"
    with lease.hold(records, f"{root}/out") as held:
        with pytest.raises(UserError, match=rf"/out: is in use by another run \(process {os.getpid()} on "):
            hold(root)
        held.confirm()
    assert not storage.exists(f"{records}/{lease.NAME}")
    hold(root)


def test_drivers_whose_records_differ_meet_in_out(root: str) -> None:
    with lease.hold(f"{root}/records", f"{root}/out"):
        with pytest.raises(UserError, match=r"/out: is in use by another run \(its records are elsewhere; it said"):
            lease.hold(f"{root}/others", f"{root}/out").__enter__()
        assert not storage.exists(f"{root}/others")
        [entry] = storage.list_files(f"{root}/out")
        left = json.loads(storage.read_bytes(f"{root}/out/{entry.path}"))
        assert left.keys() <= {"owner", "refreshed"} and entry.status == "skipped"  # it names nobody, and is no input
        with lease.hold(f"{root}/others", f"{root}/out", is_writer=False):
            pass
    assert not storage.exists(f"{root}/out/{entry.path}")


@pytest.mark.parametrize("is_known", [True, False])
def test_what_a_dead_driver_left_in_out_is_taken_over(
    root: str, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = lease.describe_process() | {"owner": "dead", "pid": 2**22 + 1}
    storage.write_bytes(f"{root}/records/{lease.NAME}", json.dumps(dead).encode())
    owner = "dead" if is_known else "unknown"
    storage.write_bytes(f"{root}/out/{LEASE}", json.dumps({"owner": owner}).encode())
    if not is_known:
        with pytest.raises(UserError, match=r"its lease ends in 1\d\d s"):
            hold(root)
        assert not storage.exists(f"{root}/records/{lease.NAME}")  # all of it, or none
        monkeypatch.setattr(lease, "EXPIRY_SECONDS", -10.0)
    hold(root)
    assert not storage.exists(f"{root}/out/{LEASE}")


@pytest.mark.parametrize("link", ["records/audit", "records/units", "out/_depers"])
def test_records_are_not_written_or_removed_through_links(tmp_path: Path, link: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / link).parent.mkdir()
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    records = link if link.startswith("out") else "records"
    with pytest.raises(UserError, match=rf"/{link}: must be no link"):
        lease.hold(f"{tmp_path}/{records}", f"{tmp_path}/out").__enter__()
    assert not list((tmp_path / "elsewhere").iterdir())
    (tmp_path / "named").symlink_to(tmp_path / "elsewhere")
    with lease.hold(f"{tmp_path}/named", f"{tmp_path}/new"):  # what the user names may be one
        pass


def test_a_driver_of_another_machine_is_waited_for(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_lease(root)
    with pytest.raises(UserError, match=r"on elsewhere; it said so \d+ s ago\): wait.*its lease ends in 1\d\d s"):
        hold(root)
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", -10.0)  # S3 tells whole seconds
    with lease.hold(f"{root}/records", f"{root}/out") as held:
        held.confirm()
    assert not storage.exists(f"{root}/records/{lease.NAME}")


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"start": "1"}])
def test_a_process_that_is_gone_is_not_waited_for(tmp_path: Path, changes: dict[str, Any]) -> None:
    leave_lease(str(tmp_path), **(lease.describe_process() | changes))
    hold(str(tmp_path))


@pytest.mark.parametrize("changes", [{}, {"machine": "another boot"}, {"host": "elsewhere", "pid": 2**22 + 1}])
def test_a_process_that_may_live_is_not_gone(changes: dict[str, Any]) -> None:
    assert not lease.is_gone(lease.describe_process() | changes)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_lease_is_somebodys(tmp_path: Path, content: bytes) -> None:
    storage.write_bytes(f"{tmp_path}/records/{lease.NAME}", content)
    with pytest.raises(UserError, match="is in use by another run"):
        hold(str(tmp_path))


def test_a_lease_that_was_taken_over_is_lost(root: str) -> None:
    with lease.hold(f"{root}/records", f"{root}/out") as held:
        assert list(held.guard(range(3))) == [0, 1, 2]
        leave_lease(root)
        with pytest.raises(UserError, match="/out: another run has taken over"):
            held.confirm()
        with pytest.raises(UserError, match="another run has taken over"):
            list(held.guard(range(3)))
    assert storage.exists(f"{root}/records/{lease.NAME}")  # it is the other's


def test_a_lease_that_somebody_removed_is_made_again(root: str) -> None:
    with lease.hold(f"{root}/records", f"{root}/out") as held:
        storage.delete(f"{root}/records/{lease.NAME}")
        held.confirm()
        assert storage.exists(f"{root}/records/{lease.NAME}")


def test_a_lease_is_refreshed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "REFRESH_SECONDS", 0.02)
    with lease.hold(f"{tmp_path}/records", f"{tmp_path}/out"):
        deadline, path = time.monotonic() + 20, tmp_path / "records" / lease.NAME
        while json.loads(path.read_bytes()).get("refreshed", 0) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_store_without_conditions_still_has_one_owner(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = conditional._put_object
    monkeypatch.setattr(conditional, "_put_object", lambda uri, data, **condition: put(uri, data))
    with lease.hold(f"{s3_bucket}/records", f"{s3_bucket}/out") as held:
        with pytest.raises(UserError, match="is in use by another run"):
            hold(s3_bucket)
        held.confirm()
        leave_lease(s3_bucket)
        with pytest.raises(UserError, match="another run has taken over"):
            held.confirm()


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with lease.hold(f"{tmp_path}/{name}/_depers", f"{tmp_path}/{name}"):
            assert (tmp_path / name / "_depers" / lease.NAME).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["there"] and not list((tmp_path / "there").iterdir())
