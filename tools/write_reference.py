"""Writes docs/errors.md and docs/configuration.md from the code; with --check only compares and exits 1."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fedafd.domain.config import AgentConfig, FederationConfig
from fedafd.domain.errors import ERROR_STATUS

DOCS = Path(__file__).resolve().parent.parent / "docs"


def errors() -> str:
    """The table of error codes."""
    rows = [
        f"| `{kind.code}` | {status.http} | {status.grpc} | {(kind.__doc__ or '').splitlines()[0]} |"
        for kind, status in sorted(ERROR_STATUS.items(), key=lambda item: item[0].code)
    ]
    head = "# Errors\n\nOver REST an error is problem+json of type `urn:fedafd:error:<code>`; over gRPC the code is\n"
    head += "in the trailing metadata `fedafd-error-code`.\n\n| code | HTTP | gRPC | meaning |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def configuration() -> str:
    """Every key of federation.yaml and agent.yaml."""
    parts = ["# Configuration\n\nUnknown keys and bad values are refused with the key's path and what is allowed.\n"]
    for name, model in (("federation.yaml", FederationConfig), ("agent.yaml", AgentConfig)):
        parts.append(
            f"## `{name}`\n\n| key | default | meaning |\n|---|---|---|\n" + "\n".join(_keys(model, "")) + "\n"
        )
    return "\n".join(parts)


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        nested = [a for a in (kind, *getattr(kind, "__args__", ())) if isinstance(a, type) and issubclass(a, BaseModel)]
        if nested:
            yield from _keys(nested[0], f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = "needed" if default is PydanticUndefined else f"`{getattr(default, 'value', default)}`"
        yield f"| `{prefix}{name}` | {shown} | {field.description or ''} |"


def main() -> int:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    status = 0
    for path, text in ((DOCS / "errors.md", errors()), (DOCS / "configuration.md", configuration())):
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path.name} is out of date; run: make reference", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
