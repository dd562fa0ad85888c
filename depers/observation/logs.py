"""Log lines as JSON, one per line: for programs that gather them from all machines of a cluster.

They name jobs, units and stages, never paths: these are in the records, by the name of the unit.
"""

import json
import logging
import sys
import time
from typing import Any

from depers.errors import to_line
from depers.observation.context import current_context

log = logging.getLogger("depers.work")
"""What workers write to."""
_FIELDS = "fields"


class JsonFormatter(logging.Formatter):
    """Formats a record as an object: time, level, job, verb, event, and the fields that `log_event` was given."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line of JSON."""
        context = current_context()
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "job": context.job,
            "verb": context.verb,
            "event": record.getMessage(),
        }
        line |= getattr(record, _FIELDS, {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class LineFormatter(logging.Formatter):
    """Formats a record for people: the time of day, and the message on a line."""

    def __init__(self) -> None:
        """Show hours, minutes and seconds."""
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (what logging calls)
        """Return the line, without a traceback."""
        record.message = to_line(record.message)
        return super().formatMessage(record)


def log_event(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line about an event with these fields."""
    log.log(level, event, extra={_FIELDS: fields})


def write_json_logs() -> None:
    """Have this process, a worker, write its lines to stderr, which Ray keeps in a file per process."""
    if log.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
