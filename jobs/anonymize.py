"""Mirror an archive of images without personal data, as a Ray job.

    ray job submit --working-dir . -- python jobs/anonymize.py s3://BUCKET/photos s3://BUCKET/safe --weights s3://BUCKET/best.pt

With RAY_API_SERVER_ADDRESS and RAY_AUTH_MODE=token in the environment, and the cluster's token in RAY_AUTH_TOKEN or
~/.ray/auth_token. Without a cluster this is `depers anonymize …`, with a local Ray.
"""

import sys

from depers.cli import run

if __name__ == "__main__":
    run(["anonymize", *sys.argv[1:]])
