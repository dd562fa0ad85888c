"""Verification: a background in which a detector still finds an object is none."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from depers.boxes import shares_inside
from depers.detection import settings
from depers.detection.detections import Detections
from depers.detection.settings import InferenceSettings, parse_weights
from depers.detection.tiling import View
from depers.errors import UserError
from depers.extraction.take_apart import DecomposedImage, VerificationSettings
from depers.runtime import capacity
from depers.runtime.tasks import run_tasks
from depers.statuses import SourceStatus

if TYPE_CHECKING:
    from depers.detection.detector import DetectorEnsemble

_SAME = 0.5  # share of a detection that lies in an object still there, from which it is that object


@lru_cache(maxsize=1)
def load_detector(verification: VerificationSettings, checkpoints: tuple[bytes, ...]) -> "DetectorEnsemble":
    """Return the detector of these settings, loaded once in a process; raise UserError as `DetectorEnsemble` does."""
    import torch

    from depers.detection.detector import DetectorEnsemble

    torch.set_num_threads(1)  # one task per core
    weights = [parse_weights(text) for text in verification.weights]
    return DetectorEnsemble(weights, checkpoints, verification.classes, verification.inference)


def verify_backgrounds(batch: Sequence[DecomposedImage], detector: "DetectorEnsemble") -> list[DecomposedImage]:
    """Drop the backgrounds in which the detector still finds something, or fails."""
    from depers.detection.detector import detect_canvases  # imports torch, which drivers do without

    answers = iter(detect_canvases([image.view.canvas for image in batch if image.view], detector))
    return [_verify(image, image.view, next(answers), detector) if image.view else image for image in batch]


def _verify(
    image: DecomposedImage, view: View, answer: Detections | str, detector: "DetectorEnsemble"
) -> DecomposedImage:
    names = detector.class_names
    reason = answer if isinstance(answer, str) else _describe_remains(view.locate(answer), image, names)
    if not reason:
        return replace(image, view=None)
    row = image.row | {"status": SourceStatus.SKIPPED, "reason": reason, "background": None, "labels": []}
    return replace(image, row=row, background=b"", view=None)


def _describe_remains(detections: Detections, image: DecomposedImage, names: Sequence[str]) -> str:
    """Return what is detected beside the objects that remain on purpose; empty if nothing is.

    Only what the image is labelled for counts: the rest may be there.
    """
    is_remaining = (shares_inside(detections.boxes_xyxy, image.remaining_boxes) >= _SAME).any(axis=1)
    remaining_classes = {names[class_id] for class_id in detections.class_ids[~is_remaining].tolist()}
    classes = sorted(remaining_classes & image.labelled_names)
    return f"the detector still finds {', '.join(classes)}" if classes else ""


def prepare(
    weights: tuple[str, ...], names: Sequence[str], inference: InferenceSettings
) -> tuple[VerificationSettings, list[bytes]]:
    """Return the settings for the classes of the dataset, `auto` devices settled, and the checkpoints of `--weights`.

    Raise UserError for weights that will not do, or know none of the classes.
    """
    import ray

    inference = replace(inference, device=capacity.choose_device(inference.device))
    checkpoints = settings.read_checkpoints([parse_weights(text) for text in weights])
    calls = [(weights, inference, ray.put(checkpoints))]
    model_classes, stride = next(run_tasks(_inspect, calls, num_gpus=gpu_share(inference)))
    classes = tuple(name for name in names if name in model_classes)
    if not classes:
        raise UserError(
            f"--weights must know a class of the dataset ({', '.join(names)}), but know {', '.join(model_classes)};"
            f" map them: W:{model_classes[0]}=…"
        )
    return VerificationSettings(weights, classes, inference, stride), checkpoints


def _inspect(
    weights: tuple[str, ...], inference: InferenceSettings, checkpoints: Sequence[bytes]
) -> tuple[list[str], int]:
    detector = load_detector(VerificationSettings(weights, (), inference, 0), tuple(checkpoints))
    return detector.class_names, detector.stride


def gpu_share(inference: InferenceSettings | None) -> float:
    """Return the GPUs that a task for one core needs: where it detects on GPUs, an equal part of a node's; else 0."""
    if inference is None or inference.device != "cuda":
        return 0
    return min(1.0, 1 / capacity.measure().cpus_per_gpu())
