"""Whole runs in processes of their own: one that ends, one that is killed in the middle, and what they leave behind."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def start_depers(arguments: tuple[str, ...], stderr: int) -> "subprocess.Popen[str]":
    """`depers ARGUMENTS` with a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "depers.cli", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, text=True)


def run_depers(*arguments: str) -> tuple[int, str]:
    """The exit code of `depers ARGUMENTS`, and what it says on stderr."""
    process = start_depers(arguments, subprocess.PIPE)
    said = process.communicate()[1]
    return process.returncode, said


def run_and_kill(out: Path, *arguments: str) -> dict[str, int]:
    """Kills `depers ARGUMENTS` (SIGKILL) as soon as OUT holds a record; gives the records that are there then."""
    process = start_depers(arguments, subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not records(out):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(2)  # its workers end with it
    return records(out)


def records(out: Path) -> dict[str, int]:
    """The records of finished units below OUT or beside it, each with its time of change in nanoseconds."""
    folders = out / "_depers/units", Path(f"{out}-records/units")
    return {path.name: path.stat().st_mtime_ns for folder in folders for path in folder.glob("*.parquet")}


def read_records(folder: Path) -> dict[str, Any]:
    """What every file among records says, tables as rows: when a disk saw results change is noted beside these."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): pq.read_table(path).to_pylist()
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in files
    }


def tree(root: Path) -> dict[str, str]:
    """Every file below `root` with its digest; the report and job.json name no place, so they count too."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
