"""Files of thresholds as `depers evaluate` writes them."""

import json
from collections.abc import Mapping
from typing import Any

from depers.detection.thresholds import VERSION, Settings

SETTINGS = Settings(
    weights=(("a" * 64, {"person": "human"}), ("b" * 64, {})),
    classes=("face", "human"),
    imgsz=640,
    tile=None,
    augment=False,
    arithmetic=("bfloat16",),
    iou_threshold=0.5,
    margin=0.1,
)


def format_file(by_class: Mapping[str, float | None], settings: Settings = SETTINGS) -> str:
    """Return the text of a thresholds.json."""
    content: dict[str, Any] = {"version": VERSION, "thresholds": dict(by_class), "settings": settings.as_dict()}
    return json.dumps(content)
