"""The whole verb on a real local Ray: the same images however the work is done, and clear words for what is wrong."""

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import drawn_bank as drawn
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
import yaml
from image_lists import list_pairs

from depers import storage
from depers.commands.synthesize import Options, read_assets, run
from depers.datasets import sprite_bank
from depers.datasets.data_yaml import read_dataset
from depers.datasets.labels import CLASSES, read_labels
from depers.errors import UserError
from depers.runtime import progress, units
from depers.synthesis import plan_table, renderer
from depers.training.images.data import read_splits


def make_bank(root: str, **changed: Any) -> str:
    """An extraction at `root`/extracted, of the dataset at `root`/real."""
    real = drawn.write_dataset(f"{root}/real")
    given = {"sprites": drawn.some_sprites(), "backgrounds": [drawn.background(n) for n in range(5)]}
    return drawn.write_bank(f"{root}/extracted", **(given | {"dataset": real} | changed))


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bank(str(tmp_path_factory.mktemp("bank")))


def contents(out: str, *folders: str) -> dict[str, bytes]:
    """All images and labels below `out`, by their paths."""
    found = {}
    for folder in folders or ("images", "labels"):
        root = storage.join(out, folder)
        found |= {
            f"{folder}/{e.path}": storage.read_bytes(storage.join(root, e.path)) for e in storage.list_files(root)
        }
    return found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "--count must be at least 1, but got 0"),
        ({"variants": 0}, "--variants must be at least 1"),
        ({"objects": -1}, "--objects must be at least 0"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"balance": 1.5}, "--balance must be between 0 and 1, but got 1.5"),
        ({"max_overlap": -0.1}, "--max-overlap must be between 0 and 1"),
        ({"distractors": 11.0}, "--distractors must be between 0 and 10"),
        ({"quality": 101}, "--quality must be between 1 and 100"),
        ({"blending": ("hard", "hard")}, "--blending must be different values"),
        ({"out": "ftp://x"}, "OUT must be a path or an s3:// URI"),
    ],
)
def test_wrong_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options(**({"extracted": "in", "out": "out", "count": 5} | values))


@pytest.mark.usefixtures("ray_local")
def test_run(tmp_path: Path, extracted: str) -> None:
    before, out = contents(extracted, "backgrounds", "sprites"), tmp_path / "out"
    result = run(Options(extracted, str(out), count=70, seed=5))
    [last] = result.summary()
    assert not result.partial and result.images == 70 and result.speed.images == 70
    assert last.startswith("70 images, ") and last.endswith(f"report {out}/report.html")
    assert contents(extracted, "backgrounds", "sprites") == before
    images = list_pairs(str(out / "images" / "train"))
    rate = re.search(r"; 70 rendered, (?:([\d.]+) images/s|in [\d.]+ s); ", last)
    written = [Path(image).stat().st_mtime for image, _ in images]
    assert rate and (rate[1] is None or 0 < float(rate[1]) * (max(written) - min(written)) < 100)
    assert len(images) == 70 and images[69][0].endswith("synthetic/000000/000000069.jpg")
    rows = [row for block in (0, 1) for row in renderer.read_block(str(out), block)]
    for (image, text), row in zip(images, rows, strict=True):
        labels = read_labels(text, len(CLASSES))
        assert labels.class_ids.tolist() == [label["class_id"] for label in row["labels"]]
        assert simplejpeg.decode_jpeg_header(Path(image).read_bytes())[:2] == (row["height"], row["width"])
    record = pq.read_table(units.record_uri(units.locate_inside(str(out)), "00000001"))
    assert record["path"].to_pylist() == [f"synthetic/000000/{number:09d}.jpg" for number in range(64, 70)]
    page = (out / "report.html").read_text()
    assert all(word in page for word in ("Real against synthetic", "<svg", "data:image/jpeg", "carplate"))
    assert simplejpeg.decode_jpeg((out / "sheet.jpg").read_bytes()).shape[1] > 1000
    # Training sees real and synthetic images, validation real ones only, and so do those who cut sprites.
    joined = read_dataset(out)
    real = str(Path(extracted).parent / "real")
    assert (joined.train, joined.val, joined.additional_train) == (
        f"{real}/images/train",
        f"{real}/images/val",
        (f"{out}/images/train",),
    )
    splits = read_splits(str(out))
    assert len(splits.train) == 3 + 70 and len(splits.val) == 3


