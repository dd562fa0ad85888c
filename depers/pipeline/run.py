"""A pass as a whole, resumed, followed and accounted for: what verbs that look at images share."""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa

from depers import __version__, storage
from depers.detection.contexts import parse_rules
from depers.detection.settings import InferenceSettings, parse_weights, read_checkpoints
from depers.errors import UserError
from depers.pipeline import local, ray_data
from depers.pipeline.box_digests import describe_source, identify, name_by_boxes
from depers.pipeline.box_sources import BoxSource, find_ambiguous_texts
from depers.pipeline.box_tables import BoxTable, Row, RowsByPath
from depers.pipeline.clean_watch import CleanWatch
from depers.pipeline.options import PassOptions, read_class_thresholds
from depers.pipeline.ray_data import PassRun
from depers.pipeline.row_join import RowJoin, RowPlace, UnitRowReader, remove_rows
from depers.pipeline.steps import Finish, Item, Outcome, PassJob
from depers.pipeline.threshold_check import check_thresholds
from depers.pipeline.workers import DetectorFacts, inspect_weights
from depers.runtime import capacity, changes, claims, inputs, local_pool, outputs, places, takeover, units
from depers.runtime.lease import Lease
from depers.runtime.progress import Speed, follow, report, report_lines
from depers.runtime.takeover import FormerRows, Source
from depers.runtime.units import Finished, Unit
from depers.storage import Entry
from depers.storage.listing import FileListing, Results
from depers.storage.selection import Selection, is_bucket, list_selected
from depers.storage.tables import parquet_text


def make_job(
    options: PassOptions,
    schema: pa.Schema,
    make_finish: Callable[[str], Finish],
    *,
    multi_label: bool = False,
    half_stride_pad: bool = False,
    mirrors: bool = False,
    keep: tuple[str, ...] = (),
    keep_columns: tuple[str, ...] = (),
    keep_anyway: bool = False,
    boxes: BoxSource | None = None,
    records: str | None = None,
    withholds: bool = True,
    rename: Callable[[str], str] | None = None,
    device: str | None = None,
) -> PassJob:
    """Return the options as a job for the workers; `make_finish` makes the last step for an absolute OUT.

    `records` is where records lie that are not in OUT, `rename` gives results their names. `withholds` says that an
    image with more than `--max-detections` fails; without it, the least certain are left out. `device` is cpu or cuda
    (default: what `--device` means on this cluster). Raise UserError for a malformed class map, or where there is no
    GPU.
    """
    out, thresholds = storage.absolute(options.out), read_class_thresholds(options)
    settings = InferenceSettings(
        imgsz=options.imgsz,
        confidence=min([options.detector_confidence, *thresholds.values()]),  # also for classes that have no threshold
        iou_threshold=options.iou_threshold,
        max_detections=options.max_detections,
        multi_label=multi_label,
        device=device or ("cpu" if local_pool.find_pool() is not None else capacity.choose_device(options.device)),
        precision=options.precision,
        augment=options.augment,
        withholds=withholds,
        within=parse_rules(options.chosen_rules),
    )
    return PassJob(
        input=storage.absolute(options.input),
        out=out,
        weights=tuple(parse_weights(text) for text in options.detectors),
        classes=options.chosen_classes,
        settings=settings,
        batch_size=options.batch_size,
        max_megapixels=options.max_megapixels,
        half_stride_pad=half_stride_pad,
        schema=schema,
        finish=make_finish(out),
        mirrors=mirrors,
        keep=keep,
        keep_columns=keep_columns,
        keep_anyway=keep_anyway,
        tile=options.tile,
        thresholds=thresholds,
        boxes=boxes,
        file_seconds=options.file_seconds,
        records_beside=records,
        rename=rename,
    )


def read_class_names(options: PassOptions) -> list[str]:
    """Return the names of the classes that the weights give. Raise UserError."""
    job = make_job(options, pa.schema([]), lambda out: _skip_finish)
    return list(_start_inspection(job, read_checkpoints(job.weights))().class_names)


