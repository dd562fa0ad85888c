"""Suppression of all images of a batch at once gives what torchvision's operator gives for each, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from depers.detection import suppression
from depers.detection.settings import InferenceSettings
from depers.imaging.headers import ImageError


def draw_rows(generator: np.random.Generator, count: int, spread: float, is_whole: bool) -> Tensor:
    """Return rows of boxes around a few centers, with a further column that numbers them."""
    centers = generator.uniform(0, 100 * spread, (count // 8 + 1, 2))
    low = centers[generator.integers(len(centers), size=count)] + generator.normal(0, 6, (count, 2))
    high = low + generator.uniform(0, 40, (count, 2))
    boxes = np.hstack((low, high))
    confidences = generator.uniform(0.001, 1, count)
    if is_whole:  # many ties: equal confidences, equal boxes, overlaps of exactly a threshold
        boxes, confidences = np.round(boxes / 4) * 4, np.ceil(confidences * 5) / 5
    classes = generator.integers(3, size=count)
    columns = (boxes, confidences[:, None], classes[:, None], np.arange(count)[:, None])
    return torch.from_numpy(np.hstack(columns).astype(np.float32))


@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(0, 150), min_size=1, max_size=6),
    spread=st.sampled_from((0.1, 1, 20)),
    is_whole=st.booleans(),
    iou_threshold=st.sampled_from((0.0, 0.2, 0.45, 0.5, 0.6, 0.7, 1.0)),
)
def test_images_together_are_as_each_by_itself(
    seed: int, counts: list[int], spread: float, is_whole: bool, iou_threshold: float
) -> None:
    generator = np.random.default_rng(seed)
    images = [draw_rows(generator, count, spread, is_whole) for count in counts]
    settings = InferenceSettings(iou_threshold=iou_threshold)
    together = suppression.suppress_together(images, settings)
    assert len(together) == len(images)
    for rows, found in zip(images, together, strict=True):
        assert torch.equal(found, suppression.suppress(rows, settings))


def test_a_chain_of_boxes_is_followed_to_its_end() -> None:
    """Each box overlaps the next alone: every second one stays, the last of them known after all others."""
    count = 301
    low = torch.arange(count) * 10.0
    edges = torch.stack((low, torch.zeros(count), low + 30, torch.full((count,), 10.0)), dim=1)
    rows = torch.cat((edges, torch.linspace(0.9, 0.1, count)[:, None], torch.zeros(count, 1)), dim=1)
    (found,) = suppression.suppress_together([rows], InferenceSettings(iou_threshold=0.4))
    assert torch.equal(found, rows[::2])


@pytest.mark.parametrize(
    ("width", "iou_threshold", "kept"),
    [
        (50.0, 0.5, 2),  # an overlap of exactly the threshold suppresses nothing
        (np.nextafter(np.float32(50), np.float32(51)), 0.5, 1),
        (60.0, 0.6, 1),  # 0.6 as float32 is above 0.6
        (70.0, 0.7, 2),  # 0.7 as float32 is below 0.7
    ],
)
def test_the_threshold_is_compared_as_by_the_operator(width: float, iou_threshold: float, kept: int) -> None:
    rows = torch.tensor([[0, 0, 100, 1, 0.9, 0], [0, 0, width, 1, 0.8, 0]])
    settings = InferenceSettings(iou_threshold=iou_threshold)
    assert len(suppression.suppress(rows, settings)) == kept
    assert len(suppression.suppress_together([rows], settings)[0]) == kept


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([], []),
        ([0, 0], [[0, 1]]),
        ([4, 1, 3, 5], [[1, 2, 0], [3]]),
        ([11, 2, 2, 2], [[1, 2, 3], [0]]),
        ([5, 5, 5], [[0, 1], [2]]),
    ],
)
def test_groups_are_within_their_pairs(counts: list[int], groups: list[list[int]]) -> None:
    assert list(suppression.group_images(counts, max_pairs=50)) == groups


def test_an_image_of_too_many_boxes_goes_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "MAX_PAIRS", 99)
    monkeypatch.setattr(suppression, "MAX_CANDIDATES", 9)
    rows = draw_rows(np.random.default_rng(0), 10, 1, is_whole=False)
    (found,) = suppression.suppress_together([rows], InferenceSettings())
    assert torch.equal(found, suppression.suppress(rows, InferenceSettings()))
    with pytest.raises(ImageError, match="has 10 boxes before suppression, more than 9"):
        suppression.suppress_together([rows], InferenceSettings(withholds=True))
