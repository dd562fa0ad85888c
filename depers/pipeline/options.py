"""The options of a pass over images, which detection, anonymization and audit have in common."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from depers import storage
from depers.detection import shipped
from depers.detection.contexts import NO_RULE, format_rules, parse_rules
from depers.detection.settings import PRECISIONS, parse_weights
from depers.detection.thresholds import read_thresholds
from depers.errors import UserError
from depers.imaging.headers import MAX_MEGAPIXELS
from depers.options import CheckedOptions, argument, option
from depers.options.shared import (
    DETECTION,
    RUNNING,
    SELECTION,
    batch_size_option,
    classes_option,
    confidence_option,
    device_option,
    file_seconds_option,
    follow_links_option,
    imgsz_option,
    max_detections_option,
    max_megapixels_option,
    precision_option,
    tile_option,
    weights_option,
    within_option,
    workers_option,
)
from depers.runtime import units
from depers.runtime.time_budget import FILE_SECONDS
from depers.storage.selection import Selection, parse_moment

DETECTOR_CONFIDENCE = 0.15
"""The least confidence of a detector's box where no option says it."""
_ALL = "all"  # what `--classes` calls all classes that the weights give
_PATHS = ("weights", "thresholds", "boxes", "previous_detections")
_NOT_DECISIVE = (
    "input", "out", "records", "keep_removed", "device", "file_seconds", "topology", "workers", "stop_after_clean",
    "thresholds_anyway", "include", "exclude", "limit", "s3_as_of", "dry_run",
)  # fmt: skip


