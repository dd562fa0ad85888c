"""Twenty real photographs before and after, in every mode, as one page to look at.

    python bench/modes.py OUT.html [--weights WEIGHTS[:MAP]] [--sheets FOLDER]

Photographs are those of DEPERS_DATA (default ../shared/data). Boxes are those of the labels beside them (faces, heads,
plates), and of a detector where nobody has labelled all that matters: people and cars in streets. `--sheets` writes
each photograph as a PNG, too.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import depers
from depers.imaging.decoding import decode_frames
from depers.imaging.headers import read_header
from depers.redaction.colors import MODES
from depers.reports import drawing, page

COUNTS = {"samples": 5, "coco_val": 6, "faces_wider": 3, "heads_scut": 2, "faces_mask": 2, "plates_cars": 2}
LOOKED_FOR = ("samples", "coco_val")
CELL_WH = (480, 360)


def choose_photos(data: Path) -> Iterator[tuple[str, Path]]:
    """Yield the set and the path of photographs, spread evenly over each set."""
    for name, count in COUNTS.items():
        paths = sorted(path for path in (data / name).rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
        for index in range(min(count, len(paths))):
            yield name, paths[index * len(paths) // count]


def read_boxes(photo: Path, size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Return the labelled boxes of a photograph, (N, 4) xyxy in pixels."""
    rows = np.loadtxt(photo.parent.parent / "labels" / f"{photo.stem}.txt", ndmin=2).reshape(-1, 5)
    centers, sides = rows[:, 1:3], rows[:, 3:5]
    return np.concatenate([centers - sides / 2, centers + sides / 2], axis=1) * (size_wh * 2)


def main() -> None:
    """Redact the photographs in every mode and write the page."""
    root = Path(os.environ.get("DEPERS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default=f"{root}/weights/yolov5n.pt:person=human,car=car,bus=car,truck=car")
    parser.add_argument("--sheets", type=Path)
    arguments = parser.parse_args()
    detector = depers.Detector(arguments.weights)
    sections = []
    for name, path in choose_photos(root):
        data = path.read_bytes()
        if name in LOOKED_FOR:
            found = detector.detect(data)
            boxes = np.array([detection[2:6] for detection in found], np.float64).reshape(-1, 4)
        else:
            boxes = read_boxes(path, read_header(data).upright_wh)
        [before] = decode_frames(data)
        boxes = boxes.clip(0, (before.shape[1], before.shape[0]) * 2)
        after = [next(decode_frames(depers.redact(data, boxes, mode=mode))) for mode in MODES]
        outlined = drawing.draw_boxes(before, boxes, [""] * len(boxes), [drawing.color("head")] * len(boxes))
        images, captions = [outlined, *after], ["before", *MODES]
        figures = [page.image(image, text) for image, text in zip(images, captions, strict=True)]
        sections.append((f"{name}/{path.name}: {len(boxes)} boxes", page.gallery(figures)))
        if arguments.sheets:
            arguments.sheets.mkdir(parents=True, exist_ok=True)
            sheet = drawing.contact_sheet(images, captions, columns=3, cell_wh=CELL_WH)
            Image.fromarray(sheet).save(arguments.sheets / f"{name}-{path.stem}.png")
    lead = "Photographs with their boxes, and what each mode of redaction makes of them."
    arguments.out.write_text(page.render("Modes of redaction", lead, sections), encoding="utf-8")
    print(f"{len(sections)} photographs: {arguments.out}")


if __name__ == "__main__":
    main()