def _start_inspection(job: PassJob, checkpoints: Sequence[bytes]) -> Callable[[], DetectorFacts]:
    """Begin `inspect_weights`, which imports torch, in another process; return what waits for it."""
    if local_pool.find_pool() is not None:
        return local.start_inspection(job, checkpoints)
    import ray

    gpus = 0.01 if job.settings.device == "cuda" and job.weights else 0  # on a node that has one
    task = ray.remote(inspect_weights).options(num_cpus=0.05, num_gpus=gpus).remote(job, checkpoints)
    return lambda: ray.get(task)


def _choose_arithmetic(job: PassJob, arithmetic: str) -> str:
    """Return what all workers compute in, by what one of them does: where CPUs differ, what each of them has.

    Nodes that come later compute in the same, if need be slowly.
    """
    is_open = job.settings.precision == "auto" and job.settings.device == "cpu" and arithmetic == "bfloat16"
    if is_open and capacity.spans_machines() and not all(has for _, has in places.ask_nodes(_has_bfloat16, None)):
        report("--precision auto: float32, since not all nodes have bfloat16")
        return "float32"
    return arithmetic


def _has_bfloat16(_: None) -> bool:
    from depers.detection.detector import cpu_has_bfloat16

    return cpu_has_bfloat16()


def _skip_finish(item: Item, boxes: Sequence[Row]) -> Outcome:
    return Outcome({})


