"""What 50 ms of latency on every S3 request cost: the same run through a proxy with and without them.

    python bench/latency.py [anonymize synthesize extract normalize] [--images 400] [--latency 0.05] [--repeats 2]

The S3 server (moto) and the proxy run on the same machine and take their share of its cores in both runs alike. Rates
are those that the verbs say themselves, after the first unit; of `normalize` it is images per second of the whole run.
"""

import argparse
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from extract import draw_dataset
from job import draw, measure_rate
from moto.server import ThreadedMotoServer

from depers import storage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from faulty_s3 import FaultyS3

VERBS = ("anonymize", "synthesize", "extract", "normalize")
SIZE_WH = (1280, 720)


def upload(folder: Path, uri: str) -> None:
    """Write all files of a folder to S3."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.write_bytes(f"{uri}/{path.relative_to(folder)}", path.read_bytes())


def run_depers(*arguments: str) -> None:
    """Run the command. Raise where it fails."""
    subprocess.run([sys.executable, "-m", "depers.cli", *arguments], check=True, capture_output=True)


def prepare(verb: str, work: Path, images: int, weights: str) -> Callable[[int], list[str]]:
    """Put the input of a verb on S3; return its arguments for the output of a number."""
    source = work / verb
    if verb == "anonymize":
        draw(source, images)
        upload(source, "s3://bench/photos")
        return lambda number: ["anonymize", "s3://bench/photos", f"s3://bench/safe{number}", "--weights", weights]
    draw_dataset(source, images if verb != "synthesize" else 64, SIZE_WH)
    if verb == "synthesize":
        run_depers("extract", str(source), str(work / "extracted"))
        upload(work / "extracted", "s3://bench/extracted")
        options = ["--count", str(images), "--real", "none"]
        return lambda number: ["synthesize", "s3://bench/extracted", f"s3://bench/synthetic{number}", *options]
    upload(source, f"s3://bench/{verb}-in")
    return lambda number: [verb, f"s3://bench/{verb}-in", f"s3://bench/{verb}-out{number}"]


def measure(verb: str, arguments: list[str], images: int, endpoint: str) -> float:
    """Return images per second of a run at this address."""
    environment = os.environ | {"AWS_ENDPOINT_URL": endpoint}
    if verb != "normalize":
        return measure_rate(arguments, environment)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "depers.cli", *arguments], check=True, capture_output=True, env=environment)
    return images / (time.monotonic() - started)


def main() -> None:
    """Alternate, and compare medians, verb by verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verbs", nargs="*", default=VERBS)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would tell of every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    import boto3

    boto3.client("s3").create_bucket(Bucket="bench")
    work = Path(tempfile.mkdtemp(prefix="depers-latency-"))
    for verb in options.verbs:
        make_arguments = prepare(verb, work, options.images, options.weights)
        rates: dict[float, list[float]] = {0.0: [], options.latency: []}
        for repeat in range(options.repeats):
            for latency, values in rates.items():
                with FaultyS3(endpoint, lambda *_: "", latency) as proxy:
                    arguments = make_arguments(2 * repeat + bool(latency))
                    values.append(measure(verb, arguments, options.images, proxy.endpoint))
                    seen = f"{proxy.seen.total()} requests"
                    print(f"{verb}, {latency * 1000:.0f} ms: {values[-1]:.1f} images/s, {seen}", flush=True)
        without, with_latency = (statistics.median(values) for values in rates.values())
        print(f"{verb}: {with_latency / without:.0%} of the throughput without latency; load {os.getloadavg()[0]:.1f}")
    server.stop()
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
