#!/usr/bin/env bash
# Succeeds if every image that ours are built from, or that the stack runs, is here or can be pulled; names the one that is not.
set -euo pipefail
cd "$(dirname "$0")/.."
for image in $(sed -nE 's/^(FROM |ARG PYTHON_IMAGE=)([^ ]*:[^ ]*).*/\2/p' Dockerfile deploy/minio/Dockerfile | sort -u) postgres:15-bookworm redis:7-bookworm; do
  docker image inspect "$image" >/dev/null 2>&1 || timeout 300 docker pull --quiet "$image" >/dev/null 2>&1 ||
    { echo "$image is not here and cannot be pulled"; exit 1; }
done
