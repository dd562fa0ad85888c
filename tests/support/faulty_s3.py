"""A proxy in front of an S3 server that does what the real one does at times: wait, throttle, break off, refuse."""

import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

THROTTLE, BROKEN, RESET, DENIED = "503", "500", "reset", "403"
EXPIRED, ARCHIVED, SKEWED, UNKNOWN = "expired", "archived", "skewed", "501"
Fault = Callable[[str, str, int], str]
"""(method, key with its bucket, query and range of bytes, how often the key was asked for) → a fault, or empty."""

_CODES = {
    THROTTLE: (503, "SlowDown"),
    BROKEN: (500, "InternalError"),
    DENIED: (403, "AccessDenied"),
    EXPIRED: (400, "ExpiredToken"),
    ARCHIVED: (403, "InvalidObjectState"),
    SKEWED: (403, "RequestTimeTooSkewed"),
    UNKNOWN: (501, "NotImplemented"),
}


class _Server(ThreadingHTTPServer):
    """A server at which many may knock at once: where the queue is full, the kernel tries again after seconds."""

    request_queue_size = 1024


class FaultyS3:
    """The proxy, on loopback, as a context; `seen` counts requests by method, `faults` what was done to them."""

    def __init__(self, endpoint: str, fault: Fault, latency_seconds: float = 0.0) -> None:
        self.seen: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        asked: Counter[tuple[str, str]] = Counter()
        lock = threading.Lock()
        target, proxy = urlsplit(endpoint), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                """Nothing: there are thousands."""

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                place = unquote(self.path.lstrip("/"))
                with lock:
                    proxy.seen[self.command] += 1
                    asked[self.command, place] += 1
                    ranged = f"{place} {self.headers.get('Range', '')}".rstrip()
                    what = fault(self.command, ranged, asked[self.command, place])
                    proxy.faults[what] += bool(what)
                time.sleep(latency_seconds)
                if what in _CODES:
                    status, code = _CODES[what]
                    self.answer(status, {}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
                    return
                upstream = http.client.HTTPConnection(str(target.hostname), target.port or 80, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                upstream.request(self.command, self.path, body, headers)
                response = upstream.getresponse()
                content = response.read()
                upstream.close()
                named = {name: value for name, value in response.getheaders() if name.lower() not in _OWN}
                if what == RESET and len(content) > 1:
                    self.answer(response.status, named, content, len(content) // 2)
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.answer(response.status, named, content, head=response.getheader("Content-Length"))

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

            def answer(
                self,
                status: int,
                headers: dict[str, str],
                content: bytes,
                sent: int | None = None,
                head: str | None = None,
            ) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                length = head if self.command == "HEAD" and head else str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) if sent is None else sent])
                self.wfile.flush()

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FaultyS3":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


_OWN = ("content-length", "transfer-encoding", "connection", "server", "date")
