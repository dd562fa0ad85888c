"""`pip install .` into an empty environment, without the lock: a photograph is anonymized, and nothing wants libGL."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object) -> str:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_pip_alone_installs_what_works_without_a_screen(tmp_path: Path) -> None:
    source = tmp_path / "source"  # setuptools builds in the folder it is given
    run("git", "clone", "--quiet", ROOT, source)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(tmp_path / "venv/bin/pip", "install", "--quiet", source)
    # yolov5 asks for opencv-python, which unpacks into the same folder: the build that pip unpacks last is used.
    libraries = list((tmp_path / "venv").glob("lib/python3*/site-packages/cv2/cv2*.so"))
    assert libraries
    for library in libraries:
        assert "libGL" not in run("ldd", library)
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    run(tmp_path / "venv/bin/depers", "anonymize", tmp_path / "photo.jpg", tmp_path / "safe.jpg")
    assert Image.open(tmp_path / "safe.jpg").size == (320, 240)
