"""Group the boxes of an image that travel together as one sprite: pure geometry on its labels.

A sprite is an outer box with all that lies in it. Boxes nest by class: a head belongs to its human, a plate to its car,
while a human who stands before a car is a sprite of their own.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.boxes import Boxes, area, covered_share, shares_inside
from depers.errors import UserError

NESTING = ("human=head,face", "head=face", "car=carplate")
"""Which classes belong to a sprite of another, as `--nest` gives them."""
INSIDE = 0.8
"""The share of a box that must lie in another for it to count as being inside."""

_EDGE = 0.002  # of the image's side, at least 2 px: a box that near to the frame is taken as cut by it
_MULTIPLE = 8
_MARGIN = (4, 32)  # px, the least and the most context around a sprite

Nesting = Mapping[int, frozenset[int]]


class NestedSprite(NamedTuple):
    """One sprite: the index of its outer box, of all boxes in it, outer first, and its frame in the image.

    `frame` x0, y0, x1, y1 in whole pixels: the outer box with its margin. `hidden`: the share of the outer box that
    other outer boxes cover. `truncated`: the image's edge cuts it.
    """

    outer: int
    members: tuple[int, ...]
    frame: tuple[int, int, int, int]
    truncated: bool
    hidden: float


def parse_nesting(texts: Sequence[str], names: Sequence[str]) -> dict[int, frozenset[int]]:
    """Return OUTER=INNER,… as class ids: which may lie in a sprite of which, also over several steps.

    The classes of `NESTING` need not be among `names`. Raise UserError for anything else that is not a class, for
    malformed text, and for a class inside itself.
    """
    inner: dict[int, set[int]] = {}
    ids = {name: index for index, name in enumerate(names)}
    for text in texts:
        outer, equals, inner_names = text.partition("=")
        parts = [part.strip() for part in (outer, *inner_names.split(","))]
        if not equals or not all(parts):
            raise UserError(f"--nest must be OUTER=INNER,…, but got {text!r}")
        unknown = [part for part in parts if part not in ids]
        if unknown and text not in NESTING:
            raise UserError(f"--nest {text}: must name classes of the dataset ({', '.join(names)}), not {unknown[0]!r}")
        if parts[0] in ids:
            inner.setdefault(ids[parts[0]], set()).update(ids[part] for part in parts[1:] if part in ids)
    for _ in range(len(inner)):
        for members in inner.values():
            members.update(*(inner.get(member, set()) for member in list(members)))
    for outer_id, members in inner.items():
        if outer_id in members:
            raise UserError(f"--nest must not put a class inside itself, but does {names[outer_id]!r}")
    return {outer_id: frozenset(members) for outer_id, members in inner.items()}


def find_holders(class_ids: NDArray[np.int64], boxes_xyxy: Boxes, nesting: Nesting) -> list[int | None]:
    """Return for each box (N, 4) the index of the box it belongs to, the smallest that holds its class, or None.

    So a face goes to its head rather than to the human around it, and a head to the nearest of two humans.
    """
    shares, areas = shares_inside(boxes_xyxy, boxes_xyxy), area(boxes_xyxy)
    holder_of: list[int | None] = []
    for index, class_id in enumerate(class_ids.tolist()):
        holders = [
            holder
            for holder in np.flatnonzero((shares[index] >= INSIDE) & (areas >= areas[index])).tolist()
            if class_id in nesting.get(int(class_ids[holder]), ())
        ]
        holder_of.append(min(holders, key=lambda holder: (float(areas[holder]), holder), default=None))
    return holder_of


def group_boxes(
    class_ids: NDArray[np.int64], boxes_xyxy: Boxes, size_wh: tuple[int, int], nesting: Nesting, margin: float
) -> list[NestedSprite]:
    """Return the sprites of an image: one for every box that belongs to no other, in the order of the boxes.

    A sprite's labels are all boxes that lie in its outer one, also those of other sprites: where they are pasted with
    it, they can be seen. `margin` is the context kept on each side, a share of the box's longer side.
    """
    holders = find_holders(class_ids, boxes_xyxy, nesting)
    roots = np.array([_root(holders, index) for index in range(len(holders))], np.int64)
    outer = [index for index, holder in enumerate(holders) if holder is None]
    shares = shares_inside(boxes_xyxy, boxes_xyxy)
    sprites = []
    for index in outer:
        box = boxes_xyxy[index]
        nested = [member for member in np.flatnonzero(roots == index).tolist() if member != index]
        inside = set(np.flatnonzero(shares[:, index] >= INSIDE).tolist()) - {index, *nested}
        rivals = boxes_xyxy[[rival for rival in outer if rival != index]]
        sprites.append(
            NestedSprite(
                outer=index,
                members=(index, *nested, *sorted(inside)),
                frame=_frame(box, size_wh, margin),
                truncated=_is_cut(box, size_wh),
                hidden=covered_share(box.tolist(), rivals),
            )
        )
    return sprites


def _root(holders: Sequence[int | None], index: int) -> int:
    while (holder := holders[index]) is not None:
        index = holder
    return index


def _frame(box: NDArray[np.float32], size_wh: tuple[int, int], margin: float) -> tuple[int, int, int, int]:
    """Return the box with its context in whole pixels, inside the image.

    Where there is room its sides are multiples of 8: as a JPEG it can be reduced by that without a rest.
    """
    longer = float((box[2:] - box[:2]).max())
    context = min(max(longer * margin, _MARGIN[0]), _MARGIN[1]) if margin else 0
    low = np.floor(box[:2] - context).clip(0, size_wh).astype(int)
    high = np.ceil(box[2:] + context).clip(0, size_wh).astype(int)
    if margin:
        high = np.minimum(high + (low - high) % _MULTIPLE, size_wh)
        low = np.maximum(low - (low - high) % _MULTIPLE, 0)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _is_cut(box: NDArray[np.float32], size_wh: tuple[int, int]) -> bool:
    border = np.maximum(np.array(size_wh) * _EDGE, 2)
    return bool((box[:2] <= border).any() or (box[2:] >= size_wh - border).any())
