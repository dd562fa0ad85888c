"""`depers export`: a detector as a TorchScript or ONNX program, compared with its weights on images.

OUT      the program, and in it shape, stride and class names, as YOLOv5's own exports have them
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depers import storage
from depers.boxes import letterbox, paint_on_canvas
from depers.errors import UserError
from depers.imaging import decoding
from depers.imaging.headers import ImageError
from depers.options import CheckedOptions, argument, option
from depers.options.shared import imgsz_option
from depers.runtime.local_pool import PoolPlan
from depers.runtime.results import VerbResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KINDS = ("torchscript", "onnx")  # of programs, each also what the name of its file ends with
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Write a detector as a TorchScript or ONNX program to OUT, if it finds in images what the weights find."""

    weights: str = argument("YOLOv5 checkpoint, a path or URI, or default")
    images: str = argument("folder or s3:// URI of images to compare on; the first of them are taken")
    out: str = argument("file to write, a path or s3:// URI; it ends in .torchscript or .onnx, as what it is to be")
    compared: int = option(16, "how many images to compare on", low=1, ceiling=10_000, metavar="N")
    imgsz: int = imgsz_option()

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        for uri, name in ((self.weights, "WEIGHTS"), (self.out, "OUT"), (self.images, "IMAGES")):
            storage.check(uri, name)
        if self.kind not in _KINDS:
            raise UserError(f"OUT must end in {' or '.join(f'.{kind}' for kind in _KINDS)}, but is {self.out!r}")

    @property
    def kind(self) -> str:
        """The kind of program, by the name of its file."""
        return self.out.rpartition(".")[2].lower()


@dataclass(frozen=True, kw_only=True)
class ExportResult(VerbResult):
    """The program's file, on how many images it was compared, and by how much it differs at most."""

    out: str
    images: int
    pixels: float
    confidence: float

    def summary(self) -> list[str]:
        """Return the line that says what was written, and how well it was compared."""
        differences = f"boxes differ by at most {self.pixels:.4f} pixels, confidences by {self.confidence:.6f}"
        return [f"{self.out}; on {self.images} images {differences}"]


def plan_processes(options: Options) -> PoolPlan:
    """Return what needs no cluster: all is done in this process."""
    return PoolPlan((), 1)


def run(options: Options) -> ExportResult:
    """Export, compare, and write what is the same. Raises UserError, and writes nothing, where it is not."""
    from depers.detection import export
    from depers.detection.settings import Weights, find_weights, read_checkpoints

    [checkpoint] = read_checkpoints([Weights(find_weights(options.weights), {})])
    images = _read_images(options)
    exported = export.export_model(options.weights, checkpoint, options.imgsz, options.kind)
    deviation = export.compare(options.weights, checkpoint, exported.data, images, options.kind)
    if not math.isfinite(deviation.pixels):
        problem = "but it gives numbers that are not finite, or another number of them"
        raise UserError(f"{options.weights}: the program must find what the weights find, {problem}")
    if not deviation.is_small:
        differences = f"boxes differ by {deviation.pixels:.3f} pixels and confidences by {deviation.confidence:.4f}"
        raise UserError(f"{options.weights}: the program must find what the weights find, but {differences}")
    with storage.translated_write_errors(options.out):
        storage.write_bytes(options.out, exported.data)
    return ExportResult(out=options.out, images=len(images), **deviation._asdict())


def _read_images(options: Options) -> "list[NDArray[Any]]":
    """Return the first images of the folder, uint8 RGB, in the middle of a gray square. Raises UserError."""
    images: list[NDArray[Any]] = []
    for entry in storage.list_files(options.images):
        if len(images) == options.compared:
            break
        if not entry.path.lower().endswith(_SUFFIXES) or entry.status:
            continue
        uri = storage.join(options.images, entry.path)
        try:
            rgb = decoding.decode(storage.read_bytes(uri)).rgb()
        except (ImageError, OSError) as error:
            raise UserError(f"{uri}: must be an image that can be decoded, but {error}") from None
        place = letterbox((rgb.shape[1], rgb.shape[0]), options.imgsz, square=True)
        resized = decoding.resize_rgb(rgb, place.resized_wh)
        images.append(paint_on_canvas(resized, place.canvas_wh, place.pad_xy))
    if not images:
        raise UserError(f"{options.images}: must hold images to compare on, but has none")
    return images
