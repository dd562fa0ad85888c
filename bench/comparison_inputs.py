"""Inputs for comparing what verbs write: drawn scenes with labels in every layout, real files, every kind of archive.

`make_inputs` is all that the comparison calls; nothing here depends on which code is compared.
"""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("car", "head", "face", "human", "carplate")


def make_inputs(inputs: Path, data: Path | None) -> dict[str, str]:
    """Make all inputs, of the real `data` too where there are any; return what commands call weights and datasets."""
    draw(inputs)
    words = choose(inputs, data) if data else make_weights(inputs)
    pack(inputs)
    return words


def draw(inputs: Path) -> None:
    """Draw street scenes, labelled in three layouts: the competition's, Pascal VOC and COCO."""
    from depers.street_scenes.scenes import write_raw

    for name, count, first in (("scenes", 16, 0), ("voc", 6, 24), ("coco", 6, 32)):
        write_raw(inputs / name, count, seed=1, first=first)
    odd_labels = "0 0.5 0.5 0.4 2\n0 0.5 0.5 0 0\n0 nan 0.5 0.1 0.1\nno label\n3 0.3 0.3 0.1 0.1\n"
    for name in ("street-1-00001_car", "street-1-00001_human", "street-1-00002_face", "absent_car"):
        (inputs / "scenes/labels" / f"{name}..txt").write_text(odd_labels, encoding="utf-8")
    (inputs / "scenes/images/damaged.jpg").write_bytes(
        (inputs / "scenes/images/street-1-00003.jpg").read_bytes()[:5000]
    )
    annotations: list[object] = []
    images: list[object] = []
    for number, path in enumerate(sorted((inputs / "coco/images").iterdir())):
        width, height = size_of(path)
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for name, x0, y0, x1, y1 in labels(path):
            box = {"image_id": number, "category_id": CLASSES.index(name), "bbox": [x0, y0, x1 - x0, y1 - y0]}
            annotations.append(box | {"id": len(annotations)})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (inputs / "coco/instances.json").write_text(json.dumps(coco), encoding="utf-8")
    for path in sorted((inputs / "voc/images").iterdir()):
        text = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            "</bndbox></object>"
            for name, x0, y0, x1, y1 in labels(path)
        )
        size = "<size><width>{}</width><height>{}</height><depth>3</depth></size>".format(*size_of(path))
        text = f"<annotation><filename>{path.name}</filename>{size}{text}</annotation>"
        path.with_suffix(".xml").write_text(text, encoding="utf-8")
    for name in ("voc", "coco"):
        shutil.rmtree(inputs / name / "labels")


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of an image."""
    with Image.open(path) as image:
        return image.size


def labels(image: Path) -> Iterator[tuple[str, float, float, float, float]]:
    """Read the labels of a drawn scene, as class and box in pixels."""
    width, height = size_of(image)
    for name in CLASSES:
        path = image.parents[1] / "labels" / f"{image.stem}_{name}..txt"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            _, x, y, w, h = map(float, line.split())
            yield name, (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height


def choose(inputs: Path, data: Path) -> dict[str, str]:
    """Copy some real images, labels and odd files, and name the weights."""

    def copy(paths: list[Path], folder: str) -> None:
        (inputs / folder).mkdir(parents=True, exist_ok=True)
        for path in paths:
            shutil.copy(path, inputs / folder)

    for name, source, count in (("yolo", "coco_val", 24), ("plates", "plates_cars", 8)):
        images = sorted((data / source / "images").iterdir())[:count]
        copy(images, f"{name}/images")
        copy([data / source / "labels" / f"{path.stem}.txt" for path in images], f"{name}/labels")
    for folder, step in (("modes", 2), ("animated", 2), ("heic_avif", 5), ("corrupt", 8)):
        copy(sorted((data / "badimages" / folder).iterdir())[::step], f"photos/{folder}")
    for folder, step in (("gps", 7), ("orientation", 6), ("odd", 3), ("webp_png_tiff", 1)):
        copy(sorted((data / "exif" / folder).iterdir())[::step], "few/exif")
    weights = {
        "WEIGHTS": f"{data}/weights/yolov5n.pt:person=human,car=car",
        "PLATES": f"--weights {data}/weights/LP_detector_nano_61.pt:license_plate=carplate",
    }
    return weights | {"FIND": "", "DATASET": "normalize-yolo"}


def make_weights(inputs: Path) -> dict[str, str]:
    """Make weights that find boxes everywhere, and name them."""
    import torch

    from depers.detection import yolo

    torch.manual_seed(0)
    yolo.save(yolo.build("yolov5n", ("human", "car")), inputs / "any.pt")
    return {
        "WEIGHTS": f"{inputs}/any.pt",
        "PLATES": "",
        "FIND": "--confidence 0.003",
        "DATASET": "normalize",
    }


def pack(inputs: Path) -> None:
    """Lay images out for anonymize: loose in every format, and in every kind of archive."""
    photos, few = inputs / "photos", inputs / "few"
    for folder in (photos / "formats", few):
        folder.mkdir(parents=True, exist_ok=True)
    sources = [
        path for name in ("yolo", "scenes") for path in sorted((inputs / name / "images").glob("*[0-9].jpg"))[:8]
    ]
    for number, path in enumerate(sources):
        shutil.copy(path, photos if number % 2 else few)
    for path in (sources[0], sources[-1]):
        image = Image.open(path).convert("RGB")
        image16 = Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)
        second = {"save_all": True, "append_images": [image.rotate(180)]}
        stem = photos / "formats" / path.stem
        image.save(f"{stem}.png")
        image.quantize(64).save(f"{stem}-palette.png")
        image16.save(f"{stem}-16.png")
        image16.save(f"{stem}-16.tif")
        image.save(f"{stem}.tif", compression="tiff_lzw", **second)
        image.save(f"{stem}.gif", duration=100, **second)
        image.save(f"{stem}.webp", lossless=True)
        image.save(f"{stem}-lossy.webp", **second)
        image.save(f"{stem}.bmp")
        image.save(f"{stem}-progressive.jpg", progressive=True)
    members = {path.name: path.read_bytes() for path in sources} | {"notes.json": b'{"kept": true}', "a.txt": b"text"}
    (photos / "notes.json").write_bytes(members["notes.json"])
    for name, mode in (("photos.tar", "w"), ("photos.tar.gz", "w:gz")):
        with tarfile.open(photos / name, mode) as tar:
            for member, content in members.items():
                header = tarfile.TarInfo(member)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    with zipfile.ZipFile(photos / "photos.zip", "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member, (2024, 1, 1, 0, 0, 0)), content)
    structs = [{"bytes": content, "path": member} for member, content in members.items()]
    columns = {"id": list(range(len(members))), "image": structs, "jpg": [*members.values()]}
    pq.write_table(pa.table(columns), photos / "photos.parquet", row_group_size=8)
