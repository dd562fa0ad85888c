"""The report of a labelling: what detectors added, and how it looks."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from depers import storage
from depers.boxes import EDGES, from_normalized_xywh
from depers.datasets.labels import label_path, read_labels
from depers.imaging.decoding import decode
from depers.imaging.headers import ImageError
from depers.labelling.steps import LabellingJob
from depers.reports import drawing, page
from depers.storage.tables import parquet_text

_IMAGES = 24
_PEOPLE, _TAUGHT, _IGNORED = (31, 119, 180), (44, 160, 44), (150, 150, 150)


def make_report(
    job: LabellingJob, table: pa.Table, counts: Mapping[tuple[str, str], int], weights: Sequence[str]
) -> str:
    """Return the HTML page. `table` as `steps.RECORD`; `counts` of boxes by class and use."""
    names = job.dataset.names
    ids = sorted(job.rules.confidences)
    rows = [
        (
            names[class_id],
            job.rules.confidences[class_id],
            job.rules.agreements[class_id],
            counts.get((names[class_id], "label"), 0),
            counts.get((names[class_id], "ignore"), 0),
        )
        for class_id in ids
    ]
    header = ("class", "least confidence", "weights that must agree", "labels", "ignore regions")
    sections = [("Made by detectors", page.table(header, rows))]
    reasons = pc.value_counts(table["reason"].drop_null()).to_pylist()
    if reasons:
        rows_of_reasons = [
            (pair["values"], pair["counts"]) for pair in sorted(reasons, key=lambda pair: -pair["counts"])
        ]
        sections.append(("Images without labels of a detector", page.table(("reason", "images"), rows_of_reasons[:50])))
    legend = page.paragraph(
        "Blue: labelled by people. Green: labelled by a detector. Gray: neither taught nor background."
    )
    sections.append(("A sample", legend + page.gallery(_draw_sample(job, table))))
    lead = f"{len(table)} images; labels by {', '.join(text.rpartition('/')[2] for text in weights)}."
    return page.render("Labels made by detectors", lead, sections)


def _draw_sample(job: LabellingJob, table: pa.Table) -> list[Markup]:
    """Return images, spread evenly over those in which a detector found something."""
    found = table.filter(pc.greater(pc.list_value_length(table["boxes"]), 0))
    places = np.unique(np.linspace(0, len(found) - 1, min(_IMAGES, len(found))).astype(int)).tolist()
    entries = {
        f"{split}/{parquet_text(entry.path)}": (split, entry.path)
        for split, folder in job.folders.items()
        if places
        for entry in storage.list_files(folder, follow_links=True)
    }
    figures = []
    for row in found.take(places).to_pylist() if places else []:
        split, path = entries[row["path"]]
        uri = storage.join(job.folders[split], path)
        try:
            image = decode(storage.read_bytes(uri), float("inf"))
        except (ImageError, OSError):
            continue  # its row says so
        labels = read_labels(label_path(uri), len(job.dataset.names))
        machine = np.array([[box[edge] for edge in EDGES] for box in row["boxes"]], np.float32).reshape(-1, 4)
        boxes = np.concatenate([from_normalized_xywh(labels.boxes_xywh, image.size_wh), machine])
        texts = [job.dataset.names[class_id] for class_id in labels.class_ids.tolist()]
        texts += [f"{box['class']} {box['confidence']:.2f}" for box in row["boxes"]]
        colors = [_PEOPLE] * len(labels.class_ids)
        colors += [_TAUGHT if box["use"] == "label" else _IGNORED for box in row["boxes"]]
        figures.append(page.image(drawing.draw_boxes(image.rgb(), boxes, texts, colors), row["path"], max_side=640))
    return figures
