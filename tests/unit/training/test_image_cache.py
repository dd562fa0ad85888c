"""Decoded images of a training: where they fit, the same wherever they are, and on a full disk."""

from pathlib import Path

import pytest
from training_sets import write_dataset

from depers.errors import UserError
from depers.resources import GIB
from depers.training.images.data import read_splits
from depers.training.images.image_cache import ScaledImages, allocate, plan_cache, read_scaled


@pytest.mark.parametrize(
    ("cache", "size", "workers", "kind"),
    [
        ("auto", 4, 1, "ram"),
        ("auto", 4, 2, "disk"),
        ("auto", 90, 1, "none"),
        ("disk", 4, 1, "disk"),
        ("none", 1, 1, "none"),
    ],
)
def test_images_go_where_they_fit(cache: str, size: int, workers: int, kind: str) -> None:
    assert plan_cache(cache, size * GIB, workers, 10 * GIB, 100 * GIB).kind == kind


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"--cache ram: 6.0 GiB of images do not fit: 10.0 GiB of memory"):
        plan_cache("ram", 6 * GIB, 1, 10 * GIB, 100 * GIB)
    with pytest.raises(UserError, match=r"--cache ram: 3.0 GiB of images for each of 2 workers do not fit"):
        plan_cache("ram", 3 * GIB, 2, 10 * GIB, 100 * GIB)


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("kind", ["ram", "disk", "none"])
def test_images_are_the_same_wherever_they_are_kept(tmp_path: Path, kind: str, reduced: bool) -> None:
    root = write_dataset(tmp_path / "data")
    examples = read_splits(str(root)).train
    sizes = [(96, 60 if index % 2 else 96) for index in range(6)]
    file = str(tmp_path / "images.rgb")
    allocate(file, sum(3 * w * h for w, h in sizes))
    first, second = (ScaledImages(examples, sizes, kind, file, reduced) for _ in range(2))
    Path(file).unlink()
    first.fill([0, 2, 4], 2)
    second.fill([1, 3, 5], 2)
    for index in range(6):
        for images in (first, second):
            image = images(index)
            assert image.shape == (sizes[index][1], sizes[index][0], 3)
            assert (image == read_scaled(examples[index], sizes[index], reduced)).all()


def test_a_full_disk_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"cannot take .* of disk"):
        allocate(str(tmp_path / "x" / "images.rgb"), 2**60)
    assert not list((tmp_path / "x").iterdir())
