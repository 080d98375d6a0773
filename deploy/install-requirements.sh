#!/bin/sh
# In an image's build: install what the named extras of pyproject.toml require, at the versions of constraints.txt.
set -eu
here=$(dirname "$0")
wanted=$(mktemp)
python "$here/list_requirements.py" "$here/pyproject.toml" "$@" > "$wanted"
python -m pip install --quiet --constraint "$here/constraints.txt" --requirement "$wanted"
rm "$wanted"
