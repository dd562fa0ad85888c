"""Objects as files: one read from any place, fetched ahead, and on S3 one written from front to back in parts."""

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from depers.errors import short_reason
from depers.resources import MIB
from depers.storage import remote, s3
from depers.storage.failures import UnavailableError

_BLOCK = 8 * MIB  # what a reader fetches at once
_AHEAD = 3  # blocks fetched before they are asked for: latency is waited for once, not once a block
_PART = 16 * MIB  # of an upload in several parts; S3 allows 10 000 of them, so they grow
_PARTS_PER_SIZE = 1000


class ObjectReader(io.RawIOBase):
    """An object as a seekable file, its blocks fetched ahead of reading. Raises UnavailableError."""

    def __init__(self, uri: str, size: int, etag: str | None) -> None:
        super().__init__()
        self.uri, self.size, self.etag = uri, size, etag
        self._position = 0
        self._pool = ThreadPoolExecutor(_AHEAD + 1)
        self._blocks: dict[int, Future[bytes]] = {}
        self._last = -1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if not 0 <= self._position < self.size:
            return 0
        number, offset = divmod(self._position, _BLOCK)
        goes_on = number in (self._last, self._last + 1)  # fetching ahead pays only where reading goes on
        numbers = range(number, min(number + 1 + _AHEAD * goes_on, -(-self.size // _BLOCK)))
        self._blocks = {key: self._blocks.get(key) or self._pool.submit(self._fetch, key) for key in numbers}
        self._last = number
        try:
            block = self._blocks[number].result()
        except UnavailableError:
            raise
        except OSError as error:
            raise UnavailableError(error.errno, short_reason(error), self.uri) from None
        part = block[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _fetch(self, number: int) -> bytes:
        start, stop = number * _BLOCK, min((number + 1) * _BLOCK, self.size)
        return remote.find_store(self.uri).read(self.uri, self.etag, start, stop)

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()


class ObjectWriter(io.RawIOBase):
    """An object of S3 written front to back in several parts, there as a whole once `commit` returns; not seekable."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri
        self._bucket, self._key = s3.split(uri)
        self._buffer = bytearray()
        self._size = 0
        self._upload: str | None = None
        self._pool = ThreadPoolExecutor(2)
        self._parts: list[Future[dict[str, Any]]] = []
        self._pending: deque[Future[dict[str, Any]]] = deque()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        self._buffer += data
        self._size += len(data)
        while len(self._buffer) >= self._part_size():
            size = self._part_size()
            self._send(bytes(self._buffer[:size]))
            del self._buffer[:size]
        return len(data)

    def _part_size(self) -> int:
        return _PART << (len(self._parts) // _PARTS_PER_SIZE)

    def _send(self, data: bytes) -> None:
        if self._upload is None:
            target = {"Bucket": self._bucket, "Key": self._key}
            self._upload = s3.with_retries(lambda: s3.client().create_multipart_upload(**target), self.uri)["UploadId"]
        part = self._pool.submit(self._put, len(self._parts) + 1, data)
        self._parts.append(part)
        self._pending.append(part)
        if len(self._pending) > 2:  # a slow network holds the writer back, not memory
            self._pending.popleft().result()

    def _put(self, number: int, data: bytes) -> dict[str, Any]:
        target = {"Bucket": self._bucket, "Key": self._key, "UploadId": self._upload, "PartNumber": number}
        answer = s3.with_retries(lambda: s3.client().upload_part(**target, Body=data), self.uri)
        checksums = {name: value for name, value in answer.items() if name.startswith("Checksum") and value}
        checksums.pop("ChecksumType", None)
        return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

    def commit(self) -> None:
        """Make the object appear; raise OSError."""
        if self._upload is None:
            s3.write(self.uri, bytes(self._buffer))
        else:
            if self._buffer:
                self._send(bytes(self._buffer))
            target = {"Bucket": self._bucket, "Key": self._key, "UploadId": self._upload}
            parts = {"Parts": [part.result() for part in self._parts]}
            try:
                s3.with_retries(
                    lambda: s3.client().complete_multipart_upload(**target, MultipartUpload=parts), self.uri
                )
            except OSError:
                if s3.size_of(self.uri) != self._size:  # an answer that got lost: it was done the first time
                    raise
        self._pool.shutdown()

    def abort(self) -> None:
        """End the upload, and leave nothing behind."""
        self._pool.shutdown(cancel_futures=True)
        if self._upload is not None:
            target = {"Bucket": self._bucket, "Key": self._key, "UploadId": self._upload}
            with suppress(PermissionError):  # a role may be allowed to write and not to do this
                s3.with_retries(lambda: s3.client().abort_multipart_upload(**target), self.uri)
