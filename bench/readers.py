"""Whether the `webdataset` and `datasets` libraries, `tar` and `unzip` read what depers wrote like what it was given.

    python bench/readers.py FOLDER [--python PYTHON_WITH_THE_LIBRARIES]

FOLDER is the result of `depers anonymize`. The libraries may live in an environment of their own:
`pip install webdataset datasets pillow`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

WEBDATASET = """
import sys, webdataset
dataset = webdataset.WebDataset(sys.argv[1], shardshuffle=False, empty_check=False).decode("pil")
samples = list(dataset)
sizes = [sample[key].size for sample in samples for key in sample if key.endswith(("jpg", "png"))]
assert sizes and all(min(size) > 0 for size in sizes)
print(len(samples), "samples,", len(sizes), "images")
"""
DATASETS = """
import sys, datasets
table = datasets.load_dataset("parquet", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
names = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
if not names:
    names = [name for name in table.column_names if name in ("image", "img", "jpg")]
    for name in names:
        table = table.cast_column(name, datasets.Image())
images = [row[name] for row in table for name in names]
whole = [image.convert("RGB").size for image in images if image is not None]
print(len(table), "rows,", len(whole), "images,", len(images) - len(whole), "null")
"""


def main() -> None:
    """Open every archive with each library and program that can."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    cache = f"{arguments.folder}-readers-cache"
    for path in sorted(arguments.folder.rglob("*")):
        commands: list[list[str]] = []
        if path.name.endswith((".tar", ".tar.gz", ".tgz")):
            commands = [["tar", "-tf", str(path)], [arguments.python, "-c", WEBDATASET, str(path)]]
        elif path.suffix == ".zip":
            commands = [["unzip", "-tq", str(path)]]
        elif path.suffix == ".parquet":
            commands = [[arguments.python, "-c", DATASETS, str(path), cache]]
        for command in commands:
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = process.stdout.strip().splitlines()
            reader = (
                Path(command[0]).name if command[1] != "-c" else ("webdataset" if WEBDATASET in command else "datasets")
            )
            outcome = f"{len(lines)} names" if reader == "tar" else lines[-1] if lines else ""
            outcome = f"fails: {process.stderr[-300:]}" if process.returncode else outcome
            print(f"{path.relative_to(arguments.folder)}: {reader}: {outcome}")


if __name__ == "__main__":
    main()
