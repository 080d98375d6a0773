#!/bin/sh
# In an image's build: install what the named extras of pyproject.toml require, at the versions of constraints.txt.
# torch alone may come from an index of its own, TORCH_INDEX_URL, which need not hold what torch requires.
set -eu
here=$(dirname "$0")
install="python -m pip install --quiet --constraint $here/constraints.txt"
wanted=$(mktemp)
python "$here/list_requirements.py" "$here/pyproject.toml" "$@" > "$wanted"
if grep -q '^torch' "$wanted" && [ -n "${TORCH_INDEX_URL:-}" ]; then
  $install --no-deps --index-url "$TORCH_INDEX_URL" torch
fi
$install --requirement "$wanted"
rm "$wanted"
