"""The words that tables hold: what became of an image, an archive, a label. One place, so that readers can match them.

They are `StrEnum`s: a member equals its text, and is written to tables and JSON as that text.
"""

from enum import StrEnum


class FileStatus(StrEnum):
    """What became of a file, or of a member of an archive: `status` in a manifest or a table of detections."""

    REDACTED = "redacted"
    """At least one box was painted over."""
    CLEAN = "clean"
    """Nothing was found in it."""
    DETECTED = "detected"
    """It was looked at, and nothing was written in its place (`depers detect`)."""
    FAILED = "failed"
    """It could not be read, decoded, looked at or written; `reason` says why. It is absent from OUT."""
    SKIPPED = "skipped"
    """It is no image; `reason` says what it is. It is absent from OUT."""
    PASSED_THROUGH = "passed_through"
    """It is no image, and `--keep` names it: it is in OUT as it is."""
    REMOVED = "removed"
    """It is in INPUT no more, and its result was removed from OUT."""


class ArchiveStatus(StrEnum):
    """How well an archive could be read: `status` of its own row."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """Damaged or cut off: what is whole is in OUT, the rest is listed."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """A table without a column of images. It is absent from OUT."""
    REMOVED = "removed"
    """It is in INPUT no more, and its result was removed from OUT."""


class AuditStatus(StrEnum):
    """What the audit says of a file that was written."""

    SOUND = "sound"
    WRONG = "wrong"


class SourceStatus(StrEnum):
    """What became of an image of a dataset: on the way into a dataset, or into backgrounds and sprites."""

    USED = "used"
    SKIPPED = "skipped"
    """Left out by a rule; `reason` says by which."""
    FAILED = "failed"


class ProblemAction(StrEnum):
    """What was done about something wrong with a label or its image: `action` in problems.parquet."""

    MENDED = "mended"
    """Read as it was meant."""
    CLIPPED = "clipped"
    """The part of the box that lies in the image is used."""
    BOUNDING_BOX = "bounding_box"
    """The box around the polygon is used."""
    SCALED = "scaled"
    """The boxes are about the image at another size, and are scaled to it."""
    TAKEN_FROM_IMAGE = "taken_from_image"
    """The size that the label file lacks is the image's."""
    TURNED_UPRIGHT = "turned_upright"
    """The boxes lie on the image as it is stored, and are turned as EXIF turns it."""
    TAKEN_AS_UPRIGHT = "taken_as_upright"
    """EXIF turns the image, and the boxes lie on it as it is seen."""
    ACCEPTED = "accepted"
    """Noted, and used as it is."""
    DROPPED = "dropped"
    """The label is not used, and the image is none the worse for it."""
    SKIPPED = "skipped"
    """The file or image is not used."""
    SKIPPED_WITH_IMAGE = "skipped_with_image"
    """The label, or its whole file, is not understood: its image is not used either, or it would teach a background."""
    AS_BACKGROUND = "as_background"
    """The image is used as one without objects."""
