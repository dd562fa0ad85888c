"""The verb: its options, bad input before the first epoch, real short runs with one worker and with several."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from indexed_sets import write_index, write_tars
from training_sets import write_dataset

from depers import resources, storage
from depers.commands.train import run
from depers.datasets.labels import CLASSES
from depers.detection import yolo
from depers.errors import UserError
from depers.runtime import progress
from depers.training import loop, validation
from depers.training.images.data import read_splits
from depers.training.loop import train
from depers.training.options import Options, resolve_paths
from depers.training.processes import outputs, ray_train
from depers.training.processes.checkpoints import CheckpointWriter, read_state
from depers.training.processes.notices import Notice, NoticeBoard, TrainingStoppedError
from depers.training.processes.outputs import Progress, read_progress
from depers.training.processes.process_group import ProcessGroup
from depers.training.state import TrainState


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imgsz": 100}, "--imgsz must be a positive multiple of 32, but got 100"),
        ({"imgsz": 96, "model": "yolov5s6"}, "--imgsz must be a multiple of 64 for yolov5s6, but got 96"),
        ({"epochs": 0}, "--epochs must be at least 1, but got 0"),
        ({"batch_size": 3, "train_workers": 2}, r"--batch-size must be a multiple of --train-workers \(2\), but got 3"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0 and below 10, but got 0"),
        ({"warmup_epochs": -1.0}, "--warmup-epochs must be at least 0, but got -1"),
        ({"steps": 3, "epochs": 4}, r"--steps must be at least --epochs \(4\), but got 3"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be at least 0 and below 1, but got 1"),
        ({"freeze": (-1,)}, "--freeze must be at least 0, but got -1"),
        ({"data": ("more=0",)}, "--data must be DATASET=WEIGHT with a weight above 0, but got 'more=0'"),
        ({"data": ("more=1", "more=2")}, "--data names more twice"),
        ({"image_weights": True, "rectangular": True}, "--image-weights and --rectangular exclude one another"),
    ],
)
def test_wrong_options_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options("data", "out", **values)  # type: ignore[arg-type]


def test_datasets_have_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    options = Options("real", "out", data=("s3://b/a=b=0.5", "plain", "real=2"))
    assert options.list_datasets() == [("real", 2.0), ("s3://b/a=b", 0.5), ("plain", 1.0)]
    assert resolve_paths(options).list_datasets() == [
        (f"{tmp_path}/real", 2.0), ("s3://b/a=b", 0.5), (f"{tmp_path}/plain", 1.0),
    ]  # fmt: skip
    assert resolve_paths(Options("real", "out")).data == ()


def rows(out: Path) -> list[dict[str, float]]:
    with (out / "results.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.usefixtures("ray_local")
def test_training_writes_weights_and_refuses_other_options(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path / "data"), tmp_path / "out"
    (tmp_path / "watch.py").write_text(
        "from pathlib import Path\n"
        "from depers.training.callbacks import TrainingCallback\n"
        "class Watch(TrainingCallback):\n"
        "    def on_start(self, options):\n"
        "        out = Path(options['out'])\n"
        "        print('starts beside', *sorted(path.name for path in out.iterdir()), file=(out / 'names').open('w'))\n"
    )
    watch = f"{tmp_path / 'watch.py'}:Watch"
    options = Options(str(root), str(out), imgsz=128, epochs=2, batch_size=4, device="cpu", callback=watch)
    stream = io.StringIO()
    with progress.shown_on(stream):
        result = run(options)
    names = (out / "names").read_text().split()
    assert "seen.parquet" in names and "weights" not in names  # also an interrupted training says what it has seen
    assert len(pq.read_table(out / "seen.parquet")) == 6 + 3
    assert not result.partial and result.epochs == 2
    assert result.weights == f"{out}/weights/best.pt" and result.weights in result.summary()[0]
    assert "epoch   1" in stream.getvalue() and "epoch   2" in stream.getvalue()
    assert [row["epoch"] for row in rows(out)] == [1, 2]
    for name in ("box", "obj", "cls", "val_box", "val_obj", "val_cls"):
        assert all(np.isfinite(row[name]) and row[name] > 0 for row in rows(out))
    for name in ("best.pt", "last.pt"):
        model = yolo.load(name, (out / "weights" / name).read_bytes())
        assert list(model.names.values()) == list(CLASSES)  # type: ignore[union-attr]
    before = (out / "weights" / "last.pt").read_bytes()
    assert not run(options).partial  # all is there: nothing is trained again
    assert (out / "weights" / "last.pt").read_bytes() == before
    with pytest.raises(UserError, match="holds a run with imgsz 128, but now it is 160"):
        run(Options(str(root), str(out), imgsz=160, epochs=2, batch_size=4, device="cpu"))
    with pytest.raises(UserError, match="--device cuda needs a GPU, but this Ray cluster has none"):
        run(Options(str(root), str(tmp_path / "other"), imgsz=128, epochs=2, batch_size=4, device="cuda"))


@pytest.mark.usefixtures("ray_local")
def test_two_workers_train_from_s3_to_s3(tmp_path: Path, s3_bucket: str) -> None:
    """On folders with an index, and on tars beside them: one worker reads both, the other maps what it read."""
    root, remote = write_dataset(tmp_path / "data"), f"{s3_bucket}/a b"
    write_index(root)
    write_tars(write_dataset(tmp_path / "more", first=6), root, 4)
    content = yaml.safe_load((root / "data.yaml").read_text())
    content |= {"train": "", "train_beside_shards": ["images/train"], "shards": "shards/{000000..000001}.tar"}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    for entry in storage.list_files(str(root)):
        storage.write_bytes(f"{remote}/data/{entry.path}", (root / entry.path).read_bytes())
    options = Options(
        f"{remote}/data",
        f"{remote}/out",
        imgsz=128,
        epochs=1,
        batch_size=4,
        train_workers=2,
        device="cpu",
        cache_folder=str(tmp_path / "cache"),
    )
    assert not run(options).partial
    assert yolo.load("last.pt", storage.read_bytes(f"{remote}/out/weights/last.pt"))
    assert storage.exists(f"{remote}/out/state/last.pt")
    cached = tmp_path / "cache" / "data" / remote[5:] / "data" / "images" / "train" / "1.jpg"
    assert cached.read_bytes() == (root / "images" / "train" / "1.jpg").read_bytes()
    assert len(pq.read_table(io.BytesIO(storage.read_bytes(f"{remote}/out/seen.parquet")))) == 6 + 6 + 3
    assert not list((tmp_path / "cache" / "images").iterdir())  # what the workers shared is unlinked


def truncate(root: Path) -> None:
    path = root / "images" / "train" / "2.jpg"
    path.write_bytes(path.read_bytes()[:2000])


def unlabel(root: Path) -> None:
    for path in (root / "labels").rglob("*.txt"):
        path.unlink()


def misclass(root: Path) -> None:
    (root / "labels" / "train" / "2.txt").write_text("9 0.5 0.5 0.1 0.1\n")


def validate_on_training(root: Path) -> None:
    (root / "data.yaml").write_text(
        yaml.safe_dump({"names": list(CLASSES), "train": "images/val", "val": "images/val"})
    )


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (truncate, {}, r"2\.jpg: must be an image that can be decoded"),
        (unlabel, {}, "train must hold labels, but none of its 6 images has one"),
        (misclass, {}, r"2\.txt, line 1: the class id must be a whole number 0…4, but got '9'"),
        (validate_on_training, {}, "train and val must be different images"),
        (None, {"model": "yolov5s", "weights": "weights/yolov5n.pt"}, "weights of the same architecture"),
        (None, {"precision": "float16"}, "float16 is for GPUs"),
    ],
)
def test_bad_input_ends_before_the_first_epoch(tmp_path: Path, data: Path, damage, options, message: str) -> None:  # type: ignore[no-untyped-def]
    root = write_dataset(tmp_path / "data")
    if damage:
        damage(root)
    if "weights" in options:
        options = options | {"weights": str(data / options["weights"])}
    values = Options(str(root), str(tmp_path / "out"), **{"imgsz": 128, "epochs": 1, "batch_size": 4} | options)
    with pytest.raises(UserError, match=message):
        train(values, read_splits(str(root)), ProcessGroup())


def test_a_cache_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_dataset(tmp_path / "data")
    monkeypatch.setattr(resources, "available_memory", lambda: 1000)
    options = Options(str(root), str(tmp_path / "out"), imgsz=128, epochs=1, batch_size=4, cache="ram")
    with pytest.raises(UserError, match=r"--cache ram: .* of images do not fit"):
        train(options, read_splits(str(root)), ProcessGroup())


def test_a_notice_is_heeded_where_every_step_ends_an_epoch(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", 2, 1)
    options = Options(str(root), str(tmp_path / "out"), imgsz=64, epochs=3, batch_size=2, device="cpu")
    writer, notices = CheckpointWriter(options.out), NoticeBoard([lambda: Notice.STOP], poll_seconds=0.01)
    with pytest.raises(TrainingStoppedError):
        train(options, read_splits(str(root)), ProcessGroup(), None, writer, notices=notices)
    writer.close()
    notices.close()
    assert len(rows(tmp_path / "out")) == 1 and (tmp_path / "out" / "state" / "progress.json").exists()


def test_patience_ends_with_a_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where --patience is shorter than --validate-every: an epoch that nobody has judged is not a worse one."""
    root, fitnesses = write_dataset(tmp_path / "data", 2, 1), [0.5, 0.4, 0.3]
    values = {"imgsz": 64, "epochs": 6, "batch_size": 2, "device": "cpu", "validate_every": 2, "patience": 1}
    options = Options(str(root), str(tmp_path / "out"), **values)  # type: ignore[arg-type]
    monkeypatch.setattr(validation, "compute_fitness", lambda _: fitnesses.pop(0))
    writer = CheckpointWriter(options.out)
    train(options, read_splits(str(root)), ProcessGroup(), None, writer)
    writer.close()
    assert len(rows(tmp_path / "out")) == 4 and read_progress(options.out).finished_epochs == 6
    assert yolo.load("best.pt", (tmp_path / "out" / "weights" / "best.pt").read_bytes())


