"""Augmented prediction: the same boxes as the package's own, and found again in the image's own pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch

from depers.boxes import intersection_over_union
from depers.detection import yolo
from depers.detection.detector import DetectorEnsemble
from depers.detection.network import scale_images
from depers.detection.settings import InferenceSettings, Weights


def detector(path: Path, **how: object) -> DetectorEnsemble:
    return DetectorEnsemble(
        [Weights(str(path), {})], [path.read_bytes()], (), InferenceSettings(precision="float32", **how)
    )  # type: ignore[arg-type]


def everything(path: Path, images: torch.Tensor) -> torch.Tensor:
    """The augmented predictions at all places, (B, N, 5 + C) as the package gives them: no objectness is below -1."""
    image, rows, _ = detector(path)._networks[0].predict_augmented(images, confidence=-1)
    return rows[image.argsort(stable=True)].reshape(len(images), -1, rows.shape[1])


@pytest.mark.parametrize("size_wh", [(192, 128), (96, 224), (640, 384)])
def test_predictions_equal_the_package(data: Path, size_wh: tuple[int, int]) -> None:
    path = data / "weights/yolov5n.pt"
    theirs = yolo.fuse(yolo.load(str(path), path.read_bytes()))
    images = torch.rand(2, 3, size_wh[1], size_wh[0])
    with torch.no_grad():
        expected = theirs(images, augment=True)[0]
        found = everything(path, images)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-2, rtol=1e-4)


def test_four_levels_equal_the_package(tmp_path: Path) -> None:
    torch.manual_seed(0)
    yolo.save(yolo.build("yolov5n6", ["a", "b"]), tmp_path / "p6.pt")
    theirs = yolo.fuse(yolo.load("p6.pt", (tmp_path / "p6.pt").read_bytes()))
    images = torch.rand(1, 3, 192, 128)
    with torch.no_grad():
        expected = theirs(images, augment=True)[0]
        assert torch.allclose(everything(tmp_path / "p6.pt", images), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("size_wh", "scale", "stride", "expected_wh"),
    [((640, 384), 1.0, 32, (640, 384)), ((640, 384), 0.83, 32, (544, 320)), ((640, 640), 0.67, 64, (448, 448))],
)
def test_scaled_is_padded_to_the_stride(
    size_wh: tuple[int, int], scale: float, stride: int, expected_wh: tuple[int, int]
) -> None:
    assert scale_images(torch.rand(1, 3, size_wh[1], size_wh[0]), scale, stride).shape[2:] == expected_wh[::-1]


def test_what_is_found_stays_where_it_is(data: Path) -> None:
    """Of the confident boxes of a plain look, nearly all are found by the augmented one, at the same place."""
    from depers.boxes import letterbox
    from depers.detection.tiling import draw_canvas
    from depers.imaging.decoding import decode

    path = data / "weights/yolov5n.pt"
    plain, augmented = detector(path), detector(path, augment=True)
    found_again = []
    for image in sorted((data / "coco_val/images").iterdir())[:6]:
        one = decode(image.read_bytes())
        canvas = draw_canvas(one.rgb(), letterbox(one.size_wh, 640))
        first, second = plain([canvas])[0], augmented([canvas])[0]
        sure = first.confidences > 0.6
        overlaps = intersection_over_union(first.boxes_xyxy[sure], second.boxes_xyxy)
        same = first.class_ids[sure][:, None] == second.class_ids[None]
        found_again += np.where(same, overlaps, 0).max(1, initial=0).tolist()
    assert len(found_again) >= 8
    assert np.mean(np.array(found_again) > 0.7) > 0.9
