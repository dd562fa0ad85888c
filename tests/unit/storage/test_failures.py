"""What storage's errors mean: in words, and whether they are the file's, this moment's or the job's."""

import errno
import pickle

import pytest

from depers.errors import UserError, as_user_error
from depers.storage import failures
from depers.storage.failures import OutageError, UnavailableError


@pytest.mark.parametrize(
    ("code", "status", "message", "words", "passes", "of_all"),
    [
        ("SlowDown", 503, "", "S3 answers SlowDown", True, False),
        ("", 502, "", "S3 answers 502", True, False),
        ("", 501, "", "this S3 does not know what is asked of it", False, False),
        ("NotImplemented", 501, "no\ntags", "does not know what is asked of it: no tags", False, False),
        ("TooManyRequests", 429, "", "S3 answers TooManyRequests", True, False),
        ("AccessDenied", 403, "", "access denied", False, False),
        ("403", 403, "Forbidden", "access denied", False, False),
        ("AccessDenied", 403, "no right to perform: kms:Decrypt", "the KMS key that encrypts it", False, False),
        ("KMS.DisabledException", 400, "", "its KMS key fails: KMS.DisabledException", False, False),
        ("InvalidObjectState", 403, "", "archived (Glacier)", False, False),
        ("NoSuchKey", 404, "", "no such object", False, False),
        ("PreconditionFailed", 412, "", "changed since it was listed", False, False),
        ("KeyTooLongError", 400, "", "1024 bytes", False, False),
        ("InvalidRange", 416, "no\nrange", "S3 answers InvalidRange, no range", False, False),
        ("RequestTimeTooSkewed", 403, "", "the clock of", False, True),
        ("ExpiredToken", 400, "", "the credentials have expired", False, True),
        ("SignatureDoesNotMatch", 403, "", "the secret key is not", False, True),
        ("InvalidAccessKeyId", 403, "", "the access key is not known", False, True),
        ("PermanentRedirect", 301, "", "another region", False, True),
        ("NoSuchBucket", 404, "", "no such bucket", False, True),
    ],
)  # fmt: skip
def test_every_answer_has_its_words(
    code: str, status: int, message: str, words: str, passes: bool, of_all: bool
) -> None:
    answer = failures.interpret("s3://b/a.jpg", code, status, message)
    assert words in answer.error.strerror and (answer.passes, answer.of_all) == (passes, of_all)
    assert isinstance(answer.error, OutageError) == of_all
    if of_all:
        with pytest.raises(OutageError, match="takes up the work again"):
            failures.explain(answer.error)
    else:
        assert words in failures.explain(answer.error)


def test_a_disk_that_is_full_is_the_jobs_and_a_long_name_is_the_files() -> None:
    with pytest.raises(OutageError, match=r"^out/a.jpg: storage fails \(No space left"):
        failures.explain(OSError(errno.ENOSPC, "No space left on device", "out/a.jpg"))
    long = OSError(errno.ENAMETOOLONG, "File name too long", "out/a")
    assert failures.explain(long) == "File name too long" and failures.is_of_name(long)
    assert not failures.is_of_name(UnavailableError(errno.EAGAIN, "S3 answers 500", "out/a"))


def test_an_outage_is_the_users_to_put_right_in_one_line_in_every_process() -> None:
    error = pickle.loads(pickle.dumps(OutageError(errno.EPERM, "the credentials have expired", "s3://b/a.jpg")))
    assert isinstance(error, UserError) and isinstance(error, OSError) and as_user_error(error) is error
    line = "s3://b/a.jpg: storage fails (the credentials have expired): the same command takes up the work again"
    assert str(error) == line
    wrapped = RuntimeError(f"traceback\ndepers.storage.failures.OutageError: {line}\nmore")
    assert str(as_user_error(wrapped)) == line


def test_local_files_are_tried_again_where_the_file_system_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_LONGEST_PAUSE", 0.0)
    tries = iter([OSError(errno.ESTALE, "stale"), OSError(errno.ENOSPC, "full"), None])

    def access() -> str:
        if (error := next(tries)) is not None:
            raise error
        return "done"

    assert failures.persist(access) == "done"
    with pytest.raises(IsADirectoryError):
        failures.persist(lambda: open("/"))  # noqa: PTH123, SIM115
