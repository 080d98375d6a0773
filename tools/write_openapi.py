"""Writes docs/openapi.json and docs/rest.md's table from the application; with --check only compares and exits 1."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fedafd.control_plane.app import create_app
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.storage import StoreSettings

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- operations -->", "<!-- /operations -->"


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ControlPlaneSettings(database_url=f"sqlite:///{folder}/none.db", store=StoreSettings(url=folder))
        return create_app(settings).openapi()


def table(openapi: dict[str, Any]) -> str:
    """One row per operation."""
    rows = ["| operation | does |", "|---|---|"]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            first = operation["description"].split("\n\n")[0].replace("\n", " ")
            rows.append(f"| `{method.upper()} {path}` | {first} |")
    return "\n".join(rows)


def main() -> int:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    openapi = document()
    page = (DOCS / "rest.md").read_text(encoding="utf-8")
    head, rest = page.split(BEGIN, 1)
    written = f"{head}{BEGIN}\n\n{table(openapi)}\n\n{END}{rest.split(END, 1)[1]}"
    status = 0
    texts = {"openapi.json": json.dumps(openapi, indent=1, sort_keys=True) + "\n", "rest.md": written}
    for name, text in texts.items():
        path = DOCS / name
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{name} is out of date; run: make reference", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
