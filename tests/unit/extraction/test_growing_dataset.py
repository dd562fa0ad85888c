"""An extraction of a dataset that has grown: what is taken over gives the bytes of one that is made at once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import simplejpeg

from depers import storage
from depers.boxes import to_normalized_xywh
from depers.datasets.data_yaml import read_dataset, write_data_yaml
from depers.datasets.labels import CLASSES, Labels, format_yolo
from depers.extraction.nesting import NESTING, parse_nesting
from depers.extraction.steps import extract_unit, part_path
from depers.extraction.take_apart import ExtractionJob
from depers.extraction.training_images import as_listed, list_images
from depers.runtime import takeover, units
from depers.storage import tables
from depers.street_scenes.scenes import draw_scene

SIZE_WH = (160, 96)


def add(root: Path, number: int, scene_number: int | None = None) -> None:
    scene = draw_scene(number if scene_number is None else scene_number, 1, SIZE_WH)
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True, exist_ok=True)
    image = np.ascontiguousarray(scene.image)
    (root / f"images/train/{number:03}.jpg").write_bytes(simplejpeg.encode_jpeg(image, 90, "RGB", "420"))
    text = format_yolo(Labels(scene.class_ids, to_normalized_xywh(scene.boxes_xyxy, SIZE_WH)))
    (root / f"labels/train/{number:03}.txt").write_text(text)


def extract(root: Path, out: Path) -> int:
    """Do what is not done yet, as `depers extract` does; return the number of images that were worked on."""
    job = ExtractionJob(
        images=str(root / "images/train"), out=str(out), dataset=read_dataset(root), group_by=None, fill="smooth",
        dilate=0.05, max_coverage=0.9, keep_labels=True, min_size=4.0, margin=0.1,
        nesting=parse_nesting(NESTING, CLASSES), seed=0, max_megapixels=80,
    )  # fmt: skip
    records, all_units = units.locate_inside(str(out)), units.cut(list_images(job.images))
    parts = {unit.name: part_path(unit) for unit in all_units}
    count = 0
    for unit, sources in takeover.split_all(records, units.take_up(records, all_units)):
        count += len(extract_unit(job, unit, (), parts[unit.name], sources))
    assert sum(len(table) for table in units.read_records(records, all_units, pa.schema([]))) == len(
        list_images(job.images)
    )
    units.remove_former(records)
    expected = {Path(part).name for part in parts.values()}
    for path in (out / "sprites").iterdir():
        if path.name not in expected:
            path.unlink()
    return count


def read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()}


def test_a_dataset_that_grows_and_changes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(1, 40):
        add(root, number)
    write_data_yaml(root, CLASSES, ["train"])
    assert extract(root, tmp_path / "out") == 39 and extract(root, tmp_path / "out") == 0
    add(root, 0)
    add(root, 20, 99)
    (root / "images/train/030.jpg").unlink()
    (tmp_path / "out/backgrounds/030.jpg").unlink(missing_ok=True)
    assert extract(root, tmp_path / "out") == 2
    assert extract(root, tmp_path / "clean") == 39
    grown, clean = read(tmp_path / "out"), read(tmp_path / "clean")
    assert sum(name.startswith("sprites/") for name in clean) > 3
    assert {name for name in clean if "_depers" not in name} == {name for name in grown if "_depers" not in name}
    assert all(grown[name] == data for name, data in clean.items() if "_depers" not in name)


def test_an_image_that_is_replaced_after_the_listing_is_not_taken_for_the_one_that_was_listed(tmp_path: Path) -> None:
    for number in range(2):
        add(tmp_path / "data", number)
    write_data_yaml(tmp_path / "data", CLASSES, ["train"])
    listed = list_images(str(tmp_path / "data/images/train"))
    assert as_listed(listed[0]) == next(iter(storage.list_files(str(tmp_path / "data/images/train"))))
    add(tmp_path / "data", 1, 5)
    job = ExtractionJob(
        images=str(tmp_path / "data/images/train"), out=str(tmp_path / "out"), dataset=read_dataset(tmp_path / "data"),
        group_by=None, fill="smooth", dilate=0.05, max_coverage=0.9, keep_labels=True, min_size=4.0, margin=0.1,
        nesting=parse_nesting(NESTING, CLASSES), seed=0, max_megapixels=80,
    )  # fmt: skip
    [unit] = units.cut(listed)
    assert extract_unit(job, unit, (), part_path(unit))[1] == "failed"
    [record] = (tmp_path / "out/_depers/units").glob("*.parquet")
    reasons = tables.read_table(str(record))["reason"].to_pylist()
    assert not reasons[0] and reasons[1] == "cannot be read (changed since it was listed)"
