"""`depers extract`: take a dataset's training images apart into backgrounds and sprites, to synthesize more from.

Only the training split is ever read. Every image of it ends as one row of OUT/backgrounds.parquet: `used`, or with a
reason `skipped` or `failed`. See `depers.datasets.sprite_bank` for what lies in OUT.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from depers import __version__, storage
from depers.datasets import sprite_bank
from depers.datasets.data_yaml import check_labels, read_dataset
from depers.datasets.ignore_regions import locate_folder
from depers.detection.settings import PRECISIONS, InferenceSettings, parse_weights, read_checkpoints
from depers.errors import UserError
from depers.extraction import report as extraction_report
from depers.extraction import verification
from depers.extraction.inpainting import FILLS
from depers.extraction.nesting import NESTING, parse_nesting
from depers.extraction.steps import extract_unit, part_path
from depers.extraction.take_apart import RECORD, ExtractionJob, background_path
from depers.extraction.training_images import check_groups, find_training_folder, list_images
from depers.imaging.headers import MAX_MEGAPIXELS
from depers.options import CheckedOptions, argument, option
from depers.options.shared import (
    confidence_option,
    device_option,
    imgsz_option,
    max_megapixels_option,
    precision_option,
    seed_option,
    weights_option,
    workers_option,
)
from depers.runtime import claims, outputs, progress, takeover, units
from depers.runtime.lease import Lease
from depers.runtime.progress import Speed
from depers.runtime.results import FailureCounter, VerbResult
from depers.runtime.tasks import choose_share, run_file_tasks
from depers.runtime.units import Unit
from depers.statuses import SourceStatus
from depers.storage import Entry, tables
from depers.storage.tables import parquet_text

_NOT_DECISIVE = ("dataset", "out", "weights", "device", "workers")

_BACKGROUNDS, _SPRITES = "backgrounds", "sprites"


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Cut the labelled objects out of a dataset's training images, and fill the holes: sprites and backgrounds."""

    dataset: str = argument("dataset folder or its data.yaml, a path or s3:// URI")
    out: str = argument("folder for the results, a path or s3:// URI; an earlier run there is resumed")
    fill: str = option(
        "smooth",
        "how holes are filled: from around them, with random squares, or flat",
        choices=FILLS,
        group=_BACKGROUNDS,
    )
    dilate: float = option(
        0.05,
        "how much of a box's width and height is removed around it on each side",
        low=0,
        high=2,
        group=_BACKGROUNDS,
    )
    max_coverage: float = option(
        0.6, "no background from images of which boxes cover more than this, 0…1", low=0, high=1, group=_BACKGROUNDS
    )
    keep_labels: bool = option(
        True,
        "backgrounds keep their objects and labels, which can be exchanged for others; otherwise they are removed",
        group=_BACKGROUNDS,
    )
    min_size: float = option(6.0, "no sprites from boxes with a shorter side of fewer pixels", above=0, group=_SPRITES)
    margin: float = option(
        0.1, "context around a sprite, a share of its longer side; 4 to 32 pixels", low=0, high=1, group=_SPRITES
    )
    nest: tuple[str, ...] = option(
        NESTING, "which classes belong to a sprite of another", group=_SPRITES, metavar="OUTER=INNER,…"
    )
    group_by: str | None = option(
        None,
        "images are alike where this regular expression finds the same in their names",
        pattern=True,
        metavar="REGEX",
    )
    seed: int = seed_option("seed of grain and confetti")
    weights: tuple[str, ...] = weights_option("no background in which it finds an object; may be repeated")
    confidence: float = confidence_option(0.25, "least confidence of a finding in a background")
    imgsz: int = imgsz_option()
    device: str = device_option()
    precision: str = precision_option(PRECISIONS)
    max_megapixels: float = max_megapixels_option(MAX_MEGAPIXELS)
    workers: int | None = workers_option()

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        for text in self.weights:
            parse_weights(text)
        storage.check(self.dataset, "DATASET")
        storage.check(self.out, "OUT")

    def decisive(self) -> dict[str, Any]:
        """Return what decides the bytes written; a run is only resumed with the same. Of weights: their maps."""
        class_maps = [parse_weights(text).class_map for text in self.weights]
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_DECISIVE}
        return values | {"class_maps": class_maps}

    def digest_weights(self) -> list[str]:
        """Return the digests of the checkpoints. Raises UserError where one cannot be read."""
        checkpoints = read_checkpoints([parse_weights(text) for text in self.weights])
        return [hashlib.sha256(data).hexdigest() for data in checkpoints]


