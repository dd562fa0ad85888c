"""A dataset that grows: what changed is written and nothing else, in the order of one made at once; splits are kept."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from depers import storage
from depers.datasets.labels import Labels
from depers.datasets.splits import split_into
from depers.errors import UserError
from depers.normalization import growth, writing
from depers.normalization.assignment import Assignment
from depers.normalization.rules import NO_BOXES
from depers.normalization.writing import ImageTask, make_unit_name, write_unit
from depers.runtime import units
from depers.statuses import SourceStatus
from depers.storage import tables


def make_tasks(names: Sequence[str]) -> list[ImageTask]:
    return [ImageTask(f"raw/{name}", name, name, "train", "1", None, None, NO_BOXES) for name in names]


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have images written by nobody: what counts is of which it is asked."""

    def write(out: str, exif_frame: str, task: ImageTask, has_regions: bool) -> dict[str, Any]:
        return writing._row(task, SourceStatus.USED, (1, 1), Labels.of([], []), [])

    monkeypatch.setattr(writing, "_write_image", write)


def do(out: str, tasks: list[ImageTask], stop_after: int | None = None) -> int:
    """Do a run, which may be stopped, as the verb does it; return how many images it has written."""
    records, count = units.locate_inside(out), 0
    former_rows = growth.find_former_rows(out, "auto", lambda: growth.cut(tasks))
    finished_names, names = units.list_finished(records).names, []
    for part in growth.cut(tasks):
        names.append(make_unit_name(part, "auto"))
        if names[-1] not in finished_names and (stop_after is None or len(names) <= stop_after):
            todo, taken = growth.divide(part, former_rows)
            write_unit(out, names[-1], "auto", todo, taken)
            count += len(todo)
    if stop_after is None:
        rows = [table["name"].to_pylist() for table in units.iterate_records(records, names)]
        assert [name for part in rows for name in part] == [task.name for task in tasks]
        units.remove_former(records)
    return count


@pytest.mark.parametrize("change", ["one at the front", "one in a hundred more", "one in a hundred less", "changed"])
def test_what_changed_is_written_and_nothing_else(tmp_path: Path, change: str) -> None:
    names = [f"{number:05}.jpg" for number in range(400)]
    out, tasks = str(tmp_path), make_tasks(names)
    assert do(out, tasks) == 400 and do(out, tasks) == 0
    places = sorted(random.Random(1).sample(range(400), 4))
    if change == "one at the front":
        changed, count = make_tasks(["0.jpg", *names]), 1
    elif change == "one in a hundred more":
        changed, count = make_tasks(sorted([*names, *(f"{names[place][:-4]}b.jpg" for place in places)])), 4
    elif change == "one in a hundred less":
        changed, count = [task for place, task in enumerate(tasks) if place not in places], 0
    else:
        changed = [task._replace(stamp="2") if place in places else task for place, task in enumerate(tasks)]
        count = 4
    assert do(out, changed, stop_after=4) + do(out, changed) == count and do(out, changed) == 0
    parts = [units.record_uri(units.locate_inside(out), make_unit_name(part, "auto")) for part in growth.cut(changed)]
    whole = str(tmp_path / "whole")
    do(whole, changed)
    for part in parts:
        assert tables.read_table(part).equals(tables.read_table(part.replace(out, whole)))


def test_what_was_another_in_between_is_written_again(tmp_path: Path) -> None:
    out, tasks = str(tmp_path), make_tasks([f"{number}.jpg" for number in range(100)])
    do(out, tasks)
    do(out, [tasks[0]._replace(stamp="2"), *tasks[1:]], stop_after=0)
    assert do(out, tasks) == 1


def test_images_keep_their_splits_and_leave_with_their_source(tmp_path: Path) -> None:
    out, names = str(tmp_path / "out"), [f"{number}.jpg" for number in range(40)]
    fractions = {"val": 0.2, "calibration": 0.1}
    first = Assignment(names, split_into(names, fractions, 0))
    assert growth.read_former(out) == []
    growth.write_images(out, first)
    for name, split in zip(first.names, first.splits, strict=True):
        storage.write_bytes(f"{out}/images/{split}/{name}", b"")
        storage.write_bytes(f"{out}/labels/{split}/{name[:-4]}.txt", b"")
    former = growth.read_former(out)
    assert [*map(tuple, former)] == [*zip(first.names, first.splits, strict=True)]
    more = [*names[5:], *(f"{number}.png" for number in range(100, 160))]
    grown = Assignment(more, split_into(more, fractions, 0, given_splits=dict(former)))
    assert grown.splits[:35] == first.splits[5:] and 16 <= grown.splits.count("val") <= 22
    departed = growth.find_departed(out, former, grown)
    assert sorted(departed) == sorted(
        f"{folder}/{split}/{number}.{suffix}"
        for number, split in enumerate(first.splits[:5])
        for folder, suffix in (("images", "jpg"), ("labels", "txt"))
    )
    with pytest.raises(UserError, match="holds a dataset of 40 images, of which RAW lacks 21 now"):
        growth.find_departed(out, former, Assignment(names[21:], first.splits[21:]))
    storage.write_bytes(f"{out}/images/val/mine.jpg", b"")
    with pytest.raises(UserError, match=r"must be empty or hold the same dataset, but holds images/val/mine.jpg"):
        growth.find_departed(out, former, grown)
