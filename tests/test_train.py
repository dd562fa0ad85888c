"""Training: the data it sees, the schedule, and real short runs with one worker and with two that share gradients."""

import csv
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers import storage, training_data, yolo
from depers.labels import CLASSES, write_data_yaml
from depers.options import UserError
from depers.streets import draw_scene
from depers.train import Options, read_splits, run
from depers.training_data import Example, fit_anchors, place, plan_batches
from depers.training_loop import Place, _share, learning_rate, train

STRENGTH = {"scale": 0.3, "translate": 0.1, "fliplr": 0.5, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}


def write_dataset(root: Path, count: int = 6, val_count: int = 3) -> Path:
    """A dataset of small street scenes."""
    for split, numbers in (("train", range(count)), ("val", range(100, 100 + val_count))):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in numbers:
            scene = draw_scene(number, seed=5, size_wh=(256, 160) if number % 2 else (192, 192))
            height, width = scene.image.shape[:2]
            cv2.imwrite(str(root / "images" / split / f"{number}.jpg"), scene.image[..., ::-1])
            boxes = scene.boxes_xyxy / [width, height, width, height]
            rows = zip(scene.class_ids, (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2], strict=True)
            text = "".join(f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, (x, y), (w, h) in rows)
            (root / "labels" / split / f"{number}.txt").write_text(text)
    write_data_yaml(root, CLASSES)
    return root


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imgsz": 100}, "--imgsz must be a multiple of 32, but got 100"),
        ({"epochs": 0}, "--epochs must be at least 1, but got 0"),
        ({"batch_size": 3, "workers": 2}, r"--batch-size must be a multiple of --workers \(2\), but got 3"),
        ({"learning_rate": 0.0}, "--learning-rate must be between 0 and 10, but got 0.0"),
        ({"warmup_epochs": -1.0}, "--warmup-epochs must not be negative"),
    ],
)
def test_wrong_options_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options("data", "out", **values)  # type: ignore[arg-type]


