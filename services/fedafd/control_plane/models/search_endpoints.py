"""HTTP of queries to a global model version. Nothing is changed by one, so it takes no Idempotency-Key."""

from __future__ import annotations

from fastapi import APIRouter, Response

from fedafd.control_plane.callers import Viewer
from fedafd.control_plane.context import ContextDep
from fedafd.control_plane.models.search import SearchAnswer, SearchRequest, search
from fedafd.control_plane.names import FederationName, Version
from fedafd.control_plane.problems import problem_responses

__all__ = ["router"]

router = APIRouter(prefix="/v1/federations/{federation}/models", tags=["models"])

_RETRY_SECONDS = 2


@router.post(
    "/{version}/search",
    responses={
        202: {"model": SearchAnswer, "description": "The version is made ready; ask again after `Retry-After`."},
        **problem_responses(401, 403, 404, 409, 413, 422, 429, 502, 503),
    },
)
async def search_model(
    federation: FederationName,
    version: Version,
    body: SearchRequest,
    response: Response,
    context: ContextDep,
    caller: Viewer,
) -> SearchAnswer:
    """The public pictures that are nearest to a caption, or the captions nearest to a picture, as this version sees it.

    409 `queries-unavailable` where no query worker (`fedafd queries`) is running. What was asked is kept nowhere; that
    somebody asked is in the audit log.
    """
    answer = await search(context, caller, federation, version, body.asked())
    if answer.state == "preparing":
        response.status_code = 202
        response.headers["Retry-After"] = str(_RETRY_SECONDS)
    return answer
