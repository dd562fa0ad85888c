"""The model that a training begins with: built, transferred, its anchors fitted, layers frozen, gains attached."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from depers import storage
from depers.detection import yolo
from depers.errors import UserError
from depers.training import anchors
from depers.training.data import Example

if TYPE_CHECKING:
    from depers.training.options import Options

_GOOD_RECALL = 0.98  # of anchors, above which those of given weights are kept, as YOLOv5


def prepare(
    options: "Options",
    names: Sequence[str],
    sizes: NDArray[np.float64],
    strength: Mapping[str, float],
    say: list[str],
) -> Any:
    """The model, float32 on the CPU, with `hyp`; `sizes` (N, 2) are the labels' in pixels at `imgsz`.

    Adds lines on what was done to `say`. Raises UserError for weights of another architecture, and for a size that is
    no multiple of the model's stride.
    """
    torch.manual_seed(options.seed)
    given = yolo.load(options.weights, storage.read_bytes(options.weights)) if options.weights else None
    architecture: Any = options.model or (given.yaml if given is not None else "yolov5n")
    count = round(strength["anchors"]) if strength.get("anchors") else None
    model: Any = yolo.build(architecture, names, count)
    stride = int(model.stride.max())
    if options.imgsz % stride:
        raise UserError(f"--imgsz must be a multiple of {stride} for this model, but got {options.imgsz}")
    if given is not None:
        taken = transfer(model, given, count is None, str(options.weights))
        say.append(f"{taken} of {len(model.state_dict())} tensors from {options.weights}")
    if options.autoanchor:
        say += _fit_anchors(model, sizes, strength["anchor_t"], options.seed, fresh=given is None or count is not None)
    model.half().float()  # anchors as float16 files will hold them
    if options.freeze:
        layers = range(options.freeze[0]) if len(options.freeze) == 1 else options.freeze
        prefixes = tuple(f"model.{layer}." for layer in layers)
        frozen = [parameter for name, parameter in model.named_parameters() if name.startswith(prefixes)]
        for parameter in frozen:
            parameter.requires_grad = False
        say.append(f"{len(frozen)} tensors frozen, of layers {', '.join(map(str, layers))}")
    levels = model.model[-1].nl
    # The loss expects its gains on the model, scaled to the number of levels, classes and pixels.
    model.hyp = {
        **strength,
        "box": strength["box"] * 3 / levels,
        "cls": strength["cls"] * len(names) / 80 * 3 / levels,
        "obj": strength["obj"] * (options.imgsz / 640) ** 2 * 3 / levels,
        "label_smoothing": options.label_smoothing,
    }
    return model


def transfer(model: Any, source: Any, keep_anchors: bool, uri: str) -> int:
    """Takes over the weights that fit by name and shape, and if wanted the anchors, which belong to them.

    Gives the number of tensors taken. Raises UserError where less than half of the convolutions fit: it is another
    architecture.
    """
    target, given = model.state_dict(), source.state_dict()
    fitting = {
        name: value
        for name, value in given.items()
        if name in target and value.shape == target[name].shape and (keep_anchors or not name.endswith("anchors"))
    }
    convolutions = [name for name in target if name.endswith("conv.weight")]
    found = sum(name in fitting for name in convolutions)
    if 2 * found < len(convolutions):
        raise UserError(
            f"{uri}: must be weights of the same architecture, but only {found} of {len(convolutions)} convolutions"
            " fit; is it another size of YOLOv5?"
        )
    model.load_state_dict(fitting, strict=False)
    if any(name.endswith("anchors") for name in fitting):
        model.yaml["anchors"] = source.yaml["anchors"]
    return len(fitting)


def _fit_anchors(model: Any, sizes: NDArray[np.float64], most: float, seed: int, fresh: bool) -> list[str]:
    """Gives the model the anchors that fit the labels; those of given weights stay where they are good enough."""
    head = model.model[-1]
    strides = head.stride.view(-1, 1, 1)
    own = (head.anchors * strides).reshape(-1, 2).double().numpy()
    before = anchors.anchor_recall(sizes, own, most)
    if not fresh and before > _GOOD_RECALL:
        return [f"anchors kept: they fit {before:.1%} of the boxes"]
    fitted = anchors.fit_anchors(sizes, head.nl, seed, head.na)
    after = anchors.anchor_recall(sizes, np.array(fitted).reshape(-1, 2), most)
    if after < before:
        return [f"anchors kept: they fit {before:.1%} of the boxes, new ones {after:.1%}"]
    head.anchors.copy_(torch.tensor(fitted).view_as(head.anchors) / strides)
    model.yaml["anchors"] = fitted
    return [f"anchors fitted to {after:.1%} of the boxes (before {before:.1%})"]


def box_sizes(examples: Sequence[Example], sizes_wh: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Widths and heights (N, 2) of all labels, in pixels of the scaled images."""
    return np.concatenate([e.boxes_xywh[:, 2:] * wh for e, wh in zip(examples, sizes_wh, strict=True)])


def image_chances(
    examples: Sequence[Example], class_count: int, average_precisions: Sequence[float]
) -> NDArray[np.float64]:
    """YOLOv5's image weights (N,): more for images of rare classes, and of those that are found badly."""
    counts = np.array([np.bincount(e.class_ids, minlength=class_count) for e in examples])
    rarity = 1 / np.maximum(counts.sum(0), 1)
    worth = rarity / rarity.sum() * (1 - np.asarray(average_precisions)) ** 2
    return np.asarray((counts * worth).sum(1), np.float64)
