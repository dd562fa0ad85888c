"""The report of an extraction: what there is, why the rest is not, and how it looks: before, after, sprites."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from depers import storage
from depers.boxes import EDGES
from depers.datasets import sprite_bank
from depers.datasets.sprite_bank import SpriteBank
from depers.extraction.steps import part_path
from depers.extraction.take_apart import TableRow
from depers.imaging.decoding import decode
from depers.imaging.headers import ImageError
from depers.reports import drawing, page
from depers.runtime.units import Unit
from depers.statuses import SourceStatus
from depers.storage.tables import parquet_text

_PAIRS = 12
_SPRITES = 24  # of a class
_CLASSES = 12  # with sprites in the report, the most frequent ones
_SIDE = 640  # px, of an image in the report


def make_report(bank: SpriteBank, record: pa.Table, images: str, all_units: Sequence[Unit]) -> str:
    """Return the HTML page. `record` as `take_apart.RECORD`, `images` the training folder, cut into `all_units`."""
    counts, names = bank.counts, bank.class_names
    sprites = pc.value_counts(record["sprites"].combine_chunks().flatten()).to_pylist()
    by_class = {int(count["values"]): int(count["counts"]) for count in sprites}
    class_ids = sorted(by_class, key=lambda class_id: (-by_class[class_id], class_id))
    reasons = pc.value_counts(record["reason"].drop_null()).to_pylist()
    rows = [(pair["values"], pair["counts"]) for pair in sorted(reasons, key=lambda pair: -pair["counts"])]
    sections = [
        ("Counts", page.table(("what", "how many"), [(name.replace("_", " "), n) for name, n in counts.items()])),
        ("Sprites", page.table(("class of the outer box", "sprites"), [(names[c], by_class[c]) for c in class_ids])),
    ]
    by_name = count_backgrounds(record, names)
    if set(by_name.values()) - {counts["backgrounds"]}:
        note = page.paragraph("The others may show some of the class without a label: they never teach it as absent.")
        table = page.table(("class", "backgrounds that are labelled for it"), list(by_name.items()))
        sections.append(("Backgrounds by class", table + note))
    if rows:
        sections.append(("Skipped and failed", page.table(("reason", "images"), rows[:50])))
    sections.append(("Backgrounds, before and after: a sample", _pairs(bank, record, images, all_units)))
    for class_id in class_ids[:_CLASSES]:
        cells = list(_sample(bank, record, all_units, class_id))
        crops, captions = [crop for crop, _ in cells], [caption for _, caption in cells]
        sheet = drawing.contact_sheet(crops, captions, columns=6, cell_wh=(200, 200))
        sections.append((f"Sprites: {names[class_id]}", page.image(sheet, max_side=max(sheet.shape))))
    lead = f"{counts['images']} training images: {counts['backgrounds']} backgrounds, {counts['sprites']} sprites."
    return page.render("Extraction", lead, sections)


def count_backgrounds(record: pa.Table, names: Sequence[str]) -> dict[str, int]:
    """Return for each class how many backgrounds are labelled for it, so that they show nothing of it."""
    used = record.filter(pc.equal(record["status"], SourceStatus.USED))
    unlabelled = used["unlabelled"].combine_chunks().flatten().to_numpy()
    missing = np.bincount(unlabelled, minlength=len(names)).tolist()
    return {name: len(used) - count for name, count in zip(names, missing, strict=True)}


def _evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly spread."""
    return sorted({index * count // min(count, most) for index in range(min(count, most))})


def _pairs(bank: SpriteBank, record: pa.Table, images: str, all_units: Sequence[Unit]) -> Markup:
    """Show images, each beside the background made of it; those with objects come first."""
    backgrounds = record.filter(pc.equal(record["status"], SourceStatus.USED))
    with_objects = backgrounds.filter(pc.greater(backgrounds["objects"], 0))
    table = with_objects if len(with_objects) else backgrounds
    sources = {parquet_text(entry.path): entry.path for unit in all_units for entry in unit.entries}
    figures = []
    for index in _evenly(len(table), _PAIRS):
        (row,) = table.slice(index, 1).to_pylist()
        try:
            source = decode(storage.read_bytes(storage.join(images, sources[row["path"]])), float("inf")).rgb()
            background = decode(storage.read_bytes(storage.join(bank.root, row["background"])), float("inf")).rgb()
        except (KeyError, OSError, ImageError):  # it has changed since then
            continue
        caption = f"{row['path']}: {row['objects']} objects, {row['coverage']:.0%} of the image"
        figures += [page.image(source, caption, _SIDE), page.image(background, "the background", _SIDE)]
    return page.gallery(figures)


def _sample(
    bank: SpriteBank, record: pa.Table, all_units: Sequence[Unit], class_id: int
) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """Yield sprites of a class with their labels drawn, each from another image, and a caption."""
    lists = record["sprites"].combine_chunks()
    holders = pc.list_parent_indices(lists).filter(pc.equal(lists.flatten(), class_id)).unique()
    sources = set(record["path"].take(holders.take(pa.array(_evenly(len(holders), _SPRITES)))).to_pylist())
    for unit in all_units:
        if sources.isdisjoint(parquet_text(entry.path) for entry in unit.entries):
            continue
        table = sprite_bank.read_part(bank, part_path(unit))
        chosen = pc.and_(pc.equal(table["class_id"], class_id), pc.is_in(table["source"], pa.array(sorted(sources))))
        visited = set()
        for row in table.filter(chosen).to_pylist():
            if row["source"] not in visited:
                visited.add(row["source"])
                yield _draw(row, bank.class_names), _caption(row)


def _draw(row: TableRow, names: tuple[str, ...]) -> NDArray[np.uint8]:
    labels = row["labels"]
    boxes = [[label[name] for name in EDGES] for label in labels]
    colors = [drawing.color(names[label["class_id"]]) for label in labels]
    return drawing.draw_boxes(decode(row["image"]).rgb(), boxes, [""] * len(boxes), colors)


def _caption(row: TableRow) -> str:
    marks = ["cut"] * row["truncated"] + [f"{row['hidden']:.0%} hidden"] * (row["hidden"] > 0)
    return ", ".join([f"{row['width']} x {row['height']}", *marks])
