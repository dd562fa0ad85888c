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

    def __init__(self, model: nn.Module, names: Sequence[str], total: Callable[[Tensor], Tensor] | None = None) -> None:
        """`total` sums a tensor over the workers, if there are several."""
        parts = yolo.training_parts()
        self._base: Any = parts.ComputeLoss(model)
        self._base.BCEcls.reduction = self._base.BCEobj.reduction = "none"
        self._overlap_of, self._total = parts.bbox_iou, total
        alike = torch.zeros(len(names), len(names), dtype=torch.bool)
        for pair in SAME_PLACE:
            if all(name in names for name in pair):
                first, second = (list(names).index(name) for name in pair)
                alike[first, second] = alike[second, first] = True
        self._alike = alike.to(self._base.device)  # (C, C)

    def __call__(
        self, predictions: Sequence[Tensor], targets: Tensor, unlabelled: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """This worker's share of the loss, times the whole batch's size, and its box, objectness and class part (3,).

        `predictions` float32 per level (B, anchors, rows, columns, 5 + C), `targets` (N, 6): image, class, cx, cy, w,
        h in 0…1, `unlabelled` bool (B, C): classes that the image has no labels for, if any.
        """
        base = self._base
        classes, boxes, places, anchors = base.build_targets(predictions, targets)
        whole, *found = float(len(predictions[0])), *map(len, classes)
        if self._total:
            counts = torch.tensor([whole, *found], dtype=torch.float64, device=base.device)
            whole, *found = self._total(counts).tolist()
        losses = predictions[0].new_zeros(3)
        for level, predicted in enumerate(predictions):
            at = places[level]
            image = at[0]
            wanted = torch.zeros_like(predicted[..., 0])
            if len(image):
                own = predicted[at]
                center = own[:, :2].sigmoid() * 2 - 0.5
                size = (own[:, 2:4].sigmoid() * 2) ** 2 * anchors[level]
                overlap = self._overlap_of(torch.cat((center, size), 1), boxes[level], CIoU=True).squeeze(-1)
                losses[0] += (1 - overlap).sum() / found[level]
                wanted[at] = overlap.detach().clamp(0).type(wanted.dtype)
                if base.nc > 1:
                    right = torch.full_like(own[:, 5:], base.cn)
                    right[range(len(image)), classes[level]] = base.cp
                    each = base.BCEcls(own[:, 5:], right)
                    if unlabelled is not None:
                        each = each.masked_fill(unlabelled[image] & self._alike[classes[level]], 0)
                    losses[2] += each.sum() / (found[level] * base.nc)
            each = base.BCEobj(predicted[..., 4], wanted)
            if unlabelled is not None:
                unknown = perhaps_unlabelled(predicted.detach(), unlabelled)
                unknown[at] = False
                each = each.masked_fill(unknown, 0)
            losses[1] += each.mean() * base.balance[level] * (len(predicted) / whole)
        gains = losses.new_tensor([base.hyp["box"], base.hyp["obj"], base.hyp["cls"]])
        return (losses * gains).sum() * whole, (losses * gains).detach()


def perhaps_unlabelled(predicted: Tensor, unlabelled: Tensor) -> Tensor:
    """Which anchors of a level (B, A, H, W, 5 + C) may show a class that their image is not labelled for, bool."""
    missing = unlabelled[:, None, None, None]  # (B, 1, 1, 1, C)
    scores = predicted[..., 5:]
    lowest = torch.finfo(scores.dtype).min
    likelier = scores.masked_fill(~missing, lowest).amax(-1) > scores.masked_fill(missing, lowest).amax(-1)
    return likelier & (predicted[..., 4].sigmoid() > CONFIDENT)
