"""Make new labelled images of extracted backgrounds and sprites, as a Ray job.

    ray job submit --working-dir . -- python jobs/synthesize.py s3://BUCKET/extracted s3://BUCKET/synthetic --count 9000

With RAY_API_SERVER_ADDRESS and RAY_AUTH_MODE=token in the environment, and the cluster's token in RAY_AUTH_TOKEN or
~/.ray/auth_token. Without a cluster this is `depers synthesize …`, with a local Ray.
"""

import sys

from depers.cli import run

if __name__ == "__main__":
    run(["synthesize", *sys.argv[1:]])
