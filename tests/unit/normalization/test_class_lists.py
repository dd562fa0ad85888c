"""Lists of class names: which one speaks of a label file, and lists that contradict one another."""

from pathlib import Path

import pytest
from label_sets import read_set, write_files

from depers import storage
from depers.datasets.labels import CLASSES
from depers.errors import UserError
from depers.normalization.class_lists import ClassLists, read_class_lists
from depers.normalization.sources import AUTO, open_set


def read(root: Path, files: dict[str, str]) -> ClassLists | None:
    for path, text in files.items():
        storage.write_bytes(f"{root}/{path}", text.encode())
    return read_class_lists(str(root), files)


@pytest.mark.parametrize(
    ("files", "label", "expected"),
    [
        ({"classes.txt": "\ufeffa\r\n b  c \r\n\r\n"}, "labels/x.txt", ("a", "b c")),
        ({"classes.txt": "a\n\nb\n"}, "x.txt", ("a", "", "b")),
        ({"hyp.yaml": "lr: 1", "x/obj.names": "a\n"}, "labels/x.txt", ("a",)),
        ({"deep/data.yaml": "names: [c]", "coco.yml": "names: {0: a}"}, "x.txt", ("a",)),
        ({"data.yaml": "names: [a, b]", "labels/classes.txt": "a"}, "labels/x.txt", ("a", "b")),
        ({"data.yaml": "names: [' a ', b]", "predefined_classes.txt": "dog\ncat"}, "labels/x.txt", ("a", "b")),
        ({"day1/classes.txt": "a\nb", "day2/classes.txt": "b\na"}, "day2/x.txt", ("b", "a")),
        ({"classes.txt": "fa\u00e7ade"}, "x.txt", ("fa\u00e7ade",)),
        ({"classes.txt": "fac\u0327ade"}, "x.txt", ("fa\u00e7ade",)),
    ],
)
def test_the_list_of_a_label_file(tmp_path: Path, files: dict[str, str], label: str, expected: tuple[str, ...]) -> None:
    lists = read(tmp_path, files)
    assert lists is not None
    assert lists.find(label).names == expected


def test_a_set_without_a_list(tmp_path: Path) -> None:
    assert read(tmp_path, {"hyp.yaml": "lr: 1", "train.txt": "a.jpg"}) is None


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"data.yaml": "names: [a, b]", "classes.txt": "b\na"}, "labels/x.txt"),
        ({"data.yaml": "names: [a, b]", "day1/classes.txt": "b\na"}, "day1/x.txt"),
        ({"day1/classes.txt": "a\nb", "day2/classes.txt": "b\na"}, "day3/x.txt"),
        ({"classes.txt": "a\n\nb", "x.names": "a\nb"}, "x.txt"),
    ],
)
def test_lists_that_contradict_one_another(tmp_path: Path, files: dict[str, str], label: str) -> None:
    lists = read(tmp_path, files)
    assert lists is not None
    with pytest.raises(UserError, match=r"must have one list of names, but .* says .* keep the one that is right"):
        lists.find(label)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data.yaml", "names: [a", "data.yaml: must be YAML"),
        ("data.yaml", "names: [a, a]", "names must differ"),
        ("data.yaml", "names: 3", "must be a list"),
        ("classes.txt", "a\n a\n", "must be a list of different class names"),
        ("classes.txt", "\n\n", "must be a list of different class names"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, {name: text})


LINE = "0 0.5 0.5 0.2 0.2\n"


def test_a_list_of_another_folder_is_on_record(tmp_path: Path) -> None:
    files = {"images/a.jpg": "", "labels/a.txt": LINE, "config/classes.txt": "car\n"}
    found, problems = read_set(write_files(tmp_path / "raw", files))
    assert [box[0] for box in found["a.jpg"]] == ["car"]
    [problem] = problems
    assert problem[:4] == ("config/classes.txt", 0, "class list of another folder", "accepted")
    assert problem.detail == "for labels in labels"
    write_files(tmp_path / "raw", {"classes.txt": "car\n"})
    assert read_set(tmp_path / "raw")[1] == []


def test_a_map_for_all_sets_names_no_ids_of_one_without_names(tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", {"a.jpg": "", "a.txt": LINE})
    assert [box[0] for box in read_set(root, "0=carplate")[0]["a.jpg"]] == ["carplate"]
    for class_map in ({"0": "carplate"}, {"person": "human", "*": "car"}):
        with pytest.raises(UserError, match=r"class ids must have names, but there is (no list|neither)"):
            open_set(str(root), "", AUTO, CLASSES, class_map, (), has_own_map=False)


def test_a_map_of_ids_contradicts_a_list_of_names(tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", {"a.jpg": "", "a.txt": LINE, "classes.txt": "face\n"})
    with pytest.raises(UserError, match=r"must use the names .* but has '0', while classes.txt says face"):
        read_set(root, "0=carplate")
    open_set(str(root), "", AUTO, CLASSES, {"0": "carplate"}, (), has_own_map=False)


def test_a_class_without_a_box_is_not_labelled_unless_the_map_names_it(tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", {"a.jpg": "", "a.txt": LINE, "classes.txt": "car\nface\ndog\n"})
    [problem] = read_set(root)[1]
    assert (problem.path, problem.kind, problem.action) == (".", "class without a box", "accepted")
    assert problem.detail == "face: taken as not labelled; --class-map face=face where they were looked for"
    assert read_set(root, "face=face")[1] == []
