"""Non-maximum suppression: greedy, per class, as YOLOv5's; of one image, and of all images of a batch on a GPU."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from depers.detection.settings import InferenceSettings
from depers.imaging.headers import ImageError

MAX_CANDIDATES = 30_000
"""How many boxes of an image go into suppression at most, as in YOLOv5."""
MAX_PAIRS = 2**25
"""How many pairs of boxes are compared at once on a GPU: 32 images of 1024 boxes, 0.4 GiB for a moment."""
_CLASS_STEP = 7680.0  # pixels, YOLOv5's


def suppress_batch(rows_by_image: Sequence[Tensor], settings: InferenceSettings) -> list[Tensor]:
    """Return for each image what `suppress` returns for its rows; on a GPU for many images at once.

    There each image by itself would be waited for, and its boxes judged one after another. Raise ImageError as
    `suppress` does, for any of them.
    """
    if not any(rows.is_cuda for rows in rows_by_image):
        return [suppress(rows, settings) for rows in rows_by_image]
    results: dict[int, Tensor] = {}
    for group in group_images([len(rows) for rows in rows_by_image]):
        rows = [rows_by_image[index] for index in group]
        results.update(zip(group, suppress_together(rows, settings), strict=True))
    return [results[index] for index in range(len(rows_by_image))]


def group_images(counts: Sequence[int], max_pairs: int | None = None) -> Iterator[list[int]]:
    """Yield indices of images whose boxes are compared at once, from their numbers of boxes: similar ones together.

    All images of a group take the room of its largest: of `max_pairs` (None: MAX_PAIRS) pairs, or it is one image.
    """
    most = MAX_PAIRS if max_pairs is None else max_pairs
    group: list[int] = []
    for index in sorted(range(len(counts)), key=lambda index: counts[index]):
        if group and (len(group) + 1) * counts[index] ** 2 > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def suppress_together(rows_by_image: Sequence[Tensor], settings: InferenceSettings) -> list[Tensor]:
    """Return for each image what `suppress` returns for its rows, to the bit, in a few steps for all images.

    Only boxes of one image are compared. A box is kept where no better one that is kept overlaps it: from "all are
    kept" this is asked again until nothing changes, once for each link of the longest chain of boxes that decide about
    one another (Cluster-NMS: Zheng et al., "Enhancing Geometric Factors in Model Learning and Inference for Object
    Detection and Instance Segmentation", 2020). A single image of more than MAX_PAIRS goes to `suppress`. Raise
    ImageError as it does.
    """
    counts = [len(rows) for rows in rows_by_image]
    if max(counts) ** 2 > MAX_PAIRS:
        return [suppress(rows, settings) for rows in rows_by_image]
    if not any(counts):
        return list(rows_by_image)
    rows = pad_sequence(list(rows_by_image), batch_first=True)  # (B, N, columns)
    device_counts = torch.tensor(counts, device=rows.device)
    is_row = torch.arange(rows.shape[1], device=rows.device) < device_counts[:, None]
    order = rows[..., 4].masked_fill(~is_row, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rows = rows.take_along_dim(order[..., None], dim=1)  # padding stays behind the rows
    edges = rows[..., :4]
    highest = edges.masked_fill(~is_row[..., None], -torch.inf).amax(dim=(1, 2))
    lowest = edges.masked_fill(~is_row[..., None], torch.inf).amin(dim=(1, 2))
    boxes = edges + rows[..., 5:6] * (highest - lowest + 1).clamp(min=_CLASS_STEP)[:, None, None]
    overlaps = compare(boxes, settings.iou_threshold) & is_row[:, :, None] & is_row[:, None, :]
    overlaps = overlaps.triu(diagonal=1)  # (B, better box, worse box)
    is_kept = is_row
    while True:
        is_next = is_row & ~(overlaps & is_kept[:, :, None]).any(dim=1)
        if torch.equal(is_next, is_kept):
            return list(torch.split(rows[is_kept], is_kept.sum(dim=1).tolist()))
        is_kept = is_next


def compare(boxes_xyxy: Tensor, iou_threshold: float) -> Tensor:
    """Return which boxes of an image overlap by more than the threshold, bool (B, N, N), for float32 (B, N, 4).

    In the order of operations of torchvision's operator on a CPU, so that the last bit is the same.
    """
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    widths, heights = (high - low).unbind(dim=-1)
    areas = widths * heights
    intersection = _measure_overlaps(low[..., 0], high[..., 0]).mul_(_measure_overlaps(low[..., 1], high[..., 1]))
    union = (areas[:, :, None] + areas[:, None, :]).sub_(intersection)
    # The operator compares in float64; against the float32 at or below the threshold, float32 gives the same answers.
    threshold = np.float32(iou_threshold)
    if float(threshold) > iou_threshold:
        threshold = np.nextafter(threshold, np.float32(-np.inf))
    return intersection.div_(union) > float(threshold)


def _measure_overlaps(low: Tensor, high: Tensor) -> Tensor:
    """Return the length that each interval of an image has in common with each other, (B, N, N), for two (B, N)."""
    ends = torch.minimum(high[:, :, None], high[:, None, :])
    return ends.sub_(torch.maximum(low[:, :, None], low[:, None, :])).clamp_(min=0)


def suppress(rows: Tensor, settings: InferenceSettings) -> Tensor:
    """Return the rows that greedy non-maximum suppression per class leaves, the best first, of those of one image.

    A row is x0, y0, x1, y1, confidence, class, float32; any further columns follow along. Raise ImageError where there
    are more rows than go in, and none may be left out.
    """
    if settings.withholds and len(rows) > MAX_CANDIDATES:
        raise ImageError(f"has {len(rows)} boxes before suppression, more than {MAX_CANDIDATES}: raise --confidence")
    rows = rows[rows[:, 4].argsort(descending=True, stable=True)[:MAX_CANDIDATES]]
    if not len(rows):
        return rows
    # Boxes of different classes are moved apart by as much as in YOLOv5, so that rounding decides ties as there.
    step = (rows[:, :4].max() - rows[:, :4].min() + 1).clamp(min=_CLASS_STEP)
    boxes = rows[:, :4] + rows[:, 5:6] * step
    indices: Tensor = _load_nms()(boxes, rows[:, 4], settings.iou_threshold)
    return rows[indices]


def _load_nms() -> Any:
    """Return torchvision's operator from its library file: importing the package itself would take 5 s."""
    if not hasattr(torch.ops.torchvision, "nms"):
        spec = importlib.util.find_spec("torchvision")
        assert spec is not None and spec.origin is not None
        torch.ops.load_library(Path(spec.origin).with_name("_C.so"))  # type: ignore[no-untyped-call]
    return torch.ops.torchvision.nms