class Summary(NamedTuple):
    """What a pass did: the units that account for every input, those of an earlier run, class names and speed.

    `clean_in_a_row` is how many images in a row a detector found nothing in, at most, among those of this run;
    `notes` are lines about it that people have to see.
    """

    job: PassJob
    units: list[Unit]
    units_before: int
    class_names: list[str]
    speed: Speed
    lease: Lease
    stock: "Stock"
    clean_in_a_row: int = 0
    notes: tuple[str, ...] = ()

    def note_moment(self, schema: pa.Schema) -> pa.Schema:
        """Return the schema of a table of results, with the time of which INPUT was read, if one was named."""
        as_of = self.stock.selection.as_of
        return schema.with_metadata((schema.metadata or {}) | {"depers.as_of": as_of}) if as_of else schema

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of all inputs, unit by unit. Raise RuntimeError unless every input has exactly one."""
        return units.read_records(self.job.records, self.units, self.job.schema)

    def settle(self, retained: Sequence[Entry] = ()) -> None:
        """Forget what departed, unless OUT retains what became of it: OUT and its records speak of the same now."""
        if self.stock.absent:
            forgotten = set(self.stock.departed) - set(retained)
            remembered = [entry for entry in self.stock.absent if entry not in forgotten]
            place, selection = storage.real_place(self.job.input), self.stock.selection
            inputs.write_inputs(self.job.records, place, self.stock.inputs, selection, remembered)
        units.remove_former(self.job.records)


class Stock(NamedTuple):
    """What earlier runs left behind."""

    absent: tuple[Entry, ...]
    """Inputs that INPUT does not hold now."""
    departed: tuple[Entry, ...]
    """Those of them that are gone, not merely out of reach."""
    outputs: Results
    """What was in OUT, where results are mirrored there."""
    inputs: FileListing
    """What INPUT holds."""
    strangers: tuple[str, ...] = ()
    """What of that lies in the place of inputs that had no result."""
    former_rows: FormerRows = FormerRows({})
    """What records of other units say of inputs as they are."""
    selection: Selection = Selection()
    """Which files of INPUT are inputs."""


@contextmanager
def run(
    job: PassJob,
    options: PassOptions,
    entries: Sequence[Entry] | None = None,
    table: BoxTable | None = None,
    rows_type: type[RowsByPath] = RowsByPath,
    stop_after_clean: int | None = None,
    marks: Collection[str] = (),
    secrets: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Summary]:
    """Run the job on the Ray cluster, resuming what OUT already holds; OUT is this run's alone until the block ends.

    `entries` are the files to look at (default: all in INPUT), `table` what an earlier run says about them, of which
    `rows_type` makes the rows of a file; those whose paths are `marks` become something else than they would by
    themselves, such as namesakes. `secrets` are noted with the options, and never told. Raise UserError for a wrong
    INPUT, OUT, weights or classes, and after `stop_after_clean` images in a row in which the detector found nothing.
    """
    if job.boxes is not None and not job.boxes.labels:
        table = BoxTable(job.boxes.uri)
        table.check_classes(job.classes)
    with ExitStack() as stack:
        yield from _run(job, options, entries, table, rows_type, stop_after_clean, marks, secrets, stack)


def _run(
    job: PassJob,
    options: PassOptions,
    entries: Sequence[Entry] | None,
    table: BoxTable | None,
    rows_type: type[RowsByPath],
    stop_after_clean: int | None,
    marks: Collection[str],
    secrets: Mapping[str, str],
    stack: ExitStack,
) -> Iterator[Summary]:
    """Run the job, and yield once; the `stack` holds what lies on the disk until the rows of the table are spread."""
    checkpoints = read_checkpoints(job.weights)
    finish_inspection = _start_inspection(job, checkpoints)  # INPUT is listed meanwhile
    digests = [hashlib.sha256(data).hexdigest()[:16] for data in checkpoints]
    if entries is None:
        all_units, listing = plan_units(job, options.follow_links, options.selection)
    else:
        all_units, listing = _cut(FileListing.of(entries))
    join = None if table is None else stack.enter_context(RowJoin(table, all_units))
    if job.boxes is not None:
        loose_entries = [entry for unit in all_units for entry in unit.entries if not unit.archive and not entry.status]
        archives = {str(PurePosixPath(unit.entries[0].path)) for unit in all_units if unit.archive}
        ambiguous = find_ambiguous_texts((entry.path for entry in loose_entries), archives)
        boxes = job.boxes._replace(ambiguous=ambiguous)
        row_digests = None if join is None else join.compute_digests()
        job, all_units = job._replace(boxes=boxes), name_by_boxes(all_units, boxes, row_digests)
    if marks:
        all_units = [_mark(unit, marks) for unit in all_units]
    class_names, stride, warnings, arithmetic = finish_inspection()
    report_lines(warnings)
    is_local = local_pool.find_pool() is not None
    is_detected = bool(job.weights) and job.boxes is None
    if is_detected and not is_local:
        arithmetic = _choose_arithmetic(job, arithmetic)
        job = job._replace(settings=replace(job.settings, arithmetic=arithmetic))
    notes = check_thresholds(options, job, checkpoints, class_names, arithmetic)
    decisive = options.decisive() | {"weights_sha256": digests, "boxes": describe_source(job.boxes), **secrets}
    decisive |= {"depers": __version__}
    with claims.hold(job.out, decisive, records=job.records_beside, secrets=secrets.keys()) as lease:
        read_rows = None if join is None else partial(join.read, rows_type=rows_type)
        stock = _take_stock(job, all_units, listing, read_rows, options.selection)
        finished_units, finished_chunks = units.list_finished(job.records), units.find_chunks(job.records)
        if job.mirrors:
            finished_units, stock = _without_deviations(job, all_units, finished_units, stock, lease)
        open_units = [unit for unit in all_units if unit.name not in finished_units.names]
        todo, sources = _take_over(job, open_units, finished_units, stock)
        # Chunks of an archive that was finished, or has changed since, are of no use.
        for name in finished_chunks.keys() - {unit.name for unit in open_units}:
            units.remove_chunks(job.records, name, finished_chunks[name])
        staged = options.topology == "staged" or (options.topology == "auto" and job.settings.device != "cpu")
        topology = "staged (CPU tasks around GPU actors)" if staged else "fused (one actor per core)"
        topology = "local (processes of this machine, without Ray)" if is_local else topology
        if is_detected:
            topology += f"; detector on {job.settings.device} in {arithmetic}"
        units_before = len(all_units) - len(todo)
        report(f"{units.count_inputs(all_units)}, {units_before} of {len(all_units)} units done before; {topology}")
        speed, watch = Speed(0, 0.0, None), CleanWatch(stop_after_clean)
        remove_rows(job.records)
        if todo:
            places: Mapping[str, RowPlace] = {}
            if join is not None:
                names = {unit.name for unit in todo}
                indices = [index for index, unit in enumerate(all_units) if unit.name in names]
                row_places = join.write(job.records, indices, rows_type)
                places = {all_units[index].name: place for index, place in row_places.items()}
                stack.close()
            if is_local:
                work = local.run(job, checkpoints, todo, places, finished_units.retries, options.workers, sources)
            else:
                import ray

                reference, retries = ray.put(checkpoints), finished_units.retries
                settings = (staged, options.workers, places, finished_chunks, retries, sources)
                plan = PassRun(job, reference, stride, *settings)
                work = ray_data.run(plan, todo)
            total = sum(len(unit.entries) for unit in todo)
            results = watch.follow(work) if job.mirrors and job.weights else work
            speed = follow(lease.guard(results), None if any(unit.archive for unit in todo) else total)
            units.remove_superseded(job.records)
            remove_rows(job.records)
        if as_of := stock.selection.as_of:
            notes += (f"{job.input} as it was at {as_of}",)
        yield Summary(job, all_units, units_before, class_names, speed, lease, stock, watch.longest, notes)


def _mark(unit: Unit, marks: Collection[str]) -> Unit:
    """Return a unit of which files that are marked are others than without it."""
    contents = ["marked" if entry.path in marks else "" for entry in unit.entries]
    return units.rename(unit, contents, contents) if any(contents) else unit


def _take_stock(
    job: PassJob, all_units: Sequence[Unit], listing: FileListing, read_rows: UnitRowReader | None, selection: Selection
) -> Stock:
    """Note the inputs of this run, and set aside what is about others; return what earlier runs left.

    Raise UserError where INPUT is another one than theirs.
    """
    place, known = storage.real_place(job.input), inputs.read_inputs(job.records)
    inputs.refuse_another(job.out, place, listing, known)
    inputs.refuse_narrower(job.out, selection, known)
    finished_units = units.list_finished(job.records)
    changed_names = changes.find_changed_inputs(job.records, all_units, finished_units, job.input, listing, known.parts)
    # Before the inputs are noted: a run that is killed in between must find them changed again.
    units.set_aside(job.records, {unit.name for unit in all_units} - changed_names)
    for name, numbers in units.find_chunks(job.records).items() if changed_names else ():
        if name in changed_names:
            units.remove_chunks(job.records, name, numbers)
    former_rows = _find_former_rows(job, all_units, changed_names, read_rows)
    fold = outputs.find_fold(job.out) if job.mirrors else None
    to_input_name = None
    if fold or job.rename:
        former_paths = (entry.path for entry in known.entries) if job.rename else ()
        to_input_name = outputs.make_namer(
            itertools.chain(former_paths, (entry.path for entry in listing)), fold, job.rename
        )
    # What a link that leads nowhere led to is not gone: a disk may be missing.
    shields = tuple(f"{entry.path}/" for entry in listing if entry.size < 0) if not storage.is_remote(job.input) else ()
    absent = tuple(known.without(listing))
    if to_input_name:  # of which one has the place of another input now, nothing is left to be removed
        names = ((entry, to_input_name(job.locate(entry.path))) for entry in absent)
        absent = tuple(entry for entry, name in names if name is None or listing.get(name) is None)
    departed = tuple(entry for entry in absent if not entry.path.startswith(shields))
    inputs.write_inputs(job.records, place, listing, selection, absent)
    has_results = job.mirrors and storage.is_dir(job.out)
    results = Results.of(storage.list_sorted(job.out) if has_results else (), to_input_name)
    if departed and not storage.is_remote(job.out):
        present = {result.path for entry in departed if (result := results.get(entry.path)) is not None}
        obstacles = inputs.find_obstacles({job.locate(entry.path) for entry in listing}, present)
        storage.delete_files(job.out, obstacles)
        results = results.remove(obstacles)
    return Stock(absent, departed, results, listing, former_rows=former_rows, selection=selection)


def _find_former_rows(
    job: PassJob, all_units: Sequence[Unit], changed_names: Set[str], read_rows: UnitRowReader | None
) -> FormerRows:
    """Return what may be taken over from records that were set aside, and have them forget the rest."""
    if not units.list_former(job.records):
        return FormerRows({})
    finished_units, identities = units.list_finished(job.records), dict[str, str]()
    closed_names = finished_units.names | finished_units.retries | changed_names
    indices = [i for i, unit in enumerate(all_units) if unit.name not in closed_names and not unit.archive]
    for index, rows in read_rows(indices) if read_rows else zip(indices, itertools.repeat({})):
        identities |= identify(all_units[index], rows)
    return takeover.find_former_rows(job.records, identities)


def _take_over(
    job: PassJob, open_units: Sequence[Unit], finished_units: Finished, stock: Stock
) -> tuple[list[Unit], dict[str, tuple[Source, ...]]]:
    """Return what is left to do, unit by unit, and by their names where the rows of their other files are.

    Record the units of which nothing is left. A row is taken over where its result is in OUT as it was written.
    """

    todo, sources = list[Unit](), dict[str, tuple[Source, ...]]()
    for unit in open_units:
        remainder, places = unit, tuple[Source, ...]()
        if unit.name not in finished_units.retries:
            results = stock.outputs.near(unit.entries) if job.mirrors and stock.former_rows else {}

            def holds(entry: Entry, stamp: str | None, results: Mapping[str, Entry] = results) -> bool:
                result = results.get(entry.path)
                return not job.mirrors or (None if result is None else result.stamp) == stamp

            remainder, places = stock.former_rows.split(unit, holds)
        sources |= {unit.name: places} if places else {}
        todo += [remainder] if remainder.entries else []
    remaining_names = {unit.name for unit in todo}
    takeover.record_taken_over(job.records, [item for item in sources.items() if item[0] not in remaining_names])
    return todo, sources


def _without_deviations(
    job: PassJob, all_units: Sequence[Unit], finished_units: Finished, stock: Stock, lease: Lease
) -> tuple[Finished, Stock]:
    """Remove from OUT what lies in the place of results and is none; return what is finished and there all the same."""
    deviations = changes.check_results(job.records, all_units, finished_units, job.out, stock.outputs)
    if deviations.units:
        report(f"{job.out}: results of {len(deviations.units)} units are missing, or are not what was written: again")
    if deviations.foreign:
        example = f"{len(deviations.foreign)} files that are not the results in whose place they lie"
        report(f"warning: {job.out}: removes {example}, such as {parquet_text(min(deviations.foreign))}")
        lease.confirm()
        storage.delete_files(job.out, deviations.foreign)
    remainder = Finished(finished_units.names - deviations.units, finished_units.retries - deviations.units)
    results = stock.outputs.remove(deviations.foreign)
    return remainder, stock._replace(outputs=results, strangers=deviations.strangers)


def plan_units(
    job: PassJob, follow_links: bool = False, selection: Selection | None = None
) -> tuple[list[Unit], FileListing]:
    """Return the units of what is selected in INPUT, and that. Raise UserError for none, and what only OUT may hold."""
    entries: Iterable[Entry] = list_selected(job.input, follow_links, (job.out, job.records_beside), selection)
    if job.rename:
        inputs_list = outputs.check_inputs(job.input, list(entries))
        listing = FileListing.of(outputs.check_renamed(job.out, inputs_list, job.rename))
    elif storage.is_remote(job.input) and (storage.is_remote(job.out) or not job.mirrors):
        listing = FileListing.of(outputs.check_keys(job.input, job.out if job.mirrors else None, entries))
        outputs.refuse_namesakes_in_tables(job.input, listing)
    else:
        inputs_list = outputs.check_inputs(job.input, list(entries))
        listing = FileListing.of(outputs.check_outputs(job.out, inputs_list) if job.mirrors else inputs_list)
    if not len(listing):
        problem = "but is empty" if selection in (None, Selection()) else "but --include and --exclude leave out all"
        raise UserError(f"{job.input}: must hold at least one file, {problem}")
    if any(entry.path.partition("/")[0].casefold() == units.FOLDER for entry in listing):
        raise UserError(f"{job.input}: must not hold a folder {units.FOLDER}, which is where OUT's records go")
    return _cut(listing)


def _cut(listing: FileListing) -> tuple[list[Unit], FileListing]:
    return units.cut(listing), listing


def refuse_overlap(places: Mapping[str, str | None]) -> None:
    """Raise UserError where two of these (INPUT, OUT, records beside it) lie in each other, links resolved.

    In INPUT that is a whole bucket others may lie, which are then no inputs.
    """
    for (first, uri), (second, other_uri) in itertools.combinations(places.items(), 2):
        is_around = any(
            name == "INPUT" and is_bucket(str(place)) and str(inner).rstrip("/") != str(place).rstrip("/")
            for name, place, inner in ((first, uri, other_uri), (second, other_uri, uri))
        )
        if uri and other_uri and storage.overlap(uri, other_uri) and not is_around:
            names = f"{first} must lie outside {second} and {second} outside {first}"
            raise UserError(f"{names}, but got {other_uri} and {uri}")
