"""Report."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depers.datasets import sprite_bank
from depers.reports import page
from depers.synthesis import statistics


def make_report(
    options: Any,
    extracted: sprite_bank.SpriteBank,
    real: statistics.DatasetStatistics,
    made: statistics.DatasetStatistics,
    images: NDArray[np.uint8],
) -> str:
    """The HTML page: a sheet of images with their labels, and how they compare with the real ones."""
    asked = [(name.replace("_", "-"), _shown(value)) for name, value in asdict(options).items()]
    lead = (
        f"{made.images} images made of {extracted.counts.get('backgrounds', 0)} backgrounds and"
        f" {extracted.counts.get('sprites', 0)} sprites, with {int(made.classes.sum())} labels."
    )
    counts = [
        ("objects pasted", made.objects), ("objects that found no place", made.wanted - made.objects),
        ("unlabelled distractors", made.distractors), ("labels", int(made.classes.sum())),
    ]  # fmt: skip
    note = page.paragraph("Real: all labels of the training images, also of what was too small to be cut out.")
    return page.render(
        "Synthetic images",
        lead,
        [
            ("A sample, with the labels", page.image(images, max_side=2000)),
            ("Real against synthetic", note + statistics.compare(extracted.class_names, real, made)),
            ("Counts", page.table(("what", "how many"), counts)),
            ("Options", page.table(("option", "value"), asked)),
        ],
    )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
