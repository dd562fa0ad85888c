"""`depers demo`: the whole mission on drawn street scenes, from raw labels to anonymized images and a report.

Draws scenes in the competition's raw layout, normalizes them, cuts them into backgrounds and sprites, makes synthetic
scenes of those, trains YOLOv5n from scratch on both, evaluates it on scenes that it has not seen, anonymizes those with
it and with the detector that is part of depers, and shows all of it in OUT/report.html. Every step but the first is a
verb's own `run`.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import yaml
from markupsafe import Markup
from numpy.typing import NDArray

from depers import storage
from depers.anonymization import manifest
from depers.commands import anonymize, evaluate, extract, normalize, synthesize, train
from depers.datasets import sprite_bank
from depers.errors import UserError
from depers.imaging.decoding import decode
from depers.options import CheckedOptions, argument, option
from depers.options.shared import TRAINING, imgsz_option
from depers.reports import drawing, page
from depers.runtime import lease, progress, units
from depers.runtime.results import VerbResult
from depers.runtime.tasks import run_tasks
from depers.statuses import FileStatus
from depers.storage import tables
from depers.street_scenes import scenes as streets
from depers.training import options as training_options

# Few, plain images and a few minutes: larger gains for objectness and class than a long training needs, less
# augmentation, since drawn scenes differ by themselves.
HYPERPARAMETERS = {
    "momentum": 0.9, "weight_decay": 0.0005, "box": 0.05, "cls": 4.0, "cls_pw": 1.0, "obj": 2.0, "obj_pw": 1.0,
    "anchor_t": 4.0, "fl_gamma": 0.0, "hsv_h": 0.015, "hsv_s": 0.3, "hsv_v": 0.2, "translate": 0.1, "scale": 0.25,
    "fliplr": 0.5,
}  # fmt: skip
_SEED_KNOWN, _SEED_UNSEEN = 1, 3
_CHUNK = 20  # scenes per drawing task
_SHOWN = 12
_CAPTIONS = ("after", "after, by the default detector")
_DEFAULT = "anonymized-by-default"  # trained on photographs, not on drawn scenes


@dataclass(frozen=True)
class Options(CheckedOptions):
    """The whole mission on drawn street scenes: train a detector, measure it, anonymize with it, report."""

    out: str = argument("folder for everything that the demo makes")
    scenes: int = option(360, "scenes to draw for training and validation", low=10)
    synthetic: int = option(120, "scenes to make of those for training, or 0", low=0)
    unseen: int = option(60, "scenes to draw for evaluation and anonymization", low=1)
    imgsz: int = imgsz_option(320, "; a fifth more after training", group=TRAINING)
    epochs: int = option(16, "how often training sees every scene", low=1, group=TRAINING)

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        if storage.is_remote(self.out):
            raise UserError(f"OUT must be a local folder for the demo, but got {self.out}")
        self.training()

    @property
    def finding_imgsz(self) -> int:
        """The longer side where the detector is used: things look larger to it in training, where images are zoomed.

        See Touvron et al. 2019, "Fixing the train-test resolution discrepancy".
        """
        return math.ceil(self.imgsz * 1.2 / training_options.STRIDE) * training_options.STRIDE

    def training(self) -> training_options.Options:
        """Return the options of the training step."""
        out = Path(self.out)
        return training_options.Options(
            dataset=str(out / ("synthetic" if self.synthetic else "dataset")),
            out=str(out / "training"),
            imgsz=self.imgsz,
            epochs=self.epochs,
            share=self.synthetic / (self.synthetic + self.scenes) if self.synthetic else None,
            batch_size=8,
            nominal_batch=8,
            optimizer="AdamW",
            learning_rate=0.004,
            warmup_epochs=1.0,
            hyperparameters=str(out / "hyperparameters.yaml"),
        )


@dataclass(frozen=True, kw_only=True)
class DemoResult(VerbResult):
    """What the demo made: its report, the results of the verbs in their order, and how long each step took."""

    report: str
    results: Sequence[VerbResult]
    seconds: Mapping[str, float]

    @property
    def partial(self) -> bool:
        """Whether a step could not process an image."""
        return any(result.partial for result in self.results)

    def summary(self) -> list[str]:
        """Return how long it took, and last the path of the report."""
        return ["", f"all of it took {sum(self.seconds.values()):.0f} s; the report:", self.report]


def run(options: Options) -> DemoResult:
    """Go through all steps. Raises UserError for a wrong OUT."""
    out = storage.absolute(options.out)
    with lease.hold(units.locate_inside(out), out):
        return _run(Path(options.out), options)


def _run(out: Path, options: Options) -> DemoResult:
    (out / "hyperparameters.yaml").write_text(yaml.safe_dump(HYPERPARAMETERS), encoding="utf-8")
    steps = _steps(out, options)
    results: list[VerbResult] = []
    seconds = {}
    for number, (title, step) in enumerate(steps.items(), 1):
        heading = f"[{number}/{len(steps)}] {title}"
        progress.report(f"\n{heading}")
        start = time.perf_counter()
        for result in step():
            progress.report_lines([*result.failures.lines(), *result.summary()])
            results.append(result)
        seconds[title] = time.perf_counter() - start
        progress.report(f"{heading}: {seconds[title]:.0f} s")
    (out / "report.html").write_text(make_report(out, seconds), encoding="utf-8")
    return DemoResult(report=str(out / "report.html"), results=tuple(results), seconds=seconds)


def _steps(out: Path, options: Options) -> dict[str, Callable[[], Iterable[VerbResult]]]:
    """Return the steps by title: functions that yield the results of the verbs that they run."""
    weights = (str(out / "training" / "weights" / "best.pt"),)
    normalizations = (
        normalize.Options(str(out / "scenes"), str(out / "dataset"), val_fraction=1 / 9),
        normalize.Options(str(out / "unseen"), str(out / "unseen-dataset"), val_fraction=0.0),
    )
    extraction = extract.Options(str(out / "dataset"), str(out / "extracted"))
    synthesis: dict[str, Callable[[], Iterable[VerbResult]]] = {
        "extract backgrounds and sprites": lambda: [extract.run(extraction)],
        "synthesize scenes": lambda: [
            synthesize.run(synthesize.Options(str(out / "extracted"), str(out / "synthetic"), count=options.synthetic))
        ],
    }
    evaluation = evaluate.Options(
        str(out / "unseen-dataset"),
        str(out / "evaluation"),
        weights,
        split="train",
        imgsz=options.finding_imgsz,
    )
    anonymization = anonymize.Options(
        input=str(out / "unseen" / "images"), out=str(out / "anonymized"), weights=weights, imgsz=options.finding_imgsz
    )
    default_anonymization = anonymize.Options(
        input=str(out / "unseen" / "images"), out=str(out / _DEFAULT), classes=("all",)
    )
    return {
        "draw street scenes": lambda: _draw(out, options),
        "normalize the labels": lambda: map(normalize.run, normalizations),
        **(synthesis if options.synthetic else {}),
        "train YOLOv5n from scratch": lambda: [train.run(options.training())],
        "evaluate on unseen scenes": lambda: [evaluate.run(evaluation)],
        "anonymize the unseen scenes": lambda: [anonymize.run(anonymization)],
        "anonymize them with the default detector": lambda: [anonymize.run(default_anonymization)],
    }


def _draw(out: Path, options: Options) -> Sequence[VerbResult]:
    """Draw scenes on all CPUs of the cluster; there is no verb for that, and no result."""
    calls = []
    for folder, count, seed in (("scenes", options.scenes, _SEED_KNOWN), ("unseen", options.unseen, _SEED_UNSEEN)):
        target = (out / folder).resolve()
        calls += [(target, min(_CHUNK, count - first), seed, first) for first in range(0, count, _CHUNK)]
    for _ in run_tasks(streets.write_raw, calls):
        pass
    progress.report(f"{options.scenes} scenes for training and validation, {options.unseen} that it will not see")
    return ()


def make_report(out: Path, seconds: Mapping[str, float]) -> str:
    """Return the demo's page: before and after, evaluation, counts and times; write OUT/before-after.jpg, too."""
    rows = tables.read_table(str(out / "anonymized-records" / manifest.MANIFEST)).to_pylist()
    examples = sorted((row for row in rows if row["status"] == FileStatus.REDACTED), key=_interest, reverse=True)[
        :_SHOWN
    ]
    images = []
    for row in examples:
        original = decode((out / "unseen" / "images" / row["path"]).read_bytes()).rgb()
        results = [out / folder / row["path"] for folder in ("anonymized", _DEFAULT)]
        shown = [decode(path.read_bytes()).rgb() for path in results if path.exists()]  # absent where it failed
        images.append((row["path"], original, *shown))
    if images:
        sides = [side for _, original, redacted, *_ in images[:2] for side in (original, redacted)]
        sheet = drawing.contact_sheet(sides, ["before", "after"] * (len(sides) // 2), columns=2, cell_wh=(640, 400))
        _write_jpeg(out / "before-after.jpg", sheet)
    figures = json.loads((out / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    statuses = Counter(row["status"] for row in rows)
    boxes = Counter(box["class"] for row in rows for box in row["boxes"])
    counts: list[list[object]] = [["images", len(rows)]]
    counts += [[f"images {status}", statuses[status]] for status in manifest.STATUSES]
    counts += [[f"{name} made unrecognizable", count] for name, count in boxes.most_common()]
    names = ("labels", "precision", "recall", "map50", "map50_95")
    lines = [
        [name, *(row[key] for key in names)] for name, row in ({"all": figures["all"]} | figures["classes"]).items()
    ]
    table = page.table(["class", "labels", "precision", "recall", "mAP@.5", "mAP@.5:.95"], lines)
    times = page.table(["step", "seconds"], [[title, round(time, 1)] for title, time in seconds.items()])
    pairs = Markup().join(
        page.gallery(
            [page.image(image, text) for image, text in zip(shown, (f"{name}, before", *_CAPTIONS), strict=False)]
        )
        for name, *shown in images
    )
    lead = (
        "Drawn street scenes, more scenes made of those, a YOLOv5n detector trained on both from scratch on this"
        " machine, and scenes that it has never seen, anonymized with it, and with the detector that is part of depers,"
        " which has seen photographs alone."
    )
    sections = [("Before and after", pairs), ("Evaluation on unseen scenes", table)]
    if (out / "synthetic" / "data.yaml").exists():
        sections.append(("Scenes made of scenes", _synthetic_scenes(out)))
    sections += [("Counts", page.table(["what", "how many"], counts)), ("Time", times)]
    return page.render("depers: the demo", lead, sections)


def _synthetic_scenes(out: Path) -> Markup:
    """Return sheets of backgrounds and of synthetic images."""
    backgrounds = sprite_bank.read_backgrounds(sprite_bank.open_bank(str(out / "extracted")))
    paths = [out / "extracted" / path for path in backgrounds["path"].drop_null().to_pylist()[:_SHOWN]]
    images = sorted((out / "synthetic" / "images").rglob("*.jpg"))
    examples = images[:: max(1, len(images) // _SHOWN)][:_SHOWN]
    sheets = [
        drawing.contact_sheet([decode(path.read_bytes()).rgb() for path in group], columns=4, cell_wh=(320, 220))
        for group in (paths, examples)
        if group
    ]
    captions = "backgrounds", "synthetic scenes: objects exchanged for others of their kind"
    return Markup().join(page.image(sheet, text, 1400) for sheet, text in zip(sheets, captions, strict=False))


def _interest(row: dict[str, Any]) -> tuple[int, int]:
    """Return a key by which images with many kinds of things come first, then those with many things."""
    names = [box["class"] for box in row["boxes"] if box["confidence"] > 0.4]
    return len(set(names)), min(names.count("face"), 6) + min(names.count("carplate"), 4) + min(len(names), 12) // 4


def _write_jpeg(path: Path, rgb: NDArray[np.uint8]) -> None:
    path.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=88, colorspace="RGB"))