@dataclass(frozen=True, kw_only=True)
class ExtractResult(VerbResult):
    """What was cut out: numbers of images by what became of them, and of sprites."""

    out: str
    report: str
    images: int
    backgrounds: int
    skipped: int
    sprites: int
    too_small: int
    """Boxes with a shorter side below `min_size`."""
    min_size: float
    backgrounds_by_class: Mapping[str, int]
    """Backgrounds that are known to show nothing of a class; the others may show some of it without a label."""
    speed: Speed

    def summary(self) -> list[str]:
        """Return the lines that say what was cut out, and what there is none of."""
        lines = []
        if not self.backgrounds:
            lines.append("no backgrounds: every image was skipped or failed, see the report for the reasons")
        if not self.sprites:
            size = f"{self.min_size:g} px"
            lines.append(f"no sprites: the images have no boxes of at least {size}, so nothing can be pasted")
        if set(self.backgrounds_by_class.values()) - {self.backgrounds}:
            counts = ", ".join(f"{name} {count}" for name, count in self.backgrounds_by_class.items())
            lines.append(f"backgrounds by the classes that they are labelled for: {counts}")
        images = f"{self.backgrounds} backgrounds, {self.skipped} skipped, {self.failures.count} failed"
        sprites = f"{self.sprites} sprites, {self.too_small} too small"
        return [*lines, f"{self.images} images: {images}; {sprites}; {self.speed}; report {self.report}"]


def check(options: Options) -> None:
    """Raise UserError for a dataset that cannot be taken apart, as far as its folders say, before Ray starts."""
    dataset = read_dataset(options.dataset)
    check_labels(options.dataset, find_training_folder(dataset, storage.absolute(options.out), options.dataset))


def run(options: Options) -> ExtractResult:
    """Extract backgrounds and sprites to OUT. Raises UserError for a wrong dataset, options or weights."""
    dataset = read_dataset(options.dataset)
    out = storage.absolute(options.out)
    folder = storage.absolute(find_training_folder(dataset, out, options.dataset))
    images = outputs.check_outputs(out, outputs.check_inputs(folder, list_images(folder)), locate=background_path)
    check_groups(dataset.val, images, options.group_by)
    nesting = parse_nesting(options.nest, dataset.names)
    inference = InferenceSettings(options.imgsz, options.confidence, device=options.device, precision=options.precision)
    verification_settings, checkpoints = None, list[bytes]()
    if options.weights:
        verification_settings, checkpoints = verification.prepare(options.weights, dataset.names, inference)
    job = ExtractionJob(
        images=folder,
        out=out,
        dataset=dataset,
        group_by=options.group_by,
        fill=options.fill,
        dilate=options.dilate,
        max_coverage=options.max_coverage,
        keep_labels=options.keep_labels,
        min_size=options.min_size,
        margin=options.margin,
        nesting=nesting,
        seed=options.seed,
        max_megapixels=options.max_megapixels,
        has_regions=storage.is_dir(locate_folder(folder)),
        verification=verification_settings,
    )
    decisive = options.decisive() | {
        "class_names": dataset.names,
        "weights_sha256": [hashlib.sha256(data).hexdigest() for data in checkpoints],
    }
    decisive |= {"labelled": [[prefix, sorted(class_ids)] for prefix, class_ids in dataset.labelled]}
    with claims.hold(out, decisive | {"depers": __version__, "layout": sprite_bank.VERSION}) as lease:
        return _extract(options, job, images, checkpoints, lease)


