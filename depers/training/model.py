"""The model that a training begins with: built, transferred, its anchors fitted, layers frozen, gains attached."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from depers import storage
from depers.detection import yolo
from depers.errors import UserError
from depers.training.anchors import fit_anchors, measure_anchor_recall
from depers.training.images.examples import Example, ExampleTable

if TYPE_CHECKING:
    from depers.training.options import Options

_WEIGHED = 65_536  # images at a time
_GOOD_RECALL = 0.98  # of anchors, above which those of the weights stay, as YOLOv5


def build_model(
    options: "Options",
    names: Sequence[str],
    box_sizes: NDArray[np.float64],
    hyp: Mapping[str, float],
    messages: list[str],
) -> Any:
    """Build the model, float32 on the CPU, with `hyp`; `box_sizes` (N, 2) are the labels' in pixels at `imgsz`.

    Adds lines on what was done to `messages`. Raises UserError for weights of another architecture, and for a size
    that is no multiple of the model's stride.
    """
    torch.manual_seed(options.seed)
    source: Any = yolo.load(options.weights, storage.read_bytes(options.weights)) if options.weights else None
    architecture: Any = options.model or (source if source is not None else "yolov5n")
    anchor_count = round(hyp["anchors"]) if hyp.get("anchors") else None
    model: Any = yolo.build(architecture, names, anchor_count)
    stride = int(model.stride.max())
    if options.imgsz % stride:
        raise UserError(f"--imgsz must be a multiple of {stride} for this model, but got {options.imgsz}")
    if source is not None:
        count = transfer(model, source, anchor_count is None, str(options.weights))
        messages.append(f"{count} of {len(model.state_dict())} tensors from {options.weights}")
        if options.start_classes:
            class_ids = match_classes(options.start_classes, names, source.names)
            carry_head(model, source, class_ids, str(options.weights))
            pairs = ", ".join(f"{names[new]} from {source.names[old]}" for new, old in class_ids.items())
            messages.append(f"the head starts with {pairs}")
    if options.autoanchor:
        fresh = source is None or anchor_count is not None
        messages.append(_set_anchors(model, box_sizes, hyp["anchor_t"], options.seed, fresh))
    model.half().float()  # anchors as float16 files will hold them
    if options.freeze:
        layers = range(options.freeze[0]) if len(options.freeze) == 1 else options.freeze
        prefixes = tuple(f"model.{layer}." for layer in layers)
        frozen = [parameter for name, parameter in model.named_parameters() if name.startswith(prefixes)]
        for parameter in frozen:
            parameter.requires_grad = False
        messages.append(f"{len(frozen)} tensors frozen, of layers {', '.join(map(str, layers))}")
    levels = model.model[-1].nl
    # The loss expects its gains on the model, scaled to the number of levels, classes and pixels.
    model.hyp = {
        **hyp,
        "box": hyp["box"] * 3 / levels,
        "cls": hyp["cls"] * len(names) / 80 * 3 / levels,
        "obj": hyp["obj"] * (options.imgsz / 640) ** 2 * 3 / levels,
        "label_smoothing": options.label_smoothing,
    }
    return model


def transfer(model: Any, source: Any, keep_anchors: bool, uri: str) -> int:
    """Copy the weights that fit by name and shape, with `keep_anchors` also the anchors, which belong to them.

    Returns the number of tensors copied. Raises UserError where less than half of the convolutions fit: it is another
    architecture.
    """
    target = model.state_dict()
    fitting = {
        name: value
        for name, value in source.state_dict().items()
        if name in target and value.shape == target[name].shape and (keep_anchors or not name.endswith("anchors"))
    }
    convolutions = [name for name in target if name.endswith("conv.weight")]
    count = sum(name in fitting for name in convolutions)
    if 2 * count < len(convolutions):
        raise UserError(
            f"{uri}: must be weights of the same architecture, but only {count} of {len(convolutions)} convolutions"
            " fit; is it another size of YOLOv5?"
        )
    model.load_state_dict(fitting, strict=False)
    if any(name.endswith("anchors") for name in fitting):
        model.yaml["anchors"] = source.yaml.get("anchors", model.yaml["anchors"])
    return len(fitting)


def match_classes(texts: Sequence[str], names: Sequence[str], source_names: Mapping[int, str]) -> dict[int, int]:
    """Return which class id of a model starts from which of the weights; each text is class=class_of_weights,….

    Raise UserError for malformed text, a class that one of the two does not have, and one that is named twice.
    """
    source_ids = {name: class_id for class_id, name in source_names.items()}
    class_ids: dict[int, int] = {}
    for pair in (pair for text in texts for pair in text.split(",")):
        name, equals, source_name = (part.strip() for part in pair.partition("="))
        if not (name and equals and source_name):
            raise UserError(f"--start-classes must be class=class_of_weights,…, but got {pair!r}")
        if name not in names:
            raise UserError(f"--start-classes {pair}: must name a class of the dataset ({', '.join(names)}) first")
        if source_name not in source_ids:
            listing = ", ".join(source_ids)
            raise UserError(f"--start-classes {pair}: must name a class of the weights ({listing:.300}) after the =")
        if (class_id := names.index(name)) in class_ids:
            raise UserError(f"--start-classes must name each class once, but names {name} twice")
        class_ids[class_id] = source_ids[source_name]
    return class_ids


def carry_head(model: Any, source: Any, class_ids: Mapping[int, int], uri: str) -> None:
    """Give the rows of the detection layers what those of `source` know: all of boxes and objectness, and `class_ids`.

    `class_ids` maps class ids of the model to those of `source`; classes that it leaves out keep their fresh rows. A
    level's rows are those of its anchors in turn: center x, y, width, height, objectness, then the classes. Raise
    UserError where the levels, their channels or their number of anchors differ.
    """
    head, source_head = model.model[-1], source.model[-1]
    shapes = [[(level.in_channels, part.na) for level in part.m] for part in (head, source_head)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{uri}: --start-classes needs a head with the same levels and anchors, but it has {shapes[1]} instead of"
            f" {shapes[0]} (channels, anchors)"
        )
    rows, source_rows = [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]
    for class_id, source_id in class_ids.items():
        rows.append(5 + class_id)
        source_rows.append(5 + source_id)
    with torch.no_grad():
        for level, source_level in zip(head.m, source_head.m, strict=True):
            for parameter, source_parameter in (
                (level.weight, source_level.weight),
                (level.bias, source_level.bias),
            ):
                by_anchor = parameter.view(head.na, head.no, -1)
                by_anchor[:, rows] = source_parameter.float().view(head.na, source_head.no, -1)[:, source_rows]


def _set_anchors(model: Any, box_sizes: NDArray[np.float64], max_ratio: float, seed: int, fresh: bool) -> str:
    """Give the model anchors that fit the labels; unless it is `fresh`, good enough ones stay. Returns a line on it."""
    head = model.model[-1]
    strides = head.stride.view(-1, 1, 1)
    anchors = (head.anchors * strides).reshape(-1, 2).double().numpy()
    recall = measure_anchor_recall(box_sizes, anchors, max_ratio)
    if not fresh and recall > _GOOD_RECALL:
        return f"anchors kept: they fit {recall:.1%} of the boxes"
    new_anchors = fit_anchors(box_sizes, head.nl, seed, head.na)
    new_recall = measure_anchor_recall(box_sizes, np.array(new_anchors).reshape(-1, 2), max_ratio)
    if new_recall < recall:
        return f"anchors kept: they fit {recall:.1%} of the boxes, new ones {new_recall:.1%}"
    head.anchors.copy_(torch.tensor(new_anchors).view_as(head.anchors) / strides)
    model.yaml["anchors"] = new_anchors
    return f"anchors fitted to {new_recall:.1%} of the boxes (before {recall:.1%})"


def measure_boxes(examples: Sequence[Example], sizes_wh: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Return widths and heights (N, 2) of all labels, in pixels of images scaled to `sizes_wh`."""
    if isinstance(examples, ExampleTable):
        _, boxes_xywh = examples.labels.flatten()
        sizes = np.repeat(np.array(sizes_wh), examples.labels.count(), axis=0)
        return np.asarray(boxes_xywh[:, 2:].astype(np.float64) * sizes)
    return np.concatenate([example.boxes_xywh[:, 2:] * size for example, size in zip(examples, sizes_wh, strict=True)])


def weigh_images(
    examples: Sequence[Example], class_count: int, average_precisions: Sequence[float]
) -> NDArray[np.float64]:
    """Return YOLOv5's image weights (N,): more for images of rare classes, and of those that are found badly."""
    table = examples if isinstance(examples, ExampleTable) else ExampleTable.of(examples)
    totals = np.bincount(table.labels.flatten()[0], minlength=class_count)
    rarity = 1 / np.maximum(totals, 1)
    class_weights = rarity / rarity.sum() * (1 - np.asarray(average_precisions)) ** 2
    weights = np.empty(len(table))
    numbers = table.labels.count()
    for start in range(0, len(table), _WEIGHED):  # a count for each class and image is more than the labels themselves
        stop = min(start + _WEIGHED, len(table))
        rows = np.repeat(np.arange(stop - start), numbers[start:stop])
        cells = rows * class_count + table.labels.flatten(start, stop)[0]
        counts = np.bincount(cells, minlength=(stop - start) * class_count).reshape(-1, class_count)
        weights[start:stop] = (counts * class_weights).sum(1)
    return weights
