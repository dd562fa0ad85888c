"""One random dataset as YOLO, COCO and VOC, by writers that share nothing with depers: the same boxes and classes."""

import json
import shutil
from pathlib import Path
from xml.sax.saxutils import escape

from hypothesis import given, settings
from label_sets import HIGH, NAMES, WIDE, Dataset, dataset, expect, read_set, rounded, write_files


def write_yolo(images: Dataset) -> dict[str, str]:
    files = {"classes.txt": "\n".join(NAMES)}
    for name, boxes in images.items():
        rows = [
            f"{NAMES.index(c)} {(x + w / 2) / WIDE:.8f} {(y + h / 2) / HIGH:.8f} {w / WIDE:.8f} {h / HIGH:.8f}"
            for c, x, y, w, h in boxes
        ]
        files |= {f"images/{name}.jpg": "", f"labels/{name}.txt": "\n".join([*rows, ""])}
    return files


def write_coco(images: Dataset) -> dict[str, str]:
    entries = [{"id": n, "file_name": f"{name}.jpg", "width": WIDE, "height": HIGH} for n, name in enumerate(images)]
    annotations = [
        {"id": 10 * n + m, "image_id": n, "category_id": NAMES.index(c) + 1, "bbox": [x, y, w, h], "iscrowd": 0}
        for n, boxes in enumerate(images.values())
        for m, (c, x, y, w, h) in enumerate(boxes)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    content = json.dumps({"images": entries, "annotations": annotations, "categories": categories})
    return {"instances.json": content, **{f"images/{name}.jpg": "" for name in images}}


def write_voc(images: Dataset) -> dict[str, str]:
    files = {}
    for name, boxes in images.items():
        objects = "".join(
            f"<object><name>{escape(c)}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox></object>"
            for c, x, y, w, h in boxes
        )
        size = f"<size><width>{WIDE}</width><height>{HIGH}</height></size>"
        files |= {f"JPEGImages/{name}.jpg": "", f"Annotations/{name}.xml": f"<annotation>{size}{objects}</annotation>"}
    return files


@settings(max_examples=15)
@given(dataset)
def test_three_formats_say_the_same(tmp_path_factory: object, images: Dataset) -> None:
    expected = expect(images)
    for writer in (write_yolo, write_coco, write_voc):
        root = Path(tmp_path_factory.mktemp("raw"))  # type: ignore[attr-defined]
        found, problems = read_set(
            write_files(root, writer(images)), classes=NAMES, columns="box", size_wh=(WIDE, HIGH)
        )
        assert {name: rounded(boxes) for name, boxes in found.items()} == expected
        assert {problem.kind for problem in problems} <= {"class without a box"}
        shutil.rmtree(root)
