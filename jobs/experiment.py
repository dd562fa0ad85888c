"""Measure whether synthetic images help, as a Ray job.

    ray job submit --working-dir . -- python jobs/experiment.py s3://BUCKET/dataset s3://BUCKET/experiment --seeds 3

With RAY_API_SERVER_ADDRESS and RAY_AUTH_MODE=token in the environment, and the cluster's token in RAY_AUTH_TOKEN or
~/.ray/auth_token. Without a cluster this is `depers experiment …`, with a local Ray.
"""

import sys

from depers.cli import run

if __name__ == "__main__":
    run(["experiment", *sys.argv[1:]])
