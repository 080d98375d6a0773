"""Refuses what the site's policy does not allow, before it is done: before a download, before training, while it runs.

What is refused leaves as a code. The numbers stand in the error's message, which stays in the agent's log.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from fedafd.agent.approval import Proposal, configuration_changes, read_approved, write_proposal
from fedafd.agent.ledger import read_sent
from fedafd.agent.state import PendingResult
from fedafd.artifacts.manifest import Manifest, read_manifest
from fedafd.domain.config import AgentConfig, EncoderConfig, FederationConfig
from fedafd.domain.counted import counted
from fedafd.domain.errors import DataError, FedafdError
from fedafd.domain.hashing import file_sha256
from fedafd.domain.hub_names import hub_name
from fedafd.domain.kinds import Modality, UploadPurpose
from fedafd.domain.leaving import LeaveReason
from fedafd.domain.plain_text import plain_text
from fedafd.domain.process_errors import PolicyRefusedError
from fedafd.proto.v1 import aggregator_pb2 as pb

__all__ = ["SitePolicy", "as_taken", "used_deliveries"]

_IN_AGENT_YAML = "as `policy` in agent.yaml says"


def _now() -> datetime:
    return datetime.now(UTC)


class SitePolicy:
    """The policy of one site. Methods raise PolicyRefusedError."""

    def __init__(self, config: AgentConfig, root: Path, now: Callable[[], datetime] = _now) -> None:
        self._config, self._policy, self._root, self._now = config, config.policy, root, now

    async def admit(
        self,
        task: pb.TrainTask,
        federation: FederationConfig,
        fetch_manifest: Callable[[], Awaitable[Path]],
        *,
        missing_bytes: int,
        at_hand: PendingResult | None = None,
    ) -> None:
        """Whether anything is done for the round. `fetch_manifest` is called where a person has to be told of the set.

        `missing_bytes`: of what the task names and no older file can be a part of, how much is not here. `at_hand`:
        what was trained for this very round before.

        Raises PolicyRefusedError, and what `fetch_manifest` raises.
        """
        self.need_hours()
        self.need_rounds(at_hand)
        self._need_values(federation)
        self._need_small_bundles(task)
        self.need_small_downloads(missing_bytes)
        self._need_known_set(task.public_set_sha256)
        await self._need_approval(task, federation, fetch_manifest)

    async def admit_bundles(self, bundles: Mapping[Modality, Path]) -> None:
        """Whether the downloaded encoders are loaded."""
        if self._policy.max_bundle_parameters is None and self._policy.encoders is None:
            return
        for modality, path in bundles.items():
            await asyncio.to_thread(self._need_small_encoder, modality, path)

    def watch(self) -> Callable[[], None]:
        """To be called while it trains: raises once the minutes or the hours are over."""
        began, most = time.monotonic(), self._policy.max_minutes

        def check() -> None:
            self.need_hours()
            if most is not None and time.monotonic() - began > 60 * most:
                _refuse(LeaveReason.POLICY_EFFORT, f"training takes longer than max_minutes: {most:g}")

        return check

    def need_hours(self) -> None:
        """Raise outside of the hours."""
        if not self._policy.is_open(self._now()):
            zone = "" if self._policy.time_zone is None else f" ({self._policy.time_zone})"
            _refuse(LeaveReason.POLICY_HOURS, f"it trains at {', '.join(self._policy.hours or ()) or 'no hour'}{zone}")

    def need_rounds(self, at_hand: PendingResult | None = None) -> None:
        """Raise once the data were used for as many rounds as allowed; not for what is `at_hand`, and left before."""
        most = self._policy.max_rounds
        if most is None:
            return
        used = used_deliveries(self._root)
        if len(used) < most or (at_hand is not None and _representations_sha256(at_hand) in used):
            return
        _refuse(LeaveReason.POLICY_ROUNDS, f"the data were used for {counted(len(used), 'round')}, max_rounds: {most}")

    def need_small_downloads(self, missing_bytes: int) -> None:
        """Raise if a round would bring down more than that."""
        most = self._policy.max_download_bytes
        if most is not None and missing_bytes > most:
            _refuse(
                LeaveReason.POLICY_DOWNLOAD,
                f"{missing_bytes:,} bytes would have to be downloaded for the round, max_download_bytes: {most:,}",
            )

    def _need_values(self, federation: FederationConfig) -> None:
        epochs, most = federation.client.local_epochs, self._policy.max_epochs
        if most is not None and epochs > most:
            _refuse(LeaveReason.POLICY_EFFORT, f"client.local_epochs is {epochs}, max_epochs: {most}")
        for key, value, allowed in self._policy.not_allowed(federation):
            choices = ", ".join(map(json.dumps, allowed)) or "nothing"
            _refuse(LeaveReason.POLICY_VALUES, f"{key} is {json.dumps(value)}, allowed: {choices}")
        for modality in self._config.kind.modalities:
            named = federation.encoder_of(modality)
            self._need_architecture(f"{modality.value}_encoder.architecture", named.architecture)
        as_taken(self._config, federation)

    def _need_architecture(self, where: str, name: str) -> None:
        allowed = self._policy.encoders
        if allowed is not None and name not in allowed:
            _refuse(LeaveReason.POLICY_ENCODER, f"{where} is {name!r}, encoders: {', '.join(allowed) or 'none'}")

    def _need_small_bundles(self, task: pb.TrainTask) -> None:
        most = self._policy.max_bundle_bytes
        for bundle in task.encoder_bundles:
            if most is not None and bundle.size_bytes > most:
                _refuse(
                    LeaveReason.POLICY_ENCODER,
                    f"{bundle.purpose} has {bundle.size_bytes:,} bytes, max_bundle_bytes: {most:,}",
                )

    def _need_small_encoder(self, modality: Modality, path: Path) -> None:
        from fedafd.learning.bundle_size import bundle_facts

        try:
            facts = bundle_facts(path)
        except FedafdError as error:
            raise PolicyRefusedError(
                f"the {modality.value} encoder bundle cannot be looked at: {error}", LeaveReason.POLICY_ENCODER
            ) from error
        self._need_architecture(f"architecture of the {modality.value} encoder bundle", facts.architecture)
        most = self._policy.max_bundle_parameters
        if most is not None and facts.num_parameters > most:
            _refuse(
                LeaveReason.POLICY_ENCODER,
                f"the {modality.value} encoder bundle holds {facts.num_parameters:,} numbers,"
                f" max_bundle_parameters: {most:,}",
            )

    def _need_known_set(self, sha256: str) -> None:
        listed = self._policy.public_sets
        if listed is None or sha256 in listed or sha256 in read_approved(self._root).public_sets:
            return
        if "public-set" not in self._policy.approve:
            _refuse(LeaveReason.POLICY_PUBLIC_SET, f"public set {sha256} is not among public_sets")

    async def _need_approval(
        self, task: pb.TrainTask, federation: FederationConfig, fetch_manifest: Callable[[], Awaitable[Path]]
    ) -> None:
        approved, now = read_approved(self._root), json.loads(federation.sites_json())
        waits_for = []
        if "configuration" in self._policy.approve and (
            approved.configuration is None or configuration_changes(approved.configuration, now)
        ):
            waits_for.append("the federation's configuration")
        known = {*(self._policy.public_sets or ()), *approved.public_sets}
        new_set = "public-set" in self._policy.approve and task.public_set_sha256 not in known
        if new_set:
            waits_for.append(f"public set {task.public_set_sha256}")
        if not waits_for:
            return
        manifest = _manifest(await fetch_manifest()) if new_set else None
        # What the hash is of says how much it is, and not what the task says beside it.
        shards = [] if manifest is None else [shard for shard in manifest.shards if shard.split == "train"]
        proposal = Proposal(
            at=self._now().astimezone(UTC).isoformat(timespec="seconds"),
            round_number=task.round_number,
            configuration=now if waits_for[0].startswith("the") else None,
            public_set_sha256=task.public_set_sha256 if new_set else None,
            public_set_bytes=sum(shard.size_bytes for shard in shards),
            public_set_files=len(shards),
            public_set_rows={} if manifest is None else _rows(manifest),
        )
        await asyncio.to_thread(write_proposal, self._root, proposal)
        _refuse(
            LeaveReason.POLICY_APPROVAL,
            f"{' and '.join(waits_for)} waits for your approval: run `fedafd agent approve`",
        )


def as_taken(site: AgentConfig, federation: FederationConfig) -> FederationConfig:
    """The federation's configuration with the pretrained weights of the site's model at the revision that it pins.

    Whatever builds the site's model of a federation's configuration takes it from here: a server's name of weights
    leads to a hub only if the site's policy has it, and never to a folder. Raises PolicyRefusedError.
    """
    own = {Modality.IMAGE: site.image_encoder, Modality.TEXT: site.text_encoder}
    changes: dict[str, EncoderConfig] = {}
    for modality in site.kind.modalities:
        key = f"{modality.value}_encoder"
        named: EncoderConfig = getattr(federation, key)
        if own[modality] is not None or named.pretrained is None:
            continue
        taken = site.policy.taken_pretrained(named.pretrained)
        if taken is None:
            _refuse(LeaveReason.POLICY_PRETRAINED, _how_to_allow(key, named.pretrained, site.policy.pretrained))
        changes[key] = named.model_copy(update={"pretrained": taken})
    return federation.model_copy(update=changes)


def _how_to_allow(key: str, named: str, allowed: tuple[str, ...]) -> str:
    said = f"the federation's {key}.pretrained is {plain_text(named)[:300]!r}"
    listed = f"pretrained: {', '.join(allowed) or 'nothing'}"
    if hub_name(named) is None:
        return (
            f"{said}, which is no id on a hub, and a folder is never taken from a federation; to use one of yours name"
            f" it as `pretrained` of {key} in agent.yaml; {listed}"
        )
    return (
        f"{said}, and it is not allowed; to have your agent load it put `policy: {{pretrained: [{named}]}}` into"
        f" agent.yaml, best with `@` and the revision that you have looked at, or name an {key} of your own; {listed}"
    )


def used_deliveries(root: Path) -> frozenset[str]:
    """Hashes of the representations that left, or were about to.

    A round is told by what was sent for it, and not by its number or id: a server may use those twice.
    """
    return frozenset(entry.sha256 for entry in read_sent(root) if entry.what == UploadPurpose.REPRESENTATIONS.value)


def _representations_sha256(result: PendingResult) -> str:
    return file_sha256(result.blobs()[UploadPurpose.REPRESENTATIONS])


def _manifest(path: Path) -> Manifest | None:
    try:
        return read_manifest(path.read_bytes())
    except (DataError, OSError):
        return None


def _rows(manifest: Manifest) -> dict[str, int]:
    return {split: manifest.num_samples(split) for split in dict.fromkeys(shard.split for shard in manifest.shards)}


def _refuse(reason: LeaveReason, words: str) -> NoReturn:
    raise PolicyRefusedError(f"{words}; {_IN_AGENT_YAML}", reason)
