"""What a detector is made of, and its settings: the light part, which drivers read without importing torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from depers import storage
from depers.detection import shipped
from depers.errors import UserError, short_reason

PRECISIONS = ("auto", "float32", "bfloat16")


class Weights(NamedTuple):
    """One `--weights` value: where the checkpoint is, and which of its classes mean what (empty: all, as named)."""

    uri: str
    class_map: dict[str, str]

    @property
    def name(self) -> str:
        """The file name, which the manifest records with every box."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]


def parse_weights(text: str) -> Weights:
    """Return the value of `PATH_OR_URI[:model_class=class,…]`; `default` is the detector that is part of depers.

    Raise UserError for a malformed class map.
    """
    uri, separator, tail = text.rpartition(":")
    if not separator or "=" not in tail or "/" in tail:
        return Weights(find_weights(text), {})
    class_map = {}
    for pair in tail.split(","):
        match = re.fullmatch(r"\s*([^=]+?)\s*=\s*([^=]+?)\s*", pair)
        if not match:
            raise UserError(f"--weights {text}: a class map must be model_class=class,…, but got {pair!r}")
        class_map[match[1]] = match[2]
    return Weights(find_weights(uri), class_map)


def find_weights(uri: str) -> str:
    """Return where weights are: `default` is the detector that is part of depers."""
    return shipped.WEIGHTS if uri == shipped.NAME else uri


def describe_weights_uri(uri: str) -> str:
    """Return how results call weights: where they are, but for the detector that is part of depers its version."""
    is_shipped = uri in (shipped.NAME, shipped.WEIGHTS)
    return f"{shipped.NAME} ({PurePosixPath(shipped.WEIGHTS).stem})" if is_shipped else uri


@dataclass(frozen=True)
class InferenceSettings:
    """How to predict: longer side `imgsz` in pixels, thresholds, and the arithmetic (`auto`, `float32`, `bfloat16`).

    `arithmetic` is the one that a job has chosen for all of its workers, whose nodes may differ; where it is empty,
    each chooses by itself. `augment` looks at every image three times, at scales 1, 0.83 (mirrored) and 0.67, as
    YOLOv5's `--augment`. Where an image has more than `max_detections`, `withholds` makes that an error; otherwise the
    least certain are left out, as figures have it. `within` are the rules of `contexts`.
    """

    imgsz: int = 640
    confidence: float = 0.15
    iou_threshold: float = 0.5
    max_detections: int = 1000
    multi_label: bool = False
    device: str = "cpu"
    precision: str = "auto"
    arithmetic: str = ""
    augment: bool = False
    withholds: bool = False
    within: tuple[tuple[str, str], ...] = ()


def read_checkpoints(weights: Sequence[Weights]) -> list[bytes]:
    """Return the bytes of every `--weights`. Raise UserError where one cannot be read."""
    checkpoints = []
    for source in weights:
        try:
            checkpoints.append(storage.read_bytes(storage.check(source.uri, "--weights")))
        except FileNotFoundError:
            raise UserError(f"{source.uri}: no such weights file") from None
        except OSError as error:
            raise UserError(f"{source.uri}: weights cannot be read ({short_reason(error)})") from None
        if not checkpoints[-1]:
            raise UserError(f"{source.uri}: must be a YOLOv5 checkpoint, but the file is empty")
    return checkpoints
