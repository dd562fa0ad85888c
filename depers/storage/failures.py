"""What goes wrong with storage, in words, and whose it is: the file's, this moment's, or the job's.

the file's     its key is denied, archived, encrypted with a key that is not ours, too long, gone: its row fails, and
               the next run tries it again
this moment's  throttling, a server's error, a connection that breaks: tried again, with growing pauses
the job's      no credentials, expired ones, a wrong clock, no bucket, a full disk, or nothing that passes within
               `PATIENCE_SECONDS`: an `OutageError`, which ends the job in one line that the next run goes on from
"""

import errno
import itertools
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from depers.errors import UserError, one_line, short_reason
from depers.observation.meter import count
from depers.observation.metrics import RETRIES

T = TypeVar("T")

PATIENCE_SECONDS = 600.0
"""How long storage that answered before may fail altogether before the job ends."""
FIRST_PATIENCE_SECONDS = 30.0
"""The same, where it never answered this process; and for a local file system."""
_LONGEST_PAUSE = 8.0  # seconds
_PASSING = {
    "BandwidthLimitExceeded",
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
}
_UNKNOWN = 501
_GONE = ("NoSuchKey", "NoSuchVersion", "NotFound", "404")
_DENIED = ("AccessDenied", "AllAccessDisabled", "Forbidden", "403")
_CLOCK = ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired")
_CREDENTIALS = {
    "AccountProblem": "the account has a problem",
    "AuthFailure": "the credentials are not valid",
    "AuthorizationHeaderMalformed": "the region or the credentials are wrong",
    "InvalidAccessKeyId": "the access key is not known there",
    "InvalidClientTokenId": "the access key is not known there",
    "InvalidSecurity": "the credentials are not valid",
    "NotSignedUp": "the account has no S3",
    "SignatureDoesNotMatch": "the secret key is not the access key's",
    "UnrecognizedClientException": "the access key is not known there",
}
_PLACES = {
    "IllegalLocationConstraintException": "the bucket lies in another region",
    "PermanentRedirect": "the bucket lies in another region",
    "301": "the bucket lies in another region",
}
_JOB_ERRNOS = (
    errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENOSPC, errno.ENOTCONN, errno.EROFS,
    errno.ESTALE, errno.EHOSTDOWN,
)  # fmt: skip
"""What a local file system says when it fails as a whole."""
_FILE_ERRNOS = (errno.EILSEQ, errno.EINVAL, errno.ENAMETOOLONG)
"""What it says of a name: trying again is of no use."""


class UnavailableError(OSError):
    """Storage does not give what it has: the content is not to blame."""


class OutageError(UserError, UnavailableError):
    """Storage as a whole fails, or this machine may not use it: the job ends, and the same command goes on."""

    def __str__(self) -> str:
        """Return it in a line."""
        return f"{self.filename}: storage fails ({self.strerror}): the same command takes up the work again"


class UnsupportedError(OSError):
    """The store does not know what was asked: asking again is of no use."""


class Answer(NamedTuple):
    """What an error of S3 means: in words; whether it may pass by itself, and whether it is about all of storage."""

    error: OSError
    passes: bool = False
    of_all: bool = False


class Clock:
    """When storage last answered this process: an outage is counted from then."""

    def __init__(self) -> None:
        self._answered_at: float | None = None
        self._has_patience = True

    def note_answer(self) -> None:
        """Note that storage answers."""
        self._answered_at = time.monotonic()

    @property
    def has_answered(self) -> bool:
        """Return whether storage has ever answered this process."""
        return self._answered_at is not None

    def answered_since(self, moment: float) -> bool:
        """Return whether it answered, to whatever thread, since that moment of `time.monotonic`."""
        return self._answered_at is not None and self._answered_at >= moment

    @contextmanager
    def lose_patience(self) -> Iterator[None]:
        """Wait for storage in the block no longer than some attempts take: there is only cleaning up to do."""
        self._has_patience = False
        try:
            yield
        finally:
            self._has_patience = True

    def is_used_up(self, began: float) -> bool:
        """Return whether patience is, for a request that began then."""
        if not self._has_patience:
            return True
        if self._answered_at is None:
            return time.monotonic() - began > FIRST_PATIENCE_SECONDS
        return time.monotonic() - max(began, self._answered_at) > PATIENCE_SECONDS


CLOCK = Clock()


