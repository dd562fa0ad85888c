"""The account of the input: every file once, whatever lies about in it, and a sum that is checked."""

import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_sets import write_files

from depers.datasets.labels import CLASSES
from depers.normalization import sources
from depers.normalization.account import check_sum, format_account, list_fates, make_rows, write_account
from depers.normalization.assignment import Assignment
from depers.normalization.catalog import Catalog
from depers.normalization.layouts import FORMATS, match_files
from depers.normalization.reading import SkippedImages
from depers.normalization.sources import LabelSet
from depers.normalization.unlisted import find_foreign_stems, find_partly_read, judge_unlisted
from depers.statuses import SourceStatus
from depers.storage import Entry
from depers.storage.tables import parquet_text

LINE = "0 0.5 0.5 0.2 0.2\n"
FOLDERS = ("", "images/", "labels/", "train/images/", "Annotations/", "JPEGImages/", ".git/", "ImageSets/Main/", "ü/")
FOLDERS += ("LABELS/", "x.jpg/", ".ipynb_checkpoints/", "train/", "a\n/", "wider_face_split/")
STEMS = ("a", "b", "license_plate", "train", "classes", "readme", "data", ".hidden", "a_car.", "instances", "x y", "")
SUFFIXES = (".jpg", ".JPG", ".png", ".txt", ".TXT", ".xml", ".json", ".yaml", ".names", ".db", ".csv", ".zip", "")
SUFFIXES += (".tif", ".jpg.txt", ".txt\n", "..txt", ".odgt", ".JSON", ".heic")
odd_paths = st.builds(
    lambda folder, stem, suffix: folder + (stem + suffix or "noname"),
    st.sampled_from(FOLDERS),
    st.sampled_from(STEMS) | st.text("ab._- \n\udcff", min_size=1, max_size=5),
    st.sampled_from(SUFFIXES),
)


def open_set(kind: str, paths: list[str], left_out: list[str], prefix: str = "") -> LabelSet:
    files = match_files(kind, paths, CLASSES, lambda path: b"")
    entries = {path: Entry(path, 1, "") for path in paths}
    return LabelSet("raw", prefix, kind, None, {}, *files, entries, left_out=left_out)


@given(st.sampled_from(FORMATS), st.lists(odd_paths, unique=True), st.lists(odd_paths, unique=True, max_size=3))
def test_every_file_is_counted_once(kind: str, paths: list[str], left_out: list[str]) -> None:
    left_out = [path for path in left_out if path not in paths]
    label_set = open_set(kind, paths, left_out)
    fates = list(list_fates(label_set, {image.path: (SourceStatus.USED, "train") for image in label_set.images}))
    assert len(fates) == len(paths) + len(left_out)
    assert all(fate.detail or fate.status == SourceStatus.USED for fate in fates)
    used = Counter(fate.kind for fate in fates if fate.status == SourceStatus.USED)
    assert used["image"] == len(label_set.images)
    assert used["labels"] == sum(len(image.label_files) for image in label_set.images) + len(label_set.listings)


def test_the_table_and_its_sum(tmp_path: Path) -> None:
    first = open_set("yolo", ["a.jpg", "a.txt", "b.jpg", "c.jpg", "d.jpg", "notes.docx"], ["old.txt"], "one/")
    second = open_set("voc", ["a.jpg", "a.xml"], [], "two/")
    catalog = Catalog([first, second])
    names = [label_set.prefix + image.name for label_set, image in catalog.images]
    assignment = Assignment(names, ["train", "", "", "val", "train"])
    skipped = SkippedImages(not_understood={1}, unlabelled={2})
    sums = write_account(str(tmp_path / "files.parquet"), catalog, assignment, skipped, {("val", "one/d.jpg")})
    rows = [tuple(row.values()) for row in pq.read_table(tmp_path / "files.parquet").to_pylist()]
    assert rows == [
        ("one/a.jpg", "image", "used", "train"),
        ("one/a.txt", "labels", "used", ""),
        ("one/b.jpg", "image", "skipped", "its labels are not understood"),
        ("one/c.jpg", "image", "skipped", "no label file is about it"),
        ("one/d.jpg", "image", "skipped", "the image or its labels cannot be used"),
        ("one/notes.docx", "beside", "skipped", "not an image name"),
        ("one/old.txt", "labels", "skipped", "--label-files leaves it out"),
        ("two/a.jpg", "image", "used", "train"),
        ("two/a.xml", "labels", "used", ""),
    ]
    assert format_account(sums) == "9 files: 5 images (3 skipped), 3 label files (1 skipped), 0 lists, 1 others"
    assert make_rows(sums)[0] == [1, "image", "skipped", "its labels are not understood"]
    check_sum(sums, catalog.sets, 2)
    with pytest.raises(RuntimeError, match="must hold 9 files with 3 images in the dataset, but holds 9 with 2"):
        check_sum(sums, catalog.sets, 3)


