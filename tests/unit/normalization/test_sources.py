"""Raw sets: class maps, names of classes, what is labelled; the index and the plan over them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_sets import make_image, write_files

from depers.datasets.labels import CLASSES
from depers.errors import UserError
from depers.normalization.assignment import (
    Grouping,
    describe_copies,
    describe_shares,
    find_copies,
    read_split,
    split_at_random,
)
from depers.normalization.catalog import Catalog
from depers.normalization.index import IndexedBox, LabelIndex
from depers.normalization.rules import Problem
from depers.normalization.sources import (
    LabelSet,
    choose_prefixes,
    find_labelled_classes,
    map_class,
    open_set,
    parse_added,
    parse_class_map,
)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["person=human,0 = car"], {"person": "human", "0": "car"}),
        (["a=car", "b=car", "a=car"], {"a": "car", "b": "car"}),
        (["dog=", "*= "], {"dog": "", "*": ""}),
        (["licence plate=carplate"], {"licence plate": "carplate"}),
        ([r"face\, seen\=1=face"], {"face, seen=1": "face"}),
    ],
)
def test_parse_class_map(texts: list[str], expected: dict[str, str]) -> None:
    assert parse_class_map(texts, CLASSES, "--class-map") == expected


@pytest.mark.parametrize("text", ["", "car", "=car", "a=b=car", "a=car,"])
def test_parse_class_map_refuses(text: str) -> None:
    with pytest.raises(UserError, match=r"--class-map must be source_class=class,…, but got"):
        parse_class_map([text], CLASSES, "--class-map")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plates:0=carplate", ("plates", {"0": "carplate"})),
        ("s3://bucket/plates", ("s3://bucket/plates", {})),
        ("s3://bucket/plates:a=car,*=", ("s3://bucket/plates", {"a": "car", "*": ""})),
        ("/a=b:c/raw", ("/a=b:c/raw", {})),
        ("a:b", ("a:b", {})),
    ],
)
def test_parse_added(text: str, expected: tuple[str, dict[str, str]]) -> None:
    assert parse_added(text, CLASSES) == expected


def test_prefixes_differ() -> None:
    assert choose_prefixes(["/data/raw"]) == [""]
    assert choose_prefixes(["a/raw", "s3://b/raw/", "raw", "x"]) == ["raw/", "raw-2/", "raw-3/", "x/"]
    assert choose_prefixes(["a/images", "b/Images"]) == ["set/", "set-2/"]  # else labels would not be found


@given(
    st.lists(
        st.sampled_from(["raw", "raw-2", "x/raw", "s3://raw", "..", "raw-2/raw"]), min_size=2, max_size=6, unique=True
    )
)
def test_prefixes_always_differ(uris: list[str]) -> None:
    found = choose_prefixes(uris)
    assert len(set(found)) == len(uris)
    assert all(prefix.endswith("/") and prefix[0] not in "./" for prefix in found)


@pytest.mark.parametrize(
    ("name", "class_map", "expected"),
    [
        ("car", {}, "car"),
        ("person", {"person": "human"}, "human"),
        ("car", {"car": "human"}, "human"),
        ("dog", {}, None),
        ("dog", {"dog": ""}, ""),
        ("dog", {"*": ""}, ""),
        ("car", {"*": ""}, "car"),
        ("truck", {"*": "car"}, "car"),
    ],
)
def test_target(name: str, class_map: dict[str, str], expected: str | None) -> None:
    assert map_class(name, class_map, CLASSES) == expected


@pytest.mark.parametrize(
    ("kind", "listed", "class_map", "occurring", "expected"),
    [
        ("yolo", ("car", "dog"), {}, ["car"], ["car"]),
        ("yolo", ("car", "dog"), {}, [], []),  # a list may be that of another set, or of a template
        ("yolo", CLASSES, {"face": "face"}, ["car"], ["car", "face"]),
        ("yolo", ("person", "bus"), {"person": "human", "*": "car"}, [], ["human"]),
        ("yolo", ("person", "bus"), {"person": "human", "*": "car"}, ["bus"], ["car", "human"]),
        ("yolo", ("car",), {"persn": "human"}, ["car"], ["car"]),  # what a map names may be misspelt
        ("yolo", None, {"0": "face"}, ["0"], ["face"]),
        ("yolo", None, {"0": "face", "*": ""}, [], ["face"]),
        ("voc", None, {}, ["head", "dog"], ["head"]),
        ("coco", ("car", "plates"), {"plates": "carplate"}, ["car"], ["car", "carplate"]),
        ("coco", ("car", "carplate"), {}, ["car"], ["car"]),  # Roboflow lists a project as a category
        ("competition", CLASSES, {}, [], list(CLASSES)),
    ],
)
def test_labelled_classes(
    kind: str, listed: tuple[str, ...] | None, class_map: dict[str, str], occurring: list[str], expected: list[str]
) -> None:
    label_set = LabelSet("raw", "", kind, listed, class_map, [], [], [], {}, {})
    assert find_labelled_classes(label_set, listed or (), occurring, CLASSES) == expected


@pytest.fixture
def index(tmp_path: Path) -> Iterator[LabelIndex]:
    with contextlib.closing(LabelIndex(tmp_path / "labels.sqlite")) as made:
        yield made


def test_the_index_gives_boxes_image_by_image_in_the_order_of_files_and_lines(index: LabelIndex) -> None:
    places = [(3, 1, 2, 7), (1, 0, 9, 7), (3, 0, 5, 8), (3, 1, 1, 7), (1, 0, 2, 8)]
    index.add_boxes(IndexedBox(*place, 0.5, 0.5, 1e-300, -1.0) for place in places)
    assert [(image, [row[:4] for row in boxes.tolist()]) for image, boxes in index.boxes()] == [
        (1, [(1, 0, 2, 8), (1, 0, 9, 7)]),
        (3, [(3, 0, 5, 8), (3, 1, 1, 7), (3, 1, 2, 7)]),
    ]
    assert next(index.boxes())[1]["box"].tolist() == [[0.5, 0.5, 1e-300, -1.0]] * 2
    assert list(index.class_counts()) == [(1, [(7, 1), (8, 1)]), (3, [(7, 2), (8, 1)])]
    assert index.class_totals() == [(7, 3, 2), (8, 2, 2)]


def test_the_index_keeps_the_first_size_and_sorts_problems(index: LabelIndex) -> None:
    index.add_sizes([(2, 60, 40), (1, 9, 9), (2, 1, 1)])
    assert list(index.sizes()) == [(1, 9, 9), (2, 60, 40)]
    problems = [
        Problem("b", 2, "duplicate", "dropped"),
        Problem("caf\udce9", 0, "unusable image", "skipped", "\ud800"),
        Problem("b", 1, "duplicate", "dropped", "x"),
    ]
    index.add_problems(problems)
    shown = Problem("caf\\xe9", 0, "unusable image", "skipped", r"\xed\xa0\x80")
    assert list(index.problems()) == [problems[2], problems[0], shown]
    assert index.problem_kinds() == [("dropped", "duplicate", 2, problems[2]), ("skipped", "unusable image", 1, shown)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/a.jpg", ("train", "a.jpg")),
        ("valid/x/a.jpg", ("val", "x/a.jpg")),
        ("set/val2017/a.jpg", ("val", "set/a.jpg")),
        ("Validation/a.jpg", ("val", "a.jpg")),
        ("training/test/a.jpg", ("train", "test/a.jpg")),
        ("test_2/a.jpg", ("", "a.jpg")),
    ],
)
def test_own_split(name: str, expected: tuple[str, str]) -> None:
    assert read_split(name) == expected


@pytest.mark.parametrize("name", ["train.jpg", "trains/a.jpg", "a/b.jpg"])
def test_own_split_refuses(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' lies in none"):
        read_split(name)


def test_an_image_of_two_sets_goes_one_way_and_is_on_record(tmp_path: Path, index: LabelIndex) -> None:
    """Each set may say something else of it; in val it would be one that was trained on."""
    line, sets = "0 0.5 0.5 0.2 0.2\n", []
    for prefix, shift in (("one/", 0), ("two/", 5)):
        files = {"classes.txt": "car\n"}
        for n in range(10):
            files |= {f"{n}.jpg": make_image((100 + shift + n, 80)), f"{n}.txt": line}
        sets.append(open_set(str(write_files(tmp_path / prefix, files)), prefix, "auto", CLASSES, {}, ()))
    catalog = Catalog(sets)
    copies = find_copies(catalog, skipped={5})
    assert copies == {10 + n: n + 5 for n in range(1, 5)}
    assert next(describe_copies(catalog, copies)) == Problem(
        "two/1.jpg", 0, "image of another set", "accepted", "the same as one/6.jpg"
    )
    for seed in range(5):
        assignment = split_at_random(
            catalog,
            {5},
            {},
            index,
            val_fraction=0.3,
            calibration_fraction=0,
            seed=seed,
            group_by=None,
            copies=copies.items(),
        )
        assert all(assignment.splits[number] == assignment.splits[first] for number, first in copies.items())
        assert {"train", "val"} <= set(assignment.splits)
        assert assignment.grouping is not None and assignment.grouping.bond == "twins"


NEAR = "that are near twins: --twins identical parts them, in another OUT, but figures are then too good"


@pytest.mark.parametrize(
    ("counts", "fractions", "grouping", "lines"),
    [
        ({"train": 8, "val": 2}, {"val": 0.2, "calibration": 0}, Grouping(10, 1, "a.jpg", ""), []),
        ({"train": 10}, {"val": 0, "calibration": 0}, Grouping(10, 1, "a.jpg", ""), []),
        ({"train": 3, "val": 1}, {"val": 0.01}, Grouping(4, 1, "a.jpg", ""), []),  # one is the least there is
        ({"train": 9, "val": 3}, {"val": 0.2}, Grouping(4, 3, "a.jpg", "twins"), []),  # near it
        (
            {"train": 1},
            {"val": 0.2},
            Grouping(1, 1, "a.jpg", ""),
            ["val has 0 of 1 images, a share of 0 for 0.2: there are so few"],
        ),
        (
            {"train": 1, "val": 1},
            {"val": 0.2, "calibration": 0.2},
            Grouping(2, 1, "a.jpg", ""),
            ["calibration has 0 of 2 images, a share of 0 for 0.2: there are so few"],
        ),
        (
            {"train": 38, "val": 2},
            {"val": 0.2},
            Grouping(2, 38, "a.jpg", "twins"),
            [
                "val has 2 of 40 images, a share of 0.05 for 0.2: they are 2 groups that stay whole, the largest of 38"
                f" images, such as a.jpg, {NEAR}"
            ],
        ),
        (
            {"train": 20, "val": 20},
            {"val": 0.2},
            Grouping(2, 20, "a.jpg", "group-by"),
            [
                "val has 20 of 40 images, a share of 0.5 for 0.2: they are 2 groups that stay whole, the largest of 20"
                " images, such as a.jpg, that have the same in what --group-by finds in their names"
            ],
        ),
        (
            {"train": 40},
            {"val": 0.2},
            Grouping(50, 1, "a.jpg", ""),  # those of val were damaged
            ["val has 0 of 40 images, a share of 0 for 0.2: others could not be used, or had their splits before"],
        ),
    ],
)
def test_a_split_without_its_share_says_why(
    counts: dict[str, int], fractions: dict[str, float], grouping: Grouping, lines: list[str]
) -> None:
    assert [line for _, line in describe_shares(counts, fractions, grouping, "near")] == lines


def test_what_holds_the_largest_group_is_known() -> None:
    grouping = Grouping(1, 9, "a.jpg", "twins")
    for twins, words in (("identical", "identical: --twins none parts"), ("none", "the same in several sets")):
        [(split_name, line)] = describe_shares({"train": 9}, {"val": 0.2}, grouping, twins)
        assert split_name == "val" and words in line
