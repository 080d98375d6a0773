"""`fedafd agent check`: all that a site can find out before it joins. No token is spent, nothing of it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fedafd.agent.approval import read_proposal
from fedafd.agent.check_base_weights import check_base_weights
from fedafd.agent.exit_codes import ExitCode, exit_code_of
from fedafd.agent.findings import Finding, Level, error, fine, note, warning, worst_exit_code
from fedafd.agent.own_data import look_at
from fedafd.agent.policy_words import policy_words
from fedafd.datasets.facts import DataReport
from fedafd.datasets.report import Progress
from fedafd.datasets.samples import ClientData
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import FedafdError
from fedafd.domain.hub_names import hub_name
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
            "findings": [asdict(finding) | {"level": finding.level.value} for finding in self.findings],
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
    data, report, findings = _data(config, progress)
    doing("training a few steps")
    findings += _training(config, data, report)
    findings += _tracking(config)
    findings += check_base_weights(config)
    findings += _policy(config)
    findings += _privacy(config)
    doing("looking at the state folder")
    of_folder = check_folder(config)
    usable = all(finding.level is not Level.ERROR for finding in of_folder)
    findings += [*of_folder, *(check_state(config, data) if usable else [])]
    from fedafd.agent.check_aggregator import check_aggregator, check_tls_files

    if offline:
        findings += check_tls_files(config)
    else:
        doing(f"asking {config.aggregator}")
        findings += check_aggregator(config)
    enrolled = usable and (config.state_dir / "credential.json").is_file()
    return SiteCheck(findings=tuple(findings), data=data, report=report, enrolled=enrolled)


def _data(config: AgentConfig, progress: Progress | None) -> tuple[ClientData | None, DataReport | None, list[Finding]]:
    try:
        data, report = look_at(config, progress)
    except FedafdError as failed:
        return None, None, [error("data", str(failed), exit_code_of(failed))]
    findings = [error("data", problem, ExitCode.DATA) for problem in report.problems()]
    if not report.unreadable.count:
        findings.append(fine("data", f"all {sum(report.counts.values())} samples read"))
    findings += [note("data", sentence) for sentence in report.listing.notes]
    return data, report, [*findings, *(warning("data", sentence) for sentence in report.warnings())]


def _tracking(config: AgentConfig) -> list[Finding]:
    if not config.tracking:
        return []
    try:
        check_trackers(config.tracking, "tracking")
    except FedafdError as failed:
        return [error("tracking", str(failed), ExitCode.CONFIGURATION)]
    lacking = [name for name in config.tracking if missing_library(name) is not None]
    needed = [f"{name} needs its library: pip install 'fedafd[{name}]'" for name in lacking]
    return [warning("tracking", sentence) for sentence in needed] or [
        fine("tracking", f"metrics go to {', '.join(config.tracking)}")
    ]


def _policy(config: AgentConfig) -> list[Finding]:
    findings = [fine("policy", f"refuses {words}") for words in policy_words(config.policy)]
    findings += [
        note("policy", f"{name} may change on its hub: put `@` and the commit that you have looked at behind it")
        for name in _unpinned(config)
    ]
    try:
        waits = read_proposal(config.state_dir)
    except FedafdError as failed:
        return [*findings, error("policy", str(failed), exit_code_of(failed))]
    if waits is None:
        return findings
    return [*findings, warning("policy", f"round {waits.round_number} waits for your yes: fedafd agent approve")]


def _unpinned(config: AgentConfig) -> list[str]:
    """Weights of a hub that agent.yaml names without a revision."""
    encoders = (config.image_encoder, config.text_encoder)
    named = [*config.policy.pretrained, *(encoder.pretrained for encoder in encoders if encoder and encoder.pretrained)]
    parsed = {name: hub_name(name) for name in named}
    return [name for name, hub in parsed.items() if hub is not None and hub.revision is None]


def _privacy(config: AgentConfig) -> list[Finding]:
    if config.privacy.dp is None:
        return []
    from fedafd.agent.privacy_account import budget_words

    try:
        words, warnings = budget_words(config, config.state_dir)
    except FedafdError as failed:
        return [error("privacy", str(failed), exit_code_of(failed))]
    return [fine("privacy", words), *(warning("privacy", sentence) for sentence in warnings)]


def _training(config: AgentConfig, data: ClientData | None, report: DataReport | None) -> list[Finding]:
    from fedafd.agent.check_training import check_device, check_tokens, check_training

    findings = check_device(config)
    if data is None or report is None or report.problems():
        return findings
    findings += check_tokens(config, data)
    return findings if any(finding.exit_code for finding in findings) else [*findings, *check_training(config, data)]
