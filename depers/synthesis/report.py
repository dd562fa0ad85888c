"""The report of a synthesis: a sheet of images, and how they compare with the real ones."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depers.datasets import sprite_bank
from depers.reports import page
from depers.synthesis import statistics


def make_report(
    options: Any,
    bank: sprite_bank.SpriteBank,
    real: statistics.DatasetStatistics,
    synthetic: statistics.DatasetStatistics,
    images: NDArray[np.uint8],
) -> str:
    """Return the HTML page: a sheet of images with their labels, and how they compare with the real ones."""
    values = [(name.replace("_", "-"), _format(value)) for name, value in asdict(options).items()]
    lead = (
        f"{synthetic.images} images made of {bank.counts.get('backgrounds', 0)} backgrounds and"
        f" {bank.counts.get('sprites', 0)} sprites, with {int(synthetic.classes.sum())} labels."
    )
    counts = [
        ("objects pasted", synthetic.objects), ("objects that found no place", synthetic.requested - synthetic.objects),
        ("unlabelled distractors", synthetic.distractors), ("labels", int(synthetic.classes.sum())),
    ]  # fmt: skip
    note = page.paragraph("Real: all labels of the training images, also of what was too small to be cut out.")
    return page.render(
        "Synthetic images",
        lead,
        [
            ("A sample, with the labels", page.image(images, max_side=2000)),
            ("Real against synthetic", note + statistics.compare(bank.class_names, real, synthetic)),
            ("Counts", page.table(("what", "how many"), counts)),
            ("Options", page.table(("option", "value"), values)),
        ],
    )


def _format(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
