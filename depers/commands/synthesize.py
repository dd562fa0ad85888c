"""`depers synthesize`: new labelled images from backgrounds and sprites, any number of them, reproducibly.

Plan, then render: OUT/plan holds every decision, a row per image; rendering is a pure function of a row and of what
was extracted. The same seed gives the same images and labels, however the work is spread, cut off and resumed, and
image number i does not depend on how many there will be.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import simplejpeg
from numpy.typing import NDArray

from depers import __version__, storage
from depers.datasets import sprite_bank
from depers.datasets.data_yaml import Dataset, read_dataset, write_joined_yaml
from depers.datasets.image_index import write_index
from depers.errors import UserError
from depers.options import REQUIRED, CheckedOptions, argument, option
from depers.options.shared import seed_option
from depers.runtime import claims, progress, units
from depers.runtime.lease import Lease
from depers.runtime.progress import Speed
from depers.runtime.results import VerbResult
from depers.runtime.tasks import choose_share, run_tasks
from depers.statuses import SourceStatus
from depers.synthesis import plan_table, planner, renderer, statistics
from depers.synthesis.assets import Assets, make_assets
from depers.synthesis.placement import PlacementRules
from depers.synthesis.report import make_report

_NOT_DECISIVE = ("extracted", "out", "real")
_BY_BACKGROUND = "by-background"

_OBJECTS, _APPEARANCE, _OUTPUT = "objects", "appearance", "output"


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Make COUNT labelled images by pasting extracted sprites into extracted backgrounds."""

    extracted: str = argument("folder or s3:// URI that `depers extract` has written")
    out: str = argument("folder or s3:// URI of the synthetic dataset; an earlier run there is resumed")
    count: int = option(REQUIRED, "images to make; image i does not depend on it", low=1)
    seed: int = seed_option("seed of everything; another one gives other images")
    classes: tuple[str, ...] = option(
        (), "paste only what has a label of these classes (default: all)", group=_OBJECTS, metavar="CLASS"
    )
    objects: int | None = option(
        None, "objects to paste per image (default: as many as real images have)", low=0, group=_OBJECTS
    )
    balance: float = option(
        0.5,
        "0: classes as frequent as in the dataset; 1: rare ones about as frequent as others",
        low=0,
        high=1,
        group=_OBJECTS,
    )
    placement: str = option(
        _BY_BACKGROUND,
        "exchange: over the background's own, one for another; scene: where and as large as such things are; uniform:"
        " anywhere; by-background: exchange where backgrounds have kept their objects, else scene",
        choices=(_BY_BACKGROUND, *planner.PLACEMENTS),
        group=_OBJECTS,
    )
    scale_jitter: float = option(0.2, "sizes vary by up to this share", low=0, high=3, group=_OBJECTS)
    max_overlap: float = option(0.3, "how much of an object another may overlap, 0…1", low=0, high=1, group=_OBJECTS)
    min_visible: float = option(0.5, "least share of a label that must be seen, 0…1", low=0, high=1, group=_OBJECTS)
    max_hidden: float = option(
        0.1, "sprites of which other objects hid more than this are not used, 0…1", low=0, high=1, group=_OBJECTS
    )
    distractors: float = option(
        0.2,
        "unlabelled patches of other backgrounds per object, with the same seams",
        low=0,
        high=10,
        group=_APPEARANCE,
    )
    blending: tuple[str, ...] = option(
        plan_table.BLENDINGS,
        "seams to choose from",
        choices=plan_table.BLENDINGS,
        distinct=True,
        group=_APPEARANCE,
    )
    variants: int = option(
        1, "images per plan: the same objects in the same places with other blendings", low=1, group=_OUTPUT
    )
    per_background: int = option(
        8, "images in a row that share a background; more are made faster", low=1, group=_OUTPUT
    )
    effects: bool = option(True, "blur and noise over the whole of some images", group=_APPEARANCE)
    quality: int = option(90, "of the JPEGs, 1 to 100", low=1, high=100, group=_OUTPUT)
    shards: bool = option(False, "tar files for WebDataset instead of folders", group=_OUTPUT)
    real: str | None = option(
        None,
        "dataset that data.yaml adds the images to, or none (default: the one that EXTRACTED was cut from)",
        group=_OUTPUT,
    )

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        if not self.blending:
            raise UserError("--blending must name at least one seam")
        storage.check(self.extracted, "EXTRACTED")
        storage.check(self.out, "OUT")

    def decisive(self) -> dict[str, Any]:
        """Return the options that decide the bytes written; a run is only resumed with the same ones."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_DECISIVE}

    def recipe(self, keeps_labels: bool) -> planner.Recipe:
        """Return the options as the planner needs them; `keeps_labels`: backgrounds have kept their objects."""
        placement = self.placement
        if placement == _BY_BACKGROUND:
            placement = "exchange" if keeps_labels else "scene"
        return planner.Recipe(
            seed=self.seed,
            variants=self.variants,
            per_background=self.per_background,
            objects=self.objects,
            distractors=self.distractors,
            placement=placement,
            blendings=self.blending,
            effects=self.effects,
            quality=self.quality,
            rules=PlacementRules(self.scale_jitter, self.max_overlap, self.min_visible),
        )


def read_assets(extracted: sprite_bank.SpriteBank, options: Options) -> Assets:
    """Return what the options leave of the bank. Raises UserError where that is nothing."""
    backgrounds = sprite_bank.read_backgrounds(extracted)
    if not pc.any(pc.equal(backgrounds["status"], SourceStatus.USED)).as_py():
        raise UserError(f"{extracted.root}: must hold backgrounds, but all {len(backgrounds)} images were skipped")
    tables = [
        _with_part(sprite_bank.read_part(extracted, part, sprite_bank.METADATA), part)
        for part in sorted(extracted.parts)
    ]
    sprites = pa.concat_tables(tables) if tables else None
    if sprites is None or not len(sprites):
        raise UserError(f"{extracted.root}: must hold sprites, but there is none")
    for name in options.classes:
        if name not in extracted.class_names:
            names = ", ".join(extracted.class_names)
            raise UserError(f"--classes must be among those of the extraction ({names}), but got {name!r}")
    eligible_sprites = sprites.filter(_find_eligible(sprites, extracted.class_names, options))
    if not len(eligible_sprites):
        condition = f" of which at most {options.max_hidden:g} is hidden (--max-hidden)"
        raise UserError(f"{extracted.root}: must hold sprites{condition}, but none of {len(sprites)} is")
    return make_assets(backgrounds, eligible_sprites, options.balance)


def _with_part(table: pa.Table, part: str) -> pa.Table:
    return table.append_column("part", pa.array([part] * len(table), pa.string()))


def _find_eligible(sprites: pa.Table, names: Sequence[str], options: Options) -> NDArray[np.bool_]:
    """Return which sprites may be pasted, bool (N,). Raises UserError for a class that no sprite has."""
    visible = sprites["hidden"].to_numpy() <= options.max_hidden
    if not options.classes:
        return np.asarray(visible)
    labels = sprites["labels"].combine_chunks()
    rows, ids = labels.value_parent_indices().to_numpy(), labels.flatten().field("class_id").to_numpy()
    has_class = np.zeros(len(sprites), np.bool_)
    for name in options.classes:
        class_rows = rows[ids == names.index(name)]
        if not visible[class_rows].any():
            total = len(np.unique(class_rows))
            hint = (
                f"all {total} are hidden by more than --max-hidden {options.max_hidden:g}" if total else "there is none"
            )
            raise UserError(f"--classes {name}: the extraction must hold a sprite of that class, but {hint}")
        has_class[class_rows] = True
    return np.asarray(visible & has_class)


def find_real(options: Options, extracted: sprite_bank.SpriteBank, out: str) -> Dataset | None:
    """Return the dataset that the images are added to. Raises UserError where it is not there, or does not fit."""
    if options.real == "none":
        return None
    uri = options.real or extracted.dataset
    try:
        dataset = read_dataset(uri)
    except UserError as error:
        hint = "name it with --real, or --real none for the synthetic images alone"
        raise UserError(f"the dataset that they are added to cannot be read ({error}): {hint}") from None
    if dataset.names != extracted.class_names:
        names = ", ".join(extracted.class_names)
        raise UserError(f"--real {uri}: its classes must be {names}, but are {', '.join(dataset.names)}")
    if storage.is_remote(out) and not storage.is_remote(dataset.root):
        raise UserError(
            f"--real {uri}: must be on S3 or a store like it, as OUT, since one data.yaml names both (or --real none)"
        )
    for folder in (dataset.train, dataset.val, *dataset.additional_train, *(tars.folder for tars in dataset.shards)):
        if folder and storage.overlap(folder, out):
            raise UserError(f"OUT must lie outside the dataset's images, but got {out} and {folder}")
    return dataset


@dataclass(frozen=True, kw_only=True)
class SynthesizeResult(VerbResult):
    """What was made: numbers of images, and of the objects, labels and unlabelled patches in them."""

    out: str
    report: str
    images: int
    objects: int
    labels: int
    unplaced: int
    """Objects for which no background had a place."""
    distractors: int
    speed: Speed

    def summary(self) -> list[str]:
        """Return the line that says what was made."""
        rendered = f"{self.speed.images} rendered, {self.speed}" if self.speed.images else "all rendered before"
        objects = f"{self.objects} objects with {self.labels} labels ({self.unplaced} objects found no place)"
        return [f"{self.images} images, {objects}, {self.distractors} distractors; {rendered}; report {self.report}"]


def run(options: Options) -> SynthesizeResult:
    """Plan and render images to OUT with Ray tasks. Raises UserError for a wrong EXTRACTED, OUT, class or dataset."""
    out, bank = (storage.absolute(storage.check(uri, "EXTRACTED and OUT")) for uri in (options.out, options.extracted))
    extracted = sprite_bank.open_bank(bank)
    if storage.overlap(extracted.root, out):
        raise UserError(f"OUT must lie outside EXTRACTED, and EXTRACTED outside OUT, but got {bank} and {out}")
    real, assets = find_real(options, extracted, out), read_assets(extracted, options)
    decisive = options.decisive() | {"class_names": list(extracted.class_names), "plan": plan_table.VERSION}
    decisive |= {"extracted_sha256": extracted.content_sha256}
    with claims.hold(out, decisive | {"depers": __version__}) as lease:
        return _synthesize(options, out, extracted, real, assets, lease)


def _synthesize(
    options: Options, out: str, extracted: sprite_bank.SpriteBank, real: Dataset | None, assets: Assets, lease: Lease
) -> SynthesizeResult:
    """Plan all images, render those that are not there yet, and finish."""
    import ray

    storage.delete(storage.join(out, "data.yaml"))  # it is written last, and says that all is there
    if len(assets.backgrounds) == 1:
        progress.report(f"note: all images show the only background, {assets.backgrounds['path'][0]}")

    job = renderer.RenderJob(out, options.count, options.variants, options.shards, len(extracted.class_names))
    synthetic = statistics.DatasetStatistics.empty(job.class_count)
    shared, recipe = ray.put(assets), options.recipe(bool(extracted.options.get("keep_labels")))
    parts = [(shared, recipe, job, number) for number in range(len(job.parts()))]
    with progress.open_bar(sum(job.images(*blocks) for blocks in job.parts()), "planned") as bar:
        for part in lease.guard(run_tasks(renderer.plan_part, parts)):
            synthetic = synthetic.add(part)
            bar.update(part.images)
    finished_names = units.list_finished(units.locate_inside(out)).names
    todo = [blocks for blocks in job.units() if renderer.unit_name(blocks[0]) not in finished_names]
    calls = ((extracted, job, *blocks) for blocks in todo)
    stopwatch = progress.Stopwatch()
    with progress.open_bar(sum(job.images(*blocks) for blocks in todo), "rendered") as bar:
        for count in lease.guard(run_tasks(renderer.render_blocks, calls, num_cpus=choose_share(extracted.root, out))):
            bar.update(count)
            stopwatch.add(count)

    images = ray.get(ray.remote(renderer.draw_sheet).remote(extracted, job, extracted.class_names))
    storage.write_bytes(storage.join(out, "sheet.jpg"), bytes(simplejpeg.encode_jpeg(images, 88, "RGB")))
    source = statistics.count_images(sprite_bank.read_backgrounds(extracted), job.class_count)
    report = storage.join(out, "report.html")
    storage.write_bytes(report, make_report(options, extracted, source, synthetic, images).encode())
    names = (renderer.unit_name(first) for first, _ in job.units())
    write_index(out, lease.guard(units.iterate_records(units.locate_inside(out), names)))
    write_joined_yaml(out, extracted.class_names, real, plan_table.FOLDER, renderer.shard_names(job))
    return SynthesizeResult(
        out=out,
        report=report,
        images=synthetic.images,
        objects=synthetic.objects,
        labels=int(synthetic.classes.sum()),
        unplaced=synthetic.requested - synthetic.objects,
        distractors=synthetic.distractors,
        speed=stopwatch.speed(),
    )
