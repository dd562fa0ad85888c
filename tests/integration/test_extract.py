"""`depers extract` for real: backgrounds, sprites and tables, on folders and S3, cut off, resumed, and refused."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from runs import records, run_and_kill

from depers import errors as errors
from depers import storage
from depers.boxes import to_normalized_xywh
from depers.commands import extract
from depers.datasets import sprite_bank
from depers.datasets.data_yaml import write_data_yaml
from depers.datasets.labels import CLASSES, Labels, format_yolo
from depers.errors import UserError
from depers.imaging.decoding import decode
from depers.street_scenes.scenes import Scene, draw_scene

Options = partial(extract.Options, keep_labels=False)
"""Of what is removed from backgrounds, most tests here."""

CAR, HEAD, FACE, HUMAN, PLATE = range(5)
SIZE = (480, 270)
pytestmark = pytest.mark.usefixtures("ray_local")


def write_scene(root: Path, split: str, name: str, scene: Scene, **save: Any) -> None:
    image, text = root / "images" / split / name, (root / "labels" / split / name).with_suffix(".txt")
    for path in (image, text):
        path.parent.mkdir(parents=True, exist_ok=True)
    height, width = scene.image.shape[:2]
    Image.fromarray(scene.image).save(image, **({"quality": 92} | save))
    boxes = to_normalized_xywh(scene.boxes_xyxy, (width, height))
    text.write_text(format_yolo(Labels(scene.class_ids, boxes)))


def write_dataset(root: Path, count: int = 10, names: tuple[str, ...] = CLASSES) -> Path:
    for index in range(count):
        write_scene(root, "train", f"cam{index % 2}/street no.{index:02}.jpg", draw_scene(index, 5, SIZE))
    write_scene(root, "val", "cam9/v1.jpg", draw_scene(99, 5, SIZE))
    write_data_yaml(root, names)
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def done(dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    out = tmp_path_factory.mktemp("extracted") / "out"
    assert not extract.run(Options(str(dataset), str(out), group_by=r"^cam\d")).partial
    return out


def tree(root: Path | str) -> dict[str, bytes]:
    """Every file that is a result; of extract.json all but where the dataset is."""
    files = {
        entry.path: storage.read_bytes(storage.join(str(root), entry.path)) for entry in storage.list_files(str(root))
    }
    results = {path: data for path, data in files.items() if not path.startswith("_depers/")}
    if "extract.json" in results:
        results["extract.json"] = json.dumps(json.loads(results["extract.json"]) | {"dataset": ""}).encode()
    return results


def read(root: Path | str) -> tuple[sprite_bank.SpriteBank, list[dict[str, Any]], list[dict[str, Any]]]:
    extracted = sprite_bank.open_bank(str(root))
    sprites = sprite_bank.read_sprites(extracted, sprite_bank.SPRITES.names).to_pylist()
    return extracted, sprite_bank.read_backgrounds(extracted).to_pylist(), sprites


def rgb(data: bytes) -> NDArray[np.uint8]:
    return decode(data).rgb()


def error_of(options: Options) -> str:
    """The one line that a user would see."""
    with pytest.raises(Exception, match=r".") as caught:
        extract.run(options)
    wrong = errors.as_user_error(caught.value)
    assert wrong is not None
    return str(wrong)


def test_every_image_is_a_background_and_every_object_a_sprite(dataset: Path, done: Path) -> None:
    extracted, backgrounds, sprites = read(done)
    assert extracted.class_names == CLASSES and extracted.dataset == str(dataset)
    assert extracted.counts["images"] == extracted.counts["backgrounds"] == len(backgrounds) == 10
    assert extracted.counts["sprites"] == len(sprites) > 20
    expected = sorted(str(path.relative_to(dataset / "images/train")) for path in dataset.glob("images/train/*/*.jpg"))
    assert [row["source"] for row in backgrounds] == expected
    assert {row["group"] for row in backgrounds} == {"cam0", "cam1"}
    for row in backgrounds:
        scene = draw_scene(int(row["source"][-6:-4]), 5, SIZE)
        after = rgb((done / row["path"]).read_bytes())
        assert after.shape == scene.image.shape and (row["width"], row["height"]) == SIZE
        assert row["status"] == "used" and row["reason"] is None and row["labels"] == []
        own = [sprite for sprite in sprites if sprite["source"] == row["source"]]
        assert 0 < row["coverage"] < 0.6 and row["objects"] >= len(own)
        boxes = [[label[side] for side in ("x_min", "y_min", "x_max", "y_max")] for label in row["scene"]]
        np.testing.assert_allclose(boxes, scene.boxes_xyxy, atol=0.1)  # all, also what was not cut
        assert [label["class_id"] for label in row["scene"]] == scene.class_ids.tolist()
        assert sum(label["outer"] for label in row["scene"]) == row["objects"]


def test_a_sprite_shows_its_objects_under_their_own_classes(dataset: Path, done: Path) -> None:
    """The original gave every label the class of whatever it had read last."""
    _, _, sprites = read(done)
    seen = set()
    for sprite in sprites:
        scene = draw_scene(int(sprite["source"][-6:-4]), 5, SIZE)
        x, y, width, height = (sprite[name] for name in ("source_x", "source_y", "width", "height"))
        image = rgb(sprite["image"])
        assert image.shape == (height, width, 3)
        source = rgb((dataset / "images/train" / sprite["source"]).read_bytes())
        assert np.abs(image.astype(int) - source[y : y + height, x : x + width]).mean() < 4
        outer = sprite["labels"][0]
        assert outer["class_id"] == sprite["class_id"]
        for label in sprite["labels"]:
            box = np.array([label[side] for side in ("x_min", "y_min", "x_max", "y_max")]) + [x, y, x, y]
            near = np.abs(scene.boxes_xyxy - box).max(axis=1) < 0.1
            assert (scene.class_ids[near] == label["class_id"]).any()
            seen.add((sprite["class_id"], label["class_id"]))
        assert sprite["foot_y"] == pytest.approx((outer["y_max"] + y) / SIZE[1])
        assert sprite["center_x"] == pytest.approx(((outer["x_min"] + outer["x_max"]) / 2 + x) / SIZE[0], abs=1e-6)
        assert sprite["scene_height"] == pytest.approx((outer["y_max"] - outer["y_min"]) / SIZE[1], abs=1e-6)
        assert sprite["split"] == "train" and sprite["group"] == sprite["source"][:4]
    assert {(HUMAN, HEAD), (HUMAN, FACE), (CAR, PLATE)} <= seen
    assert (HEAD, HUMAN) not in seen and len({sprite["id"] for sprite in sprites}) == len(sprites)


def test_val_is_not_read_whatever_it_holds(done: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path)
    poison = tmp_path / "images/val"
    shutil.rmtree(poison)
    (poison / "cam9").mkdir(parents=True)
    (poison / "cam9/v1.jpg").write_bytes(b"\xff\xd8 no image")
    (poison / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "labels/val/cam9/v1.txt").write_text("99 nan nan")
    assert not extract.run(Options(str(tmp_path), str(tmp_path.with_name("poisoned")), group_by=r"^cam\d")).partial
    assert tree(tmp_path.with_name("poisoned")) == tree(done)


def test_sprites_come_from_real_images_not_from_what_was_added(done: Path, dataset: Path, tmp_path: Path) -> None:
    """The original sampled sprites from the folder that it wrote to."""
    write_scene(tmp_path, "train", "synthetic/s1.jpg", draw_scene(77, 5, SIZE))
    real, added = str(dataset / "images/train"), str(tmp_path / "images/train")
    joined = {"train": [real, added], "val": str(dataset / "images/val"), "nc": 5, "names": list(CLASSES)}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(joined))
    out = tmp_path.with_name("from-joined")
    assert not extract.run(Options(str(tmp_path / "data.yaml"), str(out), group_by=r"^cam\d")).partial
    assert tree(out) == tree(done)
    assert "OUT must lie outside DATASET" in error_of(Options(str(tmp_path / "data.yaml"), f"{added}/out"))


def test_the_same_bytes_with_one_worker_and_from_s3_to_s3(
    dataset: Path, done: Path, tmp_path: Path, s3_bucket: str
) -> None:
    assert not extract.run(Options(str(dataset), str(tmp_path / "one"), group_by=r"^cam\d", workers=1)).partial
    assert tree(tmp_path / "one") == tree(done)
    for path in filter(Path.is_file, dataset.rglob("*")):
        storage.write_bytes(f"{s3_bucket}/a b/{path.relative_to(dataset)}", path.read_bytes())
    assert not extract.run(Options(f"{s3_bucket}/a b", f"{s3_bucket}/out", group_by=r"^cam\d")).partial
    assert tree(f"{s3_bucket}/out") == tree(done)
    assert sprite_bank.open_bank(f"{s3_bucket}/out").dataset == f"{s3_bucket}/a b"


def test_killed_in_the_middle_and_run_again(done: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = run_and_kill(
        out, "extract", str(dataset), str(out), "--no-keep-labels", "--group-by", r"^cam\d", "--workers", "1"
    )
    assert not (out / "extract.json").exists()
    with pytest.raises(UserError, match="the extraction is not finished"):
        sprite_bank.open_bank(str(out))
    assert not extract.run(Options(str(dataset), str(out), group_by=r"^cam\d")).partial
    assert records(out).items() >= before.items()
    assert tree(out) == tree(done)
    assert not list(out.rglob("*partial*"))


def test_a_changed_image_is_done_again_and_a_removed_one_is_gone(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path / "dataset", 5), tmp_path / "out"
    options = Options(str(root), str(out))
    assert not extract.run(options).partial
    before, label = read(out), root / "labels/train/cam0/street no.04.txt"
    text, time = label.read_text(), label.stat().st_mtime_ns
    label.write_text("")
    (root / "images/train/cam1/street no.03.jpg").unlink()
    assert not extract.run(options).partial
    _, backgrounds, sprites = read(out)
    assert [row["objects"] for row in backgrounds if "no.04" in row["source"]] == [0]
    assert len(backgrounds) == len(before[1]) - 1
    gone = {sprite["id"] for sprite in before[2] if "no.03" in sprite["source"] or "no.04" in sprite["source"]}
    assert {sprite["id"] for sprite in sprites} == {sprite["id"] for sprite in before[2]} - gone
    assert not [path for path in out.rglob("*.*") if "no.03" in path.name or path.parent.name == "former"]
    label.write_text(text)
    os.utime(label, ns=(time, time))  # what was undone is done again
    assert not extract.run(options).partial
    undone = {sprite["id"] for sprite in before[2] if "no.03" not in sprite["source"]}
    assert {sprite["id"] for sprite in read(out)[2]} == undone
    assert "holds a run with fill 'smooth', but now it is 'mean'" in error_of(Options(str(root), str(out), fill="mean"))


def test_failures_are_rows(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path / "dataset", 4), tmp_path / "out"
    train = root / "images/train/cam0"
    (train / "broken.jpg").write_bytes((train / "street no.00.jpg").read_bytes()[:900])
    (train / "empty.png").touch()
    shutil.copy(train / "street no.00.jpg", train / "labels.jpg")
    (root / "labels/train/cam0/labels.txt").write_text("7 0.5 0.5 0.1 0.1")
    shutil.copy(train / "street no.00.jpg", train / "unlabelled.jpg")
    result = extract.run(Options(str(root), str(out)))
    assert result.partial
    extracted, backgrounds, sprites = read(out)
    failed = {row["source"]: row["reason"] for row in backgrounds if row["status"] == "failed"}
    assert set(failed) == {"cam0/broken.jpg", "cam0/empty.png", "cam0/labels.jpg"}
    assert failed["cam0/empty.png"] == "the file is empty"
    assert "the class id must be a whole number 0…4, but got '7'" in failed["cam0/labels.jpg"]
    assert extracted.counts["failed"] == 3 and extracted.counts["backgrounds"] == 5
    assert not {sprite["source"] for sprite in sprites} & set(failed)
    assert sorted(path.name for path in (out / "backgrounds/cam0").iterdir()) == [
        "street no.00.jpg",
        "street no.02.jpg",
        "unlabelled.jpg",
    ]
    assert "failed: cam0/empty.png: the file is empty" in result.failures.lines()
    assert result.failures.count == 3 and (result.images, result.backgrounds, result.skipped) == (8, 5, 0)
    assert "8 images: 5 backgrounds, 0 skipped, 3 failed; " in result.summary()[-1]
    for path in root.glob("images/train/*/*"):
        path.write_bytes(b"")
    assert "no image can be used, such as cam0/broken.jpg: the file is empty" in error_of(
        Options(str(root), str(tmp_path / "none"))
    )
    assert not (tmp_path / "none/extract.json").exists()


def one(root: Path, scene: Scene, name: str = "a.png", **save: Any) -> Path:
    write_scene(root, "train", name, scene, **save)
    write_data_yaml(root, CLASSES, ["train"])
    return root


def labelled(*labels: tuple[int, tuple[float, float, float, float]], shade: int = 90) -> Scene:
    boxes = np.array([box for _, box in labels], np.float32).reshape(-1, 4)
    return Scene(np.full((100, 200, 3), shade, np.uint8), np.array([i for i, _ in labels], np.int64), boxes)


def test_what_an_image_gave_before_is_gone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    root = one(tmp_path / "dataset", labelled((CAR, (10, 10, 60, 60))))
    one(root, labelled(), "b.png")
    assert not extract.run(Options(str(root), str(out))).partial
    assert list(out.glob("sprites/*"))
    (root / "labels/train/a.txt").write_text("")
    (root / "images/train/b.png").write_bytes(b"")
    assert extract.run(Options(str(root), str(out))).partial
    assert [row["status"] for row in read(out)[1]] == ["used", "failed"]
    assert not list(out.glob("sprites/*")) and [path.name for path in out.glob("backgrounds/*")] == ["a.png.jpg"]


def test_what_storage_failed_is_tried_again(tmp_path: Path) -> None:
    root, out = one(tmp_path / "dataset", labelled((CAR, (10, 10, 60, 60)))), tmp_path / "out"
    one(root, labelled(), "b.png")
    (root / "labels/train/b.txt").unlink()
    (root / "labels/train/b.txt").mkdir()
    assert extract.run(Options(str(root), str(out))).partial
    reason = read(out)[1][1]["reason"]
    assert reason.startswith("its labels cannot be read (") and "must be a regular file" in reason
    (root / "labels/train/b.txt").rmdir()
    assert not extract.run(Options(str(root), str(out))).partial
    assert [row["status"] for row in read(out)[1]] == ["used", "used"]


def test_coverage_size_and_marks_are_counted(tmp_path: Path) -> None:
    root = one(tmp_path / "dataset", labelled((CAR, (0, 0, 200, 70)), (HUMAN, (50, 10, 59, 60))))
    one(root, labelled((CAR, (10, 10, 60, 60)), (CAR, (10, 10, 60, 60)), (FACE, (90, 10, 99, 30))), "b.png")
    assert not extract.run(Options(str(root), str(tmp_path / "out"), min_size=10)).partial
    extracted, backgrounds, sprites = read(tmp_path / "out")
    assert [row["status"] for row in backgrounds] == ["skipped", "used"]
    assert backgrounds[0]["reason"] == "labelled boxes cover more than 60%"
    assert backgrounds[0]["coverage"] == pytest.approx(0.7) and backgrounds[0]["path"] is None
    assert [sprite["class_id"] for sprite in sprites] == [CAR, CAR]  # the double counts once
    assert {name: extracted.counts[name] for name in ("skipped", "too_small", "truncated", "mostly_hidden")} == {
        "skipped": 1,
        "too_small": 2,
        "truncated": 1,
        "mostly_hidden": 0,
    }
    assert sorted(path.name for path in (tmp_path / "out/backgrounds").iterdir()) == ["b.png.jpg"]


def test_keep_labels(tmp_path: Path) -> None:
    scene = draw_scene(3, 5, SIZE)
    root = one(tmp_path / "dataset", scene)
    assert not extract.run(Options(str(root), str(tmp_path / "out"), keep_labels=True)).partial
    _, [row], sprites = read(tmp_path / "out")
    after = rgb((tmp_path / "out" / row["path"]).read_bytes())
    assert np.abs(after.astype(int) - scene.image).mean() < 3
    boxes = [[label[side] for side in ("x_min", "y_min", "x_max", "y_max")] for label in row["labels"]]
    np.testing.assert_allclose(boxes, scene.boxes_xyxy, atol=0.1)
    assert [label["class_id"] for label in row["labels"]] == scene.class_ids.tolist() and sprites


def test_rotated_images_are_upright(tmp_path: Path) -> None:
    scene = draw_scene(3, 5, SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(scene.image))).save(buffer, "JPEG", quality=95, exif=exif)
    root = one(tmp_path / "dataset", scene, "a.jpg")
    (root / "images/train/a.jpg").write_bytes(buffer.getvalue())
    assert not extract.run(Options(str(root), str(tmp_path / "out"), keep_labels=True)).partial
    _, [row], sprites = read(tmp_path / "out")
    assert (row["width"], row["height"]) == SIZE
    assert np.abs(rgb((tmp_path / "out" / row["path"]).read_bytes()).astype(int) - scene.image).mean() < 6
    for sprite in sprites:
        x, y, width, height = (sprite[name] for name in ("source_x", "source_y", "width", "height"))
        assert np.abs(rgb(sprite["image"]).astype(int) - scene.image[y : y + height, x : x + width]).mean() < 8


@pytest.mark.parametrize("fill", ["smooth", "confetti", "mean"])
def test_no_labelled_pixel_reaches_the_background(tmp_path: Path, fill: str) -> None:
    """Two datasets that differ inside the boxes alone give the same backgrounds, and other sprites."""
    results = []
    for shade in (0, 255):
        scene = draw_scene(3, 5, SIZE)
        image = scene.image.copy()
        for x0, y0, x1, y1 in scene.boxes_xyxy.astype(int).tolist():
            image[y0:y1, x0:x1] = (shade, 255 - shade, shade)
        root = one(tmp_path / f"dataset{shade}", scene._replace(image=image), "a.jpg", quality=60)
        out = tmp_path / f"out{shade}"
        assert not extract.run(Options(str(root), str(out), fill=fill)).partial
        results.append(tree(out))
    assert results[0]["backgrounds/a.jpg"] == results[1]["backgrounds/a.jpg"]
    assert results[0] != results[1]


def test_partly_labelled_images(tmp_path: Path) -> None:
    scene = labelled((CAR, (10, 10, 60, 60)), (FACE, (90, 10, 120, 50)), (HEAD, (140, 10, 190, 60)))
    root = one(tmp_path / "dataset", scene, "faces/a.png")
    one(root, scene, "all/b.png")
    crowd = scene._replace(image=scene.image.copy())
    crowd.image[70:90, 120:180] = 255
    one(root, crowd, "crowd/c.png")  # an ignore region of heads in the lower right quarter
    one(root, scene, "nothing/d.png")
    write_data_yaml(root, CLASSES, ["train"], {"faces/": ["face", "head"], "nothing/": []})
    ignore = root / "ignore" / "train" / "crowd" / "c.txt"
    ignore.parent.mkdir(parents=True)
    ignore.write_text(f"{HEAD} 0.75 0.75 0.5 0.5\n{CAR} 0.5 0.5 1 1\n")
    result = extract.run(Options(str(root), str(tmp_path / "out")))
    assert not result.partial
    extracted, backgrounds, sprites = read(tmp_path / "out")
    reason = "labelled for no class completely"
    faces = [CAR, HUMAN, PLATE]
    assert [(row["source"], row["reason"], row["unlabelled"]) for row in backgrounds] == [
        ("all/b.png", None, []),
        ("crowd/c.png", None, [CAR]),
        ("faces/a.png", None, faces),
        ("nothing/d.png", reason, list(range(5))),
    ]
    assert result.backgrounds_by_class == {"car": 1, "head": 3, "face": 3, "human": 2, "carplate": 2}
    assert "labelled for: car 1, head 3, face 3, human 2, carplate 2" in "\n".join(result.summary())
    unlabelled = {(sprite["source"], sprite["class_id"]): sprite["unlabelled"] for sprite in sprites}
    assert [unlabelled["faces/a.png", class_id] for class_id in (CAR, FACE, HEAD)] == [faces] * 3
    in_crowd = [unlabelled["crowd/c.png", class_id] for class_id in (CAR, FACE, HEAD)]
    assert in_crowd == [[CAR], [CAR, HEAD], [CAR, HEAD]]
    assert extracted.counts["unlabelled_inside"] == 3 and extracted.counts["sprites"] == 12
    background = decode((tmp_path / "out" / "backgrounds" / "crowd" / "c.png.jpg").read_bytes()).rgb()
    assert background.max() < 120  # of the crowd, which was white, nothing is left


def test_one_image_without_anything(tmp_path: Path) -> None:
    root = one(tmp_path / "dataset", labelled())
    result = extract.run(Options(str(root), str(tmp_path / "out")))
    assert not result.partial
    extracted, [row], sprites = read(tmp_path / "out")
    assert row["status"] == "used" and row["objects"] == 0 and sprites == [] and extracted.parts == ()
    assert "no sprites: the images have no boxes of at least 6 px" in result.summary()[0]
    assert "1 backgrounds" in (tmp_path / "out/report.html").read_text()


def test_the_report_shows_what_there_is(done: Path) -> None:
    page = (done / "report.html").read_text()
    for expected in ("Backgrounds, before and after", "Sprites: human", "Sprites: car", "10 backgrounds", "too small"):
        assert expected in page


@pytest.fixture(scope="module")
def weights(untrained: Callable[..., str]) -> str:
    return untrained("person", "bus")


def test_a_background_in_which_something_is_found_is_left_out(tmp_path: Path, weights: str) -> None:
    root = one(tmp_path / "dataset", draw_scene(3, 5, SIZE))
    one(root, labelled((CAR, (0, 0, 200, 90))), "b.png")
    found = Options(str(root), str(tmp_path / "out"), weights=(f"{weights}:person=human",), confidence=0.001, imgsz=320)
    result = extract.run(found)
    assert not result.partial
    _, backgrounds, sprites = read(tmp_path / "out")
    assert [row["reason"] for row in backgrounds] == [
        "the detector still finds human",
        "labelled boxes cover more than 60%",
    ]
    assert sprites and not (tmp_path / "out/backgrounds").exists()
    assert "no backgrounds: every image was skipped or failed" in result.summary()[0]
    unsure = Options(str(root), str(tmp_path / "two"), weights=(f"{weights}:person=human",), confidence=0.99, imgsz=320)
    assert not extract.run(unsure).partial
    assert [row["status"] for row in read(tmp_path / "two")[1]] == ["used", "skipped"]
    wrong = error_of(Options(str(root), str(tmp_path / "three"), weights=(weights,), imgsz=320))
    assert wrong.startswith(
        "--weights must know a class of the dataset (car, head, face, human, carplate), but know person"
    )
    assert "no such weights file" in error_of(Options(str(root), str(tmp_path / "three"), weights=("none.pt",)))
    assert not (tmp_path / "three").exists()


def write_yaml(root: Path, **content: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    names = {"nc": len(CLASSES), "names": list(CLASSES)}
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "val": "images/val"} | names | content))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"val": "images/train"}, {}, "val must lie outside train"),
        ({"train": "images"}, {}, "val must lie outside train"),
        ({"val": "images/train/cam0"}, {}, "val must lie outside train"),
        ({"train": ""}, {}, "the dataset must name a train split"),
        ({"train": "images/none", "val": ""}, {}, "must hold images (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp)"),
        ({"train": "images/bare", "val": ""}, {}, "must hold the labels of the images, but none of 1 has any"),
        ({}, {"out": "dataset/out"}, "OUT must lie outside DATASET"),
        ({}, {"out": "."}, "OUT must lie outside DATASET"),
        ({}, {"out": "full"}, "must be absent, an empty folder or an earlier run"),
        ({}, {"out": "/proc/none"}, "cannot be written"),
        ({}, {"dataset": "nowhere"}, "nothing is there"),
        ({}, {"group_by": "^dash"}, "--group-by must find something in every image's name, but '^dash' does not in"),
        ({}, {"group_by": r"(\d)\.jpg"}, "--group-by finds '1' in both splits"),
        ({}, {"nest": ("bus=car",)}, "--nest bus=car: must name classes of the dataset"),
    ],
)
def test_wrong_input_is_one_clear_line_and_nothing_is_written(
    tmp_path: Path, content: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    root = write_dataset(tmp_path / "dataset", 2)
    shutil.copytree(root / "images/train", root / "images/bare/train")
    shutil.rmtree(root / "images/bare/train/cam1")
    (root / "images/none").mkdir()
    (root / "images/none/notes.md").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").touch()
    write_yaml(root, **content)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    values = {"dataset": "dataset", "out": "out"} | options
    here = {name: str(tmp_path / str(values.pop(name))) for name in ("dataset", "out")}
    assert message in error_of(Options(**here, **values))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_coverage": 1.5}, "--max-coverage must be between 0 and 1, but got 1.5"),
        ({"dilate": -0.1}, "--dilate must be between 0 and 2, but got -0.1"),
        ({"min_size": 0.0}, "--min-size must be above 0, but got 0"),
        ({"imgsz": 100}, "--imgsz must be a positive multiple of 32, but got 100"),
        ({"group_by": "("}, "--group-by must be a regular expression"),
        ({"weights": ("w.pt:person=",)}, "a class map must be model_class=class"),
        ({"out": "http://x"}, "OUT must be a path or an s3:// URI"),
    ],
)
def test_wrong_options_fail_before_ray_starts(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options(**({"dataset": "d", "out": "o"} | wrong))


@pytest.mark.parametrize("name", ["plates_cars", "heads_scut"])
def test_real_images(data: Path, tmp_path: Path, name: str) -> None:
    for path in sorted((data / name / "images").iterdir())[:8]:
        for kind, source in (("images", path), ("labels", (data / name / "labels" / path.name).with_suffix(".txt"))):
            target = tmp_path / "dataset" / kind / "train" / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(source, target)
    write_data_yaml(tmp_path / "dataset", ["thing"], ["train"])
    assert not extract.run(Options(str(tmp_path / "dataset"), str(tmp_path / "out"))).partial
    extracted, backgrounds, sprites = read(tmp_path / "out")
    assert extracted.counts["images"] == len(backgrounds) == 8 and sprites
    for row in backgrounds:
        if row["status"] == "used":
            assert rgb((tmp_path / "out" / row["path"]).read_bytes()).shape == (row["height"], row["width"], 3)
    table = pq.read_table(tmp_path / "out/backgrounds.parquet")
    assert table.schema.equals(sprite_bank.BACKGROUNDS)
