"""Where a site stands, read from its state directory alone: no service is asked, and the agent may be running."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedafd.agent.approval import read_proposal
from fedafd.agent.baseline import baseline_target
from fedafd.agent.baseline_folder import BaselineFolder
from fedafd.agent.benefit import RoundBenefit, benefits
from fedafd.agent.call_count import CALLS
from fedafd.agent.ledger import SentEntry, read_sent
from fedafd.agent.own_data import changed_at_start
from fedafd.agent.privacy_account import PRIVACY, PrivacyEntry, read_account
from fedafd.agent.site_model import SiteModel
from fedafd.agent.state import Credential, StateDirectory
from fedafd.agent.task_note import TaskNote, read_task_note
from fedafd.domain.claims import is_claimed
from fedafd.domain.errors import DataError

__all__ = ["STATUS_VERSION", "SiteStatus", "status_of"]

STATUS_VERSION = 1
"""Of `SiteStatus.to_dict`: raised when a key changes its meaning or goes."""


@dataclass(frozen=True, kw_only=True)
class SiteStatus:
    """Of one state directory."""

    state_dir: Path
    running: bool
    credential: Credential | None
    task: TaskNote | None
    waits_for_approval: int | None
    """The round since which a person has to say yes to what the federation changed."""
    waits_for_receipt: int | None
    """The round whose result is trained and not confirmed yet."""
    rounds: tuple[RoundBenefit, ...]
    sent: tuple[SentEntry, ...]
    """What left in rounds, of other federations too."""
    sent_last: tuple[SentEntry, ...]
    """What left in the last of `rounds`."""
    model: Path | None
    """Where the site's own model is, if there is one."""
    model_round: int | None
    """The round it is of; after a reset or in a new federation an earlier one than any of `rounds`."""
    baseline_rounds: int
    baseline_target: int
    baseline_running: bool
    data_changes: Mapping[str, tuple[int, int]]
    """Samples added and removed by split, found at the agent's last start."""
    disk_bytes: Mapping[str, int]
    """By what is in the directory."""
    privacy: PrivacyEntry | None = None
    """The last entry of the privacy account; None for a site that trains without differential privacy."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; no secret is in it."""
        own = self.credential
        return {
            "version": STATUS_VERSION,
            "state_dir": str(self.state_dir),
            "running": self.running,
            "enrolled": None
            if own is None
            else {"federation": own.federation_id, "client": own.client_name, "kind": own.kind.value},
            "task": None if self.task is None else asdict(self.task),
            "waits_for_approval": self.waits_for_approval,
            "waits_for_receipt": self.waits_for_receipt,
            "rounds": [record.to_dict() for record in self.rounds],
            "sent": [asdict(entry) for entry in self.sent],
            "model": None if self.model is None else str(self.model),
            "model_round": self.model_round,
            "baseline": {
                "rounds": self.baseline_rounds,
                "of": self.baseline_target,
                "running": self.baseline_running,
            },
            "data_changes": {
                split: {"added": added, "removed": removed} for split, (added, removed) in self.data_changes.items()
            },
            "disk_bytes": dict(self.disk_bytes),
            "privacy": None if self.privacy is None else asdict(self.privacy),
        }


def status_of(root: Path) -> SiteStatus:
    """Raises DataError where no agent has kept anything, ConfigurationError for an unusable credential."""
    if not (root / "state").is_dir():
        raise DataError(f"{root}: no agent has kept anything here; name its state_dir, or its agent.yaml with --config")
    state = StateDirectory(root)
    pending, baseline, proposal = state.load_pending(), BaselineFolder(root), read_proposal(root)
    rounds, sent, model = tuple(benefits(root)), tuple(read_sent(root)), SiteModel(root)
    return SiteStatus(
        state_dir=root,
        running=is_claimed(root / "agent.lock"),
        credential=state.load_credential(),
        task=read_task_note(root),
        waits_for_approval=None if proposal is None else proposal.round_number,
        waits_for_receipt=None if pending is None else pending.round_number,
        rounds=rounds,
        sent=tuple(entry for entry in sent if entry.round and entry.what != PRIVACY),
        sent_last=_last_of(sent, rounds[-1].round_number) if rounds else (),
        model=root / "model" if model.current() is not None else None,
        model_round=model.round_number(),
        baseline_rounds=baseline.done(),
        baseline_target=baseline_target(root),
        baseline_running=is_claimed(root / "baseline.lock"),
        data_changes={split: (change.added, change.removed) for split, change in changed_at_start(root).items()},
        disk_bytes=_disk(root),
        privacy=next(reversed(read_account(root)), None),
    )


def _last_of(sent: Sequence[SentEntry], number: int) -> tuple[SentEntry, ...]:
    """The last run of entries of a round: another federation that this site was in had a round of that number, too."""
    last: list[SentEntry] = []
    for entry in reversed(sent):
        if entry.what in (PRIVACY, CALLS):
            continue  # nothing that left, and what is told afterwards, also of the time between rounds
        if entry.round == number:
            last.append(entry)
        elif last:
            break
    return tuple(reversed(last))


def _disk(root: Path) -> dict[str, int]:
    """Bytes by entry of the directory, links not followed; what goes meanwhile does not count."""
    sizes = {}
    for path in sorted(root.iterdir()):
        if not path.is_symlink():
            files = [path] if path.is_file() else [Path(at, name) for at, _, names in os.walk(path) for name in names]
            sizes[path.name] = sum(map(_size, files))
    return sizes


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
