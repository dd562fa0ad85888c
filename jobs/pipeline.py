"""The whole mission from one YAML file, as a Ray job: from raw labels to an audited archive.

    ray job submit --working-dir . -- python jobs/pipeline.py s3://BUCKET/mission.yaml

With RAY_API_SERVER_ADDRESS and RAY_AUTH_MODE=token in the environment, and the cluster's token in RAY_AUTH_TOKEN or
~/.ray/auth_token. Without a cluster this is `depers mission …`, with a local Ray.
"""

import sys

from depers.cli import run

if __name__ == "__main__":
    run(["mission", *sys.argv[1:]])
