"""What a dataset's labels mean to a training: the class ids of the one that names them, and what each image is labelled
for. Image by image where labels are read, and for all rows of an index at once; both give the same.
"""

import os
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers.datasets import ignore_regions
from depers.datasets.data_yaml import Dataset, labelled_classes
from depers.datasets.labels import Labels, sort_labels
from depers.errors import UserError
from depers.training.images.examples import SCHEMA, Example, LabelKinds


class Labelling(NamedTuple):
    """How one dataset's labels are taken: `names` are the training's classes, `exact` where images are to measure.

    An image that is labelled for some classes may have single labels of others, as synthetic ones do, which can be
    trained on, but not measured with.
    """

    dataset: Dataset
    names: tuple[str, ...]
    exact: bool

    @property
    def class_ids(self) -> NDArray[np.int64]:
        """The training's ids of the dataset's classes, int64 (C,)."""
        return np.array([self.names.index(name) for name in self.dataset.names], np.int64)

    def make_example(self, path: str, source: str, entries: Labels, ignored: Labels, image: Example) -> Example:
        """Return `image` with its labels; `path` is that in its split's folder, `source` what its labels are called.

        Raise UserError for a label that the image is not labelled for, where that must not be.
        """
        ids = self.class_ids
        labelled = frozenset(ids[sorted(labelled_classes(self.dataset, path))].tolist())
        for class_id in ids[entries.class_ids].tolist():
            if self.exact and class_id not in labelled:
                label_names = ", ".join(self.names[i] for i in sorted(labelled))
                raise UserError(
                    f"{source}: data.yaml says that it holds only {label_names}, but it holds {self.names[class_id]}"
                )
        ignored = ignored._replace(class_ids=ids[ignored.class_ids])
        if not self.exact:  # for measuring, a region is one however large: what is found and labelled in it is right
            ignored, labelled = ignore_regions.split_off_unlabelled(ignored, labelled)
        rows = sort_labels(entries._replace(class_ids=ids[entries.class_ids]))
        return image._replace(
            class_ids=rows.class_ids,
            boxes_xywh=rows.boxes_xywh,
            labelled=labelled,
            ignored_ids=ignored.class_ids,
            ignored_xywh=ignored.boxes_xywh,
        )

    def make_rows(
        self, rows: pa.Table, files: pa.Array, members: pa.Array, kinds: LabelKinds
    ) -> tuple[pa.Table, NDArray[np.bool_]]:
        """Return rows of an index as rows of `examples.SCHEMA`, and which of them are to be refused, bool (N,).

        `files` and `members` are the paths of the images' files, and their names in these.
        """
        ids, class_count = self.class_ids, len(self.dataset.names)
        numbers = self._number_kinds(rows["path"], kinds)
        labels, regions = (
            _ImageBoxes.of(rows, *names) for names in (("class_ids", "boxes"), ("ignored_ids", "ignored_boxes"))
        )
        is_refused = np.zeros(len(rows), np.bool_)
        for boxes in (labels, regions):
            is_refused[boxes.rows[boxes.ids >= class_count]] = True
        labels, regions = (
            boxes._replace(ids=ids[np.minimum(boxes.ids, class_count - 1)]) for boxes in (labels, regions)
        )
        if self.exact:
            is_labelled = kinds.tabulate(len(self.names))
            is_refused[labels.rows[~is_labelled[numbers[labels.rows], labels.ids]]] = True
        else:
            regions, numbers = _split_off_unlabelled(regions, numbers, kinds, len(self.names))
        if (np.diff(ids) < 0).any():
            labels = labels.take(np.lexsort((*labels.boxes_xywh.T[::-1], labels.ids, labels.rows)))
        columns = {"file": files, "member": members, "kind": pa.array(numbers)}
        columns |= {name: rows[name] for name in ("offset", "width", "height")}
        columns["bytes"] = pc.if_else(pc.equal(members, b""), -1, rows["bytes"].combine_chunks())
        columns |= dict(zip(("class_ids", "boxes"), labels.to_lists(len(rows)), strict=True))
        columns |= dict(zip(("ignored_ids", "ignored_boxes"), regions.to_lists(len(rows)), strict=True))
        table = pa.Table.from_arrays([columns[name] for name in SCHEMA.names], names=SCHEMA.names)
        return table.cast(SCHEMA), is_refused

    def _number_kinds(self, paths: pa.ChunkedArray, kinds: LabelKinds) -> NDArray[np.int32]:
        """Return for each path the number of the classes that it is labelled for, int32 (N,), as `labelled_classes`."""
        ids = self.class_ids
        numbers = np.full(len(paths), kinds.number(frozenset(ids.tolist())), np.int32)
        for prefix, class_ids in reversed(self.dataset.labelled):  # the longest last: it counts
            has_prefix = pc.starts_with(paths.cast(pa.large_binary()), pattern=os.fsencode(prefix)).to_numpy()
            numbers[has_prefix] = kinds.number(frozenset(ids[sorted(class_ids)].tolist()))
        return numbers


class _ImageBoxes(NamedTuple):
    """Boxes of many images: the row of each one's image, ascending, `ids` int64 (M,), `boxes_xywh` float32 (M, 4)."""

    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float32]

    @classmethod
    def of(cls, table: pa.Table, ids: str, boxes: str) -> "_ImageBoxes":
        counts = pc.list_value_length(table[ids]).to_numpy()
        flat_ids, flat_boxes = (pc.list_flatten(table[name]).to_numpy() for name in (ids, boxes))
        return cls(np.repeat(np.arange(len(table)), counts), flat_ids.astype(np.int64), flat_boxes.reshape(-1, 4))

    def take(self, places: NDArray[np.generic]) -> "_ImageBoxes":
        return _ImageBoxes(*(column[places] for column in self))

    def to_lists(self, count: int) -> tuple[pa.Array, pa.Array]:
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.rows, minlength=count))]).astype(np.int64)
        ids, boxes = pa.array(self.ids.astype(np.int32)), pa.array(np.ascontiguousarray(self.boxes_xywh).ravel())
        return tuple(
            pa.LargeListArray.from_arrays(pa.array(starts * factor), values)
            for values, factor in ((ids, 1), (boxes, 4))
        )


def _split_off_unlabelled(
    regions: _ImageBoxes, numbers: NDArray[np.int32], kinds: LabelKinds, class_count: int
) -> tuple[_ImageBoxes, NDArray[np.int32]]:
    """Return the regions that are a part of their image, and the numbers of what images are labelled for then.

    As `ignore_regions.split_off_unlabelled` does it for one image.
    """
    is_whole = ignore_regions.find_whole(regions.boxes_xywh.astype(np.float64))
    if not is_whole.any():
        return regions, numbers
    images, places = np.unique(regions.rows[is_whole], return_inverse=True)
    is_missing = np.zeros((len(images), class_count), np.bool_)
    is_missing[places, regions.ids[is_whole]] = True
    keys = np.column_stack(
        [np.packbits(is_missing, axis=1), numbers[images].astype("<i4").view(np.uint8).reshape(-1, 4)]
    )
    _, firsts, kind_of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    base_kinds = list(kinds)
    new_numbers = [
        kinds.number(base_kinds[numbers[images[first]]].difference(np.flatnonzero(is_missing[first]).tolist()))
        for first in firsts.tolist()
    ]
    numbers = numbers.copy()
    numbers[images] = np.array(new_numbers, np.int32)[kind_of.ravel()]
    return regions.take(~is_whole), numbers
