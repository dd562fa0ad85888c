"""Options that several verbs have, with the same words."""

from collections.abc import Sequence
from typing import Any

from depers.options import option

DETECTION, REDACTION, TRAINING, SYNTHESIS, RUNNING = "detection", "redaction", "training", "synthesis", "running"
SELECTION = "which inputs"
"""Sections of `--help` that several verbs have."""


def classes_option(default: str = "all that the weights give") -> Any:
    """Return the option of the classes to look for."""
    return option((), f"only these classes, or all (default: {default})", group=DETECTION, metavar="CLASS", commas=True)


def weights_option(purpose: str = "repeat to combine detectors") -> Any:
    """Return the option of the detectors; `purpose` says what they are for."""
    text = "YOLOv5 checkpoint, PATH_OR_URI[:model_class=class,…], or default, the one that is part of depers"
    return option((), f"{text}; {purpose}", group=DETECTION, metavar="W")


def confidence_option(default: float | None, help: str) -> Any:
    """Return the option of the least confidence of a box."""
    return option(default, f"{help}, 0…1", above=0, below=1, group=DETECTION)


def imgsz_option(default: int = 640, note: str = "", group: str = DETECTION) -> Any:
    """Return the option of the size at which a detector sees images."""
    text = "longer side of the images as the detector sees them, in pixels, a multiple of 32"
    return option(default, text + note, multiple_of=32, ceiling=16_384, group=group)


def tile_option() -> Any:
    """Return the option of the tiles in which a detector looks at large images."""
    text = "images larger than this many pixels are looked at whole and in overlapping tiles of this size"
    return option(None, text, low=64, ceiling=1_000_000, group=DETECTION)


def within_option() -> Any:
    """Return the option of what lies where it belongs."""
    text = (
        "a box of CLASS whose center lies in no box of CONTEXT has a tenth of its confidence (default: none; with the"
        " detector of depers carplate=car)"
    )
    return option((), text, group=DETECTION, metavar="CLASS=CONTEXT")


def max_detections_option(default: int, note: str = "") -> Any:
    """Return the option of how many boxes an image may have; `note` says what becomes of one that has more."""
    return option(default, f"most boxes of one image{note}", low=1, ceiling=30_000, group=DETECTION)


def batch_size_option(default: int = 8, help: str = "images per inference", group: str = RUNNING) -> Any:
    """Return the option of how many images are computed together."""
    return option(default, help, low=1, ceiling=4096, group=group)


def device_option() -> Any:
    """Return the option of what to compute on."""
    text = "what to compute on; auto: GPUs if the cluster has enough of them"
    return option("auto", text, choices=("auto", "cpu", "cuda"), group=RUNNING)


def precision_option(choices: Sequence[str], note: str = "") -> Any:
    """Return the option of the arithmetic."""
    text = "arithmetic; auto: bfloat16 where it is native, faster"
    return option("auto", text + note, choices=choices, group=RUNNING)


def max_megapixels_option(default: float) -> Any:
    """Return the option of the largest image."""
    return option(default, "images that declare more pixels fail", above=0, ceiling=1_000_000, group=RUNNING)


def file_seconds_option(default: float) -> Any:
    """Return the option of how long a file may take."""
    return option(
        default, "seconds of a processor that one step of one file may take, else it fails", above=0, group=RUNNING
    )


def follow_links_option() -> Any:
    """Return the option of links that lead out of the input."""
    text = "also read what links lead to outside the folder; without it they are skipped"
    return option(False, text, group=RUNNING)


def workers_option(default: int | None = None, help: str = "processes (default: one per core of the cluster)") -> Any:
    """Return the option of how much works at the same time."""
    return option(default, help, low=1, ceiling=100_000, group=RUNNING)


def seed_option(help: str, group: str | None = None) -> Any:
    """Return the option of a seed."""
    return option(0, help, low=0, group=group)
