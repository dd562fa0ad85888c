"""From raw labels to a dataset: the whole verb on a real local Ray, in every format, over folders and S3."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_store
import numpy as np
import pyarrow.parquet as pq
import pytest
from image_lists import list_pairs
from PIL import Image
from runs import records, run_and_kill, run_depers

from depers import storage
from depers.commands.normalize import Options, open_sets, plan_processes, run
from depers.datasets.data_yaml import labelled_classes, read_dataset
from depers.datasets.labels import CLASSES, read_labels
from depers.errors import UserError
from depers.runtime.local_pool import open_pool

BOX = "0 0.5 0.5 0.2 0.2\n"


def jpeg(shade: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), shade, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_raw(root: str, names: list[str], labels: dict[str, str | bytes]) -> str:
    for name in names:
        storage.write_bytes(storage.join(root, "images", name), jpeg())
    for name, text in labels.items():
        data = text if isinstance(text, bytes) else text.encode()
        storage.write_bytes(storage.join(root, "labels", name), data)
    return root


def problems_of(out: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(out / "problems.parquet").to_pylist())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"val_fraction": 1.0}, r"--val-fraction must be .* got 1"),
        ({"val_fraction": -0.1}, r"--val-fraction must be .* got -0.1"),
        ({"group_by": "("}, r"--group-by must be a regular expression"),
        (
            {"keep_splits": True, "calibration_fraction": 0.2},
            "--calibration-fraction is about a split at random, but with",
        ),
        (
            {"keep_splits": True, "group_by": "^a"},
            "--group-by is about a split at random, but with --keep-splits folders",
        ),
        ({"classes": ("car", "car")}, r"--classes must be different"),
        ({"classes": ("a/b",)}, r"--classes must be names without '/'"),
        ({"class_map": ("person",)}, r"--class-map must be source_class=class,…, but got 'person'"),
        ({"class_map": ("person=bus",)}, r"--class-map person=bus: the class must be one of car, .*, but is 'bus'"),
        ({"class_map": ("a=car", "a=face")}, r"--class-map must give one class for 'a', but gives 'car' and 'face'"),
        ({"add": ("other:a=bus",)}, r"--add a=bus: the class must be one of"),
        ({"add": ("http://x/y",)}, r"--add must be a path or an s3:// URI"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options("raw", "out", **wrong)


def test_what_gives_no_dataset_is_refused(tmp_path: Path) -> None:
    raw, out = str(tmp_path / "raw"), str(tmp_path / "out")
    with pytest.raises(UserError, match="raw: no such folder"):
        open_sets(Options(raw, out))
    write_raw(raw, [], {"a.txt": BOX})
    with pytest.raises(UserError, match=r"raw: must hold images .* none of 1"):
        open_sets(Options(raw, out))
    write_raw(raw, ["b.jpg"], {})
    with pytest.raises(UserError, match=r"raw: must hold labels .* such as 'labels/a.txt'"):
        open_sets(Options(raw, out))
    for kind, wanted in (
        ("competition", r"IMAGE_CLASS\.\.txt"),
        ("yolo", "NAME.txt"),
        ("voc", "XML"),
        ("coco", "JSON"),
    ):
        with pytest.raises(UserError, match=rf"raw: must hold .*{wanted}.* none of 1 label files does"):
            open_sets(Options(raw, out, format=kind))
    write_raw(raw, [], {"b_car..txt": BOX})
    assert [one.format for one in open_sets(Options(raw, out))] == ["competition"]
    for inside in (raw, f"{raw}/out", str(tmp_path)):
        with pytest.raises(UserError, match="OUT must lie outside RAW"):
            open_sets(Options(raw, inside))
    with pytest.raises(UserError, match=r"RAW and --add must differ"):
        open_sets(Options(raw, out, add=(raw,)))


def test_run(tmp_path: Path, ray_local: None) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    names = ["street no.0.jpg", "street_1.x.jpg", "sub/street 2.jpg", *(f"plain{index}.jpg" for index in range(40))]
    write_raw(
        str(raw),
        names,
        {
            "street no.0_car..txt": BOX,
            "street no.0_carplate..txt": "0 0.1 0.1 0.1 0.1\r\n0 0 0 1 1\r\n",
            "street_1.x_face.txt": BOX * 2,
            "sub/street 2_head..txt": b"\xff\xfe broken",
            "nobody_car..txt": BOX,
        },
    )
    result = run(Options(str(raw), str(out), val_fraction=0.25, unlabelled="background", twins="none"))
    assert result.partial and result.complete and result.problem_count == 45
    dataset = read_dataset(out)
    assert dataset.names == CLASSES
    assert dataset.train is not None and dataset.val is not None
    found = {
        image.removeprefix(f"{folder}/"): text for folder in dataset[2:4] for image, text in list_pairs(str(folder))
    }
    assert set(found) == set(names) - {"sub/street 2.jpg"}  # a label that is not understood costs its image
    assert len(list_pairs(dataset.val)) == 10
    labels = {path: read_labels(text, 5) for path, text in found.items()}
    assert labels["street no.0.jpg"].class_ids.tolist() == [0, 4, 4]
    assert labels["street no.0.jpg"].boxes_xywh[2].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert labels["street_1.x.jpg"].class_ids.tolist() == [2]
    assert labels["plain7.jpg"].class_ids.tolist() == []
    assert all(Path(text).is_file() for text in found.values())  # a background has an empty file
    rows = [(row["path"], row["line"], row["kind"], row["action"]) for row in problems_of(out)]
    bare = [(f"images/{name}", 0, "image without label", "as_background") for name in sorted(names) if "plain" in name]
    assert rows == [
        *bare,
        ("labels/nobody_car..txt", 0, "label without image", "skipped"),
        ("labels/street no.0_carplate..txt", 0, "Windows line ends", "mended"),
        ("labels/street no.0_carplate..txt", 2, "box outside the image", "clipped"),
        ("labels/street_1.x_face.txt", 2, "duplicate", "dropped"),
        ("labels/sub/street 2_head..txt", 0, "not a text", "skipped_with_image"),
    ]
    assert result.images == {"train": 32, "val": 10}
    assert result.boxes == {"car": 1, "head": 0, "face": 1, "human": 0, "carplate": 2}
    text = "\n".join(result.summary())
    assert "32 images in train" in text and "10 images in val" in text
    assert "4 boxes: car 1, head 0, face 1, human 0, carplate 2" in text
    assert "40 image without label as_background images/plain0.jpg" in " ".join(text.split())
    assert text.endswith(f"45 problems: {out}/problems.parquet")

    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert run(Options(str(raw), str(out), val_fraction=0.25, unlabelled="background", twins="none")).partial
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before
    result = run(Options(str(raw), str(out), val_fraction=0.25, unlabelled="background", twins="none", strict=True))
    assert result.partial and not result.complete and "without data.yaml" in result.summary()[-1]
    assert not (out / "data.yaml").exists()
    with pytest.raises(UserError, match="holds a run with seed 0, but now it is 1"):
        run(Options(str(raw), str(out), val_fraction=0.25, unlabelled="background", twins="none", seed=1))


def test_run_without_val_and_with_unusable_images(tmp_path: Path, ray_local: None) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_raw(str(raw), ["a.jpg", "b.jpg", "c.jpg"], {"a_car..txt": BOX, "b_car..txt": BOX, "c_car..txt": BOX})
    (raw / "images" / "b.jpg").write_bytes(jpeg()[:-200])
    (raw / "images" / "c.jpg").write_bytes(b"")
    assert run(Options(str(raw), str(out), val_fraction=0)).partial
    dataset = read_dataset(out)
    assert dataset.val is None and dataset.train is not None
    assert [Path(image).name for image, _ in list_pairs(dataset.train)] == ["a.jpg"]
    assert [(row["path"], row["kind"]) for row in problems_of(out)] == [
        ("images/b.jpg", "unusable image"),
        ("images/c.jpg", "unusable image"),
    ]
    (raw / "images" / "a.jpg").write_bytes(b"text")
    with pytest.raises(UserError, match=r"no image can be used, such as images/a.jpg: not an image"):
        run(Options(str(raw), str(tmp_path / "none")))


IMAGES = {"a.jpg": (60, 40), "deep/b c.png": (80, 80), "d.jpg": (64, 48)}
OBJECTS = {
    "a.jpg": [("person", 6, 4, 30, 20), ("dog", 0, 0, 60, 40)],
    "deep/b c.png": [("car", 8, 16, 72, 80)],
    "d.jpg": [],
}


def image(name: str, size_wh: tuple[int, int], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size_wh, "gray").save(buffer, "PNG" if name.endswith("png") else "JPEG", **options)
    return buffer.getvalue()


def yolo_lines(name: str, classes: list[str]) -> str:
    wide, high = IMAGES[name]
    return "".join(
        f"{classes.index(c)} {(x0 + x1) / 2 / wide} {(y0 + y1) / 2 / high} {(x1 - x0) / wide} {(y1 - y0) / high}\n"
        for c, x0, y0, x1, y1 in OBJECTS[name]
    )


def write_set(root: str, kind: str) -> str:
    """The same labelled images in one of the layouts."""
    folder = {"yolo": "images/", "roboflow": "train/images/", "flat": "", "voc": "JPEGImages/", "coco": "val2017/"}[
        kind
    ]
    names, files = ["dog", "person", "car"], {}
    for name, size in IMAGES.items():
        files[folder + name] = image(name, size)
        stem = name.rpartition(".")[0]
        text = folder.replace("images", "labels") + f"{stem}.txt"
        if kind == "voc":
            objects = "".join(
                f"<object><name>{c}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
                "</bndbox></object>"
                for c, x0, y0, x1, y1 in OBJECTS[name]
            )
            head = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
            files[f"Annotations/{stem}.xml"] = f"{head}{objects}</annotation>".encode()
        elif kind != "coco":
            files[text] = yolo_lines(name, names).encode()
    if kind in ("yolo", "roboflow"):
        files["data.yaml"] = json.dumps({"names": names, "train": "../train/images"}).encode()
    elif kind == "flat":
        files["classes.txt"] = "\n".join(names).encode()
    elif kind == "coco":
        images = [{"id": i, "file_name": n, "width": w, "height": h} for i, (n, (w, h)) in enumerate(IMAGES.items())]
        boxes = [
            {"image_id": i, "category_id": names.index(c) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for i, name in enumerate(IMAGES)
            for c, x0, y0, x1, y1 in OBJECTS[name]
        ]
        categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
        content = {"annotations": boxes, "images": images, "categories": categories}
        files["annotations/instances_val2017.json"] = json.dumps(content).encode()
    for path, data in files.items():
        storage.write_bytes(storage.join(root, path), data)
    return root


def contents(root: str, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Every file below a folder, but for the job's own records, and the index, which says when files were written."""
    entries = [entry.path for entry in storage.list_files(root) if not entry.path.startswith(("_depers/", "index."))]
    return {path: storage.read_bytes(storage.join(root, path)) for path in entries if path not in but}


