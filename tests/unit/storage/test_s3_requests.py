"""What requests to S3 carry, how they are listed side by side, and that they come no faster than is said."""

from typing import Any

import pytest

from depers import storage
from depers.errors import UserError
from depers.options import parse_command
from depers.storage import s3, s3_requests
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
        ("ListMultipartUploads", {}),
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
