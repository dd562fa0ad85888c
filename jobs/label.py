"""Have detectors label what people did not, as a Ray job.

    ray job submit --working-dir . -- python jobs/label.py s3://BUCKET/dataset s3://BUCKET/labelled --weights yolov5s.pt

With RAY_API_SERVER_ADDRESS and RAY_AUTH_MODE=token in the environment, and the cluster's token in RAY_AUTH_TOKEN or
~/.ray/auth_token. Without a cluster this is `depers label …`, with a local Ray.
"""

import sys

from depers.cli import run

if __name__ == "__main__":
    run(["label", *sys.argv[1:]])
