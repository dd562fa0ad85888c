"""Street scenes: reproducible, labelled by what is seen, varied enough not to be toys."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from depers.datasets.labels import CLASSES
from depers.street_scenes.canvas import Camera, Canvas, Light
from depers.street_scenes.cars import BODY, PLATE, Car, draw_car
from depers.street_scenes.people import FACE, HEAD, Person, draw_person
from depers.street_scenes.scenes import SIZES_WH, Scene, _SceneLabels, draw_scene, write_raw

DAY = Light((90, 150, 210), (200, 220, 240), (1, 1, 1), 1.0, 300, False)
CAR, HEAD_CLASS, FACE_CLASS, HUMAN, CARPLATE = range(5)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(index, seed=11) for index in range(24)]


def canvas(width: int = 640, height: int = 480) -> Canvas:
    return Canvas(Camera((width, height), 500.0, 200.0, 1.8), DAY)


def test_same_seed_and_index_give_the_same_scene(scenes: list[Scene]) -> None:
    repetition = draw_scene(5, seed=11)
    assert np.array_equal(repetition.image, scenes[5].image)
    assert np.array_equal(repetition.boxes_xyxy, scenes[5].boxes_xyxy)
    assert not np.array_equal(draw_scene(5, seed=12).image[:100, :100], repetition.image[:100, :100])


def test_boxes_lie_in_the_image_and_have_an_area(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width = scene.image.shape[:2]
        assert scene.image.dtype == np.uint8
        assert (width, height) in SIZES_WH
        assert scene.boxes_xyxy.dtype == np.float32 and scene.boxes_xyxy.shape == (len(scene.class_ids), 4)
        x0, y0, x1, y1 = scene.boxes_xyxy.T
        assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= width).all() and (y1 <= height).all()
        assert (x1 - x0 >= 5).all() and (y1 - y0 >= 5).all()


def test_scenes_are_no_toys(scenes: list[Scene]) -> None:
    counts = np.bincount(np.concatenate([scene.class_ids for scene in scenes]), minlength=len(CLASSES))
    assert (counts >= 15).all(), dict(zip(CLASSES, counts, strict=True))
    assert counts[FACE_CLASS] < counts[HEAD_CLASS], "some heads must be turned away"
    assert max(len(scene.class_ids) for scene in scenes) >= 15, "some scenes must be crowded"
    shares = np.concatenate([s.boxes_xyxy[:, 3] - s.boxes_xyxy[:, 1] for s in scenes if len(s.class_ids)])
    assert shares.max() > 15 * shares.min(), "small and large objects"
    assert len({scene.image.shape for scene in scenes}) >= 4


def test_size_can_be_asked_for() -> None:
    assert draw_scene(0, seed=1, size_wh=(321, 203)).image.shape == (203, 321, 3)


@pytest.mark.parametrize(
    ("turn", "shows_face"), [(0.0, True), (0.9, True), (-0.9, True), (np.pi, False), (2.0, False), (-2.6, False)]
)
def test_face_is_labelled_only_if_turned_to_the_camera(turn: float, shows_face: bool) -> None:
    image = canvas()
    labels = _SceneLabels(image)
    image.thing = labels.new_thing()
    draw_person(image, Person(0.0, 5.0, 1.75, turn), np.random.default_rng(3))
    labels.complete_thing({"human": (BODY, HEAD, FACE), "head": (HEAD, FACE), "face": (FACE,)})
    class_ids, boxes = labels.visible()
    assert (FACE_CLASS in class_ids) == shows_face
    human, head = boxes[list(class_ids).index(HUMAN)], boxes[list(class_ids).index(HEAD_CLASS)]
    assert (head[:2] >= human[:2] - 1).all() and (head[2:] <= human[2:] + 1).all()
    assert abs((human[3] - human[1]) - 1.75 * 500 / 5) < 25  # as tall as the camera says


def test_what_is_hidden_loses_its_label_or_the_hidden_part_of_its_box() -> None:
    image = canvas()
    labels = _SceneLabels(image)
    image.thing = labels.new_thing()
    draw_car(image, Car(0.0, 9.0, np.pi), np.random.default_rng(0))
    labels.complete_thing({"car": (BODY, PLATE), "carplate": (PLATE,)})
    class_ids, boxes = labels.visible()
    assert set(class_ids) == {CAR, CARPLATE}
    car, plate = boxes[list(class_ids).index(CAR)], boxes[list(class_ids).index(CARPLATE)]
    image.thing = 0  # a wall in front of the left half of the car
    middle = float(car[0] + car[2]) / 2 + 5
    image.polygon(np.array([[0, 0], [middle, 0], [middle, 480], [0, 480]]), (90, 90, 90))
    class_ids, boxes = labels.visible()
    assert list(class_ids) == [CAR], "half of the plate is too little"
    assert boxes[0][0] == pytest.approx(middle, abs=1.5) and boxes[0][2] == car[2]
    assert plate[0] > car[0] and plate[2] < car[2]
    image.polygon(np.array([[0, 0], [640, 0], [640, 480], [0, 480]]), (90, 90, 90))
    assert not len(labels.visible()[0])


@pytest.mark.parametrize("heading", [0.0, 0.6, np.pi, np.pi - 0.5])
def test_plate_is_where_the_car_ends(heading: float) -> None:
    image = canvas()
    labels = _SceneLabels(image)
    image.thing = labels.new_thing()
    draw_car(image, Car(0.5, 8.0, heading), np.random.default_rng(1))
    labels.complete_thing({"car": (BODY, PLATE), "carplate": (PLATE,)})
    class_ids, boxes = labels.visible()
    width, height = np.diff(boxes[list(class_ids).index(CARPLATE)].reshape(2, 2), axis=0)[0]
    assert 10 < width < 60 and 4 < height < 30


def test_raw_layout_is_the_competition_s(tmp_path: Path) -> None:
    write_raw(tmp_path, count=3, seed=11)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"street-11-{index:05d}.jpg" for index in range(3)]
    for index in range(3):
        scene = draw_scene(index, 11)
        image = cv2.imread(str(tmp_path / "images" / names[index]))
        assert image is not None and image.shape == scene.image.shape
        height, width = image.shape[:2]
        for class_id, class_name in enumerate(CLASSES):
            path = tmp_path / "labels" / f"street-11-{index:05d}_{class_name}..txt"
            minimum = scene.boxes_xyxy[scene.class_ids == class_id]
            assert path.exists() == bool(len(minimum))
            if not len(minimum):
                continue
            rows = np.array([line.split() for line in path.read_text().splitlines()], float)
            assert (rows[:, 0] == 0).all()
            low = (rows[:, 1:3] - rows[:, 3:] / 2) * [width, height]
            np.testing.assert_allclose(low, minimum[:, :2], atol=0.01)