def test_an_input_of_odd_files_is_counted_whole(tmp_path: Path) -> None:
    """Links, pipes, files without content, folders called as images are, one name with three suffixes."""
    root, elsewhere = tmp_path / "raw", write_files(tmp_path / "elsewhere", {"z.jpg": ""})
    files: dict[str, str | bytes] = {f"images/{name}.jpg": "" for name in ("a", "b\nb", "c", "d", "e")}
    files |= {
        "images/c.png": b"",
        "images/c.tif": b"x",
        "images/empty.png": b"",
        "x.jpg/f.jpg": "",
        "x.jpg/f.txt": LINE,
    }
    files |= {f"LABELS/{name}.TXT": LINE for name in ("a", "b\nb", "c", "d", "empty")} | {"classes.txt": "car\n"}
    files |= {".git/HEAD": "x", ".git/a.jpg": "", "Thumbs.db": "x", "notes.docx": "x", "labels/e.txt": LINE}
    write_files(root, files)
    (root / "images/out.jpg").symlink_to(elsewhere / "z.jpg")
    (root / "images/lost.jpg").symlink_to(root / "nothing.jpg")
    (root / "LABELS/lost.txt").symlink_to(root / "nothing.txt")
    (root / "again").symlink_to(root / "images")
    os.mkfifo(root / "images/pipe.jpg")
    label_set = sources.open_set(str(root), "", "auto", CLASSES, {}, (), out=str(tmp_path / "out"))
    used = {image.path: (SourceStatus.USED, "train") for image in label_set.images}
    fates = {fate.path: fate for fate in list_fates(label_set, used)}
    expected = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
    assert set(fates) == {parquet_text(path) for path in expected}
    unused = {path for path, fate in fates.items() if fate.status == SourceStatus.SKIPPED}
    assert unused >= {"again", "images/out.jpg", "images/pipe.jpg", ".git/a.jpg", "notes.docx"}
    assert unused >= {f"images/c.{suffix}" for suffix in ("jpg", "png", "tif")}
    assert all(fates[path].detail for path in unused)


def test_a_file_that_is_in_no_part_of_the_account_is_an_error() -> None:
    label_set = open_set("yolo", ["a.jpg", "a.txt"], [])
    lost = label_set._replace(images=[])
    with pytest.raises(RuntimeError, match=r"'a.jpg' is neither used nor skipped for a reason"):
        list(list_fates(lost, {}))


@pytest.mark.parametrize(
    ("kind", "empty", "unlabelled", "action"),
    [
        ("yolo", False, "auto", "as_background"),
        ("yolo", True, "auto", "skipped"),
        ("yolo", True, "background", "as_background"),
        ("yolo", False, "skip", "skipped"),
        ("competition", True, "auto", "as_background"),
        ("voc", False, "auto", "skipped"),
        ("coco", False, "auto", "skipped"),
        ("coco", False, "background", "as_background"),
    ],
)
def test_what_is_not_listed_is_not_empty(kind: str, empty: bool, unlabelled: str, action: str) -> None:
    suffix = {"voc": "xml", "coco": "json"}.get(kind, "txt")
    label_set = open_set(kind, ["a.jpg", f"a_car..{suffix}" if kind == "competition" else f"a.{suffix}", "b.jpg"], [])
    sizes = {path: entry._replace(size=0 if empty else 9) for path, entry in label_set.entries.items()}
    assert judge_unlisted(label_set._replace(entries=sizes), unlabelled)[2] == action


def test_an_image_whose_labels_are_not_read_is_not_without_labels() -> None:
    label_set = open_set("yolo", ["a.jpg", "a.txt", "b.jpg", "b.xml", "c.jpg", "d.jpg"], ["labels/c.txt"])
    assert find_foreign_stems(label_set) == {"b", "c"}


def test_an_image_of_which_one_label_file_is_left_out_is_not_labelled_for_all() -> None:
    paths = ["a_b.jpg", "a_b_car..txt", "c.jpg", "c_face..txt", "d.jpg"]
    label_set = open_set("competition", paths, ["a_b_face..txt", "d_car..txt", "c_human..txt"])
    label_set = label_set._replace(names=("car", "face"))  # of people, no file is read: the set does not label them
    assert find_partly_read(label_set) == {"a_b", "d"}
    assert "d" in find_foreign_stems(label_set)
