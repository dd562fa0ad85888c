"""Seeds."""

import numpy as np


def random_for(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one thing, whoever asks for them and in whatever order."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))
