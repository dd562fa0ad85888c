"""What 50 ms of latency on every S3 request cost: the same run through a proxy with and without them.

    python bench/latency.py --weights yolov5n.pt [--images 400] [--latency 0.05] [--repeats 2]

The S3 server (moto) and the proxy run on the same machine and take their share of its cores in both runs alike.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from job import draw, measure_rate
from moto.server import ThreadedMotoServer

from depers import storage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from faulty_s3 import FaultyS3


def measure_rate_through(endpoint: str, weights: str, number: int) -> float:
    """Return images per second after the first unit, from S3 to S3 at this address."""
    arguments = ["anonymize", "s3://bench/in", f"s3://bench/out{number}", "--weights", weights]
    return measure_rate(arguments, os.environ | {"AWS_ENDPOINT_URL": endpoint})


def main() -> None:
    """Alternate, and compare medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    import boto3

    boto3.client("s3").create_bucket(Bucket="bench")
    work = Path(tempfile.mkdtemp(prefix="depers-latency-"))
    draw(work / "in", options.images)
    for path in (work / "in").iterdir():
        storage.write_bytes(f"s3://bench/in/{path.name}", path.read_bytes())
    rates: dict[float, list[float]] = {0.0: [], options.latency: []}
    for repeat in range(options.repeats):
        for latency, values in rates.items():
            with FaultyS3(endpoint, lambda *_: "", latency) as proxy:
                values.append(measure_rate_through(proxy.endpoint, options.weights, 2 * repeat + bool(latency)))
                print(f"{latency * 1000:.0f} ms: {values[-1]:.1f} images/s, {proxy.seen.total()} requests", flush=True)
    without, with_latency = (statistics.median(values) for values in rates.values())
    print(f"{with_latency / without:.0%} of the throughput without latency; load {os.getloadavg()[0]:.1f}")
    server.stop()
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
