#!/bin/sh
# In an image's build: install what the named lock holds, each distribution only with one of the hashes that stand there.
# Where TORCH_INDEX_URL names an index, torchvision came from it with torch, whose build alone it fits.
set -eu
lock="$(dirname "$0")/locks/$1.lock"
wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT
cat "$lock" > "$wanted"
if [ -n "${TORCH_INDEX_URL:-}" ]; then sed -i '/^torchvision==/,/[^\\]$/d' "$wanted"; fi
python -m pip install --quiet --no-deps --require-hashes --requirement "$wanted"
