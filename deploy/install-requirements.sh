#!/bin/sh
# In an image's build: install what the named lock holds, each distribution only with one of the hashes that stand there.
set -eu
python -m pip install --quiet --no-deps --require-hashes --requirement "$(dirname "$0")/locks/$1.lock"
