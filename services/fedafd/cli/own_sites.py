"""Sites on this machine, for `fedafd bootstrap --site`: each has a folder with agent.yaml and token, ready to run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from fedafd.client.set_up import Invitation
from fedafd.domain.config.base import NAME_PATTERN
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import ClientKind

__all__ = ["OwnSite", "parse_site", "run_command", "write_agent_yaml"]

_TRIAL = {"num_train": 100}
"""Of generated data, beside a seed: enough for a round that takes a minute."""


@dataclass(frozen=True)
class OwnSite:
    """A site whose folder has its name; `data` is None for a trial on generated data."""

    name: str
    kind: ClientKind
    data: Path | None

    @property
    def config(self) -> Path:
        """Its agent.yaml."""
        return Path(self.name) / "agent.yaml"

    @property
    def invitation(self) -> Invitation:
        """With the token in the site's folder."""
        return Invitation(self.name, self.kind, Path(self.name) / "token")


def parse_site(text: str) -> OwnSite:
    """NAME:KIND or NAME:KIND:DATA. Raises ConfigurationError."""
    name, _, rest = text.partition(":")
    kind, _, data = rest.partition(":")
    kinds = [kind_name.value for kind_name in ClientKind]
    if not re.fullmatch(NAME_PATTERN, name) or kind not in kinds:
        raise ConfigurationError(
            f"--site {text}: write NAME:KIND, or NAME:KIND:DATA with the folder of its data; NAME of lower-case"
            f" letters, digits and hyphens, KIND one of {', '.join(kinds)}"
        )
    return OwnSite(name, ClientKind(kind), Path(data) if data else None)


def write_agent_yaml(site: OwnSite, aggregator: str, *, seed: int, has_tls: bool) -> str:
    """Write the site's agent.yaml, unless it is there; returns a line on it. Raises ConfigurationError, DataError."""
    from fedafd.agent.agent_file import agent_file
    from fedafd.agent.files import write_atomically
    from fedafd.agent.proposal import propose

    if site.config.exists():
        return f"client {site.name}: {site.config} is there, it stays as it is"
    if site.data is None:
        proposal = propose(None, adapter="shapes", kind=site.kind, options=_TRIAL | {"seed": seed})
    else:
        proposal = propose(site.data, kind=site.kind)
    text, _ = agent_file(
        proposal,
        aggregator=aggregator,
        state_dir="state",
        authorities=None,
        plaintext=False if has_tls else None,
    )
    try:
        site.config.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(site.config.resolve(), text.encode())
    except OSError as error:
        raise ConfigurationError(f"{site.config}: cannot be written: {error.strerror}") from error
    what = "generated data, as a trial" if site.data is None else f"{site.data}, read by {proposal.adapter}"
    return f"client {site.name}: {site.config} written, for {what}"


def run_command(site: OwnSite) -> str:
    """What starts its agent."""
    return f"fedafd agent run --config {site.config} --token-file {shlex.quote(str(site.invitation.token_file))}"