def test_every_format_gives_the_same_dataset(tmp_path: Path, ray_local: None) -> None:
    found = {}
    for kind in ("yolo", "roboflow", "flat", "voc", "coco"):
        raw, out = write_set(str(tmp_path / kind), kind), str(tmp_path / f"{kind}-out")
        assert not run(Options(raw, out, class_map=("person=human",), val_fraction=0, columns="box")).partial
        [row] = problems_of(Path(out))
        assert (row["kind"], row["detail"]) == ("class that is not asked for", "dog: 1 boxes in 1 images")
        prefix = {"roboflow": "train/", "coco": "val2017/"}.get(kind, "")  # the folders that say more than the layout
        found[kind] = {
            path.replace(f"train/{prefix}", "train/"): data for path, data in contents(out).items() if "/train/" in path
        }
        assert read_dataset(out).labelled == (("", frozenset((0, 3))),)
    first = found["yolo"]
    assert {path: text for path, text in first.items() if path.endswith(".txt")} == {
        "labels/train/a.txt": b"3 0.300000 0.300000 0.400000 0.400000\n",
        "labels/train/deep/b c.txt": b"0 0.500000 0.600000 0.800000 0.800000\n",
        "labels/train/d.txt": b"",
    }
    assert all(other == first for other in found.values())
    raw, out = str(tmp_path / "yolo"), str(tmp_path / "without-ray")
    options = Options(raw, out, class_map=("person=human",), val_fraction=0, columns="box")
    with open_pool(plan_processes(options)):
        run(options)
    assert contents(out) == contents(str(tmp_path / "yolo-out"))


