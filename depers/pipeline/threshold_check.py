"""Whether thresholds are about the detector that is to use them: those of another promise nothing."""

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc

from depers import storage
from depers.detection.contexts import format_rules
from depers.detection.thresholds import Settings, Thresholds, describe_weights, find_differences, read_thresholds
from depers.errors import UserError
from depers.pipeline.options import PassOptions
from depers.pipeline.steps import PassJob
from depers.runtime import claims, units
from depers.storage import tables

_NOTED = ("class_maps", "classes", "imgsz", "tile", "augment", "iou_threshold", "confidence", "thresholds")
_ARITHMETIC = "arithmetic"  # the column of tables of boxes


def check_thresholds(
    options: PassOptions, job: PassJob, checkpoints: Sequence[bytes], class_names: Sequence[str], arithmetic: str
) -> tuple[str, ...]:
    """Return what a summary says about thresholds that were taken though they were found with other settings.

    `class_names` are those that the detector looks for, `arithmetic` is what it computes in. Raise UserError for such
    `--thresholds` without `--thresholds-anyway`. Those of the default detector are taken: whoever sets another size, or
    has another machine, did not choose them.
    """
    if options.chosen_thresholds is None or (job.boxes is not None and not job.boxes.checked):
        return ()  # what --boxes names is taken as it is
    thresholds = read_thresholds(options.chosen_thresholds)
    margin = getattr(options, "margin", None)
    if job.boxes is not None:
        differences = _compare_earlier(thresholds, job.boxes.uri, margin)
    else:
        settings = Settings(
            weights=describe_weights(job.weights, checkpoints),
            classes=tuple(sorted(class_names)),
            imgsz=options.imgsz,
            tile=options.tile,
            augment=options.augment,
            arithmetic=(arithmetic,),
            iou_threshold=options.iou_threshold,
            margin=margin,
            within=format_rules(job.settings.within),
        )
        if options.thresholds is None and set(class_names) < set(thresholds.settings.classes or ()):
            # A box counts for the best of the classes looked for: of each, fewer classes leave no fewer boxes.
            settings = settings._replace(classes=thresholds.settings.classes)
        differences = find_differences(thresholds, settings)
        flags = {"--half-stride-pad": job.half_stride_pad, "--multi-label": job.settings.multi_label}
        differences += [f"no {flag}, now with it" for flag, is_given in flags.items() if is_given]
    if not differences:
        return ()
    if options.thresholds is None:
        text = f"the thresholds of the default detector were found with {'; '.join(differences)}"
        return (f"warning: {text}; what they promise does not hold",)
    text = f"{options.thresholds}: was found with {'; '.join(differences)}"
    if not options.thresholds_anyway:
        hint = "find them again with `depers evaluate`, or add --thresholds-anyway, without their promise"
        raise UserError(f"{text}: {hint}")
    return (f"warning: --thresholds-anyway: {text}; what they promise does not hold",)


def _compare_earlier(thresholds: Thresholds, table: str, margin: float | None) -> list[str]:
    """Return the settings in which the run that wrote a table of boxes differs from that of the thresholds."""
    note = _find_note(table)
    if note is None or not all(name in note for name in _NOTED):
        return [f"a detector that is known, now {table}, of which no run says how it was made"]
    digests = note.get("weights_sha256", [])
    settings = Settings(
        weights=tuple(zip(digests, note["class_maps"], strict=False)),
        classes=tuple(note["classes"]) or None,  # all, which those of the same weights and class maps are
        imgsz=note["imgsz"],
        tile=note["tile"],
        augment=note["augment"],
        arithmetic=_list_arithmetics(table),
        iou_threshold=note["iou_threshold"],
        margin=margin,
        within=tuple(note.get("within", [])),
    )
    differences = find_differences(thresholds, settings)
    limits = [value for value in (note["confidence"], *note["thresholds"].values()) if value is not None]
    for name, least in thresholds.by_class.items():
        limit = note["thresholds"].get(name, min(limits, default=0.0))
        if limit > least:
            differences.append(f"boxes of {name} from {least:g} on, now {table} has them from {limit:g} on")
    return differences


def _list_arithmetics(uri: str) -> tuple[str, ...] | None:
    """Return what a table's boxes were computed in, sorted, None where it does not say; `auto` means what was there."""
    names = set[str]()
    with tables.open_table(uri) as file:
        if _ARITHMETIC not in file.schema_arrow.names:
            return None
        for batch in file.iter_batches(columns=[_ARITHMETIC], use_threads=False):
            names |= set(pc.unique(batch[_ARITHMETIC]).to_pylist()) - {None}
    return tuple(sorted(names))


def _find_note(table: str) -> dict[str, Any] | None:
    """Return what the run that wrote a table noted about itself, None where that is not there."""
    folder = table.rpartition("/")[0] or "."
    for uri in (storage.join(folder, units.JOB), storage.join(units.locate_inside(folder), units.JOB)):
        if storage.exists(uri):
            return claims.read_note(folder, uri)
    return None
