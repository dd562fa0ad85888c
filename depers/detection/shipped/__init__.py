"""The detector that is part of depers: where its weights and thresholds lie, and what it looks for unless told."""

from pathlib import Path

NAME = "default"
"""What `--weights` calls it."""
WEIGHTS = str(Path(__file__).parent / "depers-n-v2.pt")
"""YOLOv5n, half precision; `docs/detector.md` is its model card. What it finds changes with its version alone."""
THRESHOLDS = str(Path(__file__).parent / "thresholds.json")
"""The least confidence by class, found on images that did not train it."""
WITHIN = ("carplate=car",)
"""The rules of `contexts` that it is used with, and its thresholds were found with, where nothing else is said."""
CLASSES = ("face", "head", "carplate")
"""Of its classes, those that identify: what `depers anonymize` redacts with it where nothing else is said."""
