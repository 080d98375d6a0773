"""The tables: the truth about federations, clients, rounds, stages, artifacts and versions.

Times are UTC and timezone-aware. Ids are 32 hexadecimal characters unless said otherwise. Everything in Redis can
be rebuilt from here, and everything in the object store is named from here.
"""

from __future__ import annotations

from fedafd.persistence.clock import utc_now
from fedafd.persistence.models.base import Base, UtcDateTime, new_id
from fedafd.persistence.models.members import ClientRow, FederationRow
from fedafd.persistence.models.operations import (
    ApiKeyRow,
    AuthorityRow,
    DrainRow,
    EndedLoginRow,
    EventRow,
    IdempotencyRow,
    LeaseRow,
    RemovalRow,
    SessionSecretRow,
)
from fedafd.persistence.models.rounds import OutboxRow, ParticipationRow, RoundRow, StageRow
from fedafd.persistence.models.stored import ArtifactRow, ModelFileRow, ModelVersionRow, PersonalizedModelRow, UploadRow

__all__ = [
    "ApiKeyRow",
    "ArtifactRow",
    "AuthorityRow",
    "Base",
    "ClientRow",
    "DrainRow",
    "EndedLoginRow",
    "EventRow",
    "FederationRow",
    "IdempotencyRow",
    "LeaseRow",
    "ModelFileRow",
    "ModelVersionRow",
    "OutboxRow",
    "ParticipationRow",
    "PersonalizedModelRow",
    "RemovalRow",
    "RoundRow",
    "SessionSecretRow",
    "StageRow",
    "UploadRow",
    "UtcDateTime",
    "new_id",
    "utc_now",
]
