"""The confidence thresholds by class in a thresholds.json, and what they were found with.

    {"version": 2, "thresholds": {class name: confidence, or null where none can be supported},
     "settings": what they hold for, as `Settings`, "details": {…}}

Thresholds say something about the detector that they were found with, as it was set, and about no other.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from depers import storage
from depers.detection.settings import Weights
from depers.errors import UserError, one_line, short_reason

VERSION = 2
"""Of thresholds.json; a file of another version is refused, not guessed at."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Settings(NamedTuple):
    """All that decides which boxes a detector finds and how large they are redacted; None is not known, or not said.

    `weights` are the digests of the checkpoints (SHA-256) with their class maps, `classes` the names of what is looked
    for, sorted: a box counts for the best of these; `within` the rules of `contexts`. `arithmetic` has what boxes were
    computed in, sorted, as rows of detections name it: several where workers differed, none where no image was looked
    at. It is not what `--precision` says, of which `auto` is another arithmetic on another machine.
    """

    weights: tuple[tuple[str, Mapping[str, str]], ...]
    classes: tuple[str, ...] | None
    imgsz: int
    tile: int | None
    augment: bool
    arithmetic: tuple[str, ...] | None
    iou_threshold: float
    margin: float | None = None
    within: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for JSON."""
        weights = [{"sha256": digest, "class_map": dict(class_map)} for digest, class_map in self.weights]
        lists = {"classes": list(self.classes or ()), "within": list(self.within)}
        arithmetic = None if self.arithmetic is None else list(self.arithmetic)
        return {**self._asdict(), "weights": weights, **lists, "arithmetic": arithmetic}


class Thresholds(NamedTuple):
    """What a thresholds.json says: where it is, the least confidence by class, and what that holds for."""

    uri: str
    by_class: dict[str, float]
    settings: Settings


def describe_weights(
    weights: Sequence[Weights], checkpoints: Sequence[bytes]
) -> tuple[tuple[str, dict[str, str]], ...]:
    """Return digests and class maps of weights, as `Settings` has them."""
    pairs = zip(weights, checkpoints, strict=True)
    return tuple((hashlib.sha256(data).hexdigest(), source.class_map) for source, data in pairs)


def find_differences(thresholds: Thresholds, now: Settings) -> list[str]:
    """Return the settings in which `now` differs from what the thresholds were found with, each with both values."""
    return list(_list_differences(thresholds.settings, now))


def _list_differences(found_with: Settings, now: Settings) -> Iterator[str]:
    before, after = ([digest for digest, _ in settings.weights] for settings in (found_with, now))
    # An earlier run notes the beginnings of digests.
    if len(before) != len(after) or not all(map(str.startswith, before, after)):
        yield f"weights (SHA-256) {_join(before)}, now {_join(after)}"
    elif [dict(pair[1]) for pair in found_with.weights] != [dict(pair[1]) for pair in now.weights]:
        yield f"class map {_join(found_with.weights, 1)}, now {_join(now.weights, 1)}"
    if now.classes is not None and found_with.classes is not None and set(found_with.classes) != set(now.classes):
        yield f"classes {', '.join(found_with.classes)}, now {', '.join(now.classes)}"
    if set(found_with.within) != set(now.within):
        yield f"--within {', '.join(found_with.within) or 'none'}, now {', '.join(now.within) or 'none'}"
    if now.arithmetic != () and (now.arithmetic is None or now.arithmetic != found_with.arithmetic):
        names = [" and ".join(settings.arithmetic or ("that is not known",)) for settings in (found_with, now)]
        yield f"arithmetic {names[0]}, now {names[1]} (--precision, --device)"
    for name in ("imgsz", "tile", "augment", "iou_threshold", "margin"):
        value, other = getattr(found_with, name), getattr(now, name)
        if value != other and not (name == "margin" and other is None):  # what is not redacted has none
            yield f"--{name.replace('_', '-')} {_say(value)}, now {_say(other)}"


def _join(values: Sequence[Any], index: int | None = None) -> str:
    if index is not None:
        values = [",".join(f"{k}={v}" for k, v in pair[index].items()) or "none" for pair in values]
    return " + ".join(str(value)[:12] if index is None else str(value) for value in values)


def _say(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def read_thresholds(uri: str) -> Thresholds:
    """Return the content of a thresholds.json; each threshold is more than 0 and less than 1.

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
        hint = "find them again with `depers evaluate --target-recall`"
        raise UserError(f"{uri}: version must be {VERSION}, but is {_shorten(content.get('version'))}: {hint}")
    thresholds: dict[str, float] = {}
    for name, value in content["thresholds"].items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise UserError(f"{uri}: the threshold of {name} must be between 0 and 1 or null, but is {_shorten(value)}")
        thresholds[name] = float(value)
    return Thresholds(uri, thresholds, _read_settings(uri, content.get("settings")))


def _read_settings(uri: str, content: Any) -> Settings:
    """Return the settings in a thresholds.json. Raise UserError where one is missing or no such value."""
    if not isinstance(content, dict):
        raise UserError(f"{uri}: settings must be an object, but is {_shorten(content)}")

    def take(name: str, *types: type) -> Any:
        value = content.get(name)
        if type(value) not in types or (value is None and name not in content):
            raise UserError(f"{uri}: settings must say {name}, but has {_shorten(value)} there")
        return value

    weights = []
    for entry in take("weights", list):
        entry = entry if isinstance(entry, dict) else {}
        digest, class_map = entry.get("sha256"), entry.get("class_map")
        if not (isinstance(digest, str) and _DIGEST.fullmatch(digest) and isinstance(class_map, dict)):
            raise UserError(f"{uri}: settings must say weights by sha256 and class_map, but has {_shorten(entry)}")
        weights.append((digest, {str(key): str(value) for key, value in class_map.items()}))
    return Settings(
        weights=tuple(weights),
        classes=tuple(str(name) for name in take("classes", list)),
        imgsz=take("imgsz", int),
        tile=take("tile", int, type(None)),
        augment=take("augment", bool),
        arithmetic=_read_arithmetic(uri, content),
        iou_threshold=float(take("iou_threshold", int, float)),
        margin=float(take("margin", int, float)),
        within=tuple(str(rule) for rule in take("within", list)) if "within" in content else (),  # earlier: none
    )


def _read_arithmetic(uri: str, settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return what settings say of the arithmetic. Raise UserError where it is no list of names.

    Earlier versions noted `--precision` alone, which says nothing but for float32: all else depends on the machine.
    """
    if "arithmetic" not in settings:
        return ("float32",) if settings.get("precision") == "float32" else None
    names = [] if settings["arithmetic"] is None else settings["arithmetic"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{uri}: settings must say arithmetic as a list of names, but has {_shorten(names)} there")
    return tuple(sorted(names)) or None


def _shorten(value: Any) -> str:
    """Return `value` as JSON, at most 80 characters of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
