"""Options that the commands of a site share: which agent.yaml, and which folder is the agent's own."""

from __future__ import annotations

from pathlib import Path

from fedafd.agent.options import AgentYaml, StateDir, Token, TokenFile

__all__ = ["AgentYaml", "StateDir", "Token", "TokenFile", "state_dir_of"]


def state_dir_of(config: Path, state_dir: Path | None) -> Path:
    """The agent's own folder; agent.yaml is read only where nothing else says it. Raises ConfigurationError."""
    from fedafd.agent.settings import load_settings
    from fedafd.domain.config import read_agent_config

    return state_dir or load_settings().state_dir or read_agent_config(config).state_dir