def test_run_over_s3_gives_the_same_files(tmp_path: Path, s3_bucket: str, ray_local: None) -> None:
    """Sets of three formats joined, of which two know only some classes."""
    roots = {}
    for kind, base in (("local", str(tmp_path)), ("s3", s3_bucket)):
        raw = write_raw(
            storage.join(base, "raw"),
            ["a #1=é.jpg", "b c.jpg", "d.jpg"],
            {"a #1=é_car..txt": BOX, "b c_face..txt": BOX, "d_head..txt": "0 0 0 1 1"},
        )
        plates = storage.join(base, "plates")
        for index in range(3):
            storage.write_bytes(f"{plates}/images/p{index}.jpg", jpeg(index))
            storage.write_bytes(f"{plates}/labels/p{index}.txt", BOX.encode())
        crowd, roots[kind] = write_set(storage.join(base, "more/raw"), "coco"), storage.join(base, "out")
        options = Options(raw, roots[kind], add=(f"{plates}:0=carplate", f"{crowd}:person=human,*="))
        assert not run(options).partial
    local, remote = contents(roots["local"]), contents(roots["s3"])
    assert len(local) == 2 * 9 + 5
    assert remote == local
    dataset = read_dataset(roots["s3"])
    assert dataset.train is not None and dataset.val is not None
    known = {prefix: labelled_classes(dataset, f"{prefix}x.jpg") for prefix in ("raw/", "plates/", "raw-2/")}
    assert known == {"raw/": {0, 1, 2}, "plates/": {4}, "raw-2/": {0, 3}}  # what occurs, or is named
    paths = [
        image.removeprefix(f"{folder}/") for folder in (dataset.train, dataset.val) for image, _ in list_pairs(folder)
    ]
    assert sorted(path.partition("/")[0] for path in paths) == ["plates"] * 3 + ["raw"] * 3 + ["raw-2"] * 3


