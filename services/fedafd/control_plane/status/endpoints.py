"""HTTP of the status."""

from __future__ import annotations

from fastapi import APIRouter

from fedafd.control_plane.callers import ViewerOfSome
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.problems import problem_responses
from fedafd.control_plane.status.facts import gather
from fedafd.control_plane.status.findings import decide
from fedafd.control_plane.status.schemas import Status

__all__ = ["router"]

router = APIRouter(prefix="/v1/status", tags=["status"])


@router.get("", responses=problem_responses(401, 403))
async def get_status(context: ContextDep, caller: ViewerOfSome) -> Status:
    """What waits for what, since when, and what to do about it: of the service and of the key's federations."""
    return decide(await gather(context, caller.federations))
