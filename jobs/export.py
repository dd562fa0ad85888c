"""Write a detector as a TorchScript or ONNX program, as a Ray job.

    ray job submit --working-dir . -- python jobs/export.py s3://BUCKET/best.pt s3://BUCKET/photos s3://BUCKET/best.onnx

With RAY_API_SERVER_ADDRESS and RAY_AUTH_MODE=token in the environment, and the cluster's token in RAY_AUTH_TOKEN or
~/.ray/auth_token. Without a cluster this is `depers export …`.
"""

import sys

from depers.cli import run

if __name__ == "__main__":
    run(["export", *sys.argv[1:]])
