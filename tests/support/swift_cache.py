"""What memcached is to Swift's proxy, kept in the process of the proxy, which reads this module with its own Python."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any


class Cache:
    """Values as JSON, each until it expires."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, str]] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        """Return a value; None where there is none, or it has expired."""
        expires, text = self._values.get(key, (0.0, "null"))
        return json.loads(text) if expires > time.time() else None

    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> None:
        """Keep a value for so many seconds; for as long as the process lives where that is 0."""
        self._values[key] = (_now() + time if time else float("inf"), json.dumps(value))

    def delete(self, key: str, server_key: str | None = None) -> None:
        """Forget a value."""
        self._values.pop(key, None)


def _now() -> float:
    return time.time()


def make_filter(_: dict[str, str], **__: str) -> Callable[[Any], Any]:
    """Return the middleware, as paste.deploy asks for one."""
    cache = Cache()

    def add(app: Any) -> Any:
        def answer(environment: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            environment["swift.cache"] = cache
            return app(environment, start_response)

        return answer

    return add
