"""Formats of labels that are not read: by what they are recognised, and what to do with them."""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from depers.datasets.labels import read_number
from depers.normalization.rules import IN_FRACTIONS, NO_AREA, OUTSIDE, Problem

_IN_FRACTIONS = ("yolo", "competition")
_MANY = 50  # files that are looked into


class ForeignFormat(NamedTuple):
    """A format: the names of its files, what stands in them, its own name, and how its labels can be read after all."""

    names: str
    content: bytes
    title: str
    advice: str


_AS_COCO = "write the boxes as COCO, with pixels as bbox x, y, w, h"
_DATUMARO = "convert it: `pip install datumaro`, then `datum convert -i RAW -if {} -f coco -o COCO -- --save-media`"
FOREIGN_FORMATS = tuple(
    ForeignFormat(*row)
    for row in (
        (r"\.xml$", rb"<annotations>\s*<version>", "CVAT for images XML",
         "export the task again as COCO 1.0, Pascal VOC 1.1 or Ultralytics YOLO Detection"),
        (r"\.json$", rb'"_via_|"file_attributes"|"shape_attributes"', "VGG Image Annotator (VIA) JSON",
         "export it from VIA again as COCO (Annotation > Export Annotations)"),
        (r"\.csv$", rb"region_shape_attributes", "VGG Image Annotator (VIA) CSV",
         "export it from VIA again as COCO (Annotation > Export Annotations)"),
        (r"\.json$", rb'"dm_format_version"|^\s*\{\s*"info"\s*:.*"categories"\s*:\s*\{', "datumaro JSON",
         _DATUMARO.format("datumaro")),
        (r"\.json$", rb'"classTitle"|"classId".*"geometryType"|^\s*\{.*"objects"\s*:.*"size"\s*:', "Supervisely JSON",
         "export it again as COCO or YOLO (Supervisely's app 'Export to COCO')"),
        (r"\.json$", rb'^\s*\[.*"coordinates"\s*:', "CreateML JSON",
         "save it in labelImg as PascalVOC or YOLO, or export it again as COCO"),
        (r"\.json$", rb'"from_name"|"annotation_id".*"annotator"|"rectanglelabels"'
         rb'|"annotations"\s*:\s*\[.*"result"\s*:\s*\['
         rb'|"original_width"', "Label Studio JSON", "export it again as COCO, YOLO or Pascal VOC XML"),
        (r"\.json$", rb'"boundingBox"\s*:|"regions"\s*:\s*\[', "VoTT JSON, or another of boxes by side",
         "export it again as Pascal VOC, or write its boxes as COCO"),
        (r"\.json$", rb'"bounding_box"\s*:', "V7 Darwin or FiftyOne JSON", "export it again as COCO or YOLO"),
        (r"\.json$", rb'"className"\s*:', "SuperAnnotate JSON", "export it again as COCO"),
        (r"\.json$", rb'"identity"\s*:.*"children"\s*:|"children"\s*:.*"identity"\s*:|"bboxVis"\s*:',
         "EuroCity Persons or CityPersons JSON", _AS_COCO),
        (r"\.jsonl$|\.ndjson$|\.manifest$", rb"^\s*\{", "JSON lines, as of Hugging Face, Labelbox or SageMaker",
         _AS_COCO),
        (r"\.labels$", rb'"boundingBoxes"\s*:', "Edge Impulse JSON", "export it again as COCO or YOLO"),
        (r"\.xml$", rb"<dataset[\s>].*<images?[\s>].*<box\s", "dlib XML", "write its boxes as Pascal VOC"),
        (r"\.json$", rb'"box2d"', "BDD100K JSON",
         "convert it: `pip install bdd100k`, then `python -m bdd100k.label.to_coco -m det -i LABELS -o COCO.json`"),
        (r"\.json$", rb'"polygon"\s*:.*"imgWidth"|"imgWidth"\s*:.*"polygon"', "Cityscapes JSON",
         _DATUMARO.format("cityscapes")),
        (r"\.json$", rb'^\s*\[\s*\{.*"image_id"\s*:.*"bbox"', "COCO's results, a list of detections",
         "give the COCO file with images, annotations and categories"),
        (r"\.csv$", rb"^\s*ImageID\s*,.*LabelName.*XMin", "Open Images CSV", _DATUMARO.format("open_images")),
        (r"\.csv$", rb"^[^\n]*\bbbox\b", "a CSV of boxes", _AS_COCO),
        (r"\.csv$", rb"^.*xmin.*,.*xmax", "a CSV of boxes", "write its rows as COCO, with pixels as bbox x, y, w, h"),
        (r"\.txt$", rb"^[^\n]*\.(?:jpe?g|png|bmp|webp)(?:[ ,]+-?\d+,-?\d+,-?\d+,-?\d+,\d+)+", "YOLOv3-Keras lists",
         "export it again as YOLOv5, COCO or Pascal VOC"),
        (r"\.txt$", rb"^(?:imagesource:|gsd:|(?:-?[\d.]+ ){8}\S*[A-Za-z-]+\S* \d)", "DOTA texts",
         _DATUMARO.format("dota")),
        (r"\.txt$", rb"^\d+,\d+,\d+,\d+,[01],\d+,-?[01],[0-2]\s", "VisDrone texts", _DATUMARO.format("vis_drone")),
        (r"\.txt$", rb"^#\s[^\n]*\.(?:jpe?g|png)\s*\n(?:-?[\d.]+\s+){19}", "RetinaFace texts",
         "give WIDER FACE's own wider_face_train_bbx_gt.txt"),
        (r"\.txt$", rb"^\d+\s*\n\d+(?: \d+){4}\s", "WiderPerson texts", _AS_COCO),
        (r"\.txt$", rb"^[^\n]*\.(?:jpe?g|png)\t\d+\t\d+\t\d+\t\d+\t", "OpenALPR texts",
         _AS_COCO),
        (r"\.txt$", rb"^camera:.*position_", "UFPR-ALPR texts", _AS_COCO),
        (r"\.txt$", rb"^\d+,-?\d+,-?[\d.]+,-?[\d.]+,[\d.]+,[\d.]+,", "MOT texts", _DATUMARO.format("mot_seq")),
        (r"\.tfrecords?$|\.record$", rb"", "TFRecord", _DATUMARO.format("tf_detection_api")),
        (r"\.mat$", rb"", "a MATLAB file", _AS_COCO),
    )
)  # fmt: skip
"""In this order, the most telling first."""


