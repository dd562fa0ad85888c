"""The steps of one pass over images, read → prepare → detect → finish → record, as plain functions.

`depers.pipeline.workers` composes them; detection, anonymization and audit differ in `finish` alone. The last two are
in `depers.pipeline.outcomes`.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from depers import storage
from depers.archives.base import Member, MemberRules
from depers.detection import contexts, tiling
from depers.detection.detections import Detections, to_rows
from depers.detection.settings import InferenceSettings, Weights
from depers.detection.tiling import View
from depers.errors import typed_reason
from depers.imaging import sniffing
from depers.imaging.decoding import DecodedImage, decode, decode_frames
from depers.imaging.headers import ImageError, ImageHeader, read_header
from depers.pipeline.box_sources import BoxSource, ImageFacts, read_boxes
from depers.pipeline.box_tables import Row
from depers.resources import MIB
from depers.runtime import time_budget, units
from depers.runtime.time_budget import FILE_SECONDS
from depers.statuses import FileStatus
from depers.storage import Entry
from depers.storage.failures import explain
from depers.storage.tables import parquet_text

if TYPE_CHECKING:
    from depers.detection.detector import DetectorEnsemble


_LARGE_PIXELS = 8_000_000
_large_image_lock = threading.Lock()


@dataclass(frozen=True)
class Item:
    """One file on its way: its bytes, and after `prepare` what the detector looks at, or why it failed.

    `member` and `number` say which one of the archive `path` it is. `status` is empty for an image, else
    `passed_through` or `skipped`; `retry` that storage failed, not the file. `precomputed` is its row in an earlier
    manifest or table of boxes.
    """

    path: str
    data: bytes = b""
    member: str | None = None
    number: int | None = None
    size: int = 0
    status: str = ""
    reason: str = ""
    retry: bool = False
    view: View | None = None  # None also for what is looked at in several views, made only while it is
    size_wh: tuple[int, int] = (0, 0)
    frames: int = 1
    header: ImageHeader | None = None
    image: DecodedImage | None = None  # kept where preparing it took a full decode and it is not large
    precomputed: Row | None = None
    arithmetic: str | None = None  # of the detector that looked at it

    @property
    def place(self) -> str:
        """Its path, with its name in the archive: where it would lie if archives were folders."""
        return self.path if self.member is None else f"{self.path}/{self.member}"


class Outcome(NamedTuple):
    """What the last step makes of an item: its row, and the bytes to put in its place, if any.

    `retry`, which the pass sets itself, says that storage failed: the unit is done again by the next run. `stamp` is
    that of the result, once it is written.
    """

    row: Row
    data: bytes | None = None
    retry: bool = False
    stamp: str | None = None


Finish = Callable[[Item, Sequence[Row]], Outcome]
"""The last step: an item and its boxes, as rows of `detections.BOX` in upright pixels of their frames."""


class PassJob(NamedTuple):
    """All that a worker needs to know; it travels by pickle."""

    input: str
    out: str
    weights: tuple[Weights, ...]
    classes: tuple[str, ...]
    settings: InferenceSettings
    batch_size: int
    max_megapixels: float
    half_stride_pad: bool
    schema: pa.Schema
    finish: Finish
    mirrors: bool = False
    """Whether what `finish` gives is written to OUT, in the place of the input; else only its rows are."""
    keep: tuple[str, ...] = ()
    keep_columns: tuple[str, ...] = ()
    keep_anyway: bool = False
    """Whether what is kept may hold images."""
    tile: int | None = None
    thresholds: Mapping[str, float] = {}
    boxes: BoxSource | None = None
    """Where boxes come from instead of a detector."""
    records_beside: str | None = None
    """Where records lie that are not in OUT."""
    rename: Callable[[str], str] | None = None
    """What results and members are called, where it is not as their inputs are."""
    file_seconds: float = FILE_SECONDS
    """How long a file may take the processor in one step, but for the detector's part of it."""

    @property
    def records(self) -> str:
        """The folder of the records of what is done."""
        return self.records_beside or units.locate_inside(self.out)

    def locate(self, path: str) -> str:
        """Return the path below OUT of the result of an input."""
        return path if self.rename is None else self.rename(path)

    @property
    def rules(self) -> MemberRules:
        """What is read of archives: no image that is allowed has more than 8 bytes per pixel, and some around it."""
        most_bytes = int(self.max_megapixels * 8e6) + 64 * MIB
        return MemberRules(self.keep, most_bytes, self.keep_columns, self.keep_anyway)


