"""Boxes from elsewhere than a detector: labels, detections edited by a person, or those of an earlier run.

They are believed only where they speak of this very image, and in full: what they say nothing about fails (an empty
list of boxes must be said, too), and so does an image with a box that cannot be meant: something else was.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from depers import storage
from depers.boxes import EDGES, from_normalized_xywh
from depers.datasets.class_lists import parse_class_list
from depers.datasets.data_yaml import Dataset, read_dataset
from depers.datasets.labels import parse_yolo, read_number
from depers.detection.detections import make_box
from depers.errors import UserError
from depers.imaging import sniffing
from depers.imaging.headers import ImageError
from depers.pipeline.box_tables import DOUBLED, Row
from depers.runtime import units
from depers.statuses import FileStatus

_CLASS_LIST = "classes.txt"
_LOOKED_AT = (FileStatus.DETECTED, FileStatus.REDACTED, FileStatus.CLEAN)
"""The statuses of images that were looked at; all others say nothing about boxes."""
_LABEL_FIELDS = 5  # of a line of YOLO text; a sixth is the confidence
_FARTHEST = 1e9  # pixels
_LARGEST_SHARE = 1.5  # of an image, rounded or reaching over its edge; no pixel box is as small, and in the corner
_BESIDE_IMAGES = (".txt", ".json", ".xml", ".csv", ".npy")  # what is no image
_NO_NAME = "thing"  # the class of a box that a table gives none


class BoxSource(NamedTuple):
    """Where boxes are: a table of rows by path and number, or YOLO texts below `labels`, whose classes are `names`.

    `confidence` and `thresholds` are the least of a table's box that counts; `checked` that each row must have the
    digest of the file that its boxes were found in. `ambiguous` are the texts that belong to several images.
    """

    uri: str
    names: tuple[str, ...] = ()
    labels: str = ""
    confidence: float = 0.0
    thresholds: Mapping[str, float] = {}
    checked: bool = False
    ambiguous: frozenset[str] = frozenset()


class ImageFacts(NamedTuple):
    """What boxes must agree with: where an image lies (see `Item.place`), its bytes, its size and its frames."""

    place: str
    data: bytes
    size_wh: tuple[int, int]
    frames: int = 1
    member: str | None = None


def find_box_source(uri: str, classes: Sequence[str] = ()) -> BoxSource:
    """Return what `--boxes` names: a table of detections, or a folder of YOLO labels.

    Raise UserError for what is neither, and for `classes` that its labels do not tell of.
    """
    if not storage.is_dir(uri):
        return BoxSource(uri)
    labels = storage.join(uri, "labels")
    names = _read_names(uri, classes)
    if names:
        for name in classes:
            if name not in names:
                known_names = ", ".join(name for name in names if name)
                raise UserError(f"--classes must be among those of {uri} ({known_names}), but got {name!r}")
        return BoxSource(uri, names, labels)
    if tables_there := _find_tables(uri):
        return BoxSource(tables_there[-1])
    raise UserError(f"{uri}: must be a table of detections, or a folder with labels/ and classes.txt or data.yaml")


def _find_tables(folder: str) -> list[str]:
    """Return the tables of boxes that an OUT has, in it or in the records beside it, or a folder of records."""
    records = units.locate_beside(storage.absolute(folder))
    places = [storage.join(records, "manifest.parquet")] if records else []
    places += [storage.join(folder, name) for name in ("manifest.parquet", "detections.parquet")]
    return [place for place in places if storage.exists(place)]


def check_class_lists(source: BoxSource, paths: Iterable[str]) -> None:
    """Raise UserError where `paths` below the labels hold another class list: labelImg writes one into each folder."""
    for path in paths:
        if path.rpartition("/")[2] == _CLASS_LIST:
            file = storage.join(source.labels, path)
            if parse_class_list(storage.read_bytes(file), file) != source.names:
                raise UserError(f"{file}: the classes must be those of {source.uri}, but differ")


def _read_names(uri: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the class names of YOLO labels by their ids, none where there is no list of them. Raise UserError."""
    lists = {}
    file = storage.join(uri, _CLASS_LIST)
    if storage.exists(file):
        lists[file] = parse_class_list(storage.read_bytes(file), file)
    file = storage.join(uri, "data.yaml")
    if storage.exists(file):
        dataset = read_dataset(uri)
        _check_labelled(file, dataset, classes)
        lists[file] = tuple(dataset.names)
    if len(set(lists.values())) > 1:
        raise UserError(f"{uri}: the classes must be the same in {' and '.join(lists)}, but differ")
    return next(iter(lists.values()), ())


