"""The images of a dataset's folder with their label files, one by one, as people would look at them."""

from depers import storage
from depers.datasets.labels import IMAGE_SUFFIXES, label_path


def list_pairs(folder: str) -> list[tuple[str, str]]:
    """The images of a split's folder in the order of their paths, each with its label file, which may be missing."""
    paths = [entry.path for entry in storage.list_files(folder, follow_links=True)]
    images = [storage.join(folder, path) for path in paths if path.lower().endswith(IMAGE_SUFFIXES)]
    return [(image, label_path(image)) for image in images]
