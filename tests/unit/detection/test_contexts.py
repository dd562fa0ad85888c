"""Classes that are believed sooner where they belong: rules, discounts, and what a detector makes of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from depers.detection.contexts import discount, format_rules, parse_rules
from depers.detection.detections import Detections
from depers.detection.detector import DetectorEnsemble, select_candidates
from depers.detection.network import Predictions
from depers.detection.settings import InferenceSettings, Weights
from depers.errors import UserError

PLATE, CAR = 0, 1


def make(*rows: tuple[int, float, float, float, float, float]) -> Detections:
    """Detections of rows: class id, confidence, edges."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    boxes, confidences = table[:, 2:].astype(np.float32), table[:, 1].astype(np.float32)
    return Detections(boxes, confidences, table[:, 0].astype(np.int64), np.zeros(len(table), np.int64))


@pytest.mark.parametrize(
    ("texts", "rules"),
    [
        (["carplate=car"], (("carplate", "car"),)),
        (["face=human, carplate = car"], (("face", "human"), ("carplate", "car"))),
        (["face=human", "carplate=car"], (("face", "human"), ("carplate", "car"))),
        (["none"], ()),
    ],
)
def test_rules(texts: list[str], rules: tuple[tuple[str, str], ...]) -> None:
    assert parse_rules(texts) == rules
    assert format_rules(rules) == tuple(sorted("=".join(rule) for rule in rules))


@pytest.mark.parametrize(
    "text", ["", "carplate", "carplate=", "=car", "car=car", "face=human,face=car", "none,face=human"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--within must be CLASS=CONTEXT, once for a class, .*, but got"):
        parse_rules([text])


def test_what_lies_outside_has_a_tenth_of_its_confidence() -> None:
    whole = make((CAR, 0.6, 0, 0, 100, 100), (PLATE, 0.5, 200, 200, 220, 210), (PLATE, 0.2, 40, 90, 60, 99),
                 (CAR, 0.09, 190, 190, 300, 300))  # fmt: skip
    tile = make((PLATE, 0.3, 90, 90, 108, 108), (PLATE, 0.3, 95, 90, 120, 100))
    first, second = discount([whole, tile], {PLATE: CAR})
    assert first.confidences.tolist() == pytest.approx([0.6, 0.2, 0.09, 0.05])  # highest first
    assert first.boxes_xyxy[-1].tolist() == [200, 200, 220, 210]
    assert second.confidences.tolist() == pytest.approx([0.3, 0.03])  # a car in another view counts
    assert whole.confidences.tolist() == pytest.approx([0.6, 0.5, 0.2, 0.09])  # which are the caller's
    assert discount([Detections.none()], {PLATE: CAR})[0].confidences.shape == (0,)


def test_a_context_is_looked_for_though_nobody_asked_for_it(untrained: Callable[..., str]) -> None:
    path = untrained("car", "face", "carplate")

    def load(classes: tuple[str, ...], *rules: tuple[str, str]) -> DetectorEnsemble:
        settings = InferenceSettings(confidence=0.4, within=rules)
        return DetectorEnsemble([Weights(path, {})], [Path(path).read_bytes()], classes, settings)

    with_rule = load(("carplate", "face"), ("carplate", "car"))
    assert with_rule.class_names == ["face", "carplate"] and with_rule.contexts == {1: 2}
    assert with_rule.settings.confidence == 0.1  # of contexts
    assert load((), ("carplate", "car")).contexts == {2: 0}
    without = load(("face",), ("carplate", "car"))  # the rule is about nothing
    assert without.contexts == {} and without.settings.confidence == 0.4
    with pytest.raises(UserError, match=r"--within carplate=lorry: .* the weights give car, face, carplate"):
        load((), ("carplate", "lorry"))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.3, 0.2, 0.9), [(0, 0.3), (2, 0.9)]),  # a car, and yet a plate: contexts are no rivals
        ((0.2, 0.3, 0.05), [(1, 0.3)]),
        ((0.3, 0.3, 0.05), [(0, 0.3)]),  # the first of equals, as without contexts
        ((0.05, 0.05, 0.4), [(2, 0.4)]),
        ((0.05, 0.05, 0.05), []),
    ],
)
def test_a_box_is_a_context_besides_what_it_counts_for(
    scores: tuple[float, ...], expected: list[tuple[int, float]]
) -> None:
    rows = torch.tensor([[50, 50, 20, 20, 1.0, *scores]])
    predictions = Predictions(torch.zeros(1, dtype=torch.int64), rows, torch.zeros(1))
    [found] = select_candidates(predictions, 1, torch.arange(3), InferenceSettings(confidence=0.1), 2)
    assert [(int(row[5]), pytest.approx(float(row[4]))) for row in found] == expected
    [plain] = select_candidates(predictions, 1, torch.arange(3), InferenceSettings(confidence=0.1))
    assert len(plain) == (max(scores) > 0.1)