def test_run_in_another_store_gives_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With plain processes, which find the package of the store as they would find gcsfs."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/gcsfs.py").write_text("from folder_store import GCSFileSystem as GCSFileSystem\n")
    (tmp_path / "store/bucket").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv(folder_store.ROOT, str(tmp_path / "store"))
    names, outs = [f"{number}é.jpg" for number in range(5)], dict[str, str]()
    with open_pool(plan_processes(Options("raw", "out"))._replace(size=1)):
        for base in (str(tmp_path), "gs://bucket"):
            raw = write_raw(f"{base}/raw", names, {f"{number}é_car..txt": BOX for number in range(5)})
            outs[base] = f"{base}/out"
            assert not run(Options(raw, outs[base])).partial
        images = tmp_path / "store/bucket/out/images"
        times = {path: path.stat().st_mtime_ns for path in images.rglob("*.jpg")}
        assert not run(Options(f"{base}/raw", outs[base])).partial  # and writes nothing again
        assert times == {path: path.stat().st_mtime_ns for path in images.rglob("*.jpg")} and len(times) == 5
    local, remote = (contents(out) for out in outs.values())
    assert len(local) > 10 and remote == local
    assert sorted(file.name for file in (tmp_path / "store/bucket").iterdir()) == ["out", "raw"]
    dataset = read_dataset(outs["gs://bucket"])
    assert dataset.train == "gs://bucket/out/images/train" and len(list(list_pairs(dataset.train))) >= 4


def test_wrong_sizes_and_turned_images(tmp_path: Path, ray_local: None) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    exif = Image.Exif()
    exif[0x0112] = 6
    box = "<object><name>car</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>30</xmax><ymax>10</ymax></bndbox></object>"
    sizes = {
        "right": (60, 40),
        "double": (120, 80),
        "none": (0, 0),
        "another": (40, 60),
        "stored": (60, 40),
        "seen": (40, 60),
    }
    for name, (wide, high) in sizes.items():
        turned = {"exif": exif} if name in ("stored", "seen") else {}
        storage.write_bytes(f"{raw}/{name}.jpg", image("x.jpg", (60, 40), **turned))
        size = f"<size><width>{wide}</width><height>{high}</height></size>" if wide else ""
        storage.write_bytes(f"{raw}/{name}.xml", f"<annotation>{size}{box}</annotation>".encode())
    assert run(Options(str(raw), str(out), val_fraction=0)).partial
    texts = {path.stem: path.read_text() for path in (out / "labels").rglob("*.txt")}
    whole = {name: [float(value) for value in text.split()[1:]] for name, text in texts.items()}
    assert whole == {
        "right": [0.25, 0.125, 0.5, 0.25],
        "double": [0.125, 0.0625, 0.25, 0.125],
        "none": [0.25, 0.125, 0.5, 0.25],
        "stored": [0.875, 0.25, 0.25, 0.5],  # the top left of what is stored is seen at the top right
        "seen": [0.375, 0.083333, 0.75, 0.166667],
    }
    rows = [(row["path"], row["kind"], row["action"]) for row in problems_of(out)]
    twins = [row for row in rows if row[1] == "identical image"]
    assert twins == [(f"{name}.jpg", "identical image", "accepted") for name in sorted(sizes)]
    assert [row for row in rows if row not in twins] == [
        ("another.jpg", "wrong image size", "skipped"),
        ("double.jpg", "wrong image size", "scaled"),
        ("none.jpg", "wrong image size", "taken_from_image"),
        ("seen.jpg", "EXIF-rotated image", "taken_as_upright"),
        ("stored.jpg", "EXIF-rotated image", "turned_upright"),
    ]
    copied = (out / "images" / "train" / "stored.jpg").read_bytes()
    assert copied == (raw / "stored.jpg").read_bytes()  # readers turn it, as `images.decode` does


