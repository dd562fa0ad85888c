"""What an index says is what reading gives, bit by bit, and of what has changed since then it says nothing."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from indexed_sets import write_index, write_tars
from training_sets import write_dataset

from depers import storage
from depers.datasets import image_index
from depers.datasets.digests import digest_dataset
from depers.datasets.seen_images import write_seen
from depers.detection.yolo import read_hyperparameters
from depers.errors import UserError
from depers.storage.cache import DatasetCache
from depers.training.images.batches import Batches
from depers.training.images.data import Splits, read_splits
from depers.training.images.examples import Example
from depers.training.images.image_cache import ScaledImages, fit_size, read_scaled
from depers.training.images.sharing import remove_shared, share_splits
from depers.training.processes.process_group import ProcessGroup

_CLASSES = ("car", "head", "face", "plate")


def list_values(examples: Sequence[Example]) -> list[tuple[Any, ...]]:
    """Everything that an example says, to be compared."""
    return [tuple(v.tolist() if isinstance(v, np.ndarray) else v for v in example) for example in examples]


def values_of(splits: Splits) -> tuple[Any, ...]:
    return splits.names, splits.parts, list_values(splits.train), list_values(splits.val)


def write_image(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), width + height, np.uint8)
    path.write_bytes(simplejpeg.encode_jpeg(pixels, 50, "RGB"))


def format_lines(rng: np.random.Generator, class_count: int, digits: int = 6) -> str:
    """Lines of YOLO text: some twice, some of the whole image, in no order."""
    lines = []
    for _ in range(int(rng.integers(0, 5))):
        box = rng.choice([0.25, 0.5, rng.random() * 0.9 + 0.05, 0.999, 1.0], 4)
        lines.append(" ".join([str(rng.integers(class_count)), *(f"{value:.{digits}f}" for value in box)]) + "\n")
    return "".join([*lines, *lines[:1]])


def write_random_dataset(root: Path, rng: np.random.Generator, names: Sequence[str], *, is_partly: bool) -> Path:
    for split, count in (("train", int(rng.integers(1, 9))), ("val", 2)):
        for number in range(count):
            folder = str(rng.choice(["", "a/", "a/b.c/", "images/", "ü/"]))
            name = f"{folder}{number}{rng.choice(['', '.x', '-ß'])}"
            write_image(
                root / "images" / split / f"{name}.{rng.choice(['jpg', 'JPG'])}", *rng.integers(1, 40, 2).tolist()
            )
            label_folder = root / "labels" / split
            texts = {
                label_folder: format_lines(rng, len(names)),
                root / "ignore" / split: format_lines(rng, len(names)),
            }
            for place, text in texts.items():
                if text or place is label_folder:
                    path = place / f"{name}.txt"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text)
        write_image(root / "images" / split / "last.jpg", 8, 9)
        (root / "labels" / split / "last.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    content: dict[str, Any] = {"train": "images/train", "val": "images/val", "names": list(names)}
    if is_partly:
        content["labelled"] = {"a/": list(names[:1]), "a/b": list(names[:2]), "": list(names)}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return root


def edit(root: Path, rng: np.random.Generator) -> None:
    """Change a file as people do: keep its size or its time, add, remove, move."""
    folders = [root / kind / "train" for kind in ("images", "labels", "ignore")]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    status, kind = path.stat(), int(rng.integers(5))
    if kind == 0 and path.suffix == ".txt":
        path.write_text(path.read_text().replace("0.250000", "0.750000").replace("1.000000", "0.400000"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif kind == 1 and path.suffix == ".txt":
        path.unlink()
    elif kind == 2:
        write_image(root / "images" / "train" / "a" / "new.jpg", 7, 9)
    elif kind == 3 and path.suffix != ".txt":
        write_image(path.with_name("other"), 11, 5)
        os.utime(path.with_name("other"), (1, 1))
        path.with_name("other").replace(path)
    else:
        others = root / "ignore" / "train" / "a" / "new.txt"
        others.parent.mkdir(parents=True, exist_ok=True)
        others.write_text("1 0.5 0.5 1 1\n0 0.1 0.1 0.1 0.1\n")


def describe_outcome(*arguments: Any) -> Any:
    """What reading gives, or why it is refused."""
    try:
        return values_of(read_splits(*arguments))
    except UserError as error:
        return str(error)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32),
    st.permutations(_CLASSES),
    st.integers(2, 4),
    st.tuples(st.booleans(), st.booleans()),
    st.tuples(st.integers(0, 2), st.integers(0, 1)),
)
def test_an_index_gives_what_reading_gives(
    seed: int, order: list[str], count: int, are_partly: tuple[bool, bool], edits: tuple[int, int]
) -> None:
    """With further datasets whose classes have another order, partly labelled ones, and after edits."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        names = order[:count], _CLASSES
        further, main = roots = [Path(folder, name) for name in ("further", "main")]
        for root, classes, is_partly in zip(roots, names, are_partly, strict=True):
            write_random_dataset(root, rng, classes, is_partly=is_partly)
            write_index(root)
            digest = digest_dataset(str(root))
            (root / image_index.NAME).rename(root / "away")
            assert digest_dataset(str(root)) == digest
            (root / "away").rename(root / image_index.NAME)
        for root, number in zip(roots, edits, strict=True):
            for _ in range(number):
                edit(root, rng)
        outcomes, seen = [], []
        for name in ("indexed", "plain"):
            outcomes.append(describe_outcome(str(main), [(str(further), 0.5)]))
            write_seen(f"{folder}/{name}", [str(main), str(further)])
            seen.append(pq.read_table(f"{folder}/{name}/seen.parquet"))
            for root in roots:
                (root / image_index.NAME).unlink(missing_ok=True)
        assert outcomes[0] == outcomes[1] and seen[0] == seen[1]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset whose index claims widths that no image has: what is 1000 or more was not read."""
    root = write_random_dataset(tmp_path / "data", np.random.default_rng(3), _CLASSES, is_partly=False)
    for number in range(4):
        write_image(root / "images" / "train" / f"z{number}.jpg", 20, 10)
        (root / "labels" / "train" / f"z{number}.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    write_index(root)
    table = pq.read_table(root / image_index.NAME)
    widths = np.asarray(table["width"]) + 1000
    place = table.schema.get_field_index("width")
    pq.write_table(table.set_column(place, table.schema.field(place), [widths]), root / image_index.NAME)
    return root


def read_widths(root: Path) -> dict[str, bool]:
    """Of each training image, whether its row of the index was taken."""
    splits = read_splits(str(root))
    return {example.path.rpartition("train/")[2]: example.size_wh[0] >= 1000 for example in splits.train}


def replace_by_older(path: Path) -> None:
    other = path.with_name("older")
    shutil.copy2(path, other)
    os.utime(other, (1, 1))
    other.replace(path)


def rewrite(path: Path) -> None:
    """The same bytes, the same times."""
    status = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change", [replace_by_older, rewrite, Path.unlink, lambda path: path.write_text("0 0.5 0.5 0.1 0.1\n")]
)
@pytest.mark.parametrize("kind", ["labels", "ignore"])
def test_a_row_counts_until_a_text_changes(dataset: Path, change: Callable[[Path], None], kind: str) -> None:
    regions = dataset / "ignore" / "train" / "z1.txt"
    regions.parent.mkdir(parents=True, exist_ok=True)
    if kind == "ignore":
        regions.write_text("0 0.5 0.5 0.25 0.25\n")
        write_index(dataset)
        assert read_splits(str(dataset)).notes == ()
    else:
        widths = read_widths(dataset)
        assert all(widths[f"z{number}.jpg"] for number in range(4))
    change(dataset / kind / "train" / "z1.txt")
    (note,) = read_splits(str(dataset)).notes
    assert f"{dataset}/images/train: 1 of " in note and "read one by one" in note
    if kind == "labels":
        assert [name for name, taken in read_widths(dataset).items() if not taken] == ["z1.jpg"]


def test_new_images_are_read_and_removed_ones_are_gone(dataset: Path) -> None:
    write_image(dataset / "images" / "train" / "z15.jpg", 20, 10)
    (dataset / "images" / "train" / "z2.jpg").unlink()
    widths = read_widths(dataset)
    assert "z2.jpg" not in widths and list(widths) == sorted(widths)
    assert not widths["z15.jpg"] and widths["z1.jpg"]
    regions = dataset / "ignore" / "train" / "z3.txt"  # which had none
    regions.parent.mkdir(parents=True, exist_ok=True)
    regions.write_text("0 0.5 0.5 0.5 0.5\n")
    assert not read_widths(dataset)["z3.jpg"]


def test_a_folder_that_takes_anothers_place_is_read(dataset: Path) -> None:
    """Its files were there before the index was written, with the sizes of those that it speaks of."""
    shutil.copytree(dataset / "labels", dataset / "others")
    write_index(dataset)
    (dataset / "labels").rename(dataset / "away")
    (dataset / "others").rename(dataset / "labels")
    (note, *_) = read_splits(str(dataset)).notes
    assert "read one by one" in note


def test_what_is_called_an_image_must_be_a_file(dataset: Path) -> None:
    os.mkfifo(dataset / "images" / "train" / "pipe.jpg")
    with pytest.raises(UserError, match=r"images/train/pipe.jpg: must be a file, but is neither a file nor a folder"):
        read_splits(str(dataset))


def test_a_damaged_index_is_said_and_all_is_read(dataset: Path) -> None:
    content = (dataset / image_index.NAME).read_bytes()
    (dataset / image_index.NAME).unlink()
    expected = list_values(read_splits(str(dataset)).train)
    for damaged in (content[:-50], b"PAR1", b""):
        (dataset / image_index.NAME).write_bytes(damaged)
        splits = read_splits(str(dataset))
        assert list_values(splits.train) == expected
        assert f"{dataset}/index.parquet: cannot be used (" in splits.notes[0]


def test_labels_of_unknown_classes_are_refused_by_name(dataset: Path) -> None:
    (dataset / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [car]\n")
    with pytest.raises(UserError, match=r"labels/train/.*txt, line \d: the class id must be a whole number 0…0"):
        read_splits(str(dataset))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 0, "width and height must be at least 1"),
        ("class_ids", [-1], "class_ids must be whole numbers from 0 on"),
        ("class_ids", [1, 2], "boxes must be four numbers for each of class_ids"),
        ("boxes", [0.5, float("nan"), 0.5, 0.5], "boxes must be numbers in 0…1"),
        ("boxes", [0.5, 0.5, 0.0, 0.5], "boxes must be numbers in 0…1"),
        ("bytes", -1, "images must lie in their files"),
        ("digest", None, "digest must not be null"),
    ],
)
def test_an_index_that_says_what_cannot_be_is_not_taken(dataset: Path, name: str, value: object, message: str) -> None:
    rows = pq.read_table(dataset / image_index.NAME)
    rows = pa.Table.from_pylist(
        [row | ({"class_ids": [1], "boxes": [0.5] * 4} | {name: value}) for row in rows.to_pylist()], rows.schema
    )
    pq.write_table(rows, dataset / image_index.NAME)
    splits = read_splits(str(dataset))
    assert message in splits.notes[0] and all(example.size_wh[0] < 1000 for example in splits.train)


def test_an_index_counts_on_s3(dataset: Path, tmp_path: Path, s3_bucket: str) -> None:
    """Where files were uploaded at once, their tags are the sums that it notes."""
    for path in dataset.rglob("*.*"):
        if path.is_file():
            storage.write_bytes(f"{s3_bucket}/data/{path.relative_to(dataset)}", path.read_bytes())
    uri = f"{s3_bucket}/data"
    assert digest_dataset(uri) == digest_dataset(str(dataset))
    storage.write_bytes(f"{uri}/labels/train/z1.txt", b"1 0.5 0.5 0.25 0.25\n")
    with closing(DatasetCache(str(tmp_path / "cache"), 1 << 30)) as cache:
        splits = read_splits(uri, cache=cache)
        taken = {example.path.rpartition("/")[2]: example.size_wh[0] >= 1000 for example in splits.train}
        assert [name for name, is_taken in taken.items() if name[0] == "z" and not is_taken] == ["z1.jpg"]
        assert all(example.path.startswith(f"{tmp_path}/cache/") for example in splits.train)
        assert read_scaled(splits.train[0], (8, 8)).shape == (8, 8, 3)


def test_workers_of_a_node_read_once(dataset: Path, tmp_path: Path) -> None:
    groups = [ProcessGroup(local_rank=rank, local_world_size=3) for rank in range(3)]
    readings = []

    def read() -> Splits:
        readings.append(read_splits(str(dataset)))
        return readings[-1]

    def share(group: ProcessGroup) -> Splits:
        return share_splits(read, group, str(tmp_path / "cache" / "x"))

    with ThreadPoolExecutor(3) as pool:
        splits = list(pool.map(share, groups[::-1]))
        assert len(readings) == 1 and all(values_of(part) == values_of(readings[0]) for part in splits)
        remove_shared(groups[0], str(tmp_path / "cache" / "x"))
        assert not list((tmp_path / "cache").iterdir())
        assert values_of(splits[0]) == values_of(readings[0])  # what is mapped lasts
        shutil.rmtree(dataset / "labels")
        (dataset / "data.yaml").write_text("train: images/none\nval: images/val\nnames: [car]\n")
        futures = [pool.submit(share, group) for group in groups]
        for future in futures:
            with pytest.raises(UserError, match="train must be a folder of images"):
                future.result()


@pytest.mark.parametrize("is_copied", [False, True])
def test_tars_are_what_their_folders_are(tmp_path: Path, is_copied: bool) -> None:
    """Also where a copy has to be read member by member."""
    rng = np.random.default_rng(8)
    real = write_random_dataset(tmp_path / "real", rng, _CLASSES, is_partly=False)
    made = write_random_dataset(tmp_path / "made", rng, _CLASSES, is_partly=False)
    shutil.rmtree(made / "images" / "train" / "images", ignore_errors=True)  # whose labels are elsewhere
    names = list(_CLASSES)
    common = {"val": f"{real}/images/val", "names": names, "share": 0.5, "labelled": {"a/": names[:2], "": names}}
    folders, tars = tmp_path / "folders", tmp_path / "tars"
    folders.mkdir()
    content = {"train": [f"{real}/images/train", f"{made}/images/train"], **common}
    (folders / "data.yaml").write_text(yaml.safe_dump(content))
    write_tars(made, tars, 2)
    if is_copied:
        shutil.copytree(tars, tmp_path / "copied")
        tars = tmp_path / "copied"
    last = len(list((tars / "shards").iterdir())) - 1
    pattern = f"shards/{{000000..{last:06d}}}.tar"
    content = {"train": "", "shards": pattern, "train_beside_shards": [f"{real}/images/train"], **common}
    (tars / "data.yaml").write_text(yaml.safe_dump(content))
    first, second = read_splits(str(folders)), read_splits(str(tars), cache=DatasetCache(str(tmp_path / "cache"), 1))
    assert (first.parts, first.names, list_values(first.val)) == (second.parts, second.names, list_values(second.val))
    all_values = list_values(first.train), list_values(second.train)  # but for where the bytes lie
    assert [value[1:7] for value in all_values[0]] == [value[1:7] for value in all_values[1]]
    for one, other in zip(first.train, second.train, strict=True):
        assert one.read() == other.read()
        assert (read_scaled(one, (9, 8)) == read_scaled(other, (9, 8))).all()
    assert bool(second.notes) == is_copied
    write_seen(str(tmp_path / "a"), [str(folders)])
    write_seen(str(tmp_path / "b"), [str(tars)])
    digests = [sorted(pq.read_table(tmp_path / name / "seen.parquet")["digest"].to_pylist()) for name in "ab"]
    assert digests[0] == digests[1]
    # What is wrong names the tar and the image.
    tar = tars / "shards" / "000000.tar"
    data = tar.read_bytes()
    tar.write_bytes(data.replace(b"\xff\xd8\xff", b"\x00\x00\x00", 1))
    with pytest.raises(UserError, match=r"shards/000000.tar: .*\.(jpg|JPG): must be a readable image"):
        read_splits(str(tars))
    tar.unlink()
    with pytest.raises(UserError, match=r"must hold 000000.tar to .*, but 1 of \d tars are not there: 000000.tar"):
        read_splits(str(tars))


def test_batches_are_the_same_from_folders_index_and_tars(tmp_path: Path) -> None:
    """To the bit, so that trainings are."""
    folders, tars = write_dataset(tmp_path / "folders", count=5), tmp_path / "tars"
    plain = read_splits(str(folders))
    write_index(folders)
    write_tars(folders, tars, 2)
    content = {"train": "", "shards": "shards/{000000..000002}.tar", "val": f"{folders}/images/val"}
    (tars / "data.yaml").write_text(yaml.safe_dump(content | {"names": list(plain.names)}))
    values: dict[str, Any] = {"imgsz": 96, "stride": 32, "batch_size": 3, "seed": 0, "rectangular": False}
    batches = []
    for splits in (plain, read_splits(str(folders)), read_splits(str(tars))):
        images = ScaledImages(splits.train, [fit_size(example.size_wh, 96) for example in splits.train], "none")
        maker = Batches(splits, images, read_hyperparameters(), **values)
        batches.append([maker.make_batch(maker.plan(number)) for number in range(2 * maker.per_pass)])
    for first, *others in zip(*batches, strict=True):
        for other in others:
            for one, two in zip(first, other, strict=True):
                np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shards: tars/a.tar\ntrain: ''", r"shards must be like shards/\{000000..000012\}.tar, but is .*a.tar"),
        ("shards: 's/{3..1}.tar'\ntrain: ''", r"shards must be numbered upwards"),
        ("shards: 's/{0..1}.tar'\ntrain: images/train", r"train must be empty where there are shards"),
        ("shards: [1]\ntrain: ''", r"shards must be like"),
    ],
)
def test_wrong_shards_are_refused(dataset: Path, text: str, message: str) -> None:
    (dataset / "data.yaml").write_text(f"{text}\nval: images/val\nnames: [car]\n")
    with pytest.raises(UserError, match=message):
        read_splits(str(dataset))
