"""Tests of the seed tree: its branches stay where they are, since every earlier result hangs on them."""

import numpy as np

from depers.seeds import Branch, random_for

PLACES = {
    "STREET_SCENE": (1,),
    "ANCHORS": (2, 0),
    "IMAGE_ORDER": (2, 1),
    "MOSAIC_PARTNERS": (2, 2),
    "AUGMENTATION": (2, 3),
    "BATCH_ORDER": (2, 4),
    "SCALE": (2, 5),
    "EXTRACTION": (3,),
    "EXPERIMENT": (6,),
    "EXPERIMENT_RESAMPLES": (7,),
    "BACKGROUND_ORDER": (10,),
    "SPRITE_POOL": (11,),
    "SYNTHETIC_IMAGE": (12,),
    "SEAMS": (13,),
}


def test_branches_stay_where_they_are() -> None:
    assert {branch.name: branch.value for branch in Branch} == PLACES


def test_no_branch_lies_in_another() -> None:
    for first in Branch:
        assert not [other for other in Branch if other is not first and other.value[: len(first.value)] == first.value]


def test_draws_follow_the_seed_the_branch_and_the_key_alone() -> None:
    sequence = np.random.SeedSequence(7, spawn_key=(2, 3, 4, 5))
    expected = np.random.Generator(np.random.Philox(sequence)).integers(1 << 40, size=4)
    assert random_for(7, Branch.AUGMENTATION, 4, 5).integers(1 << 40, size=4).tolist() == expected.tolist()
