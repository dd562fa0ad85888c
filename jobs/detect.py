"""Write the boxes that a detector finds in images, as a Ray job.

    ray job submit --working-dir . -- python jobs/detect.py s3://BUCKET/photos s3://BUCKET/found --weights s3://BUCKET/best.pt

With RAY_API_SERVER_ADDRESS and RAY_AUTH_MODE=token in the environment, and the cluster's token in RAY_AUTH_TOKEN or
~/.ray/auth_token. Without a cluster this is `depers detect …`, with a local Ray.
"""

import sys

from depers.cli import run

if __name__ == "__main__":
    run(["detect", *sys.argv[1:]])