def read(job: PassJob, entry: Entry, precomputed: Row | None = None) -> Item:
    """Return a loose file, or an item with the reason why it cannot be had; of what is skipped, the head is read."""
    item = Item(entry.path, size=max(0, entry.size), precomputed=precomputed)
    if entry.status:
        return replace(item, status=entry.status if entry.status == FileStatus.SKIPPED else "", reason=entry.reason)
    is_small = entry.size <= job.rules.most_bytes

    def is_needed(head: bytes) -> bool:
        return is_small and sniffing.classify(entry.path, head, job.keep)[0] != FileStatus.SKIPPED

    try:
        hint = sniffing.has_image_suffix(entry.path) and is_small
        data = storage.read_entry(job.input, entry, sniffing.HEAD, is_needed, hint)
        status, reason = sniffing.classify(entry.path, data[: sniffing.HEAD], job.keep)
    except Exception as error:
        return replace(item, reason=f"cannot be read ({explain(error)})", retry=isinstance(error, OSError))
    if status == FileStatus.SKIPPED:
        return replace(item, status=status, reason=reason)
    if not is_small:
        return replace(item, reason=f"must have at most {job.rules.most_bytes} bytes, but has {entry.size}")
    return replace(item, data=data, status=status or "")


def unpack(path: str, member: Member, precomputed: Row | None = None) -> Item:
    """Return a member of the archive at `path` as an item."""
    status = "" if member.status == FileStatus.FAILED else member.status
    return Item(
        path,
        data=member.data or b"",
        member=member.name,
        number=member.number,
        size=max(0, member.size),
        status=status,
        reason=member.reason,
        precomputed=precomputed,
    )


def prepare(job: PassJob, item: Item, stride: int) -> Item:
    """Decode and letterbox; JPEGs are decoded at a fraction of their size where that is enough.

    What has several frames, or is cut into tiles, is only checked: its views are made while they are looked at.
    """
    if item.reason or item.status:
        return item
    try:
        header = read_header(item.data, job.max_megapixels)
        checked = replace(item, header=header, size_wh=header.upright_wh, frames=len(header.pages))
        if not job.weights or checked.frames > 1 or (job.tile is not None and max(header.size_wh) > job.tile):
            return checked
        least = None if job.half_stride_pad else job.settings.imgsz  # `yolov5 val` shrinks what it has decoded whole
        rgb, image = _decode_for_detection(item.data, header, least)
        view = tiling.view_whole(rgb, checked.size_wh, job.settings.imgsz, stride, job.half_stride_pad)
        return replace(checked, view=view, image=image)
    except ImageError as error:
        return replace(item, reason=str(error))
    except Exception as error:
        return replace(item, reason=f"cannot be prepared ({typed_reason(error)})")


def _decode_for_detection(
    data: bytes, header: ImageHeader, least: int | None
) -> tuple[NDArray[np.uint8], DecodedImage | None]:
    """Return RGB for the detector, and the full image where it was decoded anyway and is not large.

    The longer side has at least `least` pixels; without it, all it has.
    """
    plain = header.format == "JPEG" and header.mode == "RGB" and header.orientation == 1
    if plain and least is not None and max(header.size_wh) >= 2 * least:
        # By a power of two, which is what libjpeg-turbo has fast transforms for: by 3/8, say, takes longer than by 1/2.
        factor = min(8, 2 ** int(math.log2(max(header.size_wh) / least)))
        width, height = (side // factor for side in header.size_wh)
        try:
            rgb = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=2, strict=True)
            return rgb, None
        except ValueError:
            pass  # the full decode decides whether it is whole
    with memory_slot(header.size_wh):
        image = decode(data, header=header)
        return image.rgb(), image if header.pixels <= _LARGE_PIXELS else None


@contextmanager
def memory_slot(size_wh: tuple[int, int]) -> Iterator[None]:
    """Let one large image of the process at a time into the block: its memory must not depend on what it is fed."""
    if size_wh[0] * size_wh[1] <= _LARGE_PIXELS:
        yield
    else:
        with _large_image_lock:
            yield


