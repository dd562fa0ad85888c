"""Tests of tables: columns say what they hold, and files hold plain schemas."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depers.storage import tables
from depers.storage.tables import TableWriter, column, description, plain_schema, schema, to_parquet

LABEL = pa.struct([column("class_id", pa.int32(), "of the label"), column("x_min", pa.float32(), "pixels")])
DESCRIBED = schema(column("path", pa.string(), "of the image"), column("labels", pa.list_(LABEL), "all of them"))
PLAIN = pa.schema(
    [("path", pa.string()), ("labels", pa.list_(pa.struct([("class_id", pa.int32()), ("x_min", pa.float32())])))]
)
ROWS = [{"path": "a", "labels": [{"class_id": 1, "x_min": 2.5}]}, {"path": None, "labels": []}]


def test_a_column_says_what_it_holds() -> None:
    assert [description(field) for field in DESCRIBED] == ["of the image", "all of them"]
    assert [description(field) for field in LABEL] == ["of the label", "pixels"]
    assert description(PLAIN.field("path")) == ""


def test_descriptions_are_stripped_and_other_metadata_stays() -> None:
    versioned = DESCRIBED.with_metadata({"version": "3"})
    assert plain_schema(versioned).equals(PLAIN.with_metadata({"version": "3"}), check_metadata=True)
    assert plain_schema(PLAIN).equals(PLAIN, check_metadata=True)


def test_descriptions_do_not_change_the_files(tmp_path: Path) -> None:
    described, plain = (pa.Table.from_pylist(ROWS, schema=columns) for columns in (DESCRIBED, PLAIN))
    buffer = io.BytesIO()
    pq.write_table(plain, buffer, compression="zstd")
    assert to_parquet(described) == buffer.getvalue()
    for name, columns in (("described", DESCRIBED), ("plain", PLAIN)):
        with TableWriter(str(tmp_path / name), columns) as writer:
            writer.write(described)
    assert (tmp_path / "described").read_bytes() == (tmp_path / "plain").read_bytes()


def test_long_rows_do_not_wait_until_they_are_many(tmp_path: Path) -> None:
    part = pa.table({"values": pa.array([[0.5] * 250_000] * 4, pa.list_(pa.float32()))})  # 4 MB
    with tables.TableWriter(str(tmp_path / "t.parquet"), part.schema) as writer:
        for _ in range(5):
            writer.write(part)
    metadata = pq.read_metadata(tmp_path / "t.parquet")
    assert (metadata.num_rows, metadata.num_row_groups) == (20, 2)


def test_columns_are_read_that_are_there_once(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.parquet")
    columns = [pa.array([1]), pa.array([[{"x": 2}]]), pa.array([3]), pa.array([4])]
    tables.write_table(uri, pa.Table.from_arrays(columns, ["a", "boxes", "twice", "twice"]))
    assert tables.read_table(uri, ["boxes", "a"]).to_pylist() == [{"a": 1, "boxes": [{"x": 2}]}]
    assert tables.read_table(uri, []).num_rows == 1 and tables.read_table(uri).num_columns == 4
    for name in ("b", "twice", "boxes.x"):
        with pytest.raises(pa.ArrowInvalid, match=f"must have one column '{name}', but has a, boxes, twice, twice"):
            tables.read_table(uri, [name])


def test_names_of_columns_that_are_no_text_are_damage(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    file.write_bytes(to_parquet(pa.table({"wxyz": [1]})).replace(b"wxyz", b"w\xff\xfez"))
    with pytest.raises((pa.ArrowException, OSError)):
        tables.read_table(str(file), ["wxyz"])
