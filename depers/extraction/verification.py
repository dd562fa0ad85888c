"""Verification: a background in which a detector still finds an object is none."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from depers.boxes import Boxes, shares_inside
from depers.detection import settings
from depers.detection.detections import Detections
from depers.detection.settings import InferenceSettings, parse_weights
from depers.detection.tiling import View
from depers.errors import UserError
from depers.extraction.take_apart import DecomposedImage, VerificationSettings
from depers.runtime.cluster import choose_device
from depers.runtime.tasks import run_tasks
from depers.statuses import SourceStatus

if TYPE_CHECKING:
    from depers.detection.detector import Detector

_SAME = 0.5  # a finding of which that much lies in an object that was kept is that object


@lru_cache(maxsize=1)
def load_detector(
    weights: tuple[str, ...], wanted: tuple[str, ...], how: InferenceSettings, checkpoints: tuple[bytes, ...]
) -> "Detector":
    """The detector of these `--weights`, loaded once in a process. Raises UserError as `Detector` does."""
    import torch

    from depers.detection.detector import Detector

    torch.set_num_threads(1)  # one task per core
    return Detector([parse_weights(text) for text in weights], checkpoints, wanted, how)


def verify_backgrounds(batch: Sequence[DecomposedImage], detector: "Detector") -> list[DecomposedImage]:
    """Leaves out the backgrounds in which the detector still finds something, or fails."""
    from depers.detection.detector import detect_canvases  # imports torch, which drivers do without

    found = iter(detect_canvases([parts.view.canvas for parts in batch if parts.view], detector))
    return [_judged(parts, parts.view, next(found), detector) if parts.view else parts for parts in batch]


def _judged(parts: DecomposedImage, view: View, answer: Detections | str, detector: "Detector") -> DecomposedImage:
    names = detector.class_names
    reason = answer if isinstance(answer, str) else _still_there(view.locate(answer), parts.kept, names)
    if not reason:
        return replace(parts, view=None)
    row = parts.row | {"status": SourceStatus.SKIPPED, "reason": reason, "background": None, "labels": []}
    return replace(parts, row=row, background=b"", view=None)


def _still_there(found: Detections, kept: Boxes, names: Sequence[str]) -> str:
    """What is found beside the objects that were kept; empty if nothing is."""
    known = (shares_inside(found.boxes_xyxy, kept) >= _SAME).any(axis=1)
    classes = sorted({names[class_id] for class_id in found.class_ids[~known].tolist()})
    return f"the detector still finds {', '.join(classes)}" if classes else ""


def prepare(
    weights: tuple[str, ...], names: Sequence[str], how: InferenceSettings
) -> tuple[VerificationSettings, list[bytes]]:
    """How to look for the classes of the dataset, `auto` devices settled, and the checkpoints of the `--weights`.

    Raises UserError for weights that will not do, or know none of the classes.
    """
    import ray

    how = replace(how, device=choose_device(how.device))
    checkpoints = settings.read_checkpoints([parse_weights(text) for text in weights])
    known, stride = next(run_tasks(_inspect, [(weights, how, ray.put(checkpoints))], num_gpus=gpu_share(how)))
    wanted = tuple(name for name in names if name in known)
    if not wanted:
        theirs, ours = ", ".join(known), ", ".join(names)
        raise UserError(
            f"--weights must know a class of the dataset ({ours}), but know {theirs}; map them: W:{known[0]}=…"
        )
    return VerificationSettings(weights, wanted, how, stride), checkpoints


def _inspect(weights: tuple[str, ...], how: InferenceSettings, checkpoints: Sequence[bytes]) -> tuple[list[str], int]:
    detector = load_detector(weights, (), how, tuple(checkpoints))
    return detector.class_names, detector.stride


def gpu_share(how: InferenceSettings | None) -> float:
    """Return the GPUs that a task for one core needs: where it detects on GPUs, an equal part of them; else 0."""
    import ray

    if how is None or how.device != "cuda":
        return 0
    cores, gpus = (ray.cluster_resources().get(kind, 1) for kind in ("CPU", "GPU"))
    return float(min(1.0, gpus / cores))
