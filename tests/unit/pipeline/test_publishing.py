"""A small part of `bench/publishing.py`: who has OUT alone cannot tell what a box hides; who has the records can."""

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from depers.anonymization import manifest, redact_step
from depers.archives.base import ArchiveEnd, Chunk
from depers.detection.settings import InferenceSettings
from depers.pipeline import archive_steps, workers
from depers.pipeline.archive_steps import ChunkHeading
from depers.pipeline.box_sources import find_box_source
from depers.pipeline.steps import PassJob
from depers.pipeline.workers import FusedWorker, Work
from depers.runtime import units
from depers.runtime.units import Unit
from depers.storage import list_files

NUMBERS, TRUTH = range(40), 17


@pytest.fixture(scope="module")
def publishing() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "bench" / "publishing.py"
    spec = importlib.util.spec_from_file_location("publishing", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.FORMATS = {"jpg": "JPEG", "png": "PNG"}  # type: ignore[attr-defined]
    return module


def run(job: PassJob, unit: Unit) -> None:
    worker, layout = FusedWorker(job, [[]]), b""
    if unit.archive is None:
        worker.work(Work(unit))
        return
    for content in archive_steps.read_chunks(job, unit, frozenset()):
        if isinstance(content, ChunkHeading):
            layout = content.layout
        elif isinstance(content, Chunk):
            worker.work(Work(unit, content.number, layout), content)
        elif isinstance(content, ArchiveEnd):
            archive_steps.assemble(job, unit, content)


def test_out_tells_nothing_of_what_a_box_hides(
    publishing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_get", lambda reference: reference[0])
    publishing.write_inputs(tmp_path, TRUTH)
    finish = partial(redact_step.redact_item, mode="pixelate", margin=0.1, keep_metadata=(), max_megapixels=1.0)
    job = PassJob(
        input=f"{tmp_path}/in", out=f"{tmp_path}/out", weights=(), classes=(), settings=InferenceSettings(),
        batch_size=8, max_megapixels=1.0, half_stride_pad=False, schema=manifest.SCHEMA, finish=finish, mirrors=True,
        boxes=find_box_source(f"{tmp_path}/boxes"), records_beside=f"{tmp_path}/out-records",
    )  # fmt: skip
    for unit in units.cut(list_files(job.input)):
        run(job, unit)
    assert sorted(entry.path for entry in list_files(job.out)) == sorted(entry.path for entry in list_files(job.input))
    shares = {name: publishing.attack(tmp_path / name, NUMBERS, TRUTH) for name in ("out", "out-records")}
    assert shares["out"] >= 0.1 and shares["out-records"] == 1 / len(NUMBERS)
    assert {publishing.count_equal(tmp_path / "out", number) for number in NUMBERS} == {2}
    long_ago = (tmp_path / "in" / "png.png").stat().st_mtime
    assert all(path.stat().st_mtime > long_ago + 1e8 for path in (tmp_path / "out").iterdir())
    published = publishing.read_published(tmp_path / "out")
    assert not any(
        token in published for token in (b"2001:02:03", b"2001-02-03", b"981173106", oct(981_173_106)[2:].encode())
    )
