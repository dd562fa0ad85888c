"""Images that no label file of their set is about: shows such an image nothing, or has nobody looked at it?"""

import itertools
from collections.abc import Collection, Sequence
from posixpath import splitext

from depers.datasets.labels import IMAGE_SUFFIXES
from depers.errors import UserError
from depers.normalization.layouts import LABEL_SUFFIXES, UNREAD_COCO, FileRole, SetImage, parse_label_name
from depers.normalization.matching import find_stem, name_in_dataset, strip_kinds, unify
from depers.normalization.rules import Problem
from depers.normalization.sources import LabelSet
from depers.statuses import ProblemAction

_LEAST = len("0 1 1 1 1")  # bytes of a text that holds a box
_FEW = 0.1  # the largest share of a set's images that may be backgrounds for want of a label file
AUTO, BACKGROUND, SKIP = "auto", "background", "skip"
UNLABELLED = (AUTO, BACKGROUND, SKIP)
"""What an image without labels may be."""
_ADVICE = "say what these images show with --unlabelled background (nothing) or skip (nobody knows)"
_SKIPPING = "leave these images out with --unlabelled skip"
_MARKING = ("yolo", "competition")  # formats in which a missing text can say that an image shows nothing


def judge_unlisted(label_set: LabelSet, unlabelled: str) -> tuple[str, str, ProblemAction]:
    """Return what an image is that none of a set's label files is about: kind of problem, detail, and what is done.

    Most formats have every image that somebody has looked at, also one that shows nothing: any other was not annotated.
    A missing text says in YOLO that an image shows nothing, as does an empty one; where the set has empty ones, a
    missing one says that the image was not annotated. `unlabelled` may say otherwise.
    """
    if label_set.format not in _MARKING:
        kind, detail, is_background = "image that no label file lists", "it was not annotated", False
    else:
        entries = label_set.entries
        sizes = (entries[file.path].size for image in label_set.images for file in image.label_files)
        has_empty = any(0 <= size < _LEAST for size in sizes)
        unread = next((problem.path for problem in label_set.problems if problem.detail == UNREAD_COCO), "")
        is_background = not (has_empty and label_set.format == "yolo") and not unread
        kind = "image without label"
        detail = "" if is_background else "not annotated: images that show nothing have an empty text here"
        detail = f"its labels may be in {unread}, which is not read" if unread else detail
    if unlabelled != AUTO:
        is_background = unlabelled == BACKGROUND
    return kind, detail, ProblemAction.AS_BACKGROUND if is_background else ProblemAction.SKIPPED


def find_foreign_stems(label_set: LabelSet) -> set[str]:
    """Return the names of images that have a label file which is not read: they are not without labels."""
    useless = (path for path, role in label_set.roles.items() if role == FileRole.PROBLEM)
    texts = (
        path
        for path in itertools.chain(useless, label_set.left_out, label_set.unusable)
        if path.lower().endswith(LABEL_SUFFIXES)
    )
    if label_set.format != "competition":
        return {_find_place(path) for path in texts}
    parts = (find_stem(path).split("_") for path in texts)  # NAME_CLASS. or NAME_CLASS, and both may hold more of "_"
    return {"_".join(words[:count]) for words in parts for count in range(1, len(words))}


def _find_place(path: str) -> str:
    """Return where an image or its labels lie, whatever folders say what kind of files they are; `a.jpg.txt` is a's."""
    stem = find_stem(path)
    return strip_kinds(unify(splitext(stem)[0] if stem.lower().endswith(IMAGE_SUFFIXES) else stem))


def find_partly_read(label_set: LabelSet) -> set[str]:
    """Return the names of images of which one of several label files is left out, of a class that others have."""
    paths = [path for path in (*label_set.left_out, *label_set.unusable) if path.lower().endswith(LABEL_SUFFIXES)]
    if label_set.format != "competition" or not paths:
        return set()
    stems = {find_stem(image.path) for image in label_set.images}
    targets = (parse_label_name(name_in_dataset(path), stems, label_set.names or ()) for path in paths)
    return {target[0] for target in targets if target and target[0]}


def judge_images(
    label_set: LabelSet, images: Sequence[tuple[int, SetImage]], listed: Collection[int], unlabelled: str
) -> list[tuple[int, Problem]]:
    """Return the numbers of a set's `images` that are not labelled completely, and what is done about each.

    `listed` are those that label files are about. Raise UserError where many others, or any beside label files without
    an image, would become backgrounds though nobody says that they are.
    """
    kind, detail, action = judge_unlisted(label_set, unlabelled)
    foreign_stems, partly_read = find_foreign_stems(label_set), find_partly_read(label_set)
    fates = []
    for number, image in images:
        path, fate = image.path, (kind, action, detail)
        if number in listed and not (partly_read and find_stem(path) in partly_read):
            continue
        if number in listed or not foreign_stems.isdisjoint((find_stem(path), _find_place(path))):
            fate = "image whose label file is not read", ProblemAction.SKIPPED, "it is of no use, or left out"
        fates.append((number, Problem(path, 0, *fate)))
    backgrounds = [problem.path for _, problem in fates if problem.action == ProblemAction.AS_BACKGROUND]
    if backgrounds:
        _refuse_unannotated(label_set, backgrounds, len(images), unlabelled)
    return fates


def _refuse_unannotated(label_set: LabelSet, backgrounds: Sequence[str], image_count: int, unlabelled: str) -> None:
    """Raise UserError where images without a label file may be without for another reason than showing nothing."""
    known_stems = {stem for image in label_set.images for stem in (find_stem(image.path), _find_place(image.path))}
    strangers = [
        path
        for path, role in label_set.roles.items()
        if role == FileRole.PROBLEM and path.lower().endswith(LABEL_SUFFIXES)
        if known_stems.isdisjoint((find_stem(path), _find_place(path)))
    ]
    label_files = sum(len(image.label_files) for image in label_set.images)
    if strangers and (unlabelled == AUTO or len(strangers) > label_files):
        raise UserError(
            f"{label_set.uri}: label files must be named as their images are, but {len(strangers)} of"
            f" {label_files + len(strangers)} have no image, such as {strangers[0]}, while {len(backgrounds)} images"
            f" have no labels, such as {backgrounds[0]}: rename them, or {_ADVICE if unlabelled == AUTO else _SKIPPING}"
        )
    if unlabelled == AUTO and len(backgrounds) > _FEW * image_count:
        raise UserError(
            f"{label_set.uri}: at most {_FEW:.0%} of the images may be without a label file to be taken for"
            f" backgrounds, but {len(backgrounds)} of {image_count} are, such as {backgrounds[0]}: {_ADVICE}"
        )
