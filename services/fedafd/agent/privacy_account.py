"""What the site's training has cost of its privacy budget, in a file of the site's own: it outlasts restarts and kills.

Steps are written down as spent before they are taken. Whatever ends the training then, they stay spent: a round that is
trained a second time draws new noise and costs a second time.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedafd.agent.files import write_atomically
from fedafd.agent.ledger import Ledger, read_sent
from fedafd.domain.config import AgentConfig, DpConfig, FederationConfig, parse_federation_config
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.kinds import UploadPurpose
from fedafd.domain.leaving import LeaveReason
from fedafd.domain.process_errors import PolicyRefusedError
from fedafd.learning.privacy_accountant import Spending, epsilon_of

__all__ = ["PRIVACY", "PrivacyAccount", "PrivacyEntry", "budget_words", "read_account"]

PRIVACY = "privacy"
"""What the record of what was sent calls an entry of this account."""
_FILE = "privacy.json"
_MOST_ROUNDS = 1000
"""Looked ahead."""
_RESTORE = "put it back from a copy; without it nobody knows what is spent, and nothing is trained"


@dataclass(frozen=True, kw_only=True)
class PrivacyEntry:
    """Steps that were taken, or were about to be."""

    at: str
    """ISO 8601, UTC."""
    round: int
    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float
    epsilon: float
    """At `delta`, of this entry and all before it."""


class PrivacyAccount:
    """Of one state directory. A site without privacy.dp spends nothing."""

    def __init__(self, config: AgentConfig, root: Path, ledger: Ledger) -> None:
        self._config, self._root, self._ledger = config, root, ledger

    def need(self, federation: FederationConfig, round_number: int, *, is_new: bool) -> None:
        """Raise PolicyRefusedError where the round costs more than is left, ConfigurationError for a damaged file."""
        if self._config.privacy.dp is not None:
            self._next(self._config.privacy.dp, federation, round_number, is_new=is_new)

    def spend(self, federation: FederationConfig, round_number: int, *, is_new: bool) -> None:
        """Write a round's steps down, durably, before the first is taken. Raises as `need`."""
        dp = self._config.privacy.dp
        if dp is None:
            return
        entries, entry = self._next(dp, federation, round_number, is_new=is_new)
        content = json.dumps([asdict(line) for line in (*entries, entry)], indent=1).encode()
        write_atomically(self._root / _FILE, content, mode=0o600)
        self._ledger.record(
            PRIVACY,
            sha256="",
            size_bytes=0,
            round_number=round_number,
            detail=f"epsilon {entry.epsilon:.3g} of {dp.epsilon:g} at delta {dp.delta:g}; {entry.steps} steps more",
        )

    def _next(
        self, dp: DpConfig, federation: FederationConfig, round_number: int, *, is_new: bool
    ) -> tuple[tuple[PrivacyEntry, ...], PrivacyEntry]:
        entries = read_account(self._root)
        noted = sum(entry.what == PRIVACY for entry in read_sent(self._root))
        if noted > len(entries):
            raise ConfigurationError(
                f"{self._root / _FILE}: has {len(entries)} entries, but {noted} were written; {_RESTORE}"
            )
        kind = self._config.kind
        rate = dp.sampling_rate(federation.client.for_kind(kind).batch_size)
        steps = dp.steps_of_round(federation, kind, is_new=is_new)
        spent = [Spending(entry.noise_multiplier, entry.sampling_rate, entry.steps) for entry in entries]
        epsilon = epsilon_of([*spent, Spending(dp.noise_multiplier, rate, steps)], dp.delta)
        if epsilon > dp.epsilon:
            before = epsilon_of(spent, dp.delta)
            raise PolicyRefusedError(
                f"the privacy budget does not suffice: epsilon {before:.3g} of {dp.epsilon:g} is spent at delta"
                f" {dp.delta:g}, and with the {steps} steps of round {round_number} it would be {epsilon:.3g};"
                " as `privacy.dp` in agent.yaml says",
                LeaveReason.POLICY_ROUNDS,
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return entries, PrivacyEntry(
            at=now,
            round=round_number,
            noise_multiplier=dp.noise_multiplier,
            sampling_rate=rate,
            steps=steps,
            delta=dp.delta,
            epsilon=epsilon,
        )


def read_account(root: Path) -> tuple[PrivacyEntry, ...]:
    """The entries, oldest first; none where nothing was spent. Raises ConfigurationError for a damaged file."""
    path = root / _FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}; {_RESTORE}") from error
    try:
        entries = tuple(PrivacyEntry(**values) for values in json.loads(content))
        sound = all(
            0 < e.sampling_rate <= 1 and 0 < e.noise_multiplier < math.inf and type(e.steps) is int and e.steps >= 0
            for e in entries
        )
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{path}: is damaged ({error}); {_RESTORE}") from None
    if not sound:
        raise ConfigurationError(f"{path}: is damaged: a number in it is out of range; {_RESTORE}")
    return entries


def budget_words(config: AgentConfig, root: Path) -> tuple[str, list[str]]:
    """How much of the budget is spent and how far the rest goes by a federation's defaults, and what to think about."""
    dp = config.privacy.dp
    assert dp is not None
    federation = parse_federation_config({"name": "check"})
    spent = read_account(root) if root.is_dir() else ()
    costs = [Spending(entry.noise_multiplier, entry.sampling_rate, entry.steps) for entry in spent]
    used = epsilon_of(costs, dp.delta)
    rate = dp.sampling_rate(federation.client.for_kind(config.kind).batch_size)
    steps = dp.steps_of_round(federation, config.kind, is_new=False)

    def after(rounds: int) -> float:
        return epsilon_of([*costs, Spending(dp.noise_multiplier, rate, rounds * steps)], dp.delta)

    rounds = bisect_right(range(1, _MOST_ROUNDS + 1), dp.epsilon, key=after)
    sentence = (
        f"epsilon {used:.3g} of {dp.epsilon:g} is spent at delta {dp.delta:g}; by a federation's defaults,"
        f" {steps} steps a round, the rest suffices for {'more than ' if rounds == _MOST_ROUNDS else ''}{rounds} rounds"
    )
    warnings = [] if rounds else ["not even one round is left; a larger noise_multiplier makes rounds cheaper"]
    uncovered = _delivered_without(root, spent) if root.is_dir() else 0
    if uncovered:
        warnings.append(f"{uncovered} rounds were delivered without privacy.dp; no budget covers what left in them")
    return sentence, warnings


def _delivered_without(root: Path, spent: Sequence[PrivacyEntry]) -> int:
    """Rounds that were delivered and never accounted for, before privacy.dp was set or while it was not."""
    delivered = {entry.round for entry in read_sent(root) if entry.what == UploadPurpose.REPRESENTATIONS.value}
    return len(delivered - {entry.round for entry in spent})