@dataclass(frozen=True)
class PassOptions(CheckedOptions):
    """What detection, anonymization and audit have in common."""

    input: str = argument("folder of images and archives of images (recursive), a path or s3:// URI")
    out: str = argument("folder for the results, a path or s3:// URI; an earlier run there is resumed")
    weights: tuple[str, ...] = weights_option()
    classes: tuple[str, ...] = classes_option()
    confidence: float | None = confidence_option(
        None,
        f"least confidence of a box; of a detector's {DETECTOR_CONFIDENCE:g} where it is not given, low, so that rather"
        " too much is found",
    )
    iou_threshold: float = option(
        0.5, "boxes of one class that overlap more than this are one, 0…1", above=0, below=1, group=DETECTION
    )
    thresholds: str | None = option(
        None,
        "thresholds.json from `depers evaluate`: the least confidence by class; the lowest for all others",
        group=DETECTION,
    )
    thresholds_anyway: bool = option(
        False,
        "take --thresholds that were found with other weights or settings, without their promise",
        group=DETECTION,
    )
    max_detections: int = max_detections_option(1000, "; one with more fails, since the rest would be left out")
    imgsz: int = imgsz_option()
    within: tuple[str, ...] = within_option()
    tile: int | None = tile_option()
    augment: bool = option(
        False, "look at every image several times, enlarged and mirrored: finds more, slower", group=DETECTION
    )
    batch_size: int = batch_size_option()
    max_megapixels: float = max_megapixels_option(MAX_MEGAPIXELS)
    file_seconds: float = file_seconds_option(FILE_SECONDS)
    follow_links: bool = follow_links_option()
    include: tuple[str, ...] = option(
        (),
        "only inputs of which the path or the name matches a pattern (default: all)",
        group=SELECTION,
        metavar="GLOB",
    )
    exclude: tuple[str, ...] = option(
        (), "no inputs of which the path or the name matches a pattern", group=SELECTION, metavar="GLOB"
    )
    limit: int | None = option(
        None,
        "only so many inputs, an archive is one: a fair sample, the same in every run, and part of a larger one",
        low=1,
        ceiling=10**12,
        group=SELECTION,
    )
    s3_as_of: str | None = option(
        None,
        "INPUT as it was then, on S3 with versions: a past time with its zone, such as 2026-11-29T14:00:00Z",
        group=SELECTION,
        metavar="TIME",
    )
    dry_run: bool = option(
        False, "write nothing: say what INPUT holds, and how long it would take, from a measured sample", group=RUNNING
    )
    device: str = device_option()
    precision: str = precision_option(PRECISIONS)
    topology: str = option(
        "auto",
        "auto: on one machine local, in its processes, without Ray, where INPUT is small, or a folder without archives"
        " and no GPU is used; else with Ray, fused on CPUs, staged around GPUs",
        choices=("auto", "local", "fused", "staged"),
        group=RUNNING,
    )
    workers: int | None = workers_option()

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        self.check_sources()
        parse_rules(self.chosen_rules)
        if self.thresholds_anyway and self.thresholds is None:
            raise UserError("--thresholds-anyway is about --thresholds, which are not given")
        storage.check(self.input, "INPUT")
        storage.check(self.out, "OUT")
        if self.s3_as_of is not None:
            self._check_moment(self.s3_as_of)

    def _check_moment(self, text: str) -> None:
        try:
            parse_moment(text)
        except ValueError as error:
            requirement = "must be a past time like 2026-11-29T14:00:00Z"
            raise UserError(f"--s3-as-of {requirement}, but got {text!r} ({error})") from None
        if not storage.is_s3(self.input):
            raise UserError(f"--s3-as-of is about an s3:// INPUT, whose versions are kept, but got {self.input!r}")

    def check_sources(self) -> None:
        """Raise UserError where what is given says in two ways where boxes come from."""

    @property
    def selection(self) -> Selection:
        """Return which files of INPUT are inputs."""
        return Selection(self.include, self.exclude, self.limit, self.s3_as_of)

    @property
    def detectors(self) -> tuple[str, ...]:
        """Return the weights in use: those given, or that of the detector that is part of depers."""
        return self.weights or (shipped.NAME,)

    @property
    def chosen_classes(self) -> tuple[str, ...]:
        """Return the names of the classes to look for; none where all that the weights give are meant."""
        return () if _ALL in self.classes else self.classes

    @property
    def chosen_thresholds(self) -> str | None:
        """Return where the thresholds in use are, if there are any."""
        return self.thresholds

    @property
    def chosen_rules(self) -> tuple[str, ...]:
        """Return the rules of `detection.contexts` in use: those given, or those of the detector of depers."""
        return choose_rules(self.within, self.detectors)

    @property
    def detector_confidence(self) -> float:
        """Return the least confidence of a detector's box."""
        return DETECTOR_CONFIDENCE if self.confidence is None else self.confidence

    def decisive(self) -> dict[str, Any]:
        """Return what decides the bytes written; a run is only resumed with the same.

        Of files it is what they say, not where they are: of weights their class maps here, and digests where they are
        read (`run`), as are the boxes.
        """
        values = {name: value for name, value in asdict(self).items() if name not in (*_NOT_DECISIVE, *_PATHS)}
        class_maps = [parse_weights(text).class_map for text in self.detectors]
        values |= {"within": format_rules(parse_rules(self.chosen_rules))}
        values |= {"class_maps": class_maps, "classes": self.chosen_classes, "thresholds": read_class_thresholds(self)}
        return values | ({"confidence": self.detector_confidence} if self.detectors else {})


def choose_rules(within: Sequence[str], detectors: Sequence[str]) -> tuple[str, ...]:
    """Return the rules in use: those that `--within` gives, or those of the detector of depers where that is alone."""
    return tuple(within) or (shipped.WITHIN if tuple(detectors) == (shipped.NAME,) else (NO_RULE,))


def records_option() -> Any:
    """Return the option of verbs that know a redacted archive."""
    return option(
        None,
        "folder of the manifest, the reports and all else that speaks of originals, outside of INPUT and OUT"
        " (default: OUT-records, beside OUT)",
        metavar="URI",
    )


def find_records(out: str, records: str | None) -> str:
    """Return the folder of the records of a redacted archive, absolute. Raise UserError where it must be named."""
    if records is not None:
        return storage.absolute(storage.check(records, "--records"))
    if (folder := units.locate_beside(storage.absolute(storage.check(out, "OUT")))) is None:
        raise UserError(
            f"{out}: has no folder beside it for its records, which must not lie in it: name it (--records)"
        )
    return folder


def read_class_thresholds(options: PassOptions) -> dict[str, float]:
    """Return the least confidence by class, where a file says so. Raises UserError."""
    return read_thresholds(options.chosen_thresholds).by_class if options.chosen_thresholds else {}
