"""The seed tree: of one seed everything draws its own random numbers, whatever else is drawn, and in whatever order.

A branch's numbers are part of every result that was ever drawn from it: none may change, and none may be used again.
"""

from enum import Enum

import numpy as np


class Branch(Enum):
    """What draws from a verb's seed, with its place in the tree; what follows the branch in a key is said beside it."""

    STREET_SCENE = (1,)
    """A drawn street scene; its index."""
    ANCHORS = (2, 0)
    """Training: the noise that keeps equal boxes apart when anchors are fitted."""
    IMAGE_ORDER = (2, 1)
    """Training: the order of images; the dataset, 0 for a round or 1 for weighted draws, the number of that; or the
    number of datasets, the pass, for the order of all."""
    MOSAIC_PARTNERS = (2, 2)
    """Training: the images that join another in a mosaic; the pass, the group, the column."""
    AUGMENTATION = (2, 3)
    """Training: the augmentation of an image; the pass, the row in it."""
    BATCH_ORDER = (2, 4)
    """Training: the order of batches; the pass."""
    SCALE = (2, 5)
    """Training: the sizes of images where they vary; the batch."""
    EXTRACTION = (3,)
    """Taking an image apart; a hash of its path."""
    EXPERIMENT = (6,)
    """The order in which the parts of an experiment take images."""
    EXPERIMENT_RESAMPLES = (7,)
    """The resamples of an experiment's seeds and validation images."""
    BACKGROUND_ORDER = (10,)
    """Synthesis: the order of backgrounds; how often all have been used."""
    SPRITE_POOL = (11,)
    """Synthesis: the sprites that a block of images shares; the block."""
    SYNTHETIC_IMAGE = (12,)
    """Synthesis: the plan of an image; its index."""
    SEAMS = (13,)
    """Synthesis: the seams of an image's further variants; its index, the variant."""


def random_for(seed: int, branch: Branch, *key: int) -> np.random.Generator:
    """Return the random numbers of one thing: those of `branch`, below it of `key`, in the tree of `seed`."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(*branch.value, *key))))
