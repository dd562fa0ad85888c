"""YOLOv5's loss for images that are labelled for some classes or in some places only, and for several workers.

Where everything is labelled and one worker computes it, it is YOLOv5's `ComputeLoss`. Three things are added:

**Missing labels.** In an image that is labelled for plates only, the heads are there without a label, and must not
be taught as background. So where the model itself finds, above a low confidence, that a class without labels is more
likely than all labelled ones, the objectness of an anchor without a target is left alone: neither object nor
background. The class loss stays exclusive, since a box labelled `carplate` is no `head`, whatever else the image
holds; without that, sets that each label one class would never teach to tell the classes apart. The exception are
classes whose boxes may lie on one another (a face fills most of its head): there the missing class is masked.

**Ignore regions.** Of what lies in one nobody knows whether it is an object: the objectness of an anchor without a
target whose cell lies in one, or half of whose box does, is left alone, whatever the model thinks of it.

**Several workers.** YOLOv5 takes means over the targets of a batch. The means here are over the whole batch: counts
are summed over the workers first, so that the workers' losses (and gradients) add up to those of one worker.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depers.detection import yolo

CONFIDENT = 0.02
"""The objectness above which an anchor may be an object of a class without labels: twice that of plain background."""
INSIDE = 0.5
"""The share of a predicted box that must lie in an ignore region for it to be left alone."""
_REGIONS = 32  # that are looked at together: more would take much memory
SAME_PLACE = (("face", "head"),)
"""Pairs of classes of which one box may be both."""


class Loss:
    """Box, objectness and class loss of a model with YOLOv5's gains in `model.hyp`."""

    def __init__(
        self, model: nn.Module, names: Sequence[str], sum_over_workers: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Take the gains from the model. `sum_over_workers` sums a tensor over the workers, if there are several."""
        parts = yolo.load_training_parts()
        self._base: Any = parts.ComputeLoss(model)
        self._base.BCEcls.reduction = self._base.BCEobj.reduction = "none"
        self._measure_overlap, self._sum_over_workers = parts.bbox_iou, sum_over_workers
        same_place = torch.zeros(len(names), len(names), dtype=torch.bool)
        for pair in SAME_PLACE:
            if all(name in names for name in pair):
                first, second = (list(names).index(name) for name in pair)
                same_place[first, second] = same_place[second, first] = True
        self._same_place = same_place.to(self._base.device)  # (C, C)

    def __call__(
        self,
        predictions: Sequence[Tensor],
        targets: Tensor,
        unlabelled: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return this worker's share of the loss, times the whole batch's size, and its three parts (3,).

        The parts are box, objectness and class, without gradients. `predictions` float32 per level (B, anchors, rows,
        columns, 5 + C), `targets` (N, 6): image, class, cx, cy, w, h in 0…1, `unlabelled` bool (B, C): classes that
        the image has no labels for, if any, `ignored` (R, 6), as `targets`: ignore regions, if any.
        """
        base = self._base
        classes, boxes, places, anchors = base.build_targets(predictions, targets)
        batch_size, *target_counts = float(len(predictions[0])), *map(len, classes)
        if self._sum_over_workers:
            counts = torch.tensor([batch_size, *target_counts], dtype=torch.float64, device=base.device)
            batch_size, *target_counts = self._sum_over_workers(counts).tolist()
        parts = predictions[0].new_zeros(3)
        for level, outputs in enumerate(predictions):
            place = places[level]  # image, anchor, row, column of the targets, each (N,)
            image = place[0]
            objectness = torch.zeros_like(outputs[..., 0])
            if len(image):
                rows = outputs[place]
                center = rows[:, :2].sigmoid() * 2 - 0.5
                size = (rows[:, 2:4].sigmoid() * 2) ** 2 * anchors[level]
                overlap = self._measure_overlap(torch.cat((center, size), 1), boxes[level], CIoU=True).squeeze(-1)
                parts[0] += (1 - overlap).sum() / target_counts[level]
                objectness[place] = overlap.detach().clamp(0).type(objectness.dtype)
                if base.nc > 1:
                    one_hot = torch.full_like(rows[:, 5:], base.cn)
                    one_hot[range(len(image)), classes[level]] = base.cp
                    losses = base.BCEcls(rows[:, 5:], one_hot)
                    unknown = self._find_unknown_classes(place, boxes[level], outputs, unlabelled, ignored)
                    if unknown is not None:
                        losses = losses.masked_fill(unknown & self._same_place[classes[level]], 0)
                    parts[2] += losses.sum() / (target_counts[level] * base.nc)
            losses = base.BCEobj(outputs[..., 4], objectness)
            is_unknown = torch.zeros_like(objectness, dtype=torch.bool)
            if unlabelled is not None:
                is_unknown |= find_perhaps_unlabelled(outputs.detach(), unlabelled)
            if ignored is not None:
                is_unknown |= find_ignored(outputs.detach(), base.anchors[level], ignored)
            if unlabelled is not None or ignored is not None:
                is_unknown[place] = False
                losses = losses.masked_fill(is_unknown, 0)
            parts[1] += losses.mean() * base.balance[level] * (len(outputs) / batch_size)
        gains = parts.new_tensor([base.hyp["box"], base.hyp["obj"], base.hyp["cls"]])
        return (parts * gains).sum() * batch_size, (parts * gains).detach()

    def _find_unknown_classes(
        self,
        place: Sequence[Tensor],
        boxes: Tensor,
        outputs: Tensor,
        unlabelled: Tensor | None,
        ignored: Tensor | None,
    ) -> Tensor | None:
        """Find the classes of which nobody knows whether a target (N,) is one of them too: bool (N, C), if any.

        `place` image, anchor, row, column of the targets, `boxes` (N, 4) from there, in cells of `outputs`.
        """
        image, _, row, column = place
        unknown = None if unlabelled is None else unlabelled[image]
        if ignored is None:
            return unknown
        centers = (boxes[:, :2] + torch.stack([column, row], 1)) / boxes.new_tensor(outputs.shape[3:1:-1])
        low, high = ignored[:, 2:4] - ignored[:, 4:] / 2, ignored[:, 2:4] + ignored[:, 4:] / 2
        is_in = ((centers[:, None] >= low) & (centers[:, None] <= high)).all(2)  # (N, R)
        is_in &= image[:, None] == ignored[:, 0].long()
        hidden = torch.zeros(len(image), self._base.nc, dtype=torch.bool, device=boxes.device)
        rows, regions = is_in.nonzero(as_tuple=True)
        hidden[rows, ignored[regions, 1].long()] = True
        return hidden if unknown is None else hidden | unknown


def find_perhaps_unlabelled(outputs: Tensor, unlabelled: Tensor) -> Tensor:
    """Find the anchors of a level (B, A, H, W, 5 + C) that may show a class their image is not labelled for, bool."""
    mask = unlabelled[:, None, None, None]  # (B, 1, 1, 1, C)
    scores = outputs[..., 5:]
    lowest = torch.finfo(scores.dtype).min
    likelier = scores.masked_fill(~mask, lowest).amax(-1) > scores.masked_fill(mask, lowest).amax(-1)
    return likelier & (outputs[..., 4].sigmoid() > CONFIDENT)


def find_ignored(outputs: Tensor, anchors: Tensor, ignored: Tensor) -> Tensor:
    """Find the anchors of a level (B, A, H, W, 5 + C) that lie in an ignore region of their image, bool.

    `anchors` (A, 2) in cells, `ignored` (R, 6): image, class, cx, cy, w, h in 0…1. An anchor lies in one if the middle
    of its cell does, or `INSIDE` of the box that it predicts.
    """
    is_ignored = torch.zeros(outputs.shape[:-1], dtype=torch.bool, device=outputs.device)
    height, width = outputs.shape[2:4]
    rows, columns = (torch.arange(side, device=outputs.device, dtype=outputs.dtype) for side in (height, width))
    cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)  # (H, W, 2): x, y
    size = outputs.new_tensor([width, height])
    for image in sorted(set(ignored[:, 0].long().tolist())):
        regions = ignored[ignored[:, 0] == image]
        center = outputs[image, ..., :2].sigmoid() * 2 - 0.5 + cells  # (A, H, W, 2)
        half = (outputs[image, ..., 2:4].sigmoid() * 2) ** 2 * anchors[:, None, None] / 2
        area = (4 * half.prod(-1)).clamp(min=1e-9)
        for part in torch.split(regions[:, 2:], _REGIONS):
            middle, reach = (
                values[:, None, None, None] for values in (part[:, :2] * size, part[:, 2:] * size / 2)
            )  # (R, 1, 1, 1, 2)
            is_ignored[image] |= ((cells + 0.5 - middle).abs() <= reach).all(-1).any(0)
            shared = torch.minimum(center + half, middle + reach) - torch.maximum(center - half, middle - reach)
            is_ignored[image] |= (shared.clamp(min=0).prod(-1) >= INSIDE * area).any(0)
    return is_ignored
