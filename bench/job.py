"""What the benchmarks share: 1080p street scenes, and one `depers` run with its memory and times watched."""

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow.parquet as pq
import simplejpeg

from depers.street_scenes.scenes import draw_scene


class Watched(NamedTuple):
    """One run: wall seconds, seconds until the first image lay in OUT, the highest sum of RSS in MiB.

    `spilled_mib` is the most that Ray had written to disk for want of memory.
    """

    seconds: float
    first_output: float
    peak_mib: float
    last_line: str
    spilled_mib: float


def draw(folder: Path, count: int) -> None:
    """Write `count` street scenes of 1920×1080, quality 90: 16 of them drawn, the others the same or mirrored."""
    folder.mkdir(parents=True)
    scenes = [draw_scene(index, 1, (1920, 1080)).image for index in range(min(16, count))]
    scenes += [np.ascontiguousarray(scene[:, ::-1]) for scene in scenes]
    encoded = [simplejpeg.encode_jpeg(scene, 90, "RGB", "420") for scene in scenes]
    for index in range(count):
        (folder / f"{index:05d}.jpg").write_bytes(encoded[index % len(encoded)])


def measure_rate(arguments: list[str], environment: dict[str, str] | None = None) -> float:
    """Return images per second after the first unit, as `depers` with `arguments` says itself. Raise where it fails."""
    command = [sys.executable, "-m", "depers.cli", *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if " images/s" not in process.stdout:
        raise SystemExit(f"{' '.join(command)}: too few images for a rate\n{process.stdout}")
    return float(process.stdout.split(" images/s")[0].rsplit(" ", 1)[1])


def watch(arguments: list[str], out: Path) -> Watched:
    """Run `depers` with `arguments`, sampling its process tree every 0.2 s. Raise where it fails."""
    started, first, peak, spilled = time.monotonic(), 0.0, 0.0, 0.0
    start_time = time.time()
    command = [sys.executable, "-m", "depers.cli", *arguments]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.poll() is None:
        peak, spilled = max(peak, _rss_mib(process)), max(spilled, _spilled_mib(start_time))
        if not first and out.is_dir() and any(out.glob("*.jpg")):
            first = time.monotonic() - started
        time.sleep(0.2)
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{output}")
    return Watched(time.monotonic() - started, first, peak, output.strip().splitlines()[-1], spilled)


def compute_steady_rate(out: Path) -> float:
    """Return images per second from the first unit's record to the last one's: without start-up, whoever wrote them."""
    paths = [*out.glob("_depers/units/*.parquet"), *Path(f"{out}-records").glob("units/*.parquet")]
    records = [(path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in paths]
    records.sort()
    if len(records) < 2:
        raise SystemExit(f"{out}: too few images for a rate, they make a single unit")
    return float(sum(count for _, count in records[1:]) / (records[-1][0] - records[0][0]))


def _spilled_mib(start_time: float) -> float:
    """Return the size of what lies in the spill folders of local Rays that were started since."""
    total = 0
    for session in (Path(tempfile.gettempdir()) / "ray").glob("session_2*"):
        with contextlib.suppress(FileNotFoundError):
            if session.stat().st_ctime >= start_time:
                total += sum(path.stat().st_size for path in session.glob("*spill*/**/*") if path.is_file())
    return total / 2**20


def _rss_mib(process: psutil.Process) -> float:
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20
