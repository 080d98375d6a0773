#!/bin/sh
# In an image's build: install what the named lock holds, each distribution only with one of the hashes that stand there.
# torchvision fits the build of PyTorch alone that comes from the same index: with an index of one's own it is there already.
set -eu
lock="$(dirname "$0")/locks/$1.lock"
if [ -n "${TORCH_INDEX_URL:-}" ]; then
  sed '/^torchvision==/,/[^\\]$/d' "$lock" > /tmp/requirements.lock
  lock=/tmp/requirements.lock
fi
python -m pip install --quiet --no-deps --require-hashes --requirement "$lock"
rm -f /tmp/requirements.lock
