"""`fedafd agent check`: all that a site can find out before it joins. No token is spent, nothing of it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fedafd.agent.approval import read_proposal
from fedafd.agent.exit_codes import ExitCode, exit_code_of
from fedafd.agent.findings import Finding, Level, error, fine, note, warning, worst_exit_code
from fedafd.agent.own_data import look_at
from fedafd.agent.policy_words import policy_words
from fedafd.datasets.facts import DataReport
from fedafd.datasets.report import Progress
from fedafd.datasets.samples import ClientData
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import FedafdError
from fedafd.tracking.trackers import check_trackers, missing_library

__all__ = ["CHECK_VERSION", "SiteCheck", "check_site"]

CHECK_VERSION = 1
"""Of `SiteCheck.to_dict`: raised when a key changes its meaning or goes."""


@dataclass(frozen=True, kw_only=True)
class SiteCheck:
    """What was found; `data` and `report` are None where the data could not even be loaded."""

    findings: tuple[Finding, ...]
    data: ClientData | None
    report: DataReport | None
    enrolled: bool = False
    """The site has a credential: a start needs no token."""

    def exit_code(self, *, strict: bool = False) -> ExitCode:
        """What the check ends with."""
        return worst_exit_code(self.findings, strict=strict)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "version": CHECK_VERSION,
            "exit_code": int(self.exit_code()),
            "findings": [asdict(each) | {"level": each.level.value} for each in self.findings],
            "data": None if self.report is None else self.report.to_dict(),
        }


def check_site(
    config: AgentConfig,
    *,
    offline: bool = False,
    progress: Progress | None = None,
    doing: Callable[[str], None] = lambda _: None,
) -> SiteCheck:
    """Look at data, device, training, folder and, unless `offline`, the aggregator. `doing` hears what is next."""
    from fedafd.agent.check_folder import check_folder
    from fedafd.agent.check_state import check_state

    doing("reading every sample")
    data, report, found = _data(config, progress)
    doing("training a few steps")
    found += _training(config, data, report)
    found += _tracking(config)
    found += _policy(config)
    found += _privacy(config)
    doing("looking at the state folder")
    of_folder = check_folder(config)
    usable = all(each.level is not Level.ERROR for each in of_folder)
    found += [*of_folder, *(check_state(config, data) if usable else [])]
    from fedafd.agent.check_aggregator import check_aggregator, check_tls_files

    if offline:
        found += check_tls_files(config)
    else:
        doing(f"asking {config.aggregator}")
        found += check_aggregator(config)
    enrolled = usable and (config.state_dir / "credential.json").is_file()
    return SiteCheck(findings=tuple(found), data=data, report=report, enrolled=enrolled)


def _data(config: AgentConfig, progress: Progress | None) -> tuple[ClientData | None, DataReport | None, list[Finding]]:
    try:
        data, report = look_at(config, progress)
    except FedafdError as failed:
        return None, None, [error("data", str(failed), exit_code_of(failed))]
    found = [error("data", problem, ExitCode.DATA) for problem in report.problems()]
    if not report.unreadable.count:
        found.append(fine("data", f"all {sum(report.counts.values())} samples read"))
    found += [note("data", each) for each in report.listing.notes]
    return data, report, [*found, *(warning("data", each) for each in report.warnings())]


def _tracking(config: AgentConfig) -> list[Finding]:
    if not config.tracking:
        return []
    try:
        check_trackers(config.tracking, "tracking")
    except FedafdError as failed:
        return [error("tracking", str(failed), ExitCode.CONFIGURATION)]
    lacking = [name for name in config.tracking if missing_library(name) is not None]
    needed = [f"{name} needs its library: pip install 'fedafd[{name}]'" for name in lacking]
    return [warning("tracking", each) for each in needed] or [
        fine("tracking", f"metrics go to {', '.join(config.tracking)}")
    ]


def _policy(config: AgentConfig) -> list[Finding]:
    told = [fine("policy", f"refuses {each}") for each in policy_words(config.policy)]
    try:
        waits = read_proposal(config.state_dir)
    except FedafdError as failed:
        return [*told, error("policy", str(failed), exit_code_of(failed))]
    if waits is None:
        return told
    return [*told, warning("policy", f"round {waits.round_number} waits for your yes: fedafd agent approve")]


def _privacy(config: AgentConfig) -> list[Finding]:
    if config.privacy.dp is None:
        return []
    from fedafd.agent.privacy_account import budget_words

    try:
        told, warnings = budget_words(config, config.state_dir)
    except FedafdError as failed:
        return [error("privacy", str(failed), exit_code_of(failed))]
    return [fine("privacy", told), *(warning("privacy", each) for each in warnings)]


def _training(config: AgentConfig, data: ClientData | None, report: DataReport | None) -> list[Finding]:
    from fedafd.agent.check_training import check_device, check_tokens, check_training

    found = check_device(config)
    if data is None or report is None or report.problems():
        return found
    found += check_tokens(config, data)
    return found if any(each.exit_code for each in found) else [*found, *check_training(config, data)]