def _check_labelled(file: str, dataset: Dataset, classes: Sequence[str]) -> None:
    """Raise UserError where images are not labelled for all the `classes`: no box says nothing about them then."""
    for prefix, class_ids in dataset.labelled:
        labelled = [dataset.names[class_id] for class_id in sorted(class_ids)]
        if missing := [name for name in classes or dataset.names if name not in labelled]:
            raise UserError(
                f"{file}: images below {prefix!r} must be labelled for {', '.join(missing)}, but are only for"
                f" {', '.join(labelled)}; name classes that all are labelled for by --classes"
            )


def find_previous_source(uri: str, confidence: float | None, thresholds: Mapping[str, float]) -> BoxSource:
    """Return what `--previous-detections` names: a manifest, a table of detections, or the OUT that holds one.

    All boxes of the earlier run count but those below the `confidence` and `thresholds` that this one is given.
    """
    table = uri
    if storage.is_dir(uri):
        tables_there = _find_tables(uri)
        if not tables_there:
            raise UserError(f"{uri}: must hold a manifest or detections.parquet of an earlier run, but holds neither")
        table = tables_there[0]
    limits = [*thresholds.values(), *([] if confidence is None else [confidence])]
    return BoxSource(table, confidence=min(limits, default=0.0), thresholds=thresholds, checked=True)


def label_name(place: str) -> str:
    """Return where the YOLO text of an image lies below the folder of labels."""
    path = PurePosixPath(place)
    return str(path.with_suffix(".txt")) if path.name else f"{place}.txt"  # a key on S3 may be "."


def find_ambiguous_texts(places: Iterable[str], archives: Collection[str] = ()) -> frozenset[str]:
    """Return the YOLO texts that belong to several images: which of them one is about, nothing says.

    Also those of images that lie below the path of one of the `archives`, where keys on S3 may: a member may have it.

    And the places of what is called otherwise than images are, but may be one, beside what has the same text.
    """
    counts, other_counts, others = Counter[str](), Counter[str](), list[str]()
    shared_names: set[str] = set()
    for place in places:
        if archives and any(str(folder) in archives for folder in PurePosixPath(place).parents):
            shared_names.add(label_name(place))
        if sniffing.has_image_suffix(place):
            counts[label_name(place)] += 1
        elif not place.lower().endswith(_BESIDE_IMAGES):
            others.append(place)
            other_counts[label_name(place)] += 1
    shared_names |= {name for name, count in counts.items() if count > 1}
    shared_places = [place for place in others if label_name(place) in counts or other_counts[label_name(place)] > 1]
    return frozenset(shared_names.union(shared_places))


def read_boxes(source: BoxSource, row: Row | None, image: ImageFacts, classes: Sequence[str]) -> list[Row]:
    """Return the boxes of one image as rows of `detections.BOX`. Raise ImageError where nothing is said about it."""
    boxes = _read_labels(source, image) if source.labels else _select_boxes(source, row, image)
    if not classes:
        return boxes
    similar_names = {_fold(name): name for name in classes}
    for box in boxes:
        name = box["class"]
        if name not in classes and (name == _NO_NAME or _fold(name) in similar_names):
            requested = similar_names.get(_fold(name), ", ".join(classes))
            raise ImageError(f"has a box of class {name!r}, which may be meant by --classes {requested}")
    return [box for box in boxes if box["class"] in classes]


