"""What a region delivers, checked: the merged SED states of its own clients, and how many these are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fedafd.aggregator.context import Context
from fedafd.aggregator.tasks import public_set_manifest
from fedafd.aggregator.uploads import Assembled
from fedafd.artifacts.merged_states import ClientCounts, check_merged_states
from fedafd.artifacts.stage_io import SharedOutputs
from fedafd.domain.config.regions import check_regions
from fedafd.domain.errors import RoundClosedError, UploadError
from fedafd.domain.kinds import StageKind, UploadPurpose
from fedafd.persistence.caller_repository import CallingClient
from fedafd.persistence.models import RoundRow
from fedafd.persistence.round_repository import config_of_round
from fedafd.persistence.stage_repository import stage_outputs

__all__ = ["as_stored", "check_region"]


async def check_region(
    context: Context, client: CallingClient, row: RoundRow, blobs: Sequence[Assembled]
) -> tuple[Assembled, ClientCounts]:
    """The region's one blob, and whom it stands for.

    Raises UploadError, RepresentationError, PublicSetMismatchError, and ConfigurationError where the round needs the
    rows of single clients.
    """
    if [blob.purpose for blob in blobs] != [UploadPurpose.MERGED_STATES]:
        raise UploadError("a region delivers one blob of merged states and nothing else")
    config = config_of_round(row)
    check_regions(config)
    manifest = await public_set_manifest(context, row.public_set_sha256)
    async with context.database.snapshot() as session:
        prepared = await stage_outputs(session, row.id, StageKind.PREPARE)
    if prepared is None:
        raise RoundClosedError(f"round {row.number} has no global representations to compare with")
    clients = await asyncio.to_thread(
        check_merged_states,
        blobs[0].file,
        config,
        num_samples=manifest.num_samples(),
        public_set_sha256=row.public_set_sha256,
        global_sha256=SharedOutputs.of(prepared).global_representations["sha256"],
        max_clients=client.max_clients or 0,
    )
    return blobs[0], clients


def as_stored(clients: ClientCounts) -> dict[str, int]:
    """The counts as the participation's row holds them."""
    return {"total": clients.total} | {modality.value: count for modality, count in clients.by_modality.items()}