def test_unreadable_labels_cost_their_image_and_json_that_is_none_everything(tmp_path: Path, ray_local: None) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_set(str(raw), "voc")
    (raw / "Annotations" / "d.xml").write_bytes(b"<annotation>")
    (raw / "Annotations" / "a.xml").write_bytes(b'<!DOCTYPE a [<!ENTITY a "aa">]><annotation>&a;</annotation>')
    assert run(Options(str(raw), str(out), val_fraction=0)).partial
    assert [Path(image).name for image, _ in list_pairs(str(out / "images" / "train"))] == ["b c.png"]
    assert [(row["path"], row["kind"], row["action"]) for row in problems_of(out)] == [
        ("Annotations/a.xml", "unsafe XML", "skipped_with_image"),
        ("Annotations/d.xml", "broken XML", "skipped_with_image"),
    ]
    write_set(str(tmp_path / "coco"), "coco")
    file = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"coco/annotations/instances_val2017.json: must be JSON, but at its end"):
        run(Options(str(tmp_path / "coco"), str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()


def test_what_coco_says_of_other_images_is_reported(tmp_path: Path, ray_local: None) -> None:
    raw, out = write_set(str(tmp_path / "raw"), "coco"), tmp_path / "out"
    file = tmp_path / "raw" / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_bytes())
    content["images"].append({"id": "gone", "file_name": "gone.jpg", "width": 9, "height": 9})
    content["annotations"] += [
        {"image_id": "gone", "category_id": 3, "bbox": [1, 1, 2, 2]},
        {"image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2]},
        {"image_id": 0, "category_id": 3, "bbox": [1, 1, 2, 2], "iscrowd": 1},
    ]
    file.write_text(json.dumps(content))
    storage.write_bytes(f"{raw}/val2017/extra.jpg", jpeg())
    arguments: dict[str, Any] = {"class_map": ("person=human", "dog="), "val_fraction": 0}
    assert run(Options(raw, str(out), **arguments)).partial
    assert sorted(Path(image).name for image, _ in list_pairs(str(out / "images" / "train"))) == ["a.jpg", "b c.png"]
    where = "annotations/instances_val2017.json"
    assert [(row["path"], row["line"], row["kind"], row["detail"]) for row in problems_of(out)] == [
        (where, 0, "label without image", "gone.jpg, 1 boxes"),
        (where, 5, "label without image", "image_id 99 is that of no image"),
        ("val2017/d.jpg", 0, "image without a box beside labels of no image", where),
        ("val2017/extra.jpg", 0, "image that no label file lists", "it was not annotated"),
    ]
    crowd = list((out / "ignore" / "train").rglob("*.txt"))
    assert len(crowd) == 1 and crowd[0].read_text().startswith("0 ")


def test_own_splits_are_kept(tmp_path: Path, ray_local: None) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("train/a", "valid/a", "test/b", "train/deep/c"):
        split, _, below = name.partition("/")
        storage.write_bytes(f"{raw}/{split}/images/{below}.jpg", jpeg())
        storage.write_bytes(f"{raw}/{split}/labels/{below}.txt", BOX.encode())
    storage.write_bytes(f"{raw}/data.yaml", b"names: [car]")
    result = run(Options(str(raw), str(out), keep_splits=True))
    assert not result.partial
    found = sorted(path.relative_to(out / "images").as_posix() for path in (out / "images").rglob("*.jpg"))
    assert found == ["train/a.jpg", "train/deep/c.jpg", "val/a.jpg"]
    assert "skipped, as --keep-splits says: 1 images in test" in result.summary()
    storage.write_bytes(f"{raw}/val/images/a.jpg", jpeg())
    storage.write_bytes(f"{raw}/val/labels/a.txt", BOX.encode())
    with pytest.raises(UserError, match=r"val/images/a.jpg and valid/images/a.jpg would be the same image"):
        run(Options(str(raw), str(out), keep_splits=True))
    storage.write_bytes(f"{raw}/images/other.jpg", jpeg())
    storage.write_bytes(f"{raw}/labels/other.txt", BOX.encode())
    with pytest.raises(UserError, match=r"--keep-splits needs folders named train, .* 'other.jpg' lies in none"):
        run(Options(str(raw), str(out), keep_splits=True))


def test_given_splits_without_one_for_validation_say_so(tmp_path: Path, ray_local: None) -> None:
    storage.write_bytes(f"{tmp_path}/raw/train/images/a.jpg", jpeg())
    storage.write_bytes(f"{tmp_path}/raw/train/labels/a.txt", BOX.encode())
    storage.write_bytes(f"{tmp_path}/raw/data.yaml", b"names: [car]")
    result = run(Options(str(tmp_path / "raw"), str(tmp_path / "out"), keep_splits=True))
    assert not result.partial and not problems_of(tmp_path / "out")
    assert "val has no images: RAW has no folder of it with any (--keep-splits)" in result.summary()


def test_frames_of_one_camera_that_fill_no_split_say_so(tmp_path: Path, ray_local: None) -> None:
    rng, raw = np.random.default_rng(0), tmp_path / "raw"
    scene = np.array(
        Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)
    )
    for number in range(20):
        frame = scene.copy()
        frame[30:36, 4 * number : 4 * number + 6] = 255
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95)
        storage.write_bytes(f"{raw}/images/{number:02}.jpg", buffer.getvalue())
        storage.write_bytes(f"{raw}/labels/{number:02}.txt", BOX.encode())
    storage.write_bytes(f"{raw}/data.yaml", b"names: [car]")
    options = Options(str(raw), str(tmp_path / "out"), calibration_fraction=0.2)
    result = run(options)
    assert result.images == {"train": 20, "val": 0} and not result.partial
    why = "they are 1 groups that stay whole, the largest of 20 images, such as images/00.jpg, that are near twins:"
    for name in ("val", "calibration"):
        [line] = [
            line for line in result.summary() if line.startswith(f"warning: {name} has 0 of 20 images, a share of 0 ")
        ]
        assert f"for 0.2: {why} --twins identical parts them, in another OUT" in line
        assert line.removeprefix("warning: ") in (tmp_path / "out/report.html").read_text()
    rows = [row for row in problems_of(tmp_path / "out") if row["kind"] == "empty split"]
    assert [row["path"] for row in rows] == ["images/00.jpg"] * 2 and all(row["action"] == "accepted" for row in rows)
    assert run(replace(options, out=str(tmp_path / "strict"), strict=True)).partial
    result = run(replace(options, out=str(tmp_path / "apart"), twins="identical"))
    assert result.images == {"train": 12, "val": 4, "calibration": 4}
    assert "warning" not in result.text and not problems_of(tmp_path / "apart")


