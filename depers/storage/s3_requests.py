"""What requests of S3 carry besides what they are about: encryption, class, rights, who pays; and how fast they come.

The settings are variables of the environment, so that every process of a job has them; the command line sets them
(`--s3-sse` and others, `options.S3_SETTINGS`). They are added to requests in one place, which all requests pass.
"""

import mimetypes
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

_WRITES = ("PutObject", "CreateMultipartUpload")
_PAYING = (
    "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload", "GetObject",
    "HeadObject", "ListObjectsV2", "ListObjectVersions", "ListMultipartUploads", "DeleteObject",
)  # fmt: skip
"""Operations that tell who pays for them."""
_ARGUMENTS = {
    "DEPERS_S3_SSE": "ServerSideEncryption",
    "DEPERS_S3_KMS_KEY": "SSEKMSKeyId",
    "DEPERS_S3_STORAGE_CLASS": "StorageClass",
    "DEPERS_S3_ACL": "ACL",
    "DEPERS_S3_TAGS": "Tagging",
    "DEPERS_S3_CACHE_CONTROL": "CacheControl",
}
_CHECKSUM, _PAYER, _RATE = "DEPERS_S3_CHECKSUM", "DEPERS_S3_REQUESTER_PAYS", "DEPERS_S3_REQUESTS_PER_SECOND"
_TYPES = {
    "parquet": "application/vnd.apache.parquet", "json": "application/json", "txt": "text/plain; charset=utf-8",
    "html": "text/html; charset=utf-8", "yaml": "application/yaml", "tar": "application/x-tar",
    "zip": "application/zip",
    "tgz": "application/gzip", "gz": "application/gzip", "webp": "image/webp", "avif": "image/avif",
    "heic": "image/heic", "heif": "image/heif", "tif": "image/tiff", "tiff": "image/tiff", "bmp": "image/bmp",
}  # fmt: skip
_OTHER = "application/octet-stream"
_PREFIX_PARTS = 2  # of a key, by which requests are counted


@lru_cache(maxsize=4096)
def find_content_type(suffix: str) -> str:
    """Return the type of a content by the end of its file's name, without the dot."""
    return _TYPES.get(suffix) or mimetypes.guess_type(f"x.{suffix}")[0] or _OTHER


def choose_arguments(operation: str, key: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what is added to a request about a key, by the names that botocore has for it."""
    arguments: dict[str, str] = {}
    if operation in _WRITES:
        arguments["ContentType"] = find_content_type(key.rpartition("/")[2].rpartition(".")[2].lower())
        arguments |= {name: environment[variable] for variable, name in _ARGUMENTS.items() if environment.get(variable)}
        if "SSEKMSKeyId" in arguments:
            arguments.setdefault("ServerSideEncryption", "aws:kms")
    if environment.get(_CHECKSUM) and operation in (*_WRITES, "UploadPart"):
        arguments["ChecksumAlgorithm"] = environment[_CHECKSUM]
    if environment.get(_PAYER) and operation in _PAYING:
        arguments["RequestPayer"] = "requester"
    return arguments


class RateLimiter:
    """Lets through so many requests a second for each prefix, and waits for the others; threads share it."""

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval, self._clock, self._sleep = 1 / rate, clock, sleep
        self._next: dict[str, float] = {}
        self._lock = threading.Lock()

    def wait(self, place: str) -> None:
        """Return when a request for a place, a bucket with a key, may be sent."""
        prefix = "/".join(place.split("/")[: 1 + _PREFIX_PARTS][:-1]) or place
        with self._lock:
            now = self._clock()
            turn = max(now, self._next.get(prefix, now))
            self._next[prefix] = turn + self._interval
        if turn > now:
            self._sleep(turn - now)


def register(client: Any) -> None:
    """Have all requests of a client carry what the environment says, and come no faster than it says."""
    events = client.meta.events
    events.register("provide-client-params.s3.*", _add_arguments)
    if rate := os.environ.get(_RATE):
        events.register("before-parameter-build.s3.*", partial(_wait, RateLimiter(float(rate))))


def _add_arguments(params: dict[str, Any], model: Any, **_: Any) -> dict[str, Any]:
    return choose_arguments(model.name, str(params.get("Key", "")), os.environ) | params


def _wait(limiter: RateLimiter, params: dict[str, Any], **_: Any) -> None:
    limiter.wait(f"{params.get('Bucket', '')}/{params.get('Key', params.get('Prefix', ''))}")
