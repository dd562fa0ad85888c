"""Datasets with an index, in folders and in tars, as their writers leave them."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from depers.datasets import image_index
from depers.datasets.image_index import WrittenFile
from depers.imaging.headers import read_header
from depers.storage import local


def read_written(root: Path, path: str) -> WrittenFile:
    """A file as `storage.write_below` has left it."""
    return WrittenFile(path, (root / path).read_bytes(), local.read_stamp(str(root / path)))


def write_index(root: Path) -> None:
    """Write the index of the dataset in folders at `root`, each of whose images has a label file."""
    rows = []
    for image in sorted(path for path in (root / "images").rglob("*") if path.is_file()):
        split, _, name = str(image.relative_to(root / "images")).partition("/")
        stem = name.rpartition(".")[0]
        labels = read_written(root, f"labels/{split}/{stem}.txt")
        has_regions = (root / "ignore" / split / f"{stem}.txt").exists()
        ignored = read_written(root, f"ignore/{split}/{stem}.txt") if has_regions else None
        file = read_written(root, f"images/{split}/{name}")
        size_wh = read_header(file.data).upright_wh
        rows.append({"indexed": image_index.describe(split, name, size_wh, file, labels, ignored)})
    write_rows(root, rows)


def write_rows(root: Path, rows: list[dict[str, object]]) -> None:
    """Write an index of the records of one unit."""
    record = pa.Table.from_pylist(rows, schema=pa.schema([image_index.RECORD_COLUMN]))
    image_index.write_index(str(root), [record])


def write_tars(source: Path, out: Path, size: int) -> None:
    """Write the training images of a dataset in folders as tars of `size` at OUT/shards, and add to the index."""
    (out / "shards").mkdir(parents=True)
    index = out / image_index.NAME
    rows = [{"indexed": row} for row in pq.read_table(index).to_pylist()] if index.exists() else []
    images = sorted(path for path in (source / "images" / "train").rglob("*") if path.is_file())
    for number, start in enumerate(range(0, len(images), size)):
        tar_rows, buffer = [], io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for image in images[start : start + size]:
                name = str(image.relative_to(source / "images" / "train"))
                stem = name.rpartition(".")[0]
                regions = source / "ignore" / "train" / f"{stem}.txt"
                texts = {
                    f"{stem}.txt": (source / "labels" / "train" / f"{stem}.txt").read_bytes(),
                    f"{stem}.ignore.txt": regions.read_bytes() if regions.exists() else b"",
                }
                data = image.read_bytes()
                for member, content in {name: data, **texts}.items():
                    if content or not member.endswith(".ignore.txt"):
                        info = tarfile.TarInfo(member)
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
                        if member == name:
                            offset = tar.offset - -(-len(content) // 512) * 512
                size_wh = read_header(data).upright_wh
                tar_rows.append(image_index.describe_member("train", name, size_wh, data, *texts.values(), offset))
        path = f"shards/{number:06d}.tar"
        (out / path).write_bytes(buffer.getvalue())
        image_index.add_tar(tar_rows, read_written(out, path))
        rows += [{"indexed": row} for row in tar_rows]
    write_rows(out, rows)