@pytest.mark.usefixtures("ray_local")
def test_images_do_not_depend_on_workers_units_and_interruptions(tmp_path: Path, extracted: str) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert not run(Options(extracted, first, count=140)).partial
    expected = contents(first)
    # Cut off: a record and some images are missing, another is half written.
    storage.delete(units.record_uri(units.locate_inside(first), "00000001"))
    storage.delete(f"{first}/data.yaml")
    for number in (64, 65, 99):
        storage.delete(f"{first}/images/train/synthetic/000000/{number:09d}.jpg")
    left = Path(first, f"images/train/synthetic/000000/.depers-{'0' * 32}.partial")
    left.write_bytes(b"half")
    kept = Path(first, "images/train/synthetic/000000/000000003.jpg").stat().st_mtime_ns
    assert not run(Options(extracted, first, count=140)).partial
    assert contents(first) == expected and not left.exists()
    assert Path(first, "images/train/synthetic/000000/000000003.jpg").stat().st_mtime_ns == kept
    # One process, all blocks in one go, fewer images.
    opened, options = sprite_bank.open_bank(extracted), Options(extracted, second, count=75)
    job = renderer.RenderJob(second, 75, 1, False, len(CLASSES))
    renderer.plan_part(read_assets(opened, options), options.recipe(False), job, 0)
    assert renderer.render_blocks(opened, job, 0, 2) == 75
    few = contents(second)
    assert len(few) == 150 and few == {path: expected[path] for path in few}


@pytest.mark.usefixtures("ray_local")
def test_s3_gives_the_same_bytes(tmp_path: Path, extracted: str, s3_bucket: str) -> None:
    local = str(tmp_path / "out")
    assert not run(Options(extracted, local, count=20)).partial
    remote = make_bank(s3_bucket)
    assert not run(Options(remote, f"{s3_bucket}/out", count=20)).partial
    assert contents(f"{s3_bucket}/out") == contents(local)
    joined = read_dataset(f"{s3_bucket}/out")
    assert (
        joined.additional_train == (f"{s3_bucket}/out/images/train",) and joined.val == f"{s3_bucket}/real/images/val"
    )
    splits = read_splits(f"{s3_bucket}/out")
    assert len(splits.train) == 23 and storage.is_file(f"{s3_bucket}/out/index.parquet") and not splits.notes
    with pytest.raises(UserError, match=r"--real .*/real: must be on S3 or a store like it, as OUT"):
        run(Options(extracted, f"{s3_bucket}/other", count=3))


@pytest.mark.usefixtures("ray_local")
def test_shards_hold_what_folders_hold(tmp_path: Path, extracted: str) -> None:
    folders, shards = str(tmp_path / "folders"), str(tmp_path / "shards")
    assert not run(Options(extracted, folders, count=70, variants=2)).partial
    assert not run(Options(extracted, shards, count=70, variants=2, shards=True)).partial
    files = {path.partition("/train/")[2]: data for path, data in contents(folders).items()}
    assert len(files) == 280 and "synthetic/000000/000000003-1.jpg" in files
    assert list(contents(shards, "shards")) == ["shards/000000.tar"]
    with tarfile.open(fileobj=io.BytesIO(contents(shards, "shards")["shards/000000.tar"])) as tar:
        members = tar.getmembers()
        assert {m.name: tar.extractfile(m).read() for m in members} == files  # type: ignore[union-attr]
    names = [member.name.removeprefix("synthetic/000000/") for member in members]
    assert names[:4] == ["000000000-0.jpg", "000000000-0.txt", "000000000-1.jpg", "000000000-1.txt"]
    # YOLOv5 finds no folder; a training sees what it sees of folders, as their indices say.
    content = yaml.safe_load(Path(shards, "data.yaml").read_text())
    real = str(Path(extracted).parent / "real" / "images")
    assert (content["train"], content["shards"]) == ("", "shards/{000000..000000}.tar")
    assert content["train_beside_shards"] == [f"{real}/train"] and content["val"] == f"{real}/val"
    trainings = [read_splits(out) for out in (folders, shards)]
    assert trainings[0].parts == trainings[1].parts and not (trainings[0].notes or trainings[1].notes)
    for one, other in zip(trainings[0].train, trainings[1].train, strict=True):
        assert (one.size_wh, one.labelled, one.read()) == (other.size_wh, other.labelled, other.read())
        assert all((a == b).all() for a, b in zip(one[2:4], other[2:4], strict=True))
    (Path(folders) / "index.parquet").unlink()
    for one, other in zip(trainings[0].train, read_splits(folders).train, strict=True):
        assert one[:2] == other[:2] and all((a == b).all() for a, b in zip(one[2:4], other[2:4], strict=True))


@pytest.mark.usefixtures("ray_local")
def test_backgrounds_that_keep_their_labels(tmp_path: Path) -> None:
    kept = [drawn.label(0, (10.0, 100.0, 90.0, 150.0)), drawn.label(4, (40.0, 130.0, 60.0, 140.0))]
    grounds = [drawn.background(number, labels=kept) for number in range(3)]
    out = str(tmp_path / "out")
    assert not run(
        Options(make_bank(str(tmp_path), backgrounds=grounds), out, count=12, effects=False, real="none")
    ).partial
    for image, text in list_pairs(f"{out}/images/train"):
        labels = read_labels(text, 5)
        assert labels.class_ids[:2].tolist() == [0, 4] and len(labels.class_ids) > 2
        np.testing.assert_allclose(labels.boxes_xywh[0] * [320, 240, 320, 240], [50, 125, 80, 50], atol=1e-3)
        pixels = simplejpeg.decode_jpeg(Path(image).read_bytes())[104:146, 14:86].astype(int)
        assert np.abs(np.diff(pixels, axis=1)).max() < 12  # still the even ground


