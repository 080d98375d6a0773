#!/usr/bin/env bash
# Succeeds if every image that ours are built from, or that the stack runs, is here or can be pulled; names the one that is not.
set -euo pipefail
cd "$(dirname "$0")/.."
images=$(.venv/bin/python tools/base_images.py | awk '$3 !~ /observability|values/ {print $2}' | sort -u)
for image in $images; do
  docker image inspect "$image" >/dev/null 2>&1 || timeout 300 docker pull --quiet "$image" >/dev/null 2>&1 ||
    { echo "$image is not here and cannot be pulled"; exit 1; }
done
