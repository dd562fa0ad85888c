"""Make the default detector of a training's weights: half precision, with its version and its model card inside.

    python bench/ship_detector.py run/weights/best.pt docs/detector.md depers/detection/shipped/depers-n-v2.pt

`docs/detector.md` has the training and the thresholds that belong to it.
"""

import argparse
from pathlib import Path

from depers.detection import yolo


def main() -> None:
    """Write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", type=Path)
    parser.add_argument("card", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    model = yolo.load(str(arguments.weights), arguments.weights.read_bytes())
    notes = {"version": arguments.out.stem, "license": "AGPL-3.0-only", "card": arguments.card.read_text()}
    yolo.save(model, arguments.out, notes=notes)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, classes {', '.join(model.names.values())}")


if __name__ == "__main__":
    main()
