"""The contract between extraction and synthesis: what is read is what was written, and each refusal by its message."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from depers import storage
from depers.datasets import sprite_bank
from depers.datasets.sprite_bank import BACKGROUNDS, METADATA, SPRITES, SpriteBank
from depers.errors import UserError
from depers.storage import tables

PARTS = ("sprites/b.parquet", "sprites/a.parquet")


def sprite(name: str, source: str, **changes: Any) -> dict[str, Any]:
    numbers = {
        field.name: 1 for field in SPRITES if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    }
    label = {"class_id": 1, "x_min": 0.0, "y_min": 0.0, "x_max": 1.0, "y_max": 1.0}
    row = {"id": name, "labels": [label], "image": b"jpeg", "source": source, "group": "g", "split": "train"}
    return numbers | row | {"truncated": False} | changes


@pytest.fixture
def extracted(tmp_path: Path) -> SpriteBank:
    root = str(tmp_path / "extracted")
    rows = {PARTS[0]: [sprite("2", "b.jpg"), sprite("1", "b.jpg")], PARTS[1]: [sprite("3", "a.jpg")]}
    for part, sprites in rows.items():
        tables.write_table(f"{root}/{part}", pa.Table.from_pylist(sprites, SPRITES))
    tables.write_table(f"{root}/backgrounds.parquet", BACKGROUNDS.empty_table())
    bank = SpriteBank(root, ("car", "ü"), "/data", {"fill": "smooth"}, {"sprites": 3}, PARTS)
    sprite_bank.write_marker(bank)
    return bank


def test_what_is_read_is_what_was_written(extracted: SpriteBank) -> None:
    assert sprite_bank.open_bank(extracted.root + "/") == extracted
    assert sprite_bank.read_backgrounds(extracted).schema.equals(BACKGROUNDS)
    table = sprite_bank.read_sprites(extracted)
    assert tuple(table.column_names) == METADATA
    assert table["id"].to_pylist() == ["3", "1", "2"]  # by source and id, whatever the parts
    assert sprite_bank.read_sprites(extracted, ["image"])["image"].to_pylist() == [b"jpeg"] * 3
    assert [part["id"].to_pylist() for part in sprite_bank.iterate_sprites(extracted)] == [["2", "1"], ["3"]]
    assert next(sprite_bank.iterate_sprites(extracted)).schema.equals(SPRITES)
    assert sprite_bank.read_sprites(extracted._replace(parts=())).num_rows == 0


def test_columns_that_a_later_version_adds_are_left_aside(extracted: SpriteBank) -> None:
    uri = f"{extracted.root}/{PARTS[1]}"
    tables.write_table(uri, tables.read_table(uri).append_column("mask", pa.array([b""])))
    assert sprite_bank.read_sprites(extracted, SPRITES.names).schema.equals(SPRITES)


def test_refusals_of_the_marker(extracted: SpriteBank, tmp_path: Path) -> None:
    marker = Path(extracted.root, "extract.json")

    def refused(root: object) -> str:
        with pytest.raises(UserError) as caught:
            sprite_bank.open_bank(str(root))
        return str(caught.value)

    assert "but nothing is there" in refused(tmp_path / "none")
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"version": 2}))
    assert "version must be 4, but is 2" in refused(extracted.root)
    for content in ("[1]", '{"version": 4}'):
        marker.write_text(content)
        assert refused(extracted.root).startswith(f"{marker}: ")
    marker.write_text("{")
    assert f"{marker}: cannot be read" in refused(extracted.root)
    sprite_bank.withdraw(extracted.root)
    assert "it has no extract.json" in refused(extracted.root)
    (Path(extracted.root) / "_depers").mkdir()
    assert "the extraction is not finished" in refused(extracted.root)


def test_refusals_of_the_tables(extracted: SpriteBank) -> None:
    uri = f"{extracted.root}/{PARTS[0]}"
    tables.write_table(uri, pa.Table.from_pylist([sprite("1", "v.jpg", split="val")], SPRITES))
    with pytest.raises(UserError, match=r"must be of the split train, but some are of val"):
        sprite_bank.read_sprites(extracted)
    tables.write_table(uri, pa.table({"split": ["train"]}))
    with pytest.raises(UserError, match=r"b\.parquet: must be a table of an extraction"):
        sprite_bank.read_sprites(extracted)
    storage.write_bytes(uri, b"PAR1 no")
    with pytest.raises(UserError, match=r"b\.parquet: must be a table of an extraction"):
        sprite_bank.read_sprites(extracted)
    storage.delete(uri)
    with pytest.raises(UserError, match=r"b\.parquet: is missing"):
        sprite_bank.read_sprites(extracted)
