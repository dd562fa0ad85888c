"""depers in Python: a detector, redaction and metadata of one image, and every verb of the command line as a function.

Nothing here prints. What the user can put right is raised as `UserError`. The functions of verbs take the options of
the command line as keyword arguments (paths may be `Path`s, several values any sequence), start a local Ray where none
runs (and end it), and return what the verb did.
"""

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from depers.errors import UserError, as_user_error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from depers.commands.anonymize import AnonymizeResult
    from depers.commands.anonymize import Options as AnonymizeOptions
    from depers.commands.audit import AuditResult
    from depers.commands.demo import DemoResult
    from depers.commands.detect import DetectResult
    from depers.commands.evaluate import EvaluateResult
    from depers.commands.experiment import ExperimentResult
    from depers.commands.export import ExportResult
    from depers.commands.extract import ExtractResult
    from depers.commands.label import LabelResult
    from depers.commands.mission import MissionResult
    from depers.commands.normalize import NormalizeResult
    from depers.commands.synthesize import SynthesizeResult
    from depers.commands.train import TrainResult
    from depers.runtime.results import VerbResult
    from depers.training.threads import ThreadChooser

_DECISIVE_IMAGES = 2  # between two decisions how many threads look at an image
PathLike = Union[str, "os.PathLike[str]"]
"""A path, or the text of an s3:// URI."""


class Detection(NamedTuple):
    """A box that was found in an image: edges in pixels of the upright frame, the origin at the top left."""

    class_name: str
    confidence: float
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    model: str = ""
    """The file name of the weights that found it."""
    frame: int = 0
    """The frame or page of the image that it lies in."""


@contextlib.contextmanager
def _choose_threads(chooser: "ThreadChooser | None") -> Iterator[None]:
    """Compute an image with as many threads as pay; what else this process computes keeps all of them."""
    if chooser is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    chooser.resume()
    try:
        yield
        chooser.count_batch()
    finally:
        chooser.pause()
        torch.set_num_threads(threads)


class Detector:
    """One or more YOLOv5 models that look at single images, in this process, without Ray."""

    def __init__(self, *weights: PathLike, device: str = "auto", **options: Any) -> None:
        """Load the weights, each PATH_OR_URI[:model_class=class,…]; without any, the detector that is part of depers.

        `options` are those of `depers detect` that say how to look: classes, confidence, iou_threshold, thresholds,
        thresholds_anyway, within, max_detections, imgsz, tile, augment, multi_label, half_stride_pad, precision,
        max_megapixels. `device` auto is CUDA where this machine has it. Raises UserError for weights or options that
        will not do, and for thresholds that were found with others.
        """
        import torch

        from depers.commands import detect
        from depers.detection.detections import SCHEMA
        from depers.detection.settings import read_checkpoints
        from depers.options import build
        from depers.pipeline import run, workers
        from depers.pipeline.threshold_check import check_thresholds
        from depers.training.threads import ThreadChooser

        values = {"input": "images", "out": "detections", "weights": weights, "device": device} | options
        checked = build(detect.Options, values)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda needs a GPU, but this machine has none")
        self._job = run.make_job(
            checked,
            SCHEMA,
            lambda out: detect.write_boxes,
            multi_label=checked.multi_label,
            half_stride_pad=checked.half_stride_pad,
            device=device,
        )
        checkpoints = read_checkpoints(self._job.weights)
        detector = workers.make_detector(self._job, checkpoints)
        assert detector is not None  # there are weights
        check_thresholds(checked, self._job, checkpoints, detector.class_names, detector.arithmetic)
        self._detector = detector
        on_cpu = device == "cpu"
        self._chooser = ThreadChooser(torch.get_num_threads(), window=_DECISIVE_IMAGES) if on_cpu else None

    @property
    def class_names(self) -> list[str]:
        """The classes that are looked for."""
        return list(self._detector.class_names)

    def detect(self, data: bytes) -> list[Detection]:
        """Return what is found in the bytes of an image file, in all of its frames, as `depers detect` finds it.

        Raises UserError where the bytes are no image that can be looked at.
        """
        from depers.pipeline import steps

        item = steps.prepare(self._job, steps.Item("image", data), self._detector.stride)
        with _choose_threads(self._chooser):
            [(item, rows)] = steps.detect(self._job, [item], self._detector)
        if item.reason:
            raise UserError(f"the image {item.reason}")
        return [Detection(row["class"], *(row[name] for name in Detection._fields[1:])) for row in rows]


