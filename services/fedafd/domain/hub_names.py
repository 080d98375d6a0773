"""Names of pretrained weights on a model hub: an id, and after `@` the revision of it that is taken."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["HubName", "hub_name"]

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*)"
_NAME = re.compile(rf"(?P<id>{_PART}(?:/{_PART})?)(?:@(?P<revision>{_PART}(?:/{_PART})*))?")
_LONGEST = 300


class HubName(NamedTuple):
    """`organisation/name`, and a commit, tag or branch of it; None for what the hub gives without one."""

    id: str
    revision: str | None


def hub_name(text: str) -> HubName | None:
    """The name in `id` or `id@revision`; None for a text that can only be a path."""
    match = _NAME.fullmatch(text) if len(text) <= _LONGEST else None
    return None if match is None else HubName(match["id"], match["revision"])