def interpret(uri: str, code: str, status: int, message: str) -> Answer:
    """Return what S3's answer means: an error `code` and `message`, with an HTTP status, about `uri`."""
    if code == "NotImplemented" or status == _UNKNOWN:  # of servers other than AWS: of encryption, tags, conditions, …
        words = "this S3 does not know what is asked of it" + (f": {message}" if message else "")
        return Answer(UnsupportedError(errno.ENOTSUP, " ".join(words.split())[:200], uri))
    if code in _PASSING or status >= 500 or status in (408, 429):
        return Answer(UnavailableError(errno.EAGAIN, f"S3 answers {code or status}", uri), passes=True)
    if code == "NoSuchBucket":
        return Answer(OutageError(errno.ENOENT, "no such bucket", uri), of_all=True)
    if code in _GONE:
        return Answer(FileNotFoundError(errno.ENOENT, "no such object", uri))
    if code in _CLOCK:
        words = f"the clock of {socket.gethostname()} is wrong: S3 answers {code}"
        return Answer(OutageError(errno.EPERM, words, uri), of_all=True)
    if code in _EXPIRED:
        return Answer(OutageError(errno.EPERM, f"the credentials have expired: S3 answers {code}", uri), of_all=True)
    if reason := _CREDENTIALS.get(code) or _PLACES.get(code):
        return Answer(OutageError(errno.EPERM, f"{reason}: S3 answers {code}", uri), of_all=True)
    if code.startswith("KMS") or "kms:" in message:
        words = "access to the KMS key that encrypts it is denied" if code in _DENIED else f"its KMS key fails: {code}"
        return Answer(PermissionError(errno.EACCES, words, uri))
    if code in _DENIED or (status == 403 and code == ""):
        return Answer(PermissionError(errno.EACCES, "access denied", uri))
    if code in ("InvalidObjectState", "ObjectNotInActiveTierError"):
        return Answer(PermissionError(errno.EACCES, "it is archived (Glacier) and must be restored first", uri))
    if code in ("PreconditionFailed", "412"):
        return Answer(UnavailableError(errno.ESTALE, "changed since it was listed", uri))
    if code == "KeyTooLongError":
        return Answer(OSError(errno.ENAMETOOLONG, "its name is longer than the 1024 bytes that S3 allows", uri))
    text = f"S3 answers {code or status}" + (f", {message}" if message and code else "")
    return Answer(OSError(errno.EIO, " ".join(text.split())[:200], uri))


def pause(attempt: int) -> None:
    """Wait after an attempt that failed, the first of which is 1: longer each time, and not all workers at once."""
    count(RETRIES, "storage")
    time.sleep(min(_LONGEST_PAUSE, 0.1 * 2**attempt) * random.uniform(0.5, 1))


def persist(access: Callable[[], T]) -> T:
    """Return what access to local files returns, tried again for a while where the file system fails as a whole."""
    began = time.monotonic()
    for attempt in itertools.count(1):
        try:
            return access()
        except OSError as error:
            if error.errno not in _JOB_ERRNOS or time.monotonic() - began > FIRST_PATIENCE_SECONDS:
                raise
        pause(attempt)
    raise AssertionError


def explain(error: Exception) -> str:
    """Return why a file cannot be read or written, for its row. Raise OutageError where the job is to blame for it."""
    raise_outage(error)
    return short_reason(error)


def raise_outage(error: Exception) -> None:
    """Raise OutageError where the error is about storage as a whole: it is no file's, and must not end as its row."""
    if isinstance(error, OutageError):
        raise error
    if isinstance(error, OSError) and not isinstance(error, UnavailableError) and error.errno in _JOB_ERRNOS:
        raise OutageError(error.errno, error.strerror, error.filename) from error


def as_outage(error: OSError, uri: str) -> OutageError:
    """Return an error that the job cannot do without, such as of writing its records, as one that ends it."""
    if isinstance(error, OutageError):
        return error
    return OutageError(error.errno or errno.EIO, short_reason(error), error.filename or uri)


def is_of_name(error: Exception) -> bool:
    """Return whether storage refuses a name: trying it again is of no use."""
    return isinstance(error, (ValueError, UserError)) or (isinstance(error, OSError) and error.errno in _FILE_ERRNOS)


def refuse_key(uri: str, key: str) -> None:
    """Raise OSError for a key that S3 cannot have: it is UTF-8, of at most 1024 bytes."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        reason = f"its name must be UTF-8, as keys on S3 are, but is not ({one_line(error, 100)})"
        raise OSError(errno.EILSEQ, reason, uri) from None
    if size > 1024:
        raise OSError(errno.ENAMETOOLONG, f"its name must have at most 1024 bytes on S3, but has {size}", uri)