def _extract(
    options: Options, job: ExtractionJob, images: Sequence[Entry], checkpoints: Sequence[bytes], lease: Lease
) -> ExtractResult:
    """Do the units that are not done yet, and finish. Raises UserError where no image can be used."""
    import ray

    records = units.locate_inside(job.out)
    all_units = units.cut(images)
    parts = {unit.name: part_path(unit) for unit in all_units}
    todo = takeover.split_all(records, units.take_up(records, all_units))
    unfinished = sum(len(unit.entries) for unit, _ in todo)
    progress.report(f"{len(images)} training images, {len(images) - unfinished} done before")
    sprite_bank.withdraw(job.out)
    reference = ray.put(list(checkpoints))
    calls = ((job, unit, reference, parts[unit.name], sources) for unit, sources in todo)
    gpus = verification.gpu_share(job.verification and job.verification.inference)
    share = choose_share(job.images, job.out)
    results = run_file_tasks(extract_unit, calls, limit=options.workers, num_cpus=share, num_gpus=gpus)
    speed = progress.follow(lease.guard(results), unfinished)
    table = pa.concat_tables(units.read_records(records, all_units, RECORD)).sort_by("path")
    table = table.replace_schema_metadata()  # the first record's notes are about its own files
    if table["status"].to_pylist().count(SourceStatus.FAILED) == len(table):
        first = table.slice(0, 1).to_pylist()[0]
        raise UserError(f"{job.images}: no image can be used, such as {first['path']}: {first['reason']}")
    return _finish(options, job, all_units, table, speed)


def _remove_stale(out: str, names: Set[str]) -> None:
    """Remove backgrounds and sprites of images that are in the dataset no more, and the records that speak of them."""
    units.remove_former(units.locate_inside(out))  # first: what they tell of is gone soon
    for folder in ("backgrounds", "sprites"):
        root = storage.join(out, folder)
        paths = [f"{folder}/{entry.path}" for entry in storage.list_files(root)] if storage.is_dir(root) else []
        storage.delete_files(out, [path for path in paths if parquet_text(path) not in names])


def _finish(
    options: Options, job: ExtractionJob, all_units: Sequence[Unit], table: pa.Table, speed: Speed
) -> ExtractResult:
    """Write the tables, the report and last of all extract.json; return what there is."""
    columns = [{"source": "path", "path": "background"}.get(name, name) for name in sprite_bank.BACKGROUNDS.names]
    backgrounds = table.select(columns).rename_columns(sprite_bank.BACKGROUNDS.names).cast(sprite_bank.BACKGROUNDS)
    tables.write_table(storage.join(job.out, "backgrounds.parquet"), backgrounds)
    has_sprites = pc.greater(pc.list_value_length(table["sprites"]), 0)
    sources = set(table.filter(has_sprites)["path"].to_pylist())
    parts = {
        part_path(unit) for unit in all_units if any(parquet_text(entry.path) in sources for entry in unit.entries)
    }
    statuses = Counter(table["status"].to_pylist())
    counts = {"images": len(table), "backgrounds": statuses[SourceStatus.USED]}
    counts |= {name: statuses[name] for name in (SourceStatus.SKIPPED.value, SourceStatus.FAILED.value)}
    counts["sprites"] = len(table["sprites"].combine_chunks().flatten())
    counts |= {
        name: pc.sum(table[name]).as_py() or 0
        for name in ("too_small", "unlabelled_inside", "truncated", "mostly_hidden")
    }
    extracted = sprite_bank.SpriteBank(
        root=job.out,
        class_names=job.dataset.names,
        dataset=storage.absolute(options.dataset),
        options=options.decisive(),
        counts=counts,
        parts=tuple(sorted(parts)),
        content_sha256=hashlib.sha256(tables.to_parquet(table)).hexdigest(),
    )
    _remove_stale(job.out, {*parts, *table["background"].drop_null().to_pylist()})
    report = storage.join(job.out, "report.html")
    page = extraction_report.make_report(extracted, table, job.images, all_units)
    storage.write_bytes(report, page.encode())
    sprite_bank.write_marker(extracted)
    counter = FailureCounter(storage.join(job.out, "backgrounds.parquet"))
    counter.add(table)
    return ExtractResult(
        failures=counter.failures(),
        out=job.out,
        report=report,
        images=len(table),
        backgrounds=counts["backgrounds"],
        skipped=counts["skipped"],
        sprites=counts["sprites"],
        too_small=counts["too_small"],
        min_size=options.min_size,
        backgrounds_by_class=extraction_report.count_backgrounds(table, job.dataset.names),
        speed=speed,
    )
