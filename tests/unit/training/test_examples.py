"""Examples kept by column are the same examples."""

import numpy as np
import pytest

from depers.training.images.data import find_unlabelled, group_by_labels
from depers.training.images.examples import Example, ExampleTable


def make_examples(count: int) -> list[Example]:
    rng = np.random.default_rng(0)
    examples = []
    for number in range(count):
        labels, regions = (int(value) for value in rng.integers(0, 4, 2))
        labelled = frozenset({0, 2}) if number % 3 else frozenset({1})
        columns = (rng.integers(0, 3, labels), rng.random((labels, 4)), labelled, rng.integers(0, 3, regions))
        examples.append(Example(f"a/ü {number}.jpg", (100 + number, 50), *columns, rng.random((regions, 4))))
    return examples


def test_examples_come_out_as_they_went_in() -> None:
    examples = make_examples(40)
    table = ExampleTable.of(iter(examples))
    assert len(table) == 40 and table[-1].path == examples[-1].path and len(table[3:9]) == 6
    for first, second in zip(table, examples, strict=True):
        assert first[:2] == second[:2] and first.labelled == second.labelled
        for name in ("class_ids", "boxes_xywh", "ignored_ids", "ignored_xywh"):
            np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=1e-7)
            assert getattr(first, name).dtype == getattr(second, name).dtype
    np.testing.assert_array_equal(find_unlabelled(table, 3), find_unlabelled(examples, 3))
    groups = group_by_labels(table)
    assert len({(group, example.labelled) for group, example in zip(groups, examples, strict=True)}) == 2
    with pytest.raises(IndexError):
        table[40]
    assert len(ExampleTable.of([])) == 0 and find_unlabelled(ExampleTable.of([]), 2).shape == (0, 2)
