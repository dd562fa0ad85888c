"""Tests of how Ray starts, without it."""

import os
import socket
import threading
from contextlib import nullcontext

import pytest

from depers.errors import UserError
from depers.runtime import cluster

NOTE = b"[2030-01-01 I 1 1] logging.cc:303: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n"


def start(debug: bool, error: BaseException | None = None) -> None:
    with cluster._quiet_start(debug):
        os.write(2, NOTE + b"the raylet died\n")
        if error:
            raise error


@pytest.mark.parametrize(("debug", "shown"), [(False, ""), (True, NOTE.decode())])
def test_what_ray_writes_at_its_start_is_shown_but_for_the_note(
    debug: bool, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    start(debug)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == f"{shown}the raylet died\nafter\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionError("no cluster")])
def test_last_words_are_shown(error: BaseException, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)):
        start(False, error)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "the raylet died\nafter\n"


def answer(listener: socket.socket, data: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(100).startswith(b"PRI * HTTP/2.0")
        connection.sendall(data)


@pytest.mark.parametrize(
    ("data", "is_ray"),
    [
        (b"\0\0\0\4\0\0\0\0\0", True),
        (b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0\1", True),
        (b"HTTP/1.1 400 Bad\r\n", False),
        (b"", False),
    ],
)
def test_what_listens_must_speak_as_ray_does(data: bytes, is_ray: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=answer, args=(listener, data))
        thread.start()
        refusal = pytest.raises(UserError, match=rf"^RAY_ADDRESS {address}: .* there is none \(something else listens")
        with nullcontext() if is_ray else refusal:
            cluster.check_listener(address)
        thread.join()


def test_an_address_that_nobody_listens_at_is_refused() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"^RAY_ADDRESS {address}: .* there is none \(Connection refused\)"):
            cluster.check_listener(address)
    for wrong in ("head", "head:port", "ray://127.0.0.1:1", "127.0.0.1:"):
        with pytest.raises(UserError, match=f"^RAY_ADDRESS must be auto or HOST:PORT, but is {wrong}$"):
            cluster.check_listener(wrong)