def test_an_output_that_cannot_be_written_or_is_not_ours(tmp_path: Path, ray_local: None) -> None:
    raw = write_raw(str(tmp_path / "raw"), ["a.jpg"], {"a_car..txt": BOX})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out: cannot be written \(Not a directory\)"):
        run(Options(raw, str(tmp_path / "file" / "out")))
    storage.write_bytes(f"{tmp_path}/used/images/val/old.jpg", jpeg())
    with pytest.raises(UserError, match=r"used: must be absent, an empty folder or an earlier run"):
        run(Options(raw, str(tmp_path / "used")))
    assert not run(Options(raw, str(tmp_path / "out"))).partial
    storage.write_bytes(f"{tmp_path}/out/images/val/old.jpg", jpeg())
    with pytest.raises(UserError, match=r"out: must be empty or hold the same dataset, but holds images/val/old.jpg"):
        run(Options(raw, str(tmp_path / "out")))


def test_a_run_that_was_cut_off_is_taken_up(tmp_path: Path, ray_local: None) -> None:
    names = [f"{index:03}.jpg" for index in range(140)]
    raw = write_raw(str(tmp_path / "raw"), names, {f"{index:03}_car..txt": BOX for index in range(140)})
    assert not run(Options(raw, str(tmp_path / "whole"))).partial
    assert not run(Options(raw, str(tmp_path / "cut"))).partial
    records = sorted((tmp_path / "cut" / "_depers" / "units").iterdir())
    assert len(records) > 2
    half_done = [row["name"] for row in pq.read_table(records[0]).to_pylist()]
    records[0].unlink()  # as if the run had ended before, with files missing and others half done
    (tmp_path / "cut" / "data.yaml").unlink()
    for number, name in enumerate(half_done):
        for path in (tmp_path / "cut" / "images").rglob(name):
            path.unlink() if number % 2 else path.write_bytes(b"half")
    stamps = {path: path.stat().st_mtime_ns for path in records[1:]}
    assert not run(Options(raw, str(tmp_path / "cut"))).partial
    assert contents(str(tmp_path / "cut")) == contents(str(tmp_path / "whole"))
    assert {path: path.stat().st_mtime_ns for path in records[1:]} == stamps

    def list_images() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "images").rglob("*.jpg")}

    before = list_images()  # then one leaves, and one comes
    storage.delete(f"{raw}/images/010.jpg")
    storage.delete(f"{raw}/labels/010_car..txt")
    write_raw(raw, ["new.jpg"], {"new_car..txt": BOX})
    assert not run(Options(raw, str(tmp_path / "cut"))).partial
    after = list_images()
    assert after.pop("new.jpg") and before.pop("010.jpg") and after == before
    assert not list((tmp_path / "cut" / "labels").rglob("010.txt"))


