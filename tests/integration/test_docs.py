"""Every command and example in README and docs/ runs as it stands, but for the sizes that SMALLER names."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from depers import cli
from depers.detection import yolo
from depers.street_scenes import scenes

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/guide.md", "docs/operations.md", "docs/api.md")
NEEDS_AWS = "<!-- needs AWS -->\n"
BY_OTHER_TESTS = ("make demo", "make test")  # test_demo, and this run itself
SMALLER = {
    ",bus=vehicle,truck=vehicle,motorcycle=vehicle": "",
    "--count 10000": "--count 16",
    "synthetic/ run/ --weights yolov5s.pt": "synthetic/ run/ --weights yolov5n.pt --epochs 1 --imgsz 64 --batch-size 8",
    "--steps 300 --seeds 12": "--steps 2 --validations 1 --sizes 8 --seeds 1 --imgsz 64 --batch-size 4 --synthetic 2",
    "--target-recall 0.99": "--target-recall 0.99 --imgsz 64",
    "--thresholds evaluation/thresholds.json": "--thresholds evaluation/thresholds.json --imgsz 64",
}


def commands(page: str) -> list[str]:
    """Return the shell commands of a page that need no AWS."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(re.escape(NEEDS_AWS) + r"```sh\n.*?```", "", text, flags=re.S)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S) for line in block.splitlines()]
    return [line.split("   #")[0].split("  #")[0].strip() for line in lines if line.strip()]


def examples(page: str) -> list[str]:
    """Return the Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages' commands name."""
    folder = tmp_path_factory.mktemp("docs")
    scenes.write_raw(folder / "raw", 24, 1, 0)
    (folder / "photos").mkdir()
    for path in sorted((folder / "raw" / "images").iterdir())[:6]:
        shutil.copy(path, folder / "photos")
    for name in ("street.jpg", "photo.jpg"):
        shutil.copy(path, folder / name)
    for name, sources in (("coco", ("person", "car", "dog")), ("plates", ("0",))):
        for kind in ("images", "labels"):
            (folder / name / kind).mkdir(parents=True)
        for number in range(8):
            pixels = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")[:, number * 8 :]
            data = simplejpeg.encode_jpeg(pixels.copy(), 90, "RGB")
            (folder / name / "images" / f"{name}_{number}.jpg").write_bytes(data)
            lines = [f"{class_id} 0.5 0.5 0.2 0.2\n" for class_id in range(len(sources))]
            (folder / name / "labels" / f"{name}_{number}.txt").write_text(lines[number % len(lines)])
        (folder / name / "data.yaml").write_text(f"names: {list(sources)}\n")
    (folder / "shards").mkdir()
    table = pa.table({"image": [{"bytes": path.read_bytes(), "path": path.name}], "caption": ["a street"]})
    pq.write_table(table, folder / "shards" / "0.parquet")
    yolo.save(yolo.build("yolov5n", ("person", "car")), folder / "yolov5n.pt")
    yolo.save(yolo.build("yolov5n", ("license_plate",)), folder / "plates.pt")
    return folder


def _remove(out: Path) -> None:
    for folder in (out, out.with_name(f"{out.name}-records")):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.usefixtures("ray_local")
def test_every_command_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    tested = set(BY_OTHER_TESTS)
    for page in PAGES:
        for command in commands(page):
            if command in tested:
                continue
            tested.add(command)
            for full, smaller in SMALLER.items():
                command = command.replace(full, smaller)
            program, *argv = shlex.split(command)
            assert program == "depers", f"{page}: {command}: neither depers' own command nor marked as one for AWS"
            if argv[0] != "audit":
                _remove(workplace / argv[2])  # OUT of the page before
            assert cli.main(argv) in (cli.FINE, cli.SOME_ITEMS_FAILED), f"{page}: {command}"


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)])
def test_every_example_runs(page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for out in ("safe", "dataset", "extracted", "synthetic"):
        _remove(workplace / out)
    names: dict[str, object] = {}
    for example in examples(page):
        exec(compile(example, page, "exec"), names)


def test_generated_pages_are_current() -> None:
    command = [sys.executable, ROOT / "docs" / "generate.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert not result.returncode, result.stderr


def test_every_path_that_the_pages_name_exists() -> None:
    """A module, test, or page in backticks, or behind a link, is there."""
    for page in (
        *PAGES,
        "docs/architecture.md",
        "docs/guarantees.md",
        "docs/formats.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ):
        text = (ROOT / page).read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
        rooms = {path.name for path in (ROOT / "depers").iterdir()} | {"bench", "docs", "tests"}
        for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|md))\b", text):
            bases = (ROOT, ROOT / "depers", ROOT / "tests")
            if path.split("/")[0] in rooms | {"unit", "integration", "slow", "depers"}:
                missing += [path] if not any((base / path).exists() for base in bases) else []
        assert not missing, f"{page} names {missing}, which do not exist"
