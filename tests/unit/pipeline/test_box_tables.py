"""Tables of boxes: what other programs make of them is read, what is none is refused before work begins."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depers.errors import UserError
from depers.pipeline.box_tables import DOUBLED, BoxTable, RowsByPath

EDGES = {"x_min": 1, "y_min": 2, "x_max": 11, "y_max": 22}


def read(folder: Path, columns: dict[str, Any]) -> RowsByPath:
    return RowsByPath(pa.concat_tables(open_table(folder, columns).read()))


def open_table(folder: Path, columns: dict[str, Any]) -> BoxTable:
    pq.write_table(pa.table(columns), folder / "boxes.parquet")
    return BoxTable(str(folder / "boxes.parquet"))


@pytest.mark.parametrize(
    "type",
    [
        pa.list_(pa.struct({name: pa.int64() for name in EDGES})),
        pa.large_list(pa.struct({name: pa.float64() for name in EDGES})),
        pa.list_(pa.struct({name: pa.float32() for name in EDGES}), 1),
    ],
)
def test_boxes_of_any_numbers_are_read(tmp_path: Path, type: pa.DataType) -> None:
    rows = read(tmp_path, {"path": ["a.jpg"], "boxes": pa.array([[EDGES]], type)})
    assert rows.of("a.jpg")[None]["boxes"] == [EDGES]


def test_tables_that_a_data_frame_made_are_read(tmp_path: Path) -> None:
    columns = {"path": ["b.zip", "b.zip", "a.jpg"], "number": [1.0, 0.0, None], "boxes": pa.array([[], [], []])}
    rows = read(tmp_path, columns | {"member": pa.array(["n", "m", None]).dictionary_encode()})
    assert sorted(rows.of("b.zip")) == [0, 1] and rows.of("b.zip")[0]["member"] == "m"
    assert list(rows.of("a.jpg")) == [None]


def test_rows_about_one_image_twice_are_told(tmp_path: Path) -> None:
    rows = read(tmp_path, {"path": ["a.jpg", "a.jpg", "b.jpg"], "boxes": pa.array([[EDGES], [], []])})
    assert rows.of("a.jpg")[None][DOUBLED] and DOUBLED not in rows.of("b.jpg")[None]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a"]}, "must have the columns path and boxes, but has no boxes"),
        ({"path": ["a", None], "boxes": [[], []]}, "every row must have a path, but 1 have none"),
        ({"path": [["a"]], "boxes": [[]]}, "column path must hold string, but holds list"),
        ({"path": ["a"], "boxes": [[]], "number": [0.5]}, "column number must hold int64, but holds double"),
        ({"path": ["a"], "boxes": ["[]"]}, "boxes must be a list of structs with x_min, .*, but are string"),
        ({"path": ["a"], "boxes": [[[1, 2, 3, 4]]]}, "boxes must be a list of structs"),
        ({"path": ["a"], "boxes": [[{"x": 1}]]}, "but have no x_min"),
        ({"path": ["a"], "boxes": [[EDGES | {"x_min": "1"}]]}, "x_min of a box must be a number, but is string"),
        ({"path": ["a"], "boxes": [[EDGES | {"x_min": None}]]}, "x_min of a box must be a number, but is null"),
        ({"path": ["a"], "boxes": [[EDGES | {"confidence": "1"}]]}, "confidence of a box must be a number"),
        ({"path": ["a"], "boxes": [[EDGES | {"class": 7}]]}, "class of a box must be text, but is int64"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, columns)


def test_classes_that_no_box_has_are_refused(tmp_path: Path) -> None:
    boxes = [[EDGES | {"class": "car"}, EDGES | {"class": "license plate"}], []]
    rows = open_table(tmp_path, {"path": ["a", "b"], "boxes": boxes})
    rows.check_classes(["license plate"])
    with pytest.raises(UserError, match=r"--classes must be among .* \(car, license plate\), but got 'plate'"):
        rows.check_classes(["car", "plate"])
    none = open_table(tmp_path, {"path": ["a"], "boxes": pa.array([[]])})
    with pytest.raises(UserError, match=r"\(none\), but got 'car'"):
        none.check_classes(["car"])


class Opaque(pa.ExtensionType):  # type: ignore[misc]
    """A type whose values are not looked at by anyone who is asked for them in Python, as Ray's pickled objects are."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), "depers.test_opaque")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Opaque":
        return cls()


def test_values_that_a_library_would_unpickle_are_refused(tmp_path: Path) -> None:
    pa.register_extension_type(Opaque())
    try:
        objects = pa.ExtensionArray.from_storage(Opaque(), pa.array([b"cos\nsystem\n"], pa.large_binary()))
        box = pa.StructArray.from_arrays([*(pa.array([edge]) for edge in EDGES.values()), objects], [*EDGES, "extra"])
        boxes = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), box)
        with pytest.raises(UserError, match="extra of a box must be of a type of Parquet's"):
            read(tmp_path, {"path": ["a.jpg"], "boxes": boxes})
    finally:
        pa.unregister_extension_type("depers.test_opaque")