def test_a_set_whose_classes_nobody_asked_for_is_refused(tmp_path: Path, ray_local: None) -> None:
    raw = write_set(str(tmp_path / "raw"), "coco")
    with pytest.raises(UserError, match=r"a box must be of head, but all are of person 1, dog 1, car 1: .* person="):
        run(Options(raw, str(tmp_path / "out"), classes=("head",)))
    assert not (tmp_path / "out").exists()
    result = run(Options(raw, str(tmp_path / "out"), class_map=("person=human,pigeon=car,*=",)))
    assert not result.partial
    text = "\n".join(result.summary())
    assert "skipped on purpose: 1 boxes: dog 1\nRAW: no box is of pigeon, which the class map names\n" in text


def test_real_sets_are_joined(data: Path, tmp_path: Path, ray_local: None) -> None:
    """PNGs named .jpg, names with # and =, transparent images, ids without names."""
    out = tmp_path / "out"
    added = (f"{data}/faces_mask:0=face",)
    options = Options(
        str(data / "plates_romanian"), str(out), class_map=("0=carplate",), add=added, group_by=r"^[^_.]+"
    )
    assert not run(options).partial
    dataset = read_dataset(out)
    assert dataset.train is not None and dataset.val is not None
    found = [
        (image.removeprefix(f"{folder}/"), read_labels(text, 5))
        for folder in (dataset.train, dataset.val)
        for image, text in list_pairs(folder)
    ]
    assert len(found) == 16 + 12
    for prefix, class_id, boxes in (("plates_romanian/", 4, 19), ("faces_mask/", 2, 42)):
        ids = [class_id for path, labels in found if path.startswith(prefix) for class_id in labels.class_ids.tolist()]
        assert ids == [class_id] * boxes
        assert labelled_classes(dataset, f"{prefix}x") == {class_id}


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    data = image("a.jpg", (1800, 1200), quality=95)
    for index in range(480):
        storage.write_bytes(f"{raw}/images/{index:03}.jpg", data)
        storage.write_bytes(f"{raw}/labels/{index:03}_car..txt", BOX.encode())
    before = run_and_kill(out, "normalize", str(raw), str(out))
    assert 0 < len(before) < 15 and not (out / "data.yaml").exists()
    for folder in (out, tmp_path / "clean"):
        assert run_depers("normalize", str(raw), str(folder))[0] == 0
    assert records(out).items() >= before.items()
    assert contents(str(out)) == contents(str(tmp_path / "clean"))