def redact(
    data: bytes,
    boxes: "Sequence[Detection] | ArrayLike",
    *,
    mode: str = "pixelate",
    margin: float = 0.1,
    keep_metadata: Sequence[str] = (),
    max_megapixels: float | None = None,
) -> bytes:
    """Return an image file of the same format with every box made unrecognizable, and without metadata.

    `boxes` are detections; or an array (N, 4) of x_min, y_min, x_max, y_max in pixels of the upright image, all of its
    first frame. The options are those of `depers anonymize`. Raises UserError for a value that is not allowed, and
    where the bytes are no image that can be redacted.
    """
    from depers.anonymization.redact_step import split_by_frame
    from depers.imaging.headers import ImageError, read_header
    from depers.redaction.files import redact_file

    limits = {} if max_megapixels is None else {"max_megapixels": max_megapixels}
    options = _check_redaction(mode=mode, margin=margin, keep_metadata=keep_metadata, **limits)
    detections = _as_detections(boxes)
    try:
        header = read_header(data, options.max_megapixels)
        _check_inside(detections, header.upright_wh)
        rows = [detection._asdict() for detection in detections]
        redacted = redact_file(
            data,
            split_by_frame(rows, len(header.pages), options.margin),
            mode=options.mode,
            keep_metadata=options.keep_metadata,
            max_megapixels=options.max_megapixels,
            header=header,
        )
    except ImageError as error:
        raise UserError(f"the image {error}") from None
    return redacted.data


def _check_redaction(**values: Any) -> "AnonymizeOptions":
    """Return options of `depers anonymize`, of which only these are of interest. Raises UserError."""
    from depers.commands.anonymize import Options
    from depers.options import build

    return build(Options, {"input": "images", "out": "redacted", "weights": "of no interest"} | values)


def _as_detections(boxes: "Sequence[Detection] | ArrayLike") -> list[Detection]:
    """Return boxes that `redact` takes as detections. Raises UserError for anything else."""
    import numpy as np

    detections: Any = boxes
    if not isinstance(boxes, Sequence) or not all(isinstance(box, Detection) for box in boxes):
        try:
            edges = np.asarray(boxes, np.float32)
        except (TypeError, ValueError):
            raise UserError(f"boxes must be detections or an array (N, 4) of numbers, but got {boxes!r:.80}") from None
        if edges.ndim != 2 or edges.shape[1] != 4:
            raise UserError(f"boxes must be an array (N, 4), but its shape is {edges.shape}")
        detections = [Detection("", 1.0, *box) for box in edges.tolist()]
    if not all(np.isfinite(detection[2:6]).all() for detection in detections):
        raise UserError("boxes must be finite")
    return list(detections)


def _check_inside(detections: Sequence[Detection], first_wh: tuple[int, int]) -> None:
    """Raise UserError for a box that would paint no pixel: nothing is given back as redacted that is not.

    `first_wh` is the size of the first frame; other pages of a TIFF may be larger.
    """
    for detection in detections:
        edges = detection[2:6]
        x_min, y_min, x_max, y_max = edges
        if not (x_min < x_max and y_min < y_max):
            raise UserError(f"a box must have x_min < x_max and y_min < y_max, but is {edges}")
        width, height = first_wh if detection.frame == 0 else (float("inf"), float("inf"))
        if x_max <= 0 or y_max <= 0 or x_min >= width or y_min >= height:
            raise UserError(f"a box must lie in the image of {first_wh[0]} × {first_wh[1]} pixels, but is {edges}")


def find_metadata(data: bytes, keep_metadata: Sequence[str] = ()) -> list[str]:
    """Return what an image file holds besides image, orientation and neutral color profile, a line for each.

    `keep_metadata` names what may be there: date, camera, gps, panorama. Bytes that are no image, or a damaged one,
    are a line as well. Raises UserError for another name.
    """
    from depers.imaging.metadata.residue import find_residue

    return find_residue(data, _check_redaction(keep_metadata=keep_metadata).keep_metadata)


def normalize(raw: PathLike, out: PathLike, **options: Any) -> "NormalizeResult":
    """Make one checked dataset of raw labels. Raises UserError."""
    result: NormalizeResult = _call("normalize", raw=raw, out=out, **options)
    return result


def label(dataset: PathLike, out: PathLike, **options: Any) -> "LabelResult":
    """Have detectors label what people did not, in a partly labelled dataset. Raises UserError."""
    result: LabelResult = _call("label", dataset=dataset, out=out, **options)
    return result


