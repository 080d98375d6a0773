"""What a person at the site has approved, and what waits for it: two files in `state_dir/policy`.

The agent writes `proposed.json` alone, `fedafd agent approve` `approved.json` alone, so that both may run at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from fedafd.agent.files import write_atomically
from fedafd.domain.config import FederationConfig, parse_federation_config
from fedafd.domain.config.policy import flat_values
from fedafd.domain.errors import ConfigurationError, DataError
from fedafd.domain.hashing import sha256_of
from fedafd.domain.plain_text import plain_text

__all__ = [
    "Approved",
    "Proposal",
    "approve",
    "configuration_changes",
    "proposal_id",
    "proposal_words",
    "read_approved",
    "read_proposal",
]

_FOLDER, _PROPOSED, _APPROVED = "policy", "proposed.json", "approved.json"
_NOT_SET = "not set"
_LONGEST_VALUE = 200
"""Characters of a value that are shown."""
_BEFORE = 40
"""Of them before the first that differs."""
_USUAL_KEYS = 200
"""More than a federation's configuration has."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a round brought that nobody here has approved."""

    at: str
    round_number: int
    configuration: Mapping[str, Any] | None
    """The federation's, as sites are told it; None where it needs no approval."""
    public_set_sha256: str | None
    """None where it needs no approval."""
    public_set_bytes: int = 0
    public_set_files: int = 0
    public_set_rows: Mapping[str, int] = field(default_factory=dict)
    """By split; empty where its manifest could not be read."""


@dataclass(frozen=True, kw_only=True)
class Approved:
    """All that was."""

    configuration: Mapping[str, Any] | None = None
    """The last one."""
    public_sets: Mapping[str, str] = field(default_factory=dict)
    """When, by hash."""


def read_approved(root: Path) -> Approved:
    """What was approved; empty where nothing was. Raises ConfigurationError for a damaged file."""
    path = root / _FOLDER / _APPROVED
    try:
        return Approved(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Approved()
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{path}: not a record of what was approved ({error}); remove it and run `fedafd agent approve` again"
        ) from None


def read_proposal(root: Path) -> Proposal | None:
    """What waits; None where nothing does."""
    try:
        proposal = Proposal(**json.loads((root / _FOLDER / _PROPOSED).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    approved = read_approved(root)
    configuration = proposal.configuration
    if configuration is not None and not configuration_changes(approved.configuration, configuration):
        configuration = None
    public_set = None if proposal.public_set_sha256 in approved.public_sets else proposal.public_set_sha256
    left = replace(proposal, configuration=configuration, public_set_sha256=public_set)
    return left if configuration is not None or public_set is not None else None


def write_proposal(root: Path, proposal: Proposal) -> None:
    """In place of an older one."""
    folder = root / _FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomically(folder / _PROPOSED, json.dumps(asdict(proposal), indent=1).encode(), mode=0o600)


def approve(root: Path, proposal: Proposal) -> None:
    """Say yes to exactly this. The agent sees it in the next round."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the agent's state_dir")
    approved = read_approved(root)
    sets = dict(approved.public_sets)
    if proposal.public_set_sha256 is not None:
        sets[proposal.public_set_sha256] = datetime.now(UTC).isoformat(timespec="seconds")
    now = Approved(configuration=proposal.configuration or approved.configuration, public_sets=sets)
    write_atomically(root / _FOLDER / _APPROVED, json.dumps(asdict(now), indent=1).encode(), mode=0o600)


def configuration_changes(
    before: Mapping[str, Any] | None, after: Mapping[str, Any]
) -> list[tuple[str, JsonValue, JsonValue]]:
    """Key, old and new value of all that differs; without `before`, from the defaults."""
    old, new = _flat(before), _flat(after)
    if before is None:
        old.pop("name")
    keys = sorted(old.keys() | new.keys())
    # As JSON: in Python `1` equals `true`, and a key that is null one that is not there.
    return [
        (key, old.get(key, _NOT_SET), new.get(key, _NOT_SET))
        for key in keys
        if (key in old, json.dumps(old.get(key))) != (key in new, json.dumps(new.get(key)))
    ]


def proposal_id(proposal: Proposal) -> str:
    """By what a person can name what was shown, whenever it was proposed."""
    what = {"configuration": proposal.configuration, "public_set_sha256": proposal.public_set_sha256}
    return sha256_of(json.dumps(what, sort_keys=True).encode())[:16]


def proposal_words(root: Path, proposal: Proposal) -> Iterator[str]:
    """What is to be approved, for a terminal; nothing that the server wrote can drive it."""
    yield f"since round {proposal.round_number}, {proposal.at} UTC"
    if proposal.public_set_sha256 is not None:
        rows = ", ".join(f"{plain_text(split)} {count:,}" for split, count in proposal.public_set_rows.items())
        yield ""
        yield f"public set {plain_text(proposal.public_set_sha256)}"
        yield f"  samples: {rows or 'unknown: its manifest cannot be read'}"
        yield f"  {proposal.public_set_files:,} files of {proposal.public_set_bytes:,} bytes in all"
        yield "  compare the hash with the one that the federation's operator tells you"
    if proposal.configuration is not None:
        before = read_approved(root).configuration
        yield ""
        yield f"the federation's configuration, beside {'the one you approved' if before else 'the defaults'}:"
        changes = configuration_changes(before, proposal.configuration)
        for key, old, new in changes:
            yield f"  {plain_text(key)}: {_shown(old, new)} -> {_shown(new, old)}"
        if len(changes) > _USUAL_KEYS:
            yield f"  {len(changes):,} keys are more than a configuration has: ask the operator what they are for"
    yield ""
    yield f"its ID: {proposal_id(proposal)}"


def _flat(values: Mapping[str, Any] | None) -> dict[str, JsonValue]:
    """By dotted path, with the defaults that this version knows: what an update adds with its default is no change."""
    known = {"name": "a"} if values is None else values
    try:
        config: FederationConfig = parse_federation_config(known)
    except ConfigurationError:
        return flat_values(known)
    return flat_values(json.loads(config.sites_json()))


def _shown(value: JsonValue, other: JsonValue) -> str:
    """A value beside the one that it is compared with: of a long one what differs, how long it is, and its hash."""
    if value == _NOT_SET:
        return _NOT_SET
    text = plain_text(json.dumps(value))
    if len(text) <= _LONGEST_VALUE:
        return text
    beside = plain_text(json.dumps(other))
    same = next((at for at, (a, b) in enumerate(zip(text, beside, strict=False)) if a != b), len(beside))
    start = max(0, min(same - _BEFORE, len(text) - _LONGEST_VALUE))
    part = ("..." if start else "") + text[start : start + _LONGEST_VALUE]
    more = "..." if start + _LONGEST_VALUE < len(text) else ""
    return f"{part}{more} ({len(text):,} characters, SHA-256 {sha256_of(text.encode())[:16]})"