@pytest.mark.usefixtures("ray_local")
def test_what_is_wrong_is_said_before_anything_is_written(tmp_path: Path, extracted: str) -> None:
    out = str(tmp_path / "out")

    def refused(message: str, given: str = extracted, **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            run(Options(given, **({"out": out, "count": 5} | options)))
        assert not Path(out).exists()

    refused("must be a folder that `depers extract` has written, but nothing is there", given=str(tmp_path / "none"))
    refused("OUT must lie outside EXTRACTED", out=f"{extracted}/out")
    refused("--classes must be among .* but got 'bus'", classes=("bus",))
    refused("cannot be read .*: name it with --real, or --real none", real=str(tmp_path / "gone"))
    refused("OUT must lie outside the dataset", out=str(Path(extracted).parent / "real" / "images" / "train" / "more"))
    cars = make_bank(str(tmp_path / "cars"), sprites=[drawn.sprite(n, 0, (40, 20), parts=[]) for n in range(3)])
    refused(
        "--classes face: the extraction must hold a sprite of that class, but there is none", cars, classes=("face",)
    )
    hidden = [drawn.sprite(n, 0, (40, 20), hidden=0.5) for n in range(3)]
    refused("but none of 3 is", make_bank(str(tmp_path / "hidden"), sprites=hidden))
    refused("all 3 are hidden by more than", str(tmp_path / "hidden" / "extracted"), classes=("car",))
    refused("must hold sprites, but there is none", make_bank(str(tmp_path / "bare"), sprites=[]))
    nothing = [drawn.background(n, status="skipped", path=None) for n in range(3)]
    refused("must hold backgrounds, but all 5", make_bank(str(tmp_path / "full"), backgrounds=nothing))
    leaked = [drawn.sprite(n, 0, (40, 20), split="val") for n in range(3)]
    refused("must be of the split train", make_bank(str(tmp_path / "leak"), sprites=leaked))
    storage.delete(f"{cars}/extract.json")
    refused("it has no extract.json", cars)
    other = make_bank(str(tmp_path / "other"), names=("a", "b", "c", "d", "e"))
    refused("its classes must be a, b, c, d, e, but are car", other)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="needs a place that root cannot write")
@pytest.mark.usefixtures("ray_local")
def test_output_that_cannot_be_written(extracted: str) -> None:
    with pytest.raises(UserError, match=r"/proc/synthetic: cannot be written"):
        run(Options(extracted, "/proc/synthetic", count=5))


@pytest.mark.usefixtures("ray_local")
def test_plan_of_another_version_or_other_options_is_refused(tmp_path: Path, extracted: str) -> None:
    out = str(tmp_path / "out")
    assert not run(Options(extracted, out, count=5)).partial
    with pytest.raises(UserError, match="holds a run with count 5, but now it is 6"):
        run(Options(extracted, out, count=6))
    uri = plan_table.part_uri(out, 0)
    table = pq.read_table(uri).replace_schema_metadata({"depers.plan": "0"})
    pq.write_table(table, uri)
    storage.delete(units.record_uri(units.locate_inside(out), "00000000"))
    with pytest.raises(Exception, match=r"must be a plan of version 5, but its version is 0: choose another OUT"):
        run(Options(extracted, out, count=5))
    assert not Path(out, "data.yaml").exists()


@pytest.mark.usefixtures("ray_local")
def test_one_background_and_damaged_sprites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = make_bank(str(tmp_path), backgrounds=[drawn.background(0)])
    with progress.shown_on(sys.stderr):
        assert not run(Options(alone, str(tmp_path / "out"), count=6, objects=2)).partial
    assert "all images show the only background, backgrounds/000.jpg" in capsys.readouterr().err
    storage.write_bytes(f"{alone}/backgrounds/000.jpg", b"no image")
    with pytest.raises(Exception, match=r"backgrounds/000.jpg: the background cannot be read .*: extract again"):
        run(Options(alone, str(tmp_path / "damaged"), count=6))
    assert not Path(tmp_path, "damaged", "data.yaml").exists()


@pytest.mark.slow
def test_resumes_after_kill(tmp_path: Path, extracted: str) -> None:
    clean, killed = str(tmp_path / "clean"), str(tmp_path / "killed")
    command = [sys.executable, "-m", "depers.cli", "synthesize", extracted]
    process = subprocess.Popen([*command, killed, "--count", "6000"], start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(units.list_finished(units.locate_inside(killed)).names) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(units.list_finished(units.locate_inside(killed)).names)
    assert 5 <= done < 94 and not Path(killed, "data.yaml").exists()
    subprocess.run([*command, killed, "--count", "6000"], check=True, capture_output=True)
    subprocess.run([*command, clean, "--count", "6000"], check=True, capture_output=True)
    assert contents(killed) == contents(clean)
