"""Tables: images alone and what is named come through, whatever the type; what is kept is searched for images."""

import base64
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_files import image, members, read, rebuild

from depers.archives.base import Member, MemberRules

ALL = MemberRules((), 1 << 20, ("*",))


def parquet(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def table() -> pa.Table:
    rows = range(100)
    columns = {
        "id": list(rows),
        "image": pa.array(
            [{"bytes": image(row), "path": f"{row}.jpg"} if row % 7 else None for row in rows],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "raw": pa.array([image(row) for row in rows], pa.large_binary()),
        "many": [[image(row)] * (row % 3) for row in rows],
        "hash": [b"abc%d" % row for row in rows],
        "when": pa.array(rows, pa.timestamp("ns", "Europe/Berlin")),
        "label": pa.array(["cat", "dog"] * 50).dictionary_encode(),
    }
    return pa.table(columns).replace_schema_metadata({"about": "street"})


def test_parquet_keeps_what_is_named() -> None:
    data = parquet(table(), row_group_size=40, compression="zstd")
    result = rebuild("parquet", data, rules=ALL)
    simple = table().set_column(6, "label", table()["label"].cast(pa.string())).replace_schema_metadata(None)
    expected = pq.read_table(io.BytesIO(parquet(simple)))
    assert pq.read_table(io.BytesIO(result)).equals(expected, check_metadata=True)
    about = pq.ParquetFile(io.BytesIO(result)).metadata
    assert [about.row_group(number).num_rows for number in range(about.num_row_groups)] == [40, 40, 20]
    assert about.row_group(0).column(1).compression == "ZSTD"
    assert about.row_group(0).column(1).statistics is None  # they would hold the least and the greatest image


def test_parquet_replaces_images_and_nulls_what_failed() -> None:
    data = parquet(table())
    chunks, _ = read("parquet", data, ALL)
    names = [one.name for one in members(chunks) if one.status == ""]
    assert len(names) == 85 + 100 + 99 and len(set(names)) == len(names)
    assert {"image[1]", "raw[99]", "many[2][1]", "many[1]"} <= set(names)

    def change(member: Member) -> bytes | None:
        return None if member.name in ("image[3]", "raw[4]", "many[5][0]") else b"new " + (member.data or b"")[:9]

    result = pq.read_table(io.BytesIO(rebuild("parquet", data, change, ALL)))
    for name in ("id", "hash", "when"):
        assert result[name].equals(table()[name])
    values = result["image"].to_pylist()
    assert values[3] is None and values[0] is None and values[4] == {"bytes": b"new " + image(4)[:9], "path": "4.jpg"}
    assert result["raw"][4].as_py() is None and result["raw"][5].as_py() == b"new " + image(5)[:9]
    assert result["many"][5].as_py() == [None, b"new " + image(5)[:9]]


def test_a_column_of_images_holds_nothing_else() -> None:
    data = parquet(pa.table({"x": [image(1), b"broken", None] * 20, "y": [b"word"] * 59 + [image(2)]}))
    found = {one.name: one.status for one in members(read("parquet", data, ALL)[0])}
    assert found.pop("y") == "passed_through" and found.pop("y[59]") == "failed"
    assert {"x[0]", "x[1]"} < set(found) and len(found) == 40 and set(found.values()) == {""}
    result = pq.read_table(io.BytesIO(rebuild("parquet", data, lambda member: None, ALL)))
    assert result.to_pydict() == {"x": [None] * 60, "y": [b"word"] * 59 + [None]}


def test_a_broken_row_group_loses_its_rows_alone() -> None:
    data = bytearray(parquet(table(), row_group_size=25, compression="zstd", use_dictionary=False))
    about = pq.ParquetFile(io.BytesIO(bytes(data))).metadata
    start = about.row_group(2).column(1).data_page_offset
    data[start : start + 64] = bytes(64)
    _, end = read("parquet", bytes(data))
    assert "of row group 2" in end.reason and "25 rows" in end.reason
    result = pq.read_table(io.BytesIO(rebuild("parquet", bytes(data), rules=ALL)))
    assert result["id"].to_pylist() == [row for row in range(100) if not 50 <= row < 75]


SECRET = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + np.random.default_rng(1).bytes(4000)
TEXT = base64.b64encode(SECRET).decode()
DRESSES: dict[str, pa.Array] = {
    "base64": pa.array([TEXT]),
    "large text": pa.array([TEXT], pa.large_string()),
    "viewed text": pa.array([TEXT], pa.string_view()),
    "base64 as bytes": pa.array([TEXT.encode()]),
    "prefixed bytes": pa.array([b"\0\1\2" + SECRET], pa.large_binary()),
    "viewed bytes": pa.array([b"x" + SECRET], pa.binary_view()),
    "fixed bytes": pa.array([SECRET], pa.binary(len(SECRET))),
    "data URI": pa.array(["data:image/jpeg;base64," + TEXT]),
    "json": pa.array([json.dumps({"thumb": TEXT})]),
    "hexadecimal": pa.array([SECRET.hex()]),
    "bytes one by one": pa.array([list(SECRET)], pa.list_(pa.uint8())),
    "signed": pa.array([[byte - 256 if byte > 127 else byte for byte in SECRET]], pa.list_(pa.int16())),
    "fixed list": pa.array([list(SECRET)], pa.list_(pa.int64(), len(SECRET))),
    "large list": pa.array([list(map(float, SECRET))], pa.large_list(pa.float32())),
    "pixels": pa.array([np.random.default_rng(0).integers(0, 256, (40, 40, 3)).tolist()]),
    "pixels in 0…1": pa.array([np.random.default_rng(0).random((40, 40)).tolist()]),
    "dictionary": pa.array([TEXT]).dictionary_encode(),
    "struct": pa.array([{"a": {"b": [TEXT, "x"]}}]),
    "pieces": pa.array([[TEXT[start : start + 60] for start in range(0, len(TEXT), 60)]]),
    "map": pa.array([[("k", SECRET)]], pa.map_(pa.string(), pa.binary())),
    "map's keys": pa.array([[(TEXT, 1)]], pa.map_(pa.string(), pa.int8())),
    "list of structs": pa.array([[{"d": b"abc" + SECRET}]]),
}


def hide(values: pa.Array) -> bytes:
    count = len(values)
    return parquet(pa.table({"image": pa.array([image(row) for row in range(count)]), "x": values}))


@pytest.mark.parametrize("dress", DRESSES)
def test_a_column_is_left_out_unless_it_is_named_and_then_searched(dress: str) -> None:
    data = hide(DRESSES[dress])
    [shown, told] = members(read("parquet", data)[0])
    assert (shown.name, shown.status, told.name, told.status) == ("image[0]", "", "x", "skipped")
    assert pq.read_table(io.BytesIO(rebuild("parquet", data))).column_names == ["image"]
    [shown, told] = members(read("parquet", data, ALL)[0])
    assert (told.name, told.status) == ("x[0]", "failed") and told.reason.startswith("holds")
    result = rebuild("parquet", data, rules=ALL)
    assert pq.read_table(io.BytesIO(result))["x"].null_count == 1
    assert SECRET[20:60] not in result and TEXT[20:60].encode() not in result
    anyway = pq.read_table(io.BytesIO(rebuild("parquet", data, rules=ALL._replace(keep_anyway=True))))
    assert anyway["x"].null_count == 0


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a street in the rain, " * 9]),
        pa.array([1.5]),
        pa.array([np.random.default_rng(0).normal(size=4096).tolist()]),
        pa.array([{"x": [[1, 2, 3, 4]] * 300}]),
        pa.array([[("cat", 1), ("dog", None)]], pa.map_(pa.string(), pa.int64())),
        pa.array([7], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([7], pa.time64("ns")),
        pa.array([True]),
        pa.array(["12.5"]).cast(pa.decimal128(10, 2)),
        pa.array(["cat"]).dictionary_encode(),
        pa.array([b"0123456789abcdef"], pa.binary(16)),
        pa.array([[list(range(300, 2300))]]),
        pa.nulls(1),
    ],
    ids=lambda values: str(values.type),
)
def test_ordinary_values_come_through_where_they_are_named(values: pa.Array) -> None:
    data = hide(values)
    found = {one.name: one.status for one in members(read("parquet", data, ALL)[0])}
    assert found.pop("x", "passed_through") == "passed_through" and found == {"image[0]": ""}
    result = pq.read_table(io.BytesIO(rebuild("parquet", data, rules=ALL)))
    assert result["x"].to_pylist() == values.to_pylist()


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<u4", "<u8", "<i8", ">i8", "<f4", "<f8"])
def test_an_image_in_numbers_of_several_bytes_is_withheld(kind: str) -> None:
    content = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + np.random.default_rng(1).bytes(2000)
    numbers = np.frombuffer(content.ljust(2048, b"\1"), kind)
    numbers = numbers.astype(numbers.dtype.newbyteorder("="))
    columns = {"image": [image(1)], "words": pa.array([numbers], pa.list_(pa.from_numpy_dtype(numbers.dtype)))}
    result = rebuild("parquet", parquet(pa.table(columns)), rules=ALL)
    assert pq.read_table(io.BytesIO(result))["words"].to_pylist() == [None]


def test_what_lies_beside_an_image_is_null_unless_it_is_named() -> None:
    rows = [{"bytes": image(1), "path": "joe.jpg"}, {"bytes": None, "path": "gone.jpg"}, None]
    data = parquet(pa.table({"image": rows}))
    found = {one.name: one.status for one in members(read("parquet", data)[0])}
    assert found == {"image[0]": "", "image.path": "skipped"}
    result = rebuild("parquet", data)
    assert pq.read_table(io.BytesIO(result))["image"].to_pylist() == [{"bytes": image(1), "path": None}, None, None]
    assert b"joe" not in result and b"gone" not in result
    rules = MemberRules((), 1 << 20, ("image.path",))
    assert {one.name: one.status for one in members(read("parquet", data, rules)[0])} == {
        "image[0]": "", "image.path": "passed_through",
    }  # fmt: skip
    assert pq.read_table(io.BytesIO(rebuild("parquet", data, rules=rules)))["image"][0].as_py()["path"] == "joe.jpg"


def test_a_table_without_images_is_skipped() -> None:
    for table in (
        {"caption": ["cat"]},
        {"caption": ["cat"], "map": DRESSES["map"]},
        {"empty": pa.array([None], pa.binary())},
    ):
        chunks, end = read("parquet", parquet(pa.table(table)), ALL)
        assert not chunks and end.skipped and end.reason == "a table without a column of images"


def test_the_first_images_may_come_late() -> None:
    values = pa.array([None] * 500 + [image(1)])
    data = parquet(pa.table({"id": range(501), "x": values}), row_group_size=100)
    assert [one.name for one in members(read("parquet", data)[0])] == ["x[500]", "id"]


def test_nothing_of_a_column_that_is_left_out_lies_in_the_footer() -> None:
    about = {"huggingface": json.dumps({"info": {"description": "joe", "features": {
        "image": {"_type": "Image"}, "name": {"_type": "Value", "dtype": "string"},
        "label": {"_type": "ClassLabel", "names": ["cat"]},
    }}}), "pandas": '{"columns": ["name"]}', "author": "joe"}  # fmt: skip
    content = {"image": [{"bytes": image(1), "path": "1.jpg"}], "name": ["joe"], "label": [0]}
    rules = MemberRules((), 1 << 20, ("label",))
    result = rebuild("parquet", parquet(pa.table(content).replace_schema_metadata(about)), rules=rules)
    assert b"joe" not in result and b'name"' not in result
    metadata = pq.read_schema(io.BytesIO(result)).metadata
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    assert list(metadata) == [b"huggingface"]
    assert features == {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat"]}}


def test_a_withheld_value_is_in_no_dictionary() -> None:
    values = pa.array([TEXT, "cat", "cat", "dog"] * 20).dictionary_encode()
    data = parquet(pa.table({"image": [image(row) for row in range(80)], "x": values}))
    result = rebuild("parquet", data, rules=ALL)
    assert TEXT[8:60].encode() not in result
    assert pq.read_table(io.BytesIO(result))["x"].to_pylist() == [None, "cat", "cat", "dog"] * 20


def test_a_column_with_a_dot_in_its_name_is_named_in_full() -> None:
    columns = {"image": pa.array([image(0)]), "exif": pa.array(["f/8"]), "exif.owner": pa.array(["A Name"])}
    data = parquet(pa.table(columns))
    result = rebuild("parquet", data, rules=ALL._replace(keep_columns=("exif",)))
    assert pq.read_table(io.BytesIO(result)).column_names == ["image", "exif"]


def test_images_of_two_columns_are_not_called_alike() -> None:
    pair = pa.array([{"b": image(0), "c": image(1)}])
    for table in (pa.table({"a": pair, "a.b": pa.array([image(2)])}), pa.table({"a": pair, "a.b[0]": [image(2)]})):
        chunks, end = read("parquet", parquet(table))
        assert "names of columns with images must differ" in end.reason and not chunks