def identify(paths: Sequence[str], head_of: Callable[[str], bytes]) -> str:
    """Return what labels of another format there are among files, and what to do; "" where none is known.

    `head_of` gives the beginning of a file.
    """
    for suffix in sorted({path.rpartition(".")[2].lower() for path in paths}):
        candidates = [path for path in paths if path.lower().endswith(f".{suffix}")][:_MANY]
        known = [entry for entry in FOREIGN_FORMATS if re.search(entry.names, f"x.{suffix}")]
        for path in candidates if known else ():
            for entry in known:
                if not entry.content or re.search(entry.content, head_of(path), re.DOTALL):
                    return f"{path} is {entry.title}, which is not read: {entry.advice}"
    return ""


def advise(kind: str, problem: Problem) -> str:
    """Return what may be the matter with a set in the format `kind` of which most labels are like this one; or ""."""
    fields = problem.detail.split()
    numbers = [read_number(field) for field in fields]
    if problem.kind == "not fractions of the image" or (problem.kind in (OUTSIDE, NO_AREA) and kind in _IN_FRACTIONS):
        return ": these may be pixels, or edges; YOLO's are center and size as shares of the image: convert them"
    if problem.kind == IN_FRACTIONS:
        return ": these are fractions of the image, where this format has pixels: convert them"
    if problem.kind in (OUTSIDE, NO_AREA):
        return ": these may be two corners, or belong to other images"
    if kind in _IN_FRACTIONS and fields and math.isnan(numbers[0]):
        if len(fields) in (15, 16) and not any(map(math.isnan, numbers[1:])):
            return ": this looks like KITTI, so name it with --format kitti"
        if len(fields) >= 5 and not any(map(math.isnan, numbers[-4:])) and max(numbers[-4:]) > 1:
            return ": these look like names and edges in pixels, which --format oidv4 reads"
        return ": a line must begin with the id of its class, the place of its name in data.yaml or classes.txt"
    if problem.kind == "numbers that are no box" and len(fields) == 6:
        return ": a confidence must come last; say with --columns box where the sixth number is something else"
    if problem.kind in ("numbers that are no box", "not five fields"):
        return ": say what stands in the lines with --columns box, box+points or polygon"
    if problem.kind == "detection, not a label":
        return ": where people have checked them, remove the key `score` (or `confidence`)"
    if problem.kind == "turned box":
        return ": export them as polygons"
    if problem.kind == "not four numbers":
        return ": where other files hold the boxes, name those with --label-files"
    if problem.kind == "class id without a name":
        return ": the list of names and the labels must belong together"
    return ""
