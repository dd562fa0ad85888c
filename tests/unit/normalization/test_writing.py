"""Examining images is quicker than decoding them, and must come to the same result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from depers.errors import UserError
from depers.imaging.decoding import decode
from depers.imaging.headers import ImageError
from depers.normalization import writing
from depers.normalization.rules import NO_BOXES, LabelBox, LabelBoxes, find_frame
from depers.normalization.writing import ImageTask, examine, make_unit_name, write_unit
from depers.runtime.crash_ledger import Position
from depers.runtime.file_guard import FileGuard

PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def stamp_of(path: Path) -> str:
    """What a task says of an image as it is listed."""
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}"


def outcome(function: Callable[[], tuple[int, int]]) -> tuple[int, int] | None:
    """The size, or None for what is refused."""
    try:
        return function()
    except ImageError:
        return None


@pytest.mark.parametrize("folder", ["badimages", "exif"])
def test_examine_agrees_with_decode(data: Path, folder: Path) -> None:
    good = 0
    for path in sorted(path for path in (data / folder).rglob("*") if path.is_file()):
        content = path.read_bytes()
        if len(content) < 100_000:
            for part in (content, content[: len(content) * 2 // 3]):
                expected = outcome(lambda part=part: decode(part).size_wh)  # type: ignore[misc]
                assert outcome(lambda part=part: examine(part)[0]) == expected, path  # type: ignore[misc]
                good += expected is not None
    assert good > 3


def test_the_name_of_a_unit_changes_with_all_that_decides_its_files() -> None:
    box = LabelBox("a.txt", 1, 0, 0.5, 0.5, 0.1, 0.1)
    task = ImageTask("in/a.jpg", "a.jpg", "a.jpg", "train", "9 1", None, None, LabelBoxes.of([box]))
    changed = [
        task._replace(split="val"),
        task._replace(stamp="9 2"),
        task._replace(name="b.jpg"),
        task._replace(declared_wh=(6, 4)),
        task._replace(boxes=NO_BOXES),
        task._replace(boxes=LabelBoxes.of([box, box])),
        task._replace(boxes=LabelBoxes.of([box._replace(class_id=1)])),
        task._replace(boxes=LabelBoxes.of([box._replace(path="b.txt")])),
    ]
    names = [make_unit_name([one], "auto") for one in (task, *changed)] + [make_unit_name([task], "stored")]
    assert len(set(names)) == len(names)
    assert make_unit_name([task], "auto") == names[0]


def test_an_output_that_refuses_is_told_in_one_line(data: Path, tmp_path: Path) -> None:
    image = next((data / "samples").glob("*.jpg"))
    task = ImageTask(str(image), "a.jpg", "a.jpg", "train", stamp_of(image), None, None, NO_BOXES)
    (tmp_path / "labels").write_text("a file where a folder must be")
    with pytest.raises(UserError, match=rf"^{tmp_path}: cannot be written \((Not a directory|File exists)\)$"):
        write_unit(str(tmp_path), "unit", "auto", [task])
    assert not (tmp_path / "images").exists()


def test_a_unit_with_an_image_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    task = ImageTask(str(tmp_path / "raw.png"), "a.png", "a.png", "train", "4 0", None, None, NO_BOXES)
    record = tmp_path / "out" / "_depers" / "units" / "unit.parquet"
    [row] = write_unit(str(tmp_path / "out"), "unit", "auto", [task]).to_pylist()
    assert (row["status"], row["problems"][0]["kind"]) == ("skipped", "unreadable image")
    assert row["problems"][0]["detail"] == "No such file or directory"
    assert not record.exists()
    (tmp_path / "raw.png").write_bytes(b"text")
    [row] = write_unit(str(tmp_path / "out"), "unit", "auto", [task]).to_pylist()
    assert row["problems"][0]["detail"] == "changed since it was listed" and not record.exists()
    task = task._replace(stamp=stamp_of(tmp_path / "raw.png"))
    [row] = write_unit(str(tmp_path / "out"), "unit", "auto", [task]).to_pylist()
    assert row["problems"][0]["kind"] == "unusable image"
    assert record.exists()


def test_what_one_image_causes_is_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw.png").write_bytes(PNG)
    names = ["a.png", "x" * 300 + ".png", "fault.png", "slow.png", "denied.png"]
    stamp = stamp_of(tmp_path / "raw.png")
    tasks = [ImageTask(str(tmp_path / "raw.png"), name, name, "train", stamp, None, None, NO_BOXES) for name in names]
    tasks[4] = tasks[4]._replace(source="s3://bucket/\udce4.png")
    (tmp_path / "out/images/train").mkdir(parents=True)
    (tmp_path / "out/images/train/denied.png").write_bytes(b"of an earlier run")

    def find(path: str, *arguments: Any) -> Any:
        if path == "fault.png":
            raise RecursionError("deep")
        return find_frame(path, *arguments)

    monkeypatch.setattr(writing, "find_frame", find)
    guard = FileGuard("unit", {Position(3): "took longer than 5 s"})
    rows = write_unit(str(tmp_path / "out"), "unit", "auto", tasks, guard=guard).to_pylist()
    details = ["".join(problem["detail"] for problem in row["problems"]) for row in rows]
    assert [row["status"] for row in rows] == ["used"] + ["skipped"] * 4
    assert details[1].startswith("cannot be written (") and "must have at most 255 bytes, but has" in details[1]
    assert details[2:4] == ["RecursionError: deep", "took longer than 5 s"]
    assert "must be UTF-8" in details[4] and (tmp_path / "out/images/train/denied.png").exists()