def test_a_state_that_nothing_can_go_on_from_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, steps = write_dataset(tmp_path / "data", 10, 1), []
    options = Options(
        str(root), str(tmp_path / "out"), imgsz=64, epochs=1, batch_size=2, nominal_batch=2, device="cpu", save_every=1
    )
    step = loop._step

    def break_weights(state: TrainState) -> None:
        step(state)
        steps.append(1)
        if len(steps) == 3:
            next(state.model.parameters()).data[0, 0, 0, 0] = np.nan

    monkeypatch.setattr(loop, "_step", break_weights)
    writer = CheckpointWriter(options.out)
    with pytest.raises(UserError, match="the loss is no longer a number in epoch 1: lower --learning-rate"):
        train(options, read_splits(str(root)), ProcessGroup(), None, writer)
    writer.close()
    assert read_progress(options.out).batches == 2
    state = read_state(options.out)
    assert state is not None and all(value.isfinite().all() for value in state["model"].values())


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("written", [[Progress(6, 3)], [Progress(4), Progress(6, 3)]])
def test_what_workers_have_written_says_whether_all_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[Progress]
) -> None:
    """They end with the last epoch, or for more of them: either way the board may die before it is asked."""
    out = str(tmp_path / "out")

    def finish(options: Options, datasets: object, workers: object, actor: Any) -> None:
        storage.write_bytes(f"{out}/{outputs.PROGRESS}", outputs.format_progress(written.pop(0)))
        actor.ask_to_stop.remote()
        ray.kill(actor, no_restart=False)

    monkeypatch.setattr(ray_train, "_fit_once", finish)
    ray_train.fit(Options("data", out, epochs=3, device="cpu"), [("data", 1.0)], use_gpu=False)
    assert not written and read_progress(out).finished_epochs == 3


@pytest.mark.usefixtures("ray_local")
def test_what_is_wrong_ends_all_workers_at_once(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    truncate(root)
    with pytest.raises(UserError, match=r"2\.jpg: must be an image that can be decoded"):
        run(Options(str(root), str(tmp_path / "out"), imgsz=128, epochs=1, batch_size=4, train_workers=2, device="cpu"))
    assert not (tmp_path / "out" / "results.csv").exists()
