"""Start-up: seconds until the first of 20 images is written, and where they go.

    python bench/startup.py --weights yolov5n.pt [--repeats 3]

The parts are timed alone, one after another, so they do not add up: in the job some of them overlap.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from job import draw, watch

PARTS = {
    "interpreter and command line": "import depers.cli",
    "verb (no torch, no Ray)": "import depers.commands.anonymize",
    "local Ray": "from depers.runtime.cluster import start_ray; start_ray()",
    "import ray.data": "import ray.data",
    "import torch": "import torch",
    "yolov5 beyond torch": "from depers.detection import yolo; yolo.load_training_parts()",
    "load and fuse the weights": "from pathlib import Path; from depers.detection import yolo; import sys; "
    "yolo.fuse(yolo.load(sys.argv[1], Path(sys.argv[1]).read_bytes()))",
}


def main() -> None:
    """Print the wall time to the first output, and the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-startup-"))
    draw(work / "in", 20)
    firsts = []
    for _ in range(options.repeats):
        run = watch(["anonymize", str(work / "in"), str(work / "out"), "--weights", options.weights], work / "out")
        firsts.append(run.first_output)
        print(f"first output after {run.first_output:.1f} s, all 20 after {run.seconds:.1f} s", flush=True)
        shutil.rmtree(work / "out")
    median = statistics.median(firsts)
    print(f"load {os.getloadavg()[0]:.1f}; median to the first output {median:.1f} s; the parts, alone:")
    for name, code in PARTS.items():
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, options.weights], check=True, stderr=subprocess.DEVNULL
        )
        print(f"  {name:<30}{time.monotonic() - started:>6.1f} s")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
