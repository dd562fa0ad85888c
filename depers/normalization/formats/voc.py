"""Pascal VOC: an XML file per image, as LabelImg, CVAT and the challenge itself write it.

    <annotation>
      <size><width>500</width><height>375</height></size>
      <object><name>car</name><bndbox><xmin>8</xmin><ymin>12</ymin><xmax>352</xmax><ymax>498</ymax></bndbox></object>
    </annotation>

An object may have several boxes, all of its class. Edges are taken as they are written, but for the challenge's own
files and supervision's: their pixels count from 1, and the last one lies inside (Everingham and Winn, "The PASCAL
Visual Object Classes Challenge 2012 Development Kit", 2012, 8.1).
"""

import math
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from depers.datasets.labels import read_number
from depers.normalization.formats.remarks import find_score, is_region
from depers.normalization.rules import FileLabels, LabelError, Problem, RawBox, clean_name
from depers.statuses import ProblemAction

_EDGES = ("xmin", "ymin", "xmax", "ymax")


def read_voc(path: str, data: bytes) -> FileLabels:
    """Read the boxes of one XML file, in pixels.

    Raise LabelError for XML that is broken, dangerous (entities, document types), or no VOC annotation.
    """
    try:
        root = fromstring(data, forbid_dtd=True)
    except ParseError as error:
        raise LabelError("broken XML", f"line {error.position[0]}, column {error.position[1]}: {error}") from None
    except DefusedXmlException as error:
        raise LabelError("unsafe XML", type(error).__name__) from None
    except (ValueError, LookupError) as error:  # an encoding that Python does not know, or bytes that are not of it
        raise LabelError("broken XML", str(error)) from None
    if root.tag != "annotation":
        raise LabelError("no VOC annotation", f"the root must be <annotation>, but is <{root.tag[:80]}>")
    if _count_tags(root, "object") != len(root.findall("object")) or _count_tags(root, "bndbox") != _count_frames(root):
        raise LabelError("no VOC annotation", "the root must hold <object>s with a <bndbox>, but some are elsewhere")
    from_one = _counts_from_one(root)
    boxes: list[RawBox] = []
    problems: list[Problem] = []
    for number, element in enumerate(root.iterfind("object"), 1):
        names, frames = (
            [clean_name(name.text or "") for name in element.iterfind("name")],
            list(element.iterfind("bndbox")),
        )
        remarks = _read_remarks(element)
        ignored = is_region(remarks)
        if len(names) != 1 or not names[0] or not frames:
            kind = "object without a box" if names and names[0] and not frames else "object without a name"
            kind = "object with several names" if len(names) > 1 else kind
            text = " ".join("".join(element.itertext()).split())[:120]
            problems.append(Problem(path, number, kind, ProblemAction.SKIPPED_WITH_IMAGE, text))
            continue
        if angle := _find_angle(element):
            text = f"{names[0]}, {angle}°"
            problems.append(Problem(path, number, "turned box", ProblemAction.SKIPPED_WITH_IMAGE, text))
            continue
        if (score := find_score(remarks)) is not None:
            text = f"{names[0]}, score {score}"
            problems.append(Problem(path, number, "detection, not a label", ProblemAction.SKIPPED_WITH_IMAGE, text))
            continue
        for frame in frames:
            edges = [(frame.findtext(edge) or "").strip() for edge in _EDGES]
            x0, y0, x1, y1 = (read_number(edge) for edge in edges)
            if any(map(math.isnan, (x0, y0, x1, y1))):
                text = f"{names[0]} {' '.join(edges)}"[:120]
                problems.append(Problem(path, number, "not a finite number", ProblemAction.SKIPPED_WITH_IMAGE, text))
                continue
            x0, y0 = (x0 - 1, y0 - 1) if from_one else (x0, y0)
            boxes.append(RawBox(number, names[0], (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, ignored))
    return FileLabels(boxes, problems, _size(root))


def _count_tags(root: Element, name: str) -> int:
    """Return how many elements there are of a name, wherever they are, in whatever case and namespace."""
    return sum(str(element.tag).rpartition("}")[2].lower() == name for element in root.iter())


def _count_frames(root: Element) -> int:
    """Return how many boxes objects and their parts have; parts (VOC's layout of people) are no objects."""
    return len(root.findall("object/bndbox")) + len(root.findall("object/part/bndbox"))


def _read_remarks(element: Element) -> dict[str, str]:
    """Return the fields of an object that are text, and its attributes, as CVAT writes them."""
    fields = {str(child.tag): (child.text or "").strip() for child in element if not len(child)}
    names = ((item.findtext("name") or "", item.findtext("value") or "") for item in element.iterfind("attributes/*"))
    return {**fields, **{name: value.strip() for name, value in names}}


def _find_angle(element: Element) -> str:
    """Return by how much CVAT has turned a box, whose edges are those before the turn; "" for not at all."""
    for attribute in element.iterfind("attributes/attribute"):
        value = (attribute.findtext("value") or "").strip()
        if attribute.findtext("name") == "rotation" and read_number(value) % 360:  # also NaN
            return value
    return ""


def _counts_from_one(root: Element) -> bool:
    """Say whether pixels count from 1: in the challenge's own files, and in those of supervision."""
    folder, database = ((root.findtext(path) or "").strip() for path in ("folder", "source/database"))
    return database.startswith("The VOC") or (folder, database) == ("VOC", "roboflow.ai")


def _size(root: Element) -> tuple[int, int]:
    """Return the declared width and height; 0 where it is none."""
    wide, high = (read_number((root.findtext(f"size/{side}") or "").strip()) for side in ("width", "height"))
    return (int(wide), int(high)) if wide >= 1 and high >= 1 else (0, 0)