def test_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(step, steps=100, warmup=10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1
    assert (np.diff(rates[10:]) < 0).all() and 0.01 <= rates[-1] < 0.02


def test_batches_share_a_canvas_and_hold_every_picture_once() -> None:
    canvases = [(64, 32), (32, 64), (64, 32), (64, 64), (64, 32), (32, 64), (64, 32)]
    plan = plan_batches(canvases, 3, training_data.random_for(0, 1))
    assert sorted(chain(*plan)) == list(range(7))
    assert all(len({canvases[i] for i in members}) == 1 and len(members) <= 3 for members in plan)
    assert plan == plan_batches(canvases, 3, training_data.random_for(0, 1))


@pytest.mark.parametrize(("members", "world"), [([1, 2, 3, 4], 2), ([1, 2, 3], 2), ([7], 2), ([7], 3), ([1, 2], 1)])
def test_workers_get_equal_shares_that_cover_the_batch(members: list[int], world: int) -> None:
    shares = [_share(members, Place(rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert set(chain(*shares)) == set(members)


def test_anchors_fit_two_kinds_of_boxes() -> None:
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.normal((10, 10), 1, (200, 2)), rng.normal((150, 60), 5, (50, 2))])
    anchors = np.array(fit_anchors(sizes, levels=3, seed=0)).reshape(-1, 2)
    assert anchors.shape == (9, 2) and (np.diff(anchors.prod(1)) >= 0).all()
    assert (np.abs(np.log(anchors[0] / 10)) < 0.3).all() and (np.abs(np.log(anchors[-1] / [150, 60])) < 0.3).all()
    assert fit_anchors(np.array([[8.0, 8.0]]), levels=3, seed=0)  # fewer boxes than anchors


@given(st.integers(0, 10_000), st.integers(8, 40), st.integers(8, 40), st.integers(20, 70), st.integers(20, 50))
def test_labels_follow_the_augmented_pixels(key: int, width: int, height: int, x: int, y: int) -> None:
    picture = np.full((100, 128, 3), 20, np.uint8)
    picture[y : y + height, x : x + width] = 250
    box = np.array([[(x + width / 2) / 128, (y + height / 2) / 100, width / 128, height / 100]])
    example = Example("x", (128, 100), np.array([2]), box)
    image, labels = place(picture, example, (128, 128), training_data.random_for(key, 0), STRENGTH)
    assert image.shape == (128, 128, 3)
    bright = image[..., 0] > 185
    if not len(labels):
        assert bright.mean() < 0.06
        return
    _, cx, cy, w, h = labels[0] * [1, 128, 128, 128, 128]
    columns, rows = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    np.testing.assert_allclose([cx - w / 2, cy - h / 2], [columns[0], rows[0]], atol=1.6)
    np.testing.assert_allclose([cx + w / 2, cy + h / 2], [columns[-1] + 1, rows[-1] + 1], atol=1.6)


def test_without_randomness_the_picture_is_letterboxed() -> None:
    picture = np.full((40, 64, 3), 200, np.uint8)
    image, labels = place(picture, Example("x", (64, 40), np.array([1]), np.array([[0.5, 0.5, 1, 1]])), (64, 64))
    assert (image[12:52] == 200).all() and (image[:12] == 114).all() and (image[52:] == 114).all()
    np.testing.assert_allclose(labels, [[1, 0.5, 0.5, 1, 40 / 64]])


def damage_nothing(root: Path) -> None:
    for path in (root / "labels").rglob("*.txt"):
        path.unlink()


def damage_class(root: Path) -> None:
    (root / "labels" / "train" / "2.txt").write_text("9 0.5 0.5 0.1 0.1\n")


def damage_picture(root: Path) -> None:
    (root / "images" / "train" / "2.jpg").write_bytes(b"no picture")


def damage_split(root: Path) -> None:
    (root / "data.yaml").write_text("names: [a, b, c, d, e]\ntrain: images/train\nval: images/train\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nothing, "train must hold labels, but none of its 6 pictures has one"),
        (damage_class, r"2\.txt.*9"),
        (damage_picture, r"2\.jpg: must be a readable picture"),
        (damage_split, "train and val must be different pictures"),
    ],
)
def test_bad_datasets_are_refused_before_training(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    root = write_dataset(tmp_path / "data")
    damage(root)
    with pytest.raises(UserError, match=message):
        read_splits(str(root))


def rows(out: Path) -> list[dict[str, float]]:
    with (out / "results.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.usefixtures("ray_local")
def test_training_writes_weights_and_refuses_other_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = write_dataset(tmp_path / "data"), tmp_path / "out"
    options = Options(str(root), str(out), imgsz=128, epochs=2, batch_size=4, device="cpu")
    assert run(options) == 0
    printed = capsys.readouterr().out
    assert "epoch   1/2" in printed and "epoch   2/2" in printed and "best.pt" in printed
    assert [row["epoch"] for row in rows(out)] == [1, 2]
    assert all(np.isfinite(row["box"]) and row["box"] > 0 for row in rows(out))
    for name in ("best.pt", "last.pt"):
        model = yolo.load(name, (out / "weights" / name).read_bytes())
        assert list(model.names.values()) == list(CLASSES)  # type: ignore[union-attr]
    before = (out / "weights" / "last.pt").read_bytes()
    assert run(options) == 0  # all epochs are there: nothing is trained again
    assert (out / "weights" / "last.pt").read_bytes() == before
    with pytest.raises(UserError, match="holds a run with --imgsz 128, but got 160"):
        run(Options(str(root), str(out), imgsz=160, epochs=2, batch_size=4, device="cpu"))
    with pytest.raises(UserError, match="the cluster has 0"):
        run(Options(str(root), str(tmp_path / "other"), imgsz=128, epochs=2, batch_size=4, device="gpu"))


@pytest.mark.usefixtures("ray_local")
def test_two_workers_share_gradients_from_s3_to_s3(tmp_path: Path, s3_bucket: str) -> None:
    root, remote = write_dataset(tmp_path / "data"), f"{s3_bucket}/a b"
    for entry in storage.list_files(str(root)):
        storage.write_bytes(f"{remote}/data/{entry.path}", (root / entry.path).read_bytes())
    results = []
    for workers, dataset, out in ((1, str(root), str(tmp_path / "out")), (2, f"{remote}/data", f"{remote}/out")):
        options = Options(
            dataset, out, imgsz=128, epochs=1, batch_size=4, workers=workers, warmup_epochs=0.0, device="cpu"
        )
        if workers == 1:  # the loop itself, without Ray
            train(options, *read_splits(dataset), Place(), None, lambda row, state: None)
        else:
            assert run(options) == 0
        model = yolo.load("last.pt", storage.read_bytes(f"{out}/weights/last.pt"))
        results.append(np.concatenate([p.detach().numpy().ravel() for p in model.model[-1].parameters()]))  # type: ignore[index, union-attr]
    # Batch statistics differ between halves and wholes, the direction of the step does not.
    similarity = float(np.corrcoef(results[0], results[1])[0, 1])
    assert similarity > 0.99


@pytest.mark.usefixtures("ray_local")
def test_a_damaged_picture_is_named_before_the_first_epoch(tmp_path: Path) -> None:
    from depers.cli import user_error

    root = write_dataset(tmp_path / "data")
    path = root / "images" / "train" / "2.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(Exception) as caught:
        run(Options(str(root), str(tmp_path / "out"), imgsz=128, epochs=1, batch_size=4, device="cpu"))
    assert "2.jpg" in str(user_error(caught.value))
    assert not (tmp_path / "out" / "results.csv").exists()
