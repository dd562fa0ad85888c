"""What a training hears while it runs: its node is about to leave, or there is room for more workers.

Whoever hears it writes down how far the training is (`resumption.heed`), so that little is done again.
"""

import json
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum

import psutil  # type: ignore[import-untyped]

_POLL_SECONDS = 5.0
_ANSWER_SECONDS = 2.0
_TRIES = 5  # after which there is no such service here
_METADATA = "http://169.254.169.254"  # of EC2, instance metadata service, version 2
_TOKEN_SECONDS = "21600"
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class Notice(IntEnum):
    """What to do: nothing, write the state, or write it and end this group of workers."""

    NONE = 0
    SAVE = 1
    STOP = 2


class TrainingStoppedError(Exception):
    """The group of workers ends, and another goes on from what it has written."""


class NoticeBoard:
    """What has been heard from several sources since the last look; a thread asks them."""

    def __init__(self, sources: Sequence[Callable[[], Notice]], poll_seconds: float = _POLL_SECONDS) -> None:
        self._sources, self._poll_seconds = sources, poll_seconds
        self._heard = [Notice.NONE for _ in sources]
        self._new = Notice.NONE
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="notices", daemon=True)
        self._thread.start()

    def take(self) -> Notice:
        """Return the most urgent notice since the last call; each source tells the same one once."""
        with self._lock:
            notice, self._new = self._new, Notice.NONE
        return notice

    def close(self) -> None:
        """Listen no more."""
        self._end.set()

    def _listen(self) -> None:
        while True:
            for index, ask in enumerate(self._sources):
                notice = Notice.NONE
                with suppress(Exception):  # a source that does not answer has nothing to say
                    notice = ask()
                if notice > self._heard[index]:
                    with self._lock:
                        self._new = max(self._new, notice)
                self._heard[index] = notice
            if self._end.wait(self._poll_seconds):
                return


class SpotInstance:
    """This machine as EC2 knows it: whether it is to be taken back, two minutes before that happens.

    Source: AWS, "Spot Instance interruption notices". The variables are those of its tools.
    """

    def __init__(self) -> None:
        self._root = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", _METADATA).rstrip("/") + "/latest"
        self._tries = 0 if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" else _TRIES
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._token = ""

    def is_leaving(self) -> bool:
        """Return whether the instance has been told to stop or terminate. Elsewhere than on EC2 that is soon known."""
        if not self._tries:
            return False
        try:
            self._token = self._token or self._request("PUT", "/api/token")
        except OSError:
            self._tries -= 1
            return False
        self._tries = _TRIES
        try:
            action = json.loads(self._request("GET", "/meta-data/spot/instance-action"))
        except urllib.error.HTTPError as error:
            self._token = "" if error.code == 401 else self._token  # it has expired
            return False
        except (OSError, ValueError):
            return False
        return isinstance(action, dict) and action.get("action") in ("stop", "terminate", "hibernate")

    def _request(self, method: str, path: str) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": _TOKEN_SECONDS}
        if method == "GET":
            headers = {"X-aws-ec2-metadata-token": self._token}
        request = urllib.request.Request(self._root + path, headers=headers, method=method)
        with self._opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            text: str = answer.read(10_000).decode()
        return text


def find_interface(address: str) -> str | None:
    """Return the network interface of this machine that holds an address, None where none does."""
    name: str
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            is_ip = entry.family in (socket.AF_INET, socket.AF_INET6)
            if is_ip and entry.address.partition("%")[0] == address:
                return name
    return None


def set_interface(name: str | None, address: str) -> None:
    """Have this process's workers talk over an interface: the named one, else that of their node's `address`.

    By themselves gloo and NCCL take that of the host's name, which on Debian is 127.0.0.1, or the first one. What the
    environment names stays, unless there is a `name`.
    """
    interface = name or find_interface(address)
    for variable, prefix in zip(_INTERFACES, ("", "="), strict=True):  # NCCL takes the bare name for a beginning
        if interface and (name or variable not in os.environ):
            os.environ[variable] = prefix + interface
