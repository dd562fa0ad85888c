"""Make one dataset of raw labelled sets, as a Ray job.

    ray job submit --working-dir . -- python jobs/normalize.py s3://BUCKET/raw s3://BUCKET/dataset

With RAY_API_SERVER_ADDRESS and RAY_AUTH_MODE=token in the environment, and the cluster's token in RAY_AUTH_TOKEN or
~/.ray/auth_token. Without a cluster this is `depers normalize …`, with a local Ray.
"""

import sys

from depers.cli import run

if __name__ == "__main__":
    run(["normalize", *sys.argv[1:]])
