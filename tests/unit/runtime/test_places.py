"""What other machines see of the driver's disk and environment."""

import os
from pathlib import Path
from typing import Any

import pytest

from depers.commands import anonymize, normalize
from depers.errors import UserError
from depers.runtime import capacity, places
from depers.runtime.cluster import _read_given_variables
from depers.runtime.places import (
    choose_variables,
    find_differing,
    find_unseen,
    list_others,
    list_places,
    marked_folders,
)
from depers.training.options import Options as TrainOptions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "more", "yolov5n", "car"):
        (tmp_path / name).mkdir()
    for name in ("w.pt", "hyp.yaml", "rows.parquet"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_places_are_what_workers_read_and_write(folder: Path) -> None:
    options = anonymize.Options("photos", "s3://b/safe", weights=("w.pt",), classes=("car",), records="beside")
    assert dict(list_places(options)) == {"INPUT": f"{folder}/photos", "--records": f"{folder}/beside"}
    labels = anonymize.Options("s3://b/photos", "out", boxes="./more")
    assert dict(list_places(labels)) == {"OUT": f"{folder}/out", "--boxes": f"{folder}/more"}
    assert dict(list_places(anonymize.Options("s3://b/photos", "s3://b/safe", boxes="./rows.parquet"))) == {}
    sets = normalize.Options("s3://b/raw", "s3://b/out", add=("more:a=car", "s3://b/c:a=car"))
    assert dict(list_places(sets)) == {"--add": f"{folder}/more"}
    training = TrainOptions(
        "s3://b/d",
        "out",
        data=("more=2", "s3://b/e=1"),
        model="yolov5n",
        weights="./w.pt",
        hyperparameters="./hyp.yaml",
    )
    assert dict(list_places(training)) == {"OUT": f"{folder}/out", "--data": f"{folder}/more"}


def test_what_is_elsewhere_is_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "photos" / "a.jpg").write_bytes(b"a")
    seen = {str(folder / name): places.describe_place(str(folder / name)) for name in ("photos", "w.pt", "none")}
    with marked_folders([str(folder / "out/deep"), "/proc/nowhere"]) as markers:
        seen |= markers
        assert set(markers) == {str(folder / "out/deep")} and find_unseen(seen) == []
    assert find_unseen(seen) == [str(folder / "out/deep")]
    (folder / "photos" / "a.jpg").rename(folder / "photos" / "b.jpg")
    (folder / "w.pt").write_bytes(b"other")
    assert find_unseen(seen) == [str(folder / name) for name in ("photos", "w.pt", "out/deep")]


@pytest.mark.parametrize(("is_spread", "unseen"), [(False, True), (True, False), (True, True)])
def test_local_paths_are_refused_where_nodes_do_not_share_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_spread: bool, unseen: bool
) -> None:
    def ask(function: Any, seen: dict[str, str]) -> list[tuple[str, list[str]]]:
        return [("10.0.0.1", []), ("10.0.0.2", list(seen) if unseen else [])]

    monkeypatch.setattr(capacity, "spans_machines", lambda: is_spread)
    monkeypatch.setattr(places, "ask_nodes", ask)
    options = anonymize.Options("s3://b/photos", "out")
    if is_spread and unseen:
        message = (
            r"^OUT must be an s3:// URI, or lie on a disk that all nodes share, but is .*/out, which node 10\.0\.0\.2"
        )
        with pytest.raises(UserError, match=message):
            places.check_places(options)
    else:
        places.check_places(options)
    assert not list(folder.glob(".depers-*"))


def test_of_other_stores_workers_get_as_little(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "AZURE_STORAGE_CONNECTION_STRING": "AccountName=me;AccountKey=secret",
        "AZURE_CLIENT_SECRET": "secret",
        "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "w.pt"),
    }
    reached = {"AZURE_STORAGE_ACCOUNT_NAME": "me", "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9023"}
    environment = secrets | reached | {"AZURE_FEDERATED_TOKEN_FILE": "/each/machine/has/its/own"}
    assert choose_variables(environment, {}) == reached
    assert set(digests := list_others(environment)) == set(secrets)
    assert find_differing(digests) == sorted(secrets)
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    assert find_differing(digests) == []
    (folder / "w.pt").write_bytes(b"another key")
    assert find_differing(digests) == ["GOOGLE_APPLICATION_CREDENTIALS"]


def test_workers_get_how_s3_is_reached_and_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "AWS_ENDPOINT_URL": "http://minio:9000", "https_proxy": "http://proxy", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_PROFILE": "work", "AWS_CA_BUNDLE": str(folder / "w.pt"), "HOME": "/root", "AWS_REGION": "eu-central-1",
    }  # fmt: skip
    given = {"AWS_REGION": "eu-central-1"}
    assert choose_variables(environment, given) == {
        "AWS_ENDPOINT_URL": "http://minio:9000",
        "https_proxy": "http://proxy",
    }
    digests = list_others(environment)
    assert set(digests) == {"AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CA_BUNDLE"}
    assert not any("secret" in digest for digest in digests.values())
    for name in (name for name in os.environ if name.startswith("AWS_")):
        monkeypatch.delenv(name)
    for name in digests:
        monkeypatch.setenv(name, environment[name])
    assert find_differing(digests) == []
    (folder / "w.pt").write_bytes(b"another certificate")
    monkeypatch.delenv("AWS_PROFILE")
    assert find_differing(digests) == ["AWS_CA_BUNDLE", "AWS_PROFILE"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"runtime_env": {"env_vars": {"AWS_REGION": "x"}}}', {"AWS_REGION": "x"}),
        ('{"runtime_env": null}', {}),
        ("[]", {}),
        ("{", {}),
    ],
)
def test_variables_that_a_job_was_given_are_read(text: str, expected: dict[str, str]) -> None:
    assert _read_given_variables({"RAY_JOB_CONFIG_JSON_ENV_VAR": text}) == expected
    assert _read_given_variables({}) == {}
