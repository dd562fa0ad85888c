"""What requests to S3 carry, how they are listed side by side, and that they come no faster than is said."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from faulty_s3 import BROKEN, FaultyS3
from pyarrow import fs

from depers import storage
from depers.errors import UserError
from depers.options.command_line import parse_command
from depers.storage import failures, s3, s3_requests
from depers.storage.s3_requests import RateLimiter, choose_arguments, find_content_type


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        ("jpg", "image/jpeg"), ("png", "image/png"), ("avif", "image/avif"), ("tar", "application/x-tar"),
        ("parquet", "application/vnd.apache.parquet"), ("json", "application/json"), ("", "application/octet-stream"),
        ("chunk", "application/octet-stream"),
    ],
)  # fmt: skip
def test_content_types(suffix: str, expected: str) -> None:
    assert find_content_type(suffix) == expected


SETTINGS = {
    "DEPERS_S3_KMS_KEY": "arn", "DEPERS_S3_STORAGE_CLASS": "STANDARD_IA", "DEPERS_S3_TAGS": "a=b", "DEPERS_S3_ACL": "",
    "DEPERS_S3_CHECKSUM": "SHA256", "DEPERS_S3_REQUESTER_PAYS": "yes",
}  # fmt: skip


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (
            "PutObject",
            {
                "ContentType": "image/jpeg", "SSEKMSKeyId": "arn", "ServerSideEncryption": "aws:kms", "Tagging": "a=b",
                "StorageClass": "STANDARD_IA", "ChecksumAlgorithm": "SHA256", "RequestPayer": "requester",
            },
        ),
        ("UploadPart", {"ChecksumAlgorithm": "SHA256", "RequestPayer": "requester"}),
        ("GetObject", {"RequestPayer": "requester"}),
        ("ListObjectVersions", {"RequestPayer": "requester"}),
        ("GetBucketVersioning", {}),
    ],
)  # fmt: skip
def test_what_requests_carry(operation: str, expected: dict[str, str]) -> None:
    assert choose_arguments(operation, "a/b.JPG", SETTINGS) == expected


def test_what_is_written_carries_it(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    bucket, prefix = s3.split(f"{s3_bucket}/x")
    storage.write_bytes(f"{s3_bucket}/x/a.jpg", b"data")
    with storage.open_writer(f"{s3_bucket}/x/b.tar") as file:
        file.write(bytes(40 << 20))
    for name, content_type in (("a.jpg", "image/jpeg"), ("b.tar", "application/x-tar")):
        head = s3.client().head_object(Bucket=bucket, Key=f"{prefix}/{name}")
        assert (head["ContentType"], head["StorageClass"]) == (content_type, "STANDARD_IA")
        assert head["ServerSideEncryption"] == "aws:kms"
        tags = s3.client().get_object_tagging(Bucket=bucket, Key=f"{prefix}/{name}")["TagSet"]
        assert tags == [{"Key": "a", "Value": "b"}]
    assert storage.read_bytes(f"{s3_bucket}/x/b.tar") == bytes(40 << 20)


def test_what_ray_train_notes_goes_through_the_same_client(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    uri = f"{s3_bucket}/run/state/ray"
    files, root = storage.arrow_filesystem(uri)
    files = pickle.loads(pickle.dumps(files))
    files.create_dir(root)
    assert files.get_file_info(root).type == fs.FileType.NotFound
    for name in ("a.json", "x/b.json"):
        with files.open_output_stream(f"{root}/{name}") as stream:
            stream.write(name.encode())
    head = s3.client().head_object(Bucket=s3.split(uri)[0], Key="run/state/ray/a.json")
    assert (head["StorageClass"], head["ContentType"]) == ("STANDARD_IA", "application/json")
    assert head["ServerSideEncryption"] == "aws:kms"
    for recursive, paths in ((False, ["a.json", "x"]), (True, ["a.json", "x", "x/b.json"])):
        infos = files.get_file_info(fs.FileSelector(root, recursive=recursive))
        assert sorted(info.path.removeprefix(f"{root}/") for info in infos) == paths
    fs.copy_files(root, str(tmp_path), source_filesystem=files)
    assert (tmp_path / "x" / "b.json").read_text() == "x/b.json"
    fs.copy_files(str(tmp_path), f"{root}-copy", destination_filesystem=files)
    files.move(f"{root}-copy/a.json", f"{root}-copy/d.json")
    assert [entry.path for entry in storage.list_files(f"{uri}-copy")] == ["d.json", "x/b.json"]
    files.delete_file(f"{root}/a.json")
    files.delete_dir(f"{root}-copy")
    assert [entry.path for entry in storage.list_files(f"{s3_bucket}/run")] == ["state/ray/x/b.json"]
    assert files.get_file_info(f"{root}/x").type == fs.FileType.Directory
    with pytest.raises(FileNotFoundError):
        files.get_file_info(fs.FileSelector(f"{root}/none"))


def test_a_request_is_tried_again_by_one_policy_alone(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_LONGEST_PAUSE", 0.01)
    storage.write_bytes(f"{s3_bucket}/slow.jpg", b"x")
    with FaultyS3(s3_endpoint, lambda method, place, times: BROKEN if "slow" in place else "") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(failures.UnavailableError, match=f"S3 answers InternalError, {s3._ATTEMPTS} times"):
            storage.read_bytes(f"{s3_bucket}/slow.jpg")
        assert proxy.faults[BROKEN] == s3._ATTEMPTS
        assert sum(proxy.seen.values()) <= s3._ATTEMPTS + 1  # and whether anything else answers


def test_a_role_that_may_not_abort_uploads_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(uri: str) -> Any:
        raise PermissionError(13, "access denied", uri)

    monkeypatch.setattr(s3, "with_retries", lambda transfer, uri: deny(uri))
    storage.remove_partials("s3://bucket/out")


def test_folders_are_listed_side_by_side_in_order(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{folder}/{number:03}.jpg" for folder in ("a", "a-b", "b/c", "é") for number in range(40)]
    names += ["a.txt", "a0", "z", "b.txt"]
    for name in names:
        storage.write_bytes(f"{s3_bucket}/in/{name}", b"x")
    plain = list(s3.list_keys(f"{s3_bucket}/in"))
    list_page = s3._list_page
    calls: list[dict[str, str]] = []

    def list_small_page(uri: str, bucket: str, prefix: str, **more: Any) -> dict[str, Any]:
        calls.append({"Prefix": prefix, **more})
        return list_page(uri, bucket, prefix, **more, **({} if "Delimiter" in more else {"MaxKeys": 7}))

    monkeypatch.setattr(s3, "_list_page", list_small_page)
    assert list(s3.list_keys(f"{s3_bucket}/in")) == plain
    assert [path for path, _, _ in plain] == sorted(names) and len(plain) == len(names)
    assert (
        sum("Delimiter" in call for call in calls) == 1
        and {"Prefix": f"{s3.split(s3_bucket)[1]}/in/b/".lstrip("/")} in calls
    )
    first = next(s3.list_keys(f"{s3_bucket}/in"))  # and the rest is let go
    assert first == plain[0]
    monkeypatch.setattr(s3, "_MOST_FOLDERS", 2)
    assert list(s3.list_keys(f"{s3_bucket}/in")) == plain


def test_requests_come_no_faster_than_is_said() -> None:
    now, waits = [0.0], list[float]()
    limiter = RateLimiter(10, clock=lambda: now[0], sleep=waits.append)
    for place in ("b/in/x/1", "b/in/x/2", "b/in/x/3", "b/out/y/1"):
        limiter.wait(place)
    assert waits == pytest.approx([0.1, 0.2])
    now[0] = 5
    limiter.wait("b/in/x/4")
    assert len(waits) == 2


def test_settings_of_the_command_become_variables() -> None:
    from depers.commands.anonymize import Options

    arguments = ["in", "out", "--s3-sse", "AES256", "--s3-requests-per-second", "100"]
    _, settings = parse_command(Options, arguments, "depers anonymize")
    assert settings.s3 == {"DEPERS_S3_SSE": "AES256", "DEPERS_S3_REQUESTS_PER_SECOND": "100"}
    for wrong in (["--s3-requests-per-second", "0"], ["--s3-sse", "none"]):
        with pytest.raises(UserError):
            parse_command(Options, ["in", "out", *wrong], "depers anonymize")
    assert s3_requests._RATE in settings.s3
