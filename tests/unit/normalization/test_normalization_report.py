"""The report on a dataset: counts from records in any order, and a page that shows what the files hold."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from depers import storage
from depers.datasets.labels import CLASSES
from depers.normalization.report import (
    LabelStatistics,
    draw_samples,
    format_problems,
    format_summary,
    make_class_rows,
    make_report,
    make_sheet,
)
from depers.normalization.rules import Problem
from depers.normalization.writing import RECORD
from depers.statuses import ProblemAction, SourceStatus


def row(name: str, split: str, *class_ids: int, status: str = SourceStatus.USED, side: float = 10) -> dict[str, Any]:
    boxes = [{"class_id": class_id, "w": side, "h": side} for class_id in class_ids]
    return {
        "name": name,
        "split": split,
        "status": status,
        "width": 60,
        "height": 40,
        "boxes": boxes,
        "ignored": 0,
        "problems": [],
    }


ROWS = [
    *(row(f"{index:02}.jpg", "train", 0, 0, 2) for index in range(20)),
    *(row(f"v{index}.jpg", "val", 2, side=0.5) for index in range(4)),
    row("none.jpg", "val"),
    row("bad.jpg", "train", status=SourceStatus.SKIPPED),
    row("crowd.jpg", "train", *[1] * 300),
]


def gather(rows: list[dict[str, Any]]) -> LabelStatistics:
    statistics = LabelStatistics(len(CLASSES))
    for one in rows:
        statistics.add(pa.Table.from_pylist([one], schema=RECORD))
    return statistics


def test_statistics_and_what_is_shown_do_not_depend_on_the_order() -> None:
    statistics, other = gather(ROWS), gather(random.Random(1).sample(ROWS, len(ROWS)))
    assert vars(statistics).keys() == vars(other).keys()
    assert statistics.select_samples() == other.select_samples()
    assert len(set(statistics.select_samples())) == len(statistics.select_samples()) >= 5 + 1 + 1
    assert {("train", "crowd.jpg"), ("val", "none.jpg")} < set(statistics.select_samples())
    for name in ("images", "backgrounds", "boxes", "with_class", "objects", "skipped"):
        assert getattr(statistics, name) == getattr(other, name)
    np.testing.assert_array_equal(statistics.sizes, other.sizes)
    assert statistics.sizes.sum() == statistics.shares.sum() == 20 * 3 + 4 + 300
    assert statistics.sizes[2, 0] == 4  # smaller than the first bin, counted in it


def test_texts() -> None:
    statistics = gather(ROWS)
    text = format_summary(statistics, CLASSES, {"plates/": ["carplate"], "x/": []})
    assert text.splitlines() == [
        "21 images in train (0 without boxes); 5 images in val (1 without boxes)",
        "364 boxes: car 40, head 300, face 24, human 0, carplate 0",
        "plates/: labelled for carplate only",
        "x/: labelled for no class only",
    ]
    assert make_class_rows(statistics, CLASSES)[2] == ["face", 20, 4, 20, 4, 4 / 24]
    assert make_class_rows(statistics, CLASSES)[3] == ["human", 0, 0, 0, 0, "–"]
    kinds = [("dropped", "duplicate", 1234, Problem("a.txt", 3, "duplicate", ProblemAction.DROPPED, "1 2"))]
    assert format_problems(kinds).splitlines() == [
        "number  problem    what was done  first",
        "  1234  duplicate  dropped        a.txt, line 3: 1 2",
    ]
    assert format_problems([]) == ""


def test_the_page_shows_images_with_the_boxes_of_their_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), "white").save(buffer, "PNG")
    for split, name, text in (("train", "a.png", "0 0.5 0.5 0.5 0.5\n2 0.2 0.2 0.1 0.1\n"), ("val", "b.png", "")):
        storage.write_bytes(f"{tmp_path}/images/{split}/{name}", buffer.getvalue())
        storage.write_bytes(f"{tmp_path}/labels/{split}/{name[0]}.txt", text.encode())
    statistics = gather([row("a.png", "train", 0, 2), row("b.png", "val")])
    drawn = draw_samples(str(tmp_path), statistics, CLASSES)
    assert [caption for caption, _ in drawn] == ["car 1, face 1: train/a.png", "no boxes: val/b.png"]
    assert (drawn[0][1] != 255).any() and (drawn[1][1] == 255).all()
    assert make_sheet(drawn).shape[1] > 900
    page = make_report(statistics, CLASSES, {"": ["car", "face"]}, [], drawn, [[3, "image", "used", "train"]])
    assert page.count("<svg") == 4 and page.count("data:image/jpeg") == 2
    assert "Only these classes are labelled there" in page and "<p>Nothing.</p>" in page


def test_a_page_without_boxes(tmp_path: Path) -> None:
    page = make_report(gather([row("a.jpg", "train")]), CLASSES, {}, [], [], [])
    assert page.count("<svg") == 2
