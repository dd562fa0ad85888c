"""A context's boxes decide, and are no results unless they were asked for; thresholds see discounted confidences."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from depers.detection.detections import Detections
from depers.detection.settings import InferenceSettings
from depers.pipeline import steps

BOXES = np.array([[0, 0, 100, 100], [40, 40, 60, 50], [200, 200, 220, 210], [140, 0, 150, 5]], np.float32)
FOUND = Detections(BOXES, np.array([0.9, 0.4, 0.4, 0.12], np.float32), np.array([1, 0, 0, 0]), np.zeros(4, np.int64))


@pytest.mark.parametrize(
    ("class_names", "thresholds", "expected"),
    [
        (["carplate"], {}, [("carplate", 0.4)]),
        (["carplate", "car"], {}, [("car", 0.9), ("carplate", 0.4)]),
        (["carplate"], {"carplate": 0.03}, [("carplate", 0.4), ("carplate", 0.04)]),
        (["carplate"], {"carplate": 0.5}, []),
    ],
)
def test_what_counts(class_names: list[str], thresholds: dict[str, float], expected: list[tuple[str, float]]) -> None:
    least = min([0.15, *thresholds.values()])
    job: Any = SimpleNamespace(thresholds=thresholds, settings=InferenceSettings(confidence=least))
    detector: Any = SimpleNamespace(class_names=class_names, model_names=["w.pt"], contexts={0: 1})
    rows = steps._merge(job, [FOUND], (300, 300), detector, 0)
    assert [(row["class"], pytest.approx(row["confidence"])) for row in rows] == expected
