"""Parts of a plan, read group by group, from a folder and from S3."""

from pathlib import Path

import pytest

from depers import storage
from depers.errors import UserError
from depers.storage import tables
from depers.synthesis import plan_table
from depers.synthesis.renderer import read_block


@pytest.fixture(params=["local", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3_bucket")) if request.param == "s3" else str(tmp_path)


def test_a_part_is_read_group_by_group(out: str) -> None:
    rows = [{field.name: None for field in plan_table.SCHEMA} | {"index": index} for index in range(5)]
    table = plan_table.SCHEMA.empty_table().from_pylist(rows, schema=plan_table.SCHEMA)
    plan_table.write_part(plan_table.part_uri(out, 1), [table[:2], table[2:]])
    block = plan_table.BLOCKS_PER_PART
    assert [[row["index"] for row in read_block(out, number)] for number in (block, block + 1)] == [[0, 1], [2, 3, 4]]
    with plan_table.open_part(plan_table.part_uri(out, 1)) as part:
        assert part.num_row_groups == 2


def test_what_is_no_part_is_refused_by_name(out: str) -> None:
    storage.write_bytes(f"{out}/text.parquet", b"text")
    tables.write_table(f"{out}/other.parquet", plan_table.SCHEMA.empty_table())
    for name, message in (("text", "cannot be read"), ("none", "cannot be read"), ("other", "its version is none")):
        with (
            pytest.raises(UserError, match=rf"{name}.parquet: must be a .*{message}"),
            plan_table.open_part(f"{out}/{name}.parquet"),
        ):
            pass
