"""The only reader of ignore regions: where in an image objects of a class may be that have no label of their own.

ROOT/ignore/{train,val}/NAME.txt    as a label file: a line per region, its class id, center x, center y, width, height

Crowds and objects that an annotator called difficult are such regions. What is found in one is neither right nor
false, nothing in it is taught as background. A region that is the whole image says that the image is not labelled for
the class. Most images have none, and no file. YOLOv5 does not know the folder, and reads the dataset without it.
"""

import numpy as np
from numpy.typing import NDArray

from depers import storage
from depers.boxes import Boxes, shares_inside
from depers.datasets.labels import Labels, drop_doubles, label_path, read_labels

FOLDER = "ignore"
_WHOLE = 0.999  # share of a side from which a region is the whole image


class IgnoreFolder:
    """The regions of the images in one folder, the one of a split."""

    def __init__(self, images: str, class_count: int) -> None:
        """Look whether there are any, so that nothing is asked for image by image where there are none."""
        self._class_count = class_count
        self._is_there = storage.is_dir(locate_folder(images))

    def read(self, image: str) -> Labels:
        """Return the regions of an image, by its URI. Raise UserError as `labels.parse_yolo`."""
        return drop_doubles(read_labels(ignore_path(image), self._class_count)) if self._is_there else Labels.of([], [])


def ignore_path(image: str) -> str:
    """Return where the regions of an image are, as `label_path` says where its labels are."""
    return label_path(image, FOLDER)


def locate_folder(images: str, folder: str = FOLDER) -> str:
    """Return the folder of the regions (or with `folder` labels, of the labels) of all images in a folder."""
    return label_path(storage.join(images, "x.jpg"), folder).removesuffix("/x.txt")


def split_off_unlabelled(ignored: Labels, labelled: frozenset[int]) -> tuple[Labels, frozenset[int]]:
    """Return the regions that are a part of the image, and those of the `labelled` classes without one that is all."""
    is_whole = find_whole(ignored.boxes_xywh)
    rest = Labels(ignored.class_ids[~is_whole], ignored.boxes_xywh[~is_whole])
    return rest, labelled.difference(ignored.class_ids[is_whole].tolist())


def find_whole(boxes_xywh: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which regions (N, 4) are the whole image, bool (N,)."""
    return np.asarray((boxes_xywh[:, 2:] >= _WHOLE).all(axis=1))


def shares_ignored(
    boxes_xyxy: Boxes, class_ids: NDArray[np.int64], ignored_xyxy: Boxes, ignored_ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return how much of each box (N, 4) lies in the region of its class that holds most of it, float32 (N,) in 0…1."""
    if not len(boxes_xyxy) or not len(ignored_xyxy):
        return np.zeros(len(boxes_xyxy), np.float32)
    shares = shares_inside(boxes_xyxy, ignored_xyxy)
    return np.asarray(np.where(class_ids[:, None] == ignored_ids[None], shares, np.float32(0)).max(axis=1))
