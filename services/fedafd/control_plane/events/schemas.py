"""JSON of audit events."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from fedafd.control_plane.paging import Page
from fedafd.persistence.models import EventRow

__all__ = ["Event", "EventPage"]


class Event(BaseModel):
    """What happened, when, to what, by whom."""

    id: int = Field(description="Grows in the order in which events became true.")
    at: datetime
    kind: str = Field(description="Dotted, such as `round.state_changed`.")
    federation: str | None = Field(description="Null for what concerns no federation, such as API keys.")
    actor: str = Field(description="`api-key:<name>`, `client:<name>`, `coordinator` or `distiller:<worker>`.")
    address: str | None = Field(
        description="From where the actor asked. Null where nobody asked, in entries from before addresses were noted, "
        "and for callers who are no admins."
    )
    data: dict[str, Any]
    hash: str | None = Field(
        description="SHA-256 over this entry and the hash of the entry before, of whichever federation. Null for a "
        "moment, where a program of an older version wrote it."
    )

    @classmethod
    def of(cls, row: EventRow, *, addresses: bool) -> Event:
        """From its row; with the address if the reader may know it."""
        return cls(
            id=row.id,
            at=row.at,
            kind=row.kind,
            federation=row.federation_id,
            actor=row.actor,
            address=row.address if addresses else None,
            data=row.data,
            hash=row.hash,
        )


class EventPage(Page[Event]):
    """A page of the audit log."""

    end_cursor: str | None = Field(description="Cursor after the last event of this page: ask with it for later ones.")
