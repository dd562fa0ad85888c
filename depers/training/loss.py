"""YOLOv5's loss for images that are labelled for some classes only, and for several workers.

Where everything is labelled and one worker computes it, it is YOLOv5's `ComputeLoss`. Two things are added:

**Missing labels.** In an image that is labelled for plates only, the heads are there without a label, and must not
be taught as background. So where the model itself finds, above a low confidence, that a class without labels is more
likely than all labelled ones, the objectness of an anchor without a target is left alone: neither object nor
background. The class loss stays exclusive, since a box labelled `carplate` is no `head`, whatever else the image
holds; without that, sets that each label one class would never teach to tell the classes apart. The exception are
classes whose boxes may lie on one another (a face fills most of its head): there the missing class is masked.

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
        self, predictions: Sequence[Tensor], targets: Tensor, unlabelled: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return this worker's share of the loss, times the whole batch's size, and its three parts (3,).

        The parts are box, objectness and class, without gradients. `predictions` float32 per level (B, anchors, rows,
        columns, 5 + C), `targets` (N, 6): image, class, cx, cy, w, h in 0…1, `unlabelled` bool (B, C): classes that
        the image has no labels for, if any.
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
                    if unlabelled is not None:
                        losses = losses.masked_fill(unlabelled[image] & self._same_place[classes[level]], 0)
                    parts[2] += losses.sum() / (target_counts[level] * base.nc)
            losses = base.BCEobj(outputs[..., 4], objectness)
            if unlabelled is not None:
                unknown = find_perhaps_unlabelled(outputs.detach(), unlabelled)
                unknown[place] = False
                losses = losses.masked_fill(unknown, 0)
            parts[1] += losses.mean() * base.balance[level] * (len(outputs) / batch_size)
        gains = parts.new_tensor([base.hyp["box"], base.hyp["obj"], base.hyp["cls"]])
        return (parts * gains).sum() * batch_size, (parts * gains).detach()


def find_perhaps_unlabelled(outputs: Tensor, unlabelled: Tensor) -> Tensor:
    """Find the anchors of a level (B, A, H, W, 5 + C) that may show a class their image is not labelled for, bool."""
    mask = unlabelled[:, None, None, None]  # (B, 1, 1, 1, C)
    scores = outputs[..., 5:]
    lowest = torch.finfo(scores.dtype).min
    likelier = scores.masked_fill(~mask, lowest).amax(-1) > scores.masked_fill(mask, lowest).amax(-1)
    return likelier & (outputs[..., 4].sigmoid() > CONFIDENT)