def _fold(name: str) -> str:
    """Return a class name without what people do not see or mean: case, blanks, forms of Unicode."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split()).replace("_", "").replace("-", "")


def _read_labels(source: BoxSource, image: ImageFacts) -> list[Row]:
    name = label_name(image.place)
    file = storage.join(source.labels, name)
    if image.frames > 1:
        raise ImageError(f"holds {image.frames} frames, but a YOLO text, {name}, can speak of one only")
    if not source.ambiguous.isdisjoint((name, image.place)):
        raise ImageError(f"shares its labels, {name}, with another image")
    try:
        data = storage.read_bytes(file)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ImageError(f"has no labels at {file}; an image without boxes must have an empty text") from None
    try:
        lines = data.decode("utf-8-sig").splitlines()
        text = "\n".join(_without_confidence(line, f"{file}, line {number}") for number, line in enumerate(lines, 1))
        labels = parse_yolo(text, len(source.names), file)
        if nameless := [class_id for class_id in labels.class_ids.tolist() if not source.names[class_id]]:
            raise UserError(f"{file}: every class id must have a name, but {nameless[0]} has none")
    except (UserError, UnicodeDecodeError) as error:
        raise ImageError(f"has labels that cannot be read ({error})") from None
    boxes = from_normalized_xywh(labels.boxes_xywh, image.size_wh)
    return [
        _check_box(make_box(source.names[class_id], None, box, "labels", 0), image)
        for class_id, box in zip(labels.class_ids.tolist(), boxes.tolist(), strict=True)
    ]


def _without_confidence(line: str, location: str) -> str:
    """Return a label without its sixth number, which is a confidence as `depers detect` writes it. Raise UserError."""
    fields = line.split()
    if len(fields) != _LABEL_FIELDS + 1:
        return line
    if not 0 <= read_number(fields[-1]) <= 1:
        raise UserError(f"{location}: the confidence must be a number in 0…1, but got {fields[-1]!r}")
    return " ".join(fields[:-1])


def _select_boxes(source: BoxSource, row: Row | None, image: ImageFacts) -> list[Row]:
    """Return the boxes of a table's row that count. Raise ImageError for a row that says nothing about the image."""
    if row is None:
        raise ImageError(f"has no row in {source.uri}")
    _check_row(source, row, image)
    boxes = []
    for box in row["boxes"]:
        if box is None:
            raise ImageError("has a box without edges")
        name, confidence = str(box.get("class") or _NO_NAME), box.get("confidence")
        edges, frame = [box[edge] for edge in EDGES], box.get("frame")
        if frame is None and image.frames > 1:
            raise ImageError(f"holds {image.frames} frames, but has a box that does not say in which")
        checked = _check_box(make_box(name, confidence, edges, box.get("model"), frame or 0), image)
        if max(edges) <= _LARGEST_SHARE < max(image.size_wh):
            raise ImageError(f"has a box with edges {edges}, which must be pixels, not shares of the image")
        if confidence is None or confidence >= source.thresholds.get(name, source.confidence):
            boxes.append(checked)
    return boxes


def _check_row(source: BoxSource, row: Row, image: ImageFacts) -> None:
    """Raise ImageError where a row is not about this image, or does not say which boxes are in it."""
    boxes, status = row["boxes"], row.get("status")
    if row.get(DOUBLED):
        raise ImageError(f"has several rows in {source.uri}")
    if status == FileStatus.FAILED:
        raise ImageError(f"failed when its boxes were found: {row.get('reason')}")
    if status is not None and status not in _LOOKED_AT:
        raise ImageError(f"is {status} in {source.uri}: nobody looked for boxes")
    if boxes is None or (status == FileStatus.REDACTED and not boxes):
        raise ImageError(f"has lost its boxes in {source.uri}; an image without boxes must have an empty list")
    if row.get("member") is not None and image.member is not None and row["member"] != image.member:
        raise ImageError(f"is called {row['member']} in {source.uri}")
    digest = row.get("input_sha256")
    if digest is None and source.checked:
        raise ImageError(f"has no digest in {source.uri}, which would say that its boxes were found in this file")
    if digest is not None and digest.lower() != hashlib.sha256(image.data).hexdigest():
        raise ImageError("changed since its boxes were found")
    size_wh, frames = (row.get("width"), row.get("height")), row.get("frames")
    if None not in size_wh and size_wh != image.size_wh:
        raise ImageError("is {} × {} pixels, but its boxes are of {} × {}".format(*image.size_wh, *size_wh))
    if frames is not None and frames != image.frames:
        raise ImageError(f"holds {image.frames} frames, but its boxes are of {frames}")


def _check_box(box: Row, image: ImageFacts) -> Row:
    """Return a box as it is. Raise ImageError for one that cannot be meant, or that would paint no pixel."""
    values: list[Any] = [box[name] for name in EDGES]
    if not all(value is not None and abs(value) <= _FARTHEST for value in values):
        raise ImageError(f"has a box with edges {values}, which must be numbers")
    x_min, y_min, x_max, y_max = np.array(values, np.float32).tolist()  # as the redaction sees them
    (width, height), confidence, frame = image.size_wh, box["confidence"], box["frame"]
    if not (x_min < x_max and y_min < y_max):
        raise ImageError(f"has a box with edges {values}, which must be x_min < x_max and y_min < y_max")
    if confidence is not None and not 0 <= confidence <= 1:
        raise ImageError(f"has a box with confidence {confidence:g}, which must lie in 0…1")
    if frame not in range(image.frames):
        raise ImageError(f"holds {image.frames} frames, but has a box in frame {frame:g}, counted from 0")
    if x_max <= 0 or y_max <= 0 or (frame == 0 and (x_min >= width or y_min >= height)):
        raise ImageError(f"has a box with edges {values}, which must lie in its {width} × {height} pixels")
    return box | {"frame": int(frame)}
