"""End-to-end speed on 1080p street JPEGs against `yolov5 detect` and `deface`, and the share of pure bf16 inference.

    python bench/speed.py --weights yolov5n.pt [--deface PATH_OF_THE_COMMAND] [--images 400] [--repeats 3]

Every tool writes its images. Start-up is left out of all alike: the rate is counted from the image that was written
as the 64th to the last one, by the times of the files. Rounds alternate between the tools, and medians are compared, so
that a noisy machine hits all of them. `deface` (an environment of its own: `pip install deface onnxruntime`) gets 128
images, since it is slow; it is left out where its command is not given.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from job import draw

SKIPPED, FEW = 64, 128
PURE = """
import sys, time, torch
from pathlib import Path
from depers.detection import detector, network
from depers.detection.settings import InferenceSettings, Weights
torch.set_num_threads(1)
path = sys.argv[1]
if sys.argv[2] == "plain":
    network.join_activations = lambda layers: None
ensemble = detector.DetectorEnsemble([Weights(path, {})], [Path(path).read_bytes()], (), InferenceSettings())
model = ensemble._networks[0]
images = torch.rand(8, 3, 384, 640)
with torch.inference_mode():
    for _ in range(2):
        model(images, 0.15)
    started, count = time.monotonic(), 0
    while time.monotonic() - started < 8:
        model(images, 0.15)
        count += 8
print(count / (time.monotonic() - started), model.dtype)
"""


def run(command: list[str], log: Path) -> None:
    """Run the command; raise where it fails."""
    environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "YOLOv5_AUTOINSTALL": "false"}
    with log.open("wb") as output:
        subprocess.run(command, check=True, stdout=output, stderr=output, env=environment)


def measure_steady_rate(images: Iterable[Path]) -> float:
    """Return images per second, by when they were written, without the first ones."""
    times = sorted(path.stat().st_mtime for path in images)[SKIPPED:]
    return (len(times) - 1) / (times[-1] - times[0])


def make_commands(weights: Path, deface: str | None, work: Path) -> dict[str, list[str]]:
    """Return the tools' command lines, `IN` and `OUT` to be filled in."""
    scripts = Path(sys.executable).parent
    tools = {
        "depers": [str(scripts / "depers"), "anonymize", "IN", "OUT", "--weights", str(weights)],
        "yolov5 detect": [str(scripts / "yolov5"), "detect", "--weights", str(weights), "--source", "IN"]
        + ["--imgsz", "640", "--project", str(work), "--name", "OUT"],
    }
    if deface:
        tools["deface"] = [deface, "IN"]  # a folder; each result beside its input
    return tools


def measure_pure_rate(weights: Path, variant: str) -> tuple[float, str]:
    """Return images per second of the bare network, one process per core as in the job; and its arithmetic.

    `how`: "plain" as PyTorch computes it, "joined" with the convolutions that depers joins with what follows them.
    """
    cores = os.cpu_count() or 1
    command = [sys.executable, "-c", PURE, str(weights), variant]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(cores)]
    outputs = [process.communicate()[0].split() for process in processes]
    return sum(float(output[0]) for output in outputs), outputs[0][1]


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--deface")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-speed-"))
    draw(work / "few", FEW)
    draw(work / "many", arguments.images)
    tools = make_commands(arguments.weights.resolve(), arguments.deface, work)
    rates: dict[str, list[float]] = {name: [] for name in tools}
    pure: dict[str, list[float]] = {"plain": [], "joined": []}
    for _ in range(arguments.repeats):
        for name, command in tools.items():
            source, out = work / ("few" if name == "deface" else "many"), work / "OUT"
            places = {"IN": str(source), "OUT": str(out) if name == "depers" else "OUT"}
            run([places.get(part, part) for part in command], work / "log")
            results = list(source.glob("*_anonymized.jpg") if name == "deface" else out.glob("*.jpg"))
            rates[name].append(measure_steady_rate(results))
            print(f"{name}: {rates[name][-1]:.1f} images/s", flush=True)
            shutil.rmtree(out, ignore_errors=True)
            if name == "deface":
                for path in results:
                    path.unlink()
        for variant, values in pure.items():
            rate, arithmetic = measure_pure_rate(arguments.weights, variant)
            values.append(rate)
            print(f"pure inference, {variant}: {rate:.1f} images/s in {arithmetic}", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}; medians of {arguments.repeats}:")
    depers_rate = statistics.median(rates["depers"])
    for name, values in rates.items():
        middle = statistics.median(values)
        print(f"{name:<16}{middle:>8.1f} images/s   depers is {depers_rate / middle:.2f} ×")
    for variant, values in pure.items():
        bare = statistics.median(values)
        print(f"{f'pure, {variant}':<16}{bare:>8.1f} images/s   depers reaches {depers_rate / bare:.0%}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
