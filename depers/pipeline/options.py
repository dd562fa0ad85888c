"""Options."""

from dataclasses import asdict, dataclass
from typing import Any

from depers import storage
from depers.detection.settings import PRECISIONS
from depers.detection.thresholds import read_thresholds
from depers.errors import UserError
from depers.imaging.decoding import MAX_MEGAPIXELS
from depers.options import argument, option

_NOT_DECISIVE = ("input", "out", "device", "topology", "workers")


@dataclass(frozen=True)
class PassOptions:
    """What detection and anonymization have in common."""

    input: str = argument("folder of images and archives of images (recursive), a path or s3:// URI")
    out: str = argument("folder for the results, a path or s3:// URI; an earlier run there is resumed")
    weights: tuple[str, ...] = option(
        (), "YOLOv5 checkpoint, PATH_OR_URI[:model_class=class,…]; repeat to combine detectors", metavar="W"
    )
    classes: tuple[str, ...] = option((), "only these classes (default: all that the weights give)", metavar="CLASS")
    confidence: float = option(0.15, "least confidence of a box, 0…1; low, so that rather too much is found")
    iou_threshold: float = option(0.5, "boxes of one class that overlap more than this are one, 0…1")
    thresholds: str | None = option(
        None, "thresholds.json from `depers evaluate`: the least confidence by class; the lowest for all others"
    )
    max_detections: int = option(1000, "most boxes of one image")
    imgsz: int = option(640, "longer side for the detector in pixels, a multiple of 32")
    tile: int | None = option(
        None, "images larger than this many pixels are looked at whole and in overlapping tiles of this size"
    )
    augment: bool = option(False, "look at every image several times, enlarged and mirrored: finds more, slower")
    batch_size: int = option(8, "images per inference")
    max_megapixels: float = option(MAX_MEGAPIXELS, "images that declare more pixels fail")
    device: str = option("auto", "where to detect", choices=("auto", "cpu", "cuda"))
    precision: str = option("auto", "arithmetic on CPUs; auto: bfloat16 where it is native", choices=PRECISIONS)
    topology: str = option("auto", "auto: fused on CPUs, staged around GPUs", choices=("auto", "fused", "staged"))
    workers: int | None = option(None, "actors, or with a GPU none (default: one per core of the cluster)")

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        for name in ("confidence", "iou_threshold"):
            if not 0 < getattr(self, name) < 1:
                kebab = name.replace("_", "-")
                raise UserError(f"--{kebab} must be between 0 and 1, but got {getattr(self, name):g}")
        if self.imgsz < 32 or self.imgsz % 32:
            raise UserError(f"--imgsz must be a positive multiple of 32, but got {self.imgsz}")
        if self.tile is not None and self.tile < 64:
            raise UserError(f"--tile must be at least 64, but got {self.tile}")
        for name in ("batch_size", "workers", "max_megapixels", "max_detections"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name.replace('_', '-')} must be positive, but got {value}")
        self.check_sources()
        storage.check(self.input, "INPUT")
        storage.check(self.out, "OUT")

    def check_sources(self) -> None:
        """Raises UserError where nothing says what to look for."""
        if not self.weights:
            raise UserError("--weights must be given at least once")

    def decisive(self) -> dict[str, Any]:
        """The options that decide the bytes written; a run is only resumed with the same ones."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_DECISIVE}


def thresholds_of(options: PassOptions) -> dict[str, float]:
    """The least confidence by class, where a file says so. Raises UserError."""
    return read_thresholds(options.thresholds) if options.thresholds else {}
