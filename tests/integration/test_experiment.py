"""The experiment: what is planned, what the numbers say, and a real run, cut off and resumed."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from image_lists import list_pairs
from training_sets import write_dataset

from depers.commands import experiment
from depers.commands.experiment import Cell, Options, choose_images, copy_images, plan_cells
from depers.datasets.data_yaml import read_dataset
from depers.errors import UserError
from depers.evaluation.experiment_statistics import ARMS, CONTRAST, SYNTHETIC, TrainingResult


@pytest.mark.parametrize(
    ("values", "count", "sizes"),
    [({}, 40, [10, 20, 40]), ({}, 1, [1]), ({"sizes": (30, 10)}, 40, [10, 30])],
)
def test_cells(values: dict[str, tuple[int, ...]], count: int, sizes: list[int]) -> None:
    cells = plan_cells(Options("data", "out", seeds=2, **values), count)  # type: ignore[arg-type]
    assert cells == [Cell(size, seed) for size in sizes for seed in (0, 1)]


def test_parts_are_nested_and_differ_by_seed() -> None:
    paths = [f"{number}.jpg" for number in range(50)]
    small, large = choose_images(paths, Cell(10, 1)), choose_images(paths, Cell(30, 1))
    assert len(small) == 10 and set(small) < set(large) and len(large) == 30
    assert small != choose_images(paths, Cell(10, 2))
    assert choose_images(paths, Cell(50, 3)) == sorted(paths)


def test_arms_differ_in_their_images_alone() -> None:
    options = Options("data", "out", synthetic=5, imgsz=320, steps=70, weights="w.pt", train_with=("optimizer=AdamW",))
    first, augmented, second = (options.training(Cell(10, 3), arm) for arm in ARMS)
    assert first.dataset == second.dataset and first.out != second.out
    place = "out/cells/10-3/synthetic"
    assert not first.data and second.data == (f"{place}=0.2",)  # 50 of them: as many are seen as of the 10 real ones
    for other, different in ((second, {"data", "out"}), (augmented, {"augmentation", "out"})):
        values = [{k: v for k, v in vars(arm).items() if k not in different} for arm in (first, other)]
        assert values[0] == values[1]
    assert augmented.augmentation == "scratch-high" and first.augmentation is None
    assert (first.steps, first.seed, first.optimizer, first.weights, first.imgsz) == (70, 3, "AdamW", "w.pt", 320)
    assert first.patience == 0  # stopping early would part the arms
    made = Options("data", "out", synthetic=2.5, synthesize_with=("objects=1", "effects=no")).synthesis(Cell(10, 3))
    assert (made.count, made.seed, made.objects, made.effects, made.real) == (25, 3, 1, False, "none")
    assert made.per_background == 1
    many = Options("data", "out", synthetic=5, synthesize_with=("variants=3",))
    assert many.count_synthetic(Cell(10, 0)) == 150 and many.training(Cell(10, 0), SYNTHETIC).data[0].endswith(
        f"={10 / 150!r}"
    )
    few = Options("data", "out", steps=10, validations=1, batch_size=4, share=0.25, train_with=("nominal-batch=16",))
    assert few.synthesis(Cell(2000, 0)).count == few.most_synthetic == 40  # no training would see more
    assert Options("data", "out", extract_with=("fill=mean",)).extraction(Cell(1, 0)).fill == "mean"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seeds": 0}, "--seeds must be at least 1, but got 0"),
        ({"sizes": (5, 5)}, "--sizes must be different values, but got 5, 5"),
        ({"sizes": (0,)}, "--sizes must be at least 1, but got 0"),
        ({"synthetic": 0.0}, "--synthetic must be above 0 and at most 1000, but got 0"),
        ({"share": 1.0}, "--share must be above 0 and below 1, but got 1"),
        ({"steps": 5, "validations": 10}, "--steps must be at least"),
        ({"imgsz": 100}, "--imgsz must be a positive multiple of 32, but got 100"),
        ({"extract_with": ("seed",)}, "--extract-with must be NAME=VALUE with a NAME among .*fill.*, but got 'seed'"),
        ({"synthesize_with": ("seed=3",)}, "--synthesize-with must be NAME=VALUE .* but got 'seed=3'"),
        ({"synthesize_with": ("effects=1",)}, "--synthesize-with effects must be yes or no, but got '1'"),
        ({"synthesize_with": ("balance=2",)}, "--balance must be between 0 and 1, but got 2"),
        ({"train_with": ("optimizer=Lion",)}, "--optimizer must be one of SGD, Adam, AdamW, but got 'Lion'"),
    ],
)
def test_wrong_options_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options("data", "out", **values)  # type: ignore[arg-type]


def test_sizes_beyond_the_dataset_are_refused() -> None:
    with pytest.raises(UserError, match="--sizes must be at most 40, the dataset's training images, but got 41"):
        plan_cells(Options("data", "out", sizes=(10, 41)), 40)


def test_a_part_has_its_labels_and_the_whole_validation(tmp_path: Path) -> None:
    whole = read_dataset(write_dataset(tmp_path / "data", count=4, val_count=2))
    copy_images(whole, ["0.jpg", "2.jpg"], str(tmp_path / "part"))
    part = read_dataset(tmp_path / "part")
    assert part.names == whole.names and part.val is not None and part.train is not None
    assert [Path(image).name for image, _ in list_pairs(part.train)] == ["0.jpg", "2.jpg"]
    assert [Path(text).read_bytes() for _, text in list_pairs(part.train)] == [
        (tmp_path / f"data/labels/train/{number}.txt").read_bytes() for number in (0, 2)
    ]
    assert [Path(image).name for image, _ in list_pairs(part.val)] == ["100000.jpg", "100001.jpg"]


@pytest.mark.usefixtures("ray_local")
def test_a_run_is_taken_up_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, out = write_dataset(tmp_path / "data", count=4, val_count=2), tmp_path / "out"
    given = Options(
        str(dataset), str(out), sizes=(3,), seeds=1, synthetic=1, steps=2, validations=1, imgsz=64, batch_size=2
    )
    train_all = experiment._train_all

    def cut_off(*arguments: Any) -> Iterator[TrainingResult]:
        yield next(train_all(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(experiment, "_train_all", cut_off)
        experiment.run(given)
    [record, *_] = (out / "cells/3-0/runs").glob("*.json")
    before = record.stat().st_mtime_ns
    declaration = json.loads((out / "_depers" / "job.json").read_text())
    assert (declaration["sizes"], declaration["seeds"], declaration["contrast"]) == ([3], 1, CONTRAST)
    result = experiment.run(given)
    assert not result.partial and [run.arm for run in result.runs] == list(ARMS)
    assert "one seed says nothing" in "\n".join(result.summary())
    assert record.stat().st_mtime_ns == before
    for arm in ARMS:  # its weights stay, what it would be resumed from does not
        runs = out / "cells" / "3-0" / "runs" / arm
        assert (runs / "weights" / "last.pt").exists() and not (runs / "state").exists()
    content = json.loads((out / "experiment.json").read_text())
    [row] = content["sizes"]
    assert (row["real_images"], row["synthetic_images"], row["seeds"]) == (3, 2, 1)  # two steps see no more
    assert len(list(csv.DictReader((out / "runs.csv").read_text().splitlines()))) == 3
    made = read_dataset(out / "cells/3-0/synthetic")
    assert not made.additional_train and made.val is None  # all arms are validated on what the real part names
    assert "<svg" in (out / "report.html").read_text()
    for values, name in (({"steps": 3}, "training steps 2"), ({"seeds": 2}, "seeds 1")):
        with pytest.raises(UserError, match=f"holds a run with {name}, but now it is"):
            experiment.run(Options(**{**vars(given), **values}))
