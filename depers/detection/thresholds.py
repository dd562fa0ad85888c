"""The confidence thresholds by class in a thresholds.json."""

import json
from typing import Any

from depers import storage
from depers.errors import UserError, one_line, short_reason

VERSION = 1
"""Of thresholds.json; a file of another version is refused, not guessed at."""


def read_thresholds(uri: str) -> dict[str, float]:
    """Return the confidence thresholds of a thresholds.json by class, each more than 0 and less than 1.

    A class for which the calibration could support none (null) is absent: its reader falls back to the lowest
    threshold that it has. Raise UserError where the file is missing, or is anything but such a file.
    """
    try:
        content = json.loads(storage.read_bytes(uri).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{uri}: no such file of thresholds") from None
    except OSError as error:
        raise UserError(f"{uri}: not readable ({short_reason(error)})") from None
    except RecursionError:
        raise UserError(f"{uri}: must be JSON as `depers evaluate` writes it, but is nested too deeply") from None
    except ValueError as error:  # also UnicodeDecodeError
        raise UserError(f"{uri}: must be JSON as `depers evaluate` writes it, but {one_line(error)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("thresholds"), dict):
        raise UserError(f"{uri}: must be an object with version and thresholds, but is {_shorten(content)}")
    if content.get("version") != VERSION:
        raise UserError(f"{uri}: version must be {VERSION}, but is {_shorten(content.get('version'))}")
    thresholds: dict[str, float] = {}
    for name, value in content["thresholds"].items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise UserError(f"{uri}: the threshold of {name} must be between 0 and 1 or null, but is {_shorten(value)}")
        thresholds[name] = float(value)
    return thresholds


def _shorten(value: Any) -> str:
    """Return `value` as JSON, at most 80 characters of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