class DetectedItem(NamedTuple):
    """An item after detection, without its view, and its boxes as rows of `detections.BOX`."""

    item: Item
    boxes: list[Row]


def detect(
    job: PassJob,
    items: Sequence[Item],
    detector: "DetectorEnsemble | None",
    watch: Callable[[int], AbstractContextManager[None]] = lambda index: nullcontext(),
) -> list[DetectedItem]:
    """Return each item with its boxes; items that have one view go through the detector together.

    `watch` gives a context, by the index of an item, for the rest of its work after all have gone through.
    """
    answers: Iterator[Detections | str] = iter(())
    if detector:
        from depers.detection.detector import detect_canvases  # imports torch, which drivers do without

        answers = iter(detect_canvases([item.view.canvas for item in items if item.view is not None], detector))
    detected = []
    for index, item in enumerate(items):
        answer = next(answers) if item.view else None
        with watch(index):
            detected.append(_complete_detection(job, item, answer, detector))
    return detected


def _complete_detection(
    job: PassJob, item: Item, answer: Detections | str | None, detector: "DetectorEnsemble | None"
) -> DetectedItem:
    """Return an item with its boxes: those in the detector's `answer` about its view, else from where they are."""
    if item.reason or item.status:
        return DetectedItem(item, [])
    without_view = replace(item, view=None)
    if isinstance(answer, str):
        return DetectedItem(replace(without_view, reason=answer), [])
    try:
        if job.boxes is not None:
            member = None if item.member is None else parquet_text(item.member)
            facts = ImageFacts(item.place, item.data, item.size_wh, item.frames, member)
            boxes = read_boxes(job.boxes, item.precomputed, facts, job.classes)
        elif detector is None:
            boxes = []
        elif item.view is not None and answer is not None:
            boxes = _merge(job, [item.view.locate(answer)], item.size_wh, detector, 0)
        else:
            boxes = _detect_all_views(job, item, detector)
        arithmetic = detector.arithmetic if detector is not None and job.boxes is None else None
        return DetectedItem(replace(without_view, arithmetic=arithmetic), boxes)
    except ImageError as error:
        return DetectedItem(replace(without_view, reason=str(error)), [])
    except OSError as error:
        reason = f"its boxes cannot be read ({explain(error)})"
        return DetectedItem(replace(without_view, reason=reason, retry=True), [])
    except Exception as error:
        return DetectedItem(replace(without_view, reason=f"detection failed ({typed_reason(error)})"), [])


def _detect_all_views(job: PassJob, item: Item, detector: "DetectorEnsemble") -> list[Row]:
    """Return the boxes of every frame, each seen whole and in tiles, a batch at a time."""
    rows = []
    with memory_slot(item.size_wh):
        for number, rgb in enumerate(decode_frames(item.data, job.max_megapixels, item.header)):
            view_detections: list[Detections] = []
            views = tiling.make_views(rgb, job.settings.imgsz, detector.stride, job.half_stride_pad, job.tile)
            while batch := list(islice(views, job.batch_size)):
                with time_budget.pause():  # it takes as long as there are views, whatever the file does
                    answers = detector([view.canvas for view in batch])
                view_detections += [view.locate(answer) for view, answer in zip(batch, answers, strict=True)]
            rows += _merge(job, view_detections, (rgb.shape[1], rgb.shape[0]), detector, number)
    return rows


def _merge(
    job: PassJob, parts: Sequence[Detections], size_wh: tuple[int, int], detector: "DetectorEnsemble", frame: int
) -> list[Row]:
    """Return the boxes of the views of a frame as rows of `detections.BOX`.

    Contexts and their classes' thresholds come first: what does not count must not take the place of what does.
    """
    if detector.contexts:
        parts = contexts.discount(parts, detector.contexts)
        masks = [
            (part.class_ids < len(detector.class_names)) & (part.confidences > job.settings.confidence)
            for part in parts
        ]
        parts = [part.select(mask) for part, mask in zip(parts, masks, strict=True)]
    if job.thresholds:
        least = np.array([job.thresholds.get(name, 0) for name in detector.class_names], np.float64)
        parts = [part.select(part.confidences >= least[part.class_ids]) for part in parts]
    detections = tiling.merge(parts, job.settings, size_wh)
    return to_rows(detections, detector.class_names, detector.model_names, frame)
