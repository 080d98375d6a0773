"""Whether the state that earlier rounds left can be gone on from, with today's data and agent.yaml."""

from __future__ import annotations

from fedafd.agent.exit_codes import exit_code_of
from fedafd.agent.findings import Finding, error, fine, warning
from fedafd.agent.saved_state import check_saved_state
from fedafd.agent.state import StateDirectory
from fedafd.datasets.samples import ClientData
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import FedafdError
from fedafd.domain.state_cases import Answer

__all__ = ["check_state"]

_ABOUT = "saved state"


def check_state(config: AgentConfig, data: ClientData | None) -> list[Finding]:
    """One line for each part that is another today. Looks, and leaves nothing behind."""
    if data is None or not (config.state_dir / "state").is_dir():
        return []
    state = StateDirectory(config.state_dir)
    try:
        differences = check_saved_state(config, data.labels, state)
    except FedafdError as failed:
        return [error(_ABOUT, str(failed), exit_code_of(failed))]
    findings = [
        (warning if difference.answer is Answer.ADAPT else fine)(_ABOUT, difference.message)
        for difference in differences
    ]
    last_round = state.current_round()
    return findings or ([] if last_round is None else [fine(_ABOUT, f"round {last_round + 1} can go on from it")])