def extract(dataset: PathLike, out: PathLike, **options: Any) -> "ExtractResult":
    """Cut a dataset's training images into backgrounds and sprites. Raises UserError."""
    result: ExtractResult = _call("extract", dataset=dataset, out=out, **options)
    return result


def synthesize(extracted: PathLike, out: PathLike, *, count: int, **options: Any) -> "SynthesizeResult":
    """Make `count` labelled images of extracted backgrounds and sprites. Raises UserError."""
    result: SynthesizeResult = _call("synthesize", extracted=extracted, out=out, count=count, **options)
    return result


def train(dataset: PathLike, out: PathLike, **options: Any) -> "TrainResult":
    """Train a YOLOv5 detector on a dataset. Raises UserError."""
    result: TrainResult = _call("train", dataset=dataset, out=out, **options)
    return result


def detect(input: PathLike, out: PathLike, **options: Any) -> "DetectResult":
    """Write the boxes that detectors find in a folder of images. Raises UserError."""
    result: DetectResult = _call("detect", input=input, out=out, **options)
    return result


def evaluate(dataset: PathLike, out: PathLike, **options: Any) -> "EvaluateResult":
    """Measure detectors on a dataset. Raises UserError."""
    result: EvaluateResult = _call("evaluate", dataset=dataset, out=out, **options)
    return result


def export(weights: PathLike, images: PathLike, out: PathLike, **options: Any) -> "ExportResult":
    """Write a detector as a TorchScript or ONNX program, compared with its weights on `images`. Raises UserError."""
    result: ExportResult = _call("export", weights=weights, images=images, out=out, **options)
    return result


def anonymize(input: PathLike, out: PathLike, **options: Any) -> "AnonymizeResult":
    """Mirror a folder of images with faces, people and plates made unrecognizable. Raises UserError."""
    result: AnonymizeResult = _call("anonymize", input=input, out=out, **options)
    return result


def audit(out: PathLike, **options: Any) -> "AuditResult":
    """Check what `anonymize` wrote. Raises UserError."""
    result: AuditResult = _call("audit", out=out, **options)
    return result


def experiment(dataset: PathLike, out: PathLike, **options: Any) -> "ExperimentResult":
    """Measure whether synthetic images help. Raises UserError."""
    result: ExperimentResult = _call("experiment", dataset=dataset, out=out, **options)
    return result


def mission(file: PathLike, **options: Any) -> "MissionResult":
    """Run the steps of a YAML file, from raw labels to an audited archive. Raises UserError."""
    result: MissionResult = _call("mission", file=file, **options)
    return result


def demo(out: PathLike, **options: Any) -> "DemoResult":
    """Go through the whole mission on drawn street scenes. Raises UserError."""
    result: DemoResult = _call("demo", out=out, **options)
    return result


def _call(verb: str, **values: Any) -> Any:
    from depers.options import build

    options = build(importlib.import_module(f"depers.commands.{verb}").Options, values)
    try:
        return run_verb(verb, options)
    except Exception as error:
        if (cause := as_user_error(error)) is not None and cause is not error:
            raise cause from error  # as a worker raised it; Ray has wrapped it
        raise


def run_verb(verb: str, options: Any, debug: bool = False) -> "VerbResult":
    """Run a verb with its `Options`, on the Ray that runs, that RAY_ADDRESS names, or a local one for this call alone.

    A verb whose `plan_processes` says so needs no local one: processes of this machine do its work.

    Raises UserError, perhaps wrapped by Ray, for what the user can put right.
    """
    from depers.runtime import capacity, local_pool, places
    from depers.runtime.cluster import explained_space, is_named, start_ray
    from depers.runtime.telemetry.observed_run import observe_run

    module = importlib.import_module(f"depers.commands.{verb}")
    places.announce_stores(options)
    if check := getattr(module, "check", None):
        check(options)  # what is wrong with the input costs no waiting
    work = module.forecast if getattr(options, "dry_run", False) else module.run
    plan = module.plan_processes(options) if hasattr(module, "plan_processes") and not is_named() else None
    if plan is not None:
        with local_pool.open_pool(plan):
            local_result: VerbResult = observe_run(verb, lambda: work(options))
            return local_result
    has_started = start_ray(debug)
    try:
        with warnings.catch_warnings(), capacity.announced_wait(), explained_space():
            if not debug:
                warnings.filterwarnings("ignore", module=r"ray\.")  # advice on Ray Data's tuning
            places.warn_of_variables()
            places.check_places(options)
            result: VerbResult = observe_run(verb, lambda: work(options))
            return result
    finally:
        if has_started:
            sys.modules["ray"].shutdown()
