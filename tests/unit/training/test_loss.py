"""The loss: YOLOv5's where everything is labelled, the same over several workers, and fair to missing labels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from depers.detection import yolo
from depers.training.loss import Loss, find_ignored, find_perhaps_unlabelled

GAINS = yolo.read_hyperparameters("scratch-low") | {"label_smoothing": 0.1}


def model_and_targets(names: list[str], images: int = 4, **gains: float) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """Return a model in training mode, a batch (B, 3, 96, 128) and 20 targets."""
    torch.manual_seed(0)
    model = yolo.build("yolov5n", names)
    model.hyp = GAINS | gains  # type: ignore[assignment]
    rng = np.random.default_rng(0)
    targets = np.column_stack(
        [rng.integers(0, images, 20), rng.integers(0, len(names), 20), rng.uniform(0.1, 0.9, (20, 2)),
         rng.uniform(0.05, 0.4, (20, 2))]
    )  # fmt: skip
    return model, torch.rand(images, 3, 96, 128), torch.tensor(targets, dtype=torch.float32)


@pytest.mark.parametrize("gains", [{}, {"fl_gamma": 1.5}, {"cls_pw": 0.5, "obj_pw": 2.0}])
@pytest.mark.parametrize("names", [["car", "head", "face"], ["head"]])
@pytest.mark.parametrize("target_count", [20, 1, 0])
def test_it_is_the_packages_where_everything_is_labelled(
    names: list[str], gains: dict[str, float], target_count: int
) -> None:
    model, images, targets = model_and_targets(names, **gains)
    predictions = [level.detach().requires_grad_() for level in model(images)]
    package_loss, package_items = yolo.load_training_parts().ComputeLoss(model)(predictions, targets[:target_count])
    package_gradients = torch.autograd.grad(package_loss, predictions, retain_graph=True)
    for unlabelled in (None, torch.zeros(4, len(names), dtype=torch.bool)):
        loss, items = Loss(model, names)(predictions, targets[:target_count], unlabelled)
        torch.testing.assert_close(loss, package_loss.squeeze(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(items, package_items, rtol=1e-5, atol=1e-6)
        for gradient, package_gradient in zip(
            torch.autograd.grad(loss, predictions, retain_graph=True), package_gradients, strict=True
        ):
            torch.testing.assert_close(gradient, package_gradient, rtol=1e-4, atol=1e-7)


def test_the_losses_of_two_workers_add_up() -> None:
    names = ["car", "head", "face"]
    model, images, targets = model_and_targets(names)
    predictions = model(images)
    whole, whole_items = Loss(model, names)(predictions, targets)
    halves = [targets[:, 0] < 1, targets[:, 0] >= 1]  # one image, and three
    counts: list[Tensor] = []

    def compute_half(number: int, total) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        half_targets = targets[halves[number]].clone()
        half_targets[:, 0] -= number
        part = slice(0, 1) if number == 0 else slice(1, 4)
        return Loss(model, names, total)([level[part] for level in predictions], half_targets)

    for number in range(2):
        compute_half(number, lambda count: counts.append(count) or count)
    results = [compute_half(number, lambda count: sum(counts)) for number in range(2)]
    torch.testing.assert_close(sum(loss for loss, _ in results), whole)
    torch.testing.assert_close(sum(items for _, items in results), whole_items)


def test_only_confident_unlabelled_objects_are_left_alone() -> None:
    predicted = torch.full((1, 1, 1, 4, 5 + 2), -8.0)  # classes: plate, head
    predicted[0, 0, 0, :, 4] = torch.tensor([3.0, 3.0, -8.0, 3.0])
    predicted[0, 0, 0, :, 5] = torch.tensor([-2.0, 2.0, -2.0, -2.0])
    predicted[0, 0, 0, :, 6] = torch.tensor([2.0, -2.0, 2.0, -3.0])
    only_plates = torch.tensor([[False, True]])
    assert find_perhaps_unlabelled(predicted, only_plates).flatten().tolist() == [True, False, False, False]
    assert not find_perhaps_unlabelled(predicted, torch.zeros(1, 2, dtype=torch.bool)).any()


def test_what_lies_in_an_ignore_region_has_no_gradient_and_all_else_the_same() -> None:
    names = ["head", "face", "carplate"]
    model, images, targets = model_and_targets(names)
    predictions = [level.detach().requires_grad_() for level in model(images)]
    loss = Loss(model, names)
    region = torch.tensor([[1, 0, 0.3, 0.4, 0.3, 0.4], [3, 2, 0.9, 0.9, 0.1, 0.1]])
    plain = torch.autograd.grad(loss(predictions, targets)[0], predictions)
    ignored = torch.autograd.grad(loss(predictions, targets, None, region)[0], predictions)
    places = yolo.load_training_parts().ComputeLoss(model).build_targets(predictions, targets)[2]
    for level, (before, after, place) in enumerate(zip(plain, ignored, places, strict=True)):
        height, width = before.shape[2:4]
        assigned = torch.zeros(before.shape[:4], dtype=torch.bool)
        assigned[place] = True
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        inside = torch.zeros_like(assigned)
        for image, _, cx, cy, w, h in region.tolist():
            inside[int(image)] |= ((columns / width - cx).abs() <= w / 2) & ((rows / height - cy).abs() <= h / 2)
        assert not after[inside & ~assigned].any() and before[inside & ~assigned][:, 4].any()
        torch.testing.assert_close(before[assigned], after[assigned])  # what is labelled in it is learnt
        others = ~find_ignored(predictions[level].detach(), loss._base.anchors[level], region) & ~inside
        torch.testing.assert_close(before[others], after[others])
        assert bool(others[0].all()) and bool(others[2].all())


def test_a_box_that_lies_in_a_region_is_left_alone_wherever_its_cell_is() -> None:
    outputs = torch.zeros(1, 1, 4, 4, 5 + 2)  # a box of twice (0.5 · 2)² anchors around the middle of its cell
    region = torch.tensor([[0, 0, 0.25, 0.5, 0.5, 1.0]])
    small = find_ignored(outputs, torch.tensor([[0.5, 0.5]]), region)
    assert small[0, 0].tolist() == [[True, True, False, False]] * 4
    outputs[0, 0, 0, 2, 0] = -8.0  # reaches half a cell to the left
    assert find_ignored(outputs, torch.tensor([[0.5, 0.5]]), region)[0, 0, 0].tolist() == [True, True, True, False]


def test_a_face_in_an_ignore_region_of_heads_may_be_a_head() -> None:
    names = ["head", "face", "carplate"]
    model, images, targets = model_and_targets(names, images=1)
    targets[:, 1] = 1.0
    predictions = [level.detach().requires_grad_() for level in model(images)]
    whole = torch.tensor([[0, 0, 0.5, 0.5, 1.0, 1.0]])
    places = yolo.load_training_parts().ComputeLoss(model).build_targets(predictions, targets)[2]
    for region, learns in ((whole, False), (None, True)):
        loss, _ = Loss(model, names)(predictions, targets, None, region)
        for gradient, place in zip(torch.autograd.grad(loss, predictions), places, strict=True):
            assert bool(gradient[place][:, 5].any()) is (learns and bool(len(place[0])))


def test_missing_labels_have_no_gradient() -> None:
    names = ["head", "face", "carplate"]
    model, images, targets = model_and_targets(names, images=1)
    targets[:, 1] = 1.0  # faces only
    predictions = [level.detach() for level in model(images)]
    for level in predictions:
        level[..., 4:6] = 3.0  # the model finds heads everywhere
        level[..., 6:] = -3.0
        level.requires_grad_()
    for unlabelled, learns in (([[True, False, True]], False), ([[False, False, False]], True)):
        loss, _ = Loss(model, names)(predictions, targets, torch.tensor(unlabelled))
        gradients = torch.autograd.grad(loss, predictions)
        places = yolo.load_training_parts().ComputeLoss(model).build_targets(predictions, targets)[2]
        for gradient, place in zip(gradients, places, strict=True):
            assigned = torch.zeros(gradient.shape[:4], dtype=torch.bool)
            assigned[place] = True
            assert bool(gradient[~assigned][:, 4].any()) is learns  # nothing is said of heads without a label
            if assigned.any():
                assert bool(gradient[assigned][:, 5].any()) is learns  # a face's box may be a head's
                assert gradient[assigned][:, 7].any()  # but it is no plate
