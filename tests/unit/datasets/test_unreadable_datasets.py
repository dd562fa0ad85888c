"""A layout that a verb cannot read costs no waiting: one line that says what to do, before Ray starts."""

from pathlib import Path

import pytest

from depers import api
from depers.commands import evaluate, experiment, extract, label, train
from depers.errors import UserError
from depers.options import build
from depers.runtime import cluster

OPTIONS = {
    "train": (train.Options, {}),
    "evaluate": (evaluate.Options, {}),
    "extract": (extract.Options, {}),
    "experiment": (experiment.Options, {"weights": "yolov5n.pt"}),
    "label": (label.Options, {"weights": ("a.pt",), "classes": ("car",), "confidence": ("0.4",)}),
}
NORMALIZE = "run `depers normalize` first"
LAYOUTS = {
    "CVAT's YOLO 1.1": (
        {"obj.data": "", "train.txt": "data/obj_train_data/a.jpg", "obj_train_data/a.jpg": ""},
        NORMALIZE,
    ),
    "CVAT's Ultralytics": (
        {"data.yaml": "path: .\ntrain: train.txt\nnames: {0: car}", "train.txt": "data/images/train/a.jpg"},
        NORMALIZE,
    ),
    "lists": ({"data.yaml": "train: train.txt\nval: val.txt\nnames: [car]", "train.txt": "./images/a.jpg"}, NORMALIZE),
    "COCO": ({"annotations/instances.json": '{"images": []}', "images/a.jpg": ""}, NORMALIZE),
    "a folder elsewhere": ({"data.yaml": "path: ../sets\ntrain: images\nval: images\nnames: [car]"}, NORMALIZE),
    "labels beside images": (
        {"data.yaml": "train: a\nval: b\nnames: [car]", "a/1.jpg": "", "a/1.txt": "", "b/2.jpg": "", "b/2.txt": ""},
        NORMALIZE,
    ),
    "an image without labels": (
        {
            "data.yaml": "train: images/train\nval: images/val\nnames: [car]",
            **{f"images/{split}/{name}.jpg": "" for split in ("train", "val") for name in "ab"},
            **{f"labels/{split}/a.txt": "" for split in ("train", "val")},
        },
        NORMALIZE,
    ),
    "no images": (
        {
            "data.yaml": "train: images/train\nval: images/val\nnames: [car]",
            **{f"images/{split}/a.txt": "" for split in ("train", "val")},
            **{f"labels/{split}/a.txt": "" for split in ("train", "val")},
        },
        "must hold images",
    ),
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> bool:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(cluster, "start_ray", start)


@pytest.mark.parametrize("verb", OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_cannot_be_read_is_refused_before_ray_starts(verb: str, layout: str, tmp_path: Path) -> None:
    files, message = LAYOUTS[layout]
    write(tmp_path / "set", files)
    kind, values = OPTIONS[verb]
    options = build(kind, {"dataset": str(tmp_path / "set"), "out": str(tmp_path / "out"), **values})
    with pytest.raises(UserError, match=message) as caught:
        api.run_verb(verb, options)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["train", "evaluate", "experiment"])
def test_a_split_that_is_missing_is_told_before_ray_starts(verb: str, tmp_path: Path) -> None:
    write(tmp_path / "set", {"data.yaml": "train: images\nnames: [car]", "images/a.jpg": "", "labels/a.txt": ""})
    kind, values = OPTIONS[verb]
    options = build(kind, {"dataset": str(tmp_path / "set"), "out": str(tmp_path / "out"), **values})
    with pytest.raises(UserError, match="the dataset must name a val split, but does not"):
        api.run_verb(verb, options)
