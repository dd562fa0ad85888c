"""What a training sees: examples, exact shares, partners, batches; all of it a function of the seed."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_sets import write_dataset

from depers.commands.train import check
from depers.datasets.data_yaml import read_dataset, write_data_yaml, write_joined_yaml
from depers.datasets.labels import CLASSES
from depers.errors import UserError
from depers.seeds import Branch, random_for
from depers.training.anchors import fit_anchors, measure_anchor_recall
from depers.training.images.batches import Batches, choose_partners, order_pass, plan_batches, round_up, share_exactly
from depers.training.images.data import Splits, find_unlabelled, read_splits
from depers.training.images.examples import Example
from depers.training.images.image_cache import fit_size
from depers.training.options import Options
from depers.training.schedule import make_schedule


@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from([0.1, 0.5, 1.0, 1.7, 3.0])), min_size=1, max_size=3),
    st.integers(0, 5),
)
def test_shares_are_exact_and_every_image_comes_up_equally_often(parts, number: int) -> None:  # type: ignore[no-untyped-def]
    order = order_pass(parts, 0, number)
    first = 0
    for size, weight in parts:
        rows = order[(order >= first) & (order < first + size)]
        assert len(rows) == max(1, round(size * weight))
        first += size
    assert (order == order_pass(parts, 0, number)).all()
    over_all = np.bincount(np.concatenate([order_pass(parts, 0, n) for n in range(6)]), minlength=first)
    first = 0
    for size, _ in parts:
        counts = over_all[first : first + size]
        assert counts.max() - counts.min() <= 1
        first += size


def test_image_weights_keep_the_shares() -> None:
    weights = np.array([0, 0, 1, 1, 5, 0.0])
    order = order_pass([(4, 1.0), (2, 3.0)], 0, 2, weights)
    assert set(order[order < 4].tolist()) <= {2, 3} and (order < 4).sum() == 4
    assert (order[order >= 4] == 4).all() and (order >= 4).sum() == 6


def test_partners_are_of_the_same_group_and_equally_often() -> None:
    order = order_pass([(10, 1.0), (7, 1.0)], 0, 0)
    groups = np.array([3] * 10 + [1] * 7, np.int32)
    partners = choose_partners(order, groups, 3, 0, 0)
    for row, index in enumerate(order.tolist()):
        assert {groups[partner] for partner in partners[row].tolist()} == {groups[index]}
    assert (np.bincount(partners.ravel()) == 3).all()


def test_batches_share_a_canvas_that_holds_them_and_hold_every_image_once() -> None:
    canvases = np.array([(64, 32), (32, 64), (64, 32), (64, 64), (64, 32), (32, 64), (64, 32)])
    order = np.array([6, 5, 4, 3, 2, 1, 0])
    plan = plan_batches(order, canvases, 3, random_for(0, Branch.BATCH_ORDER))
    assert sorted(chain(*(rows.tolist() for _, rows in plan))) == list(range(7))
    assert sorted(len(rows) for _, rows in plan) == [1, 3, 3]
    for (width, height), rows in plan:
        assert width == max(canvases[order[row]][0] for row in rows)
        assert height == max(canvases[order[row]][1] for row in rows)
    again = plan_batches(order, canvases, 3, random_for(0, Branch.BATCH_ORDER))
    assert [(canvas, rows.tolist()) for canvas, rows in plan] == [(canvas, rows.tolist()) for canvas, rows in again]


def make_batches(parts: list[tuple[int, float]], batch_size: int, rectangular: bool = False) -> Batches:
    """Batches of images that are not there, of three shapes."""
    none, boxes = np.zeros(0, np.int64), np.zeros((0, 4))
    sizes_wh = [(64, 64), (64, 32), (32, 64)]
    count = sum(size for size, _ in parts)
    examples = [Example("", sizes_wh[index % 3], none, boxes, frozenset({0})) for index in range(count)]
    splits = Splits(("car",), examples, [], tuple(parts))
    options = {"imgsz": 64, "stride": 32, "batch_size": batch_size, "seed": 3}
    return Batches(splits, None, {"mosaic": 1.0}, **options, rectangular=rectangular, continuous=True)  # type: ignore[arg-type]


@settings(max_examples=40)
@given(
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from([0.1, 0.3, 0.5, 0.75, 0.9]),
    st.integers(1, 25),
    st.integers(1, 3),
    st.booleans(),
)
def test_both_arms_see_equally_many_images_and_steps(
    size: int, batch_size: int, share: float, steps: int, accumulate: int, rectangular: bool
) -> None:
    """However few images an arm has: batches are filled across passes, and the share is exact."""
    synthetic = 5 * size
    arms = [(size, 1.0)], [(size, 1.0), (synthetic, share / (1 - share) * size / synthetic)]
    hyp = {"warmup_epochs": 3.0}
    image_counts = []
    for parts in arms:
        batches = make_batches(parts, batch_size, rectangular)
        schedule = make_schedule(
            epochs=1, batches_per_pass=batches.per_pass, accumulate=accumulate, hyp=hyp, steps=steps
        )
        assert schedule.steps == steps
        plans = [batches.plan(number) for number in range(len(schedule.ends))]
        assert {len(plan) for plan in plans} == {batch_size}
        image_counts.append(sum(map(len, plans)))
        places = [spec[:2] for plan in plans for spec in plan]
        assert len(set(places)) == len(places)
        by_place = {spec[:2]: spec for plan in plans for spec in plan}
        alone = make_batches(parts, batch_size, rectangular).plan(len(plans) - 1)  # as a resumed run begins
        assert alone == plans[-1] and all(by_place[spec[:2]] == spec for spec in alone)
    assert image_counts[0] == image_counts[1] == len(schedule.ends) * batch_size


@given(st.integers(1, 200), st.sampled_from([0.1, 0.3, 0.5, 2 / 3, 0.9]), st.integers(1, 5))
def test_the_share_of_a_pass_is_exact(size: int, share: float, variants: int) -> None:
    parts = share_exactly([(size, 1.0), (size * variants, share / (1 - share) / variants)])
    real, synthetic = (round(count * weight) for count, weight in parts)
    assert synthetic / (real + synthetic) == pytest.approx(share, rel=1e-3)
    assert parts[0][1] == round(parts[0][1])


@pytest.mark.parametrize(
    ("parts", "factor"),
    [
        ([(1_000_000, 1.0), (10, 0.0137)], 3),  # 73 passes in one would be exact, and a plan of gigabytes
        ([(10_000, 1.0), (10, 0.0137)], 73),
        ([(9_000_000, 1.0), (10, 0.5)], 1),
    ],
)
def test_a_pass_of_exact_shares_can_be_planned(parts: list[tuple[int, float]], factor: int) -> None:
    assert share_exactly(parts) == [(size, weight * factor) for size, weight in parts]


@given(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), st.integers(1, 20), st.sampled_from([32, 64]))
def test_an_image_fits_the_canvas_of_its_shape(size_wh: tuple[int, int], strides: int, stride: int) -> None:
    scaled = fit_size(size_wh, strides * stride)
    canvas = round_up(scaled, stride)
    assert max(scaled) == max(canvas) == strides * stride
    for canvas_side, side in zip(canvas, scaled, strict=True):
        assert canvas_side % stride == 0 and 0 <= canvas_side - side < stride


def test_anchors_fit_two_kinds_of_boxes() -> None:
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.normal((10, 10), 1, (200, 2)), rng.normal((150, 60), 5, (50, 2))])
    anchors = np.array(fit_anchors(sizes, levels=3, seed=0)).reshape(-1, 2)
    assert anchors.shape == (9, 2) and (np.diff(anchors.prod(1)) >= 0).all()
    assert (np.abs(np.log(anchors[0] / 10)) < 0.3).all() and (np.abs(np.log(anchors[-1] / [150, 60])) < 0.3).all()
    assert measure_anchor_recall(sizes, anchors, 4.0) == 1
    assert measure_anchor_recall(sizes, anchors[-1:], 4.0) == pytest.approx(0.2)
    assert fit_anchors(np.array([[8.0, 8.0]]), levels=3, seed=0)  # fewer boxes than anchors


def test_joined_datasets_are_labelled_for_what_they_name(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "first", count=3)
    write_data_yaml(first, CLASSES, labelled={"1.": ["car"]})
    (first / "labels" / "train" / "1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    plates = write_dataset(tmp_path / "plates", count=2, names=["carplate", "car"])
    more = tmp_path / "more" / "images" / "train"
    more.mkdir(parents=True)
    (more / "9.jpg").write_bytes((plates / "images" / "train" / "0.jpg").read_bytes())
    (plates / "data.yaml").write_text(
        f"names: [carplate, car]\ntrain: [images/train, {more}]\nval: images/val\n", encoding="utf-8"
    )
    splits = read_splits(str(first), [(str(plates), 0.5)], 2.0)
    assert splits.names == CLASSES and splits.parts == ((3, 2.0), (3, 0.5))
    assert [example.path.rsplit("/", 1)[1] for example in splits.train] == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
        "0.jpg",
        "1.jpg",
        "9.jpg",
    ]
    all_ids = frozenset(range(5))
    assert [e.labelled for e in splits.train] == [all_ids, frozenset({0}), all_ids, *[frozenset({4, 0})] * 3]
    assert set(splits.train[3].class_ids.tolist()) <= {0, 4}
    assert find_unlabelled(splits.train, 5)[1].tolist() == [False, True, True, True, True]


def test_synthetic_images_are_the_share_that_data_yaml_or_the_option_says(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "synthetic", count=5)
    real = write_dataset(tmp_path / "real", count=3)
    write_joined_yaml(str(root), CLASSES, read_dataset(real), "")
    for share, expected in ((None, 0.5), (0.2, 0.2)):
        parts = read_splits(str(root), share=share).parts
        counts = [size * weight for size, weight in parts]
        assert [size for size, _ in parts] == [3, 5] and counts[0] == 3
        assert counts[1] / sum(counts) == pytest.approx(expected)
    file = root / "data.yaml"
    file.write_text(file.read_text().replace("share: 0.5", "share: 1"))
    with pytest.raises(UserError, match="share must be a number between 0 and 1, but is 1"):
        read_splits(str(root))
    file.write_text(file.read_text().replace("share: 1", ""))
    assert read_splits(str(root)).parts == ((8, 1.0),)


def test_a_share_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    real, other = write_dataset(tmp_path / "real", count=3), write_dataset(tmp_path / "other", count=2)
    problem = "real: --share is about its further folders of training images, but it has none: how much of --data"
    for further in ((), ((str(other), 1.0),)):
        with pytest.raises(UserError, match=problem):
            read_splits(str(real), further, share=0.5)
    with pytest.raises(UserError, match=problem):  # before any cluster is asked for
        check(Options(str(real), str(tmp_path / "out"), data=(str(other),), share=0.5))
    empty = tmp_path / "more/images/train"
    empty.mkdir(parents=True)
    (real / "data.yaml").write_text(
        f"names: [{', '.join(CLASSES)}]\ntrain: [images/train, {empty}]\nval: images/val\n", encoding="utf-8"
    )
    with pytest.raises(
        UserError, match="--share needs images of both kinds, but there are 3 in its first folder and 0 in"
    ):
        read_splits(str(real), share=0.5)
    assert read_splits(str(real), ((str(other), 1.0),)).parts == ((3, 1.0), (2, 1.0))


def test_joined_datasets_must_agree(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "first", names=["car"])
    with pytest.raises(UserError, match="its classes must be among car, but it has 'head'"):
        read_splits(str(first), [(str(write_dataset(tmp_path / "second")), 1.0)])
    write_data_yaml(first, ["car", "tree"], labelled={"0.": ["tree"]})
    assert {example.labelled for example in read_splits(str(first)).train} >= {
        frozenset({1})
    }  # single labels do no harm
    write_data_yaml(first, ["car", "tree"], labelled={"1": ["tree"]})
    with pytest.raises(UserError, match=r"0\.txt: data.yaml says that it holds only tree, but it holds car"):
        read_splits(str(first))  # but are not measured with
