"""What a model version makes of a caption or a picture: asked of a query worker, since there is no torch here."""

from __future__ import annotations

import base64
import binascii
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from fedafd.control_plane.callers import Caller
from fedafd.control_plane.context import Context
from fedafd.control_plane.models import service
from fedafd.control_plane.models.reads import ModelRead
from fedafd.control_plane.names import check_storable
from fedafd.control_plane.turns import without_turn
from fedafd.domain.errors import (
    ERROR_STATUS,
    FedafdError,
    InvalidRequestError,
    QueriesUnavailableError,
    TooManyRequestsError,
)
from fedafd.messaging.queries import QueryLine
from fedafd.messaging.query_messages import (
    MAX_CAPTION_CHARACTERS,
    MAX_PICTURE_BYTES,
    MAX_TOP_K,
    Query,
    QueryAnswer,
    QueryFile,
)
from fedafd.persistence.model_repository import pulled_files
from fedafd.persistence.round_repository import get_round

__all__ = ["Asked", "SearchAnswer", "SearchHit", "SearchRequest", "search"]

_KINDS = {kind.code: kind for kind in ERROR_STATUS}


class SearchRequest(BaseModel):
    """Either a caption or a picture."""

    caption: str | None = Field(
        None, max_length=MAX_CAPTION_CHARACTERS, examples=["two dogs play in the snow"], description="Finds pictures."
    )
    image: str | None = Field(
        None,
        max_length=(MAX_PICTURE_BYTES + 2) // 3 * 4,
        description=f"An image file of at most {MAX_PICTURE_BYTES >> 20} MiB in base64. Finds captions.",
    )
    top_k: int = Field(6, ge=1, le=MAX_TOP_K, description="How many are wanted.")

    def asked(self) -> Asked:
        """What is asked. Raises InvalidRequestError for neither, both, or what is no base64."""
        check_storable({"caption": self.caption})
        caption = (self.caption or "").strip() or None
        if (caption is None) == (not self.image):
            raise InvalidRequestError("give either `caption` or `image`: the one finds pictures, the other captions")
        try:
            picture = base64.b64decode(self.image, validate=True) if self.image else None
        except (binascii.Error, ValueError):
            raise InvalidRequestError("image: is no base64 of an image file") from None
        return Asked(caption=caption, picture=picture, top_k=self.top_k)


class Asked(BaseModel):
    """A caption or the content of an image file, and how many hits are wanted."""

    caption: str | None = None
    picture: bytes | None = None
    top_k: int = 6


class SearchHit(BaseModel):
    """A public picture with its captions; or a public caption, with the first picture that has it."""

    id: str = Field(description="The picture's, in the public set.")
    split: str = Field(description="test, val or train.")
    likeness: float = Field(description="Cosine of the two embeddings, -1 to 1.")
    captions: list[str]
    thumbnail: str | None = Field(description="A small JPEG in base64; null where the picture cannot be read.")


class SearchAnswer(BaseModel):
    """The nearest of the version's public set, best first; while that is prepared, how far it is."""

    version: int
    state: Literal["ready", "preparing"]
    public_set_sha256: str = Field(description="The public set of the round that made the version.")
    num_pictures: int = Field(description="Of the public set; 0 while the version is being loaded.")
    num_searched: int = Field(description="Pictures, or different captions, that were looked through.")
    step: Literal["loading", "embedding"] | None = Field(
        description="While preparing: the version is being loaded, or it embeds the public set."
    )
    done: int = Field(description="While it embeds: embeddings that are made.")
    total: int = Field(description="While it embeds: embeddings that are needed.")
    hits: list[SearchHit]


async def search(context: Context, caller: Caller, federation: str, version: str, asked: Asked) -> SearchAnswer:
    """Ask, and write down that somebody did.

    Raises NotFoundError, VersionRemovedError, QueriesUnavailableError, TooManyRequestsError, StorageUnavailableError,
    and what the worker found wrong.
    """
    async with context.database.snapshot() as session:
        row, _ = await service.find_global(session, federation, version)
        files = await pulled_files(session, federation, row)
        of_round = await get_round(session, row.round_id)
    await context.model_reads.audit(context.database, ModelRead(caller, federation, None, row.version, "(search)"))
    query = Query(
        files=tuple(QueryFile(path=file.path, key=file.key, sha256=file.sha256) for file in files),
        public_set_sha256=of_round.public_set_sha256,
        caption=asked.caption,
        picture=asked.picture,
        top_k=asked.top_k,
    )
    answer = await _asked(context, query)
    return SearchAnswer(
        version=row.version,
        state=answer.state,
        public_set_sha256=of_round.public_set_sha256,
        num_pictures=answer.num_pictures,
        num_searched=answer.num_searched,
        step=answer.step,
        done=answer.done,
        total=answer.total,
        hits=[
            SearchHit(
                id=hit.id,
                split=hit.split,
                likeness=hit.likeness,
                captions=list(hit.captions),
                thumbnail=None if hit.thumbnail is None else base64.b64encode(hit.thumbnail).decode(),
            )
            for hit in answer.hits
        ],
    )


async def _asked(context: Context, query: Query) -> QueryAnswer:
    """The worker's answer, counted. Raises what it, or the way to it, refused with."""
    outcome = "failed"
    try:
        async with without_turn():
            content = await QueryLine(context.redis).ask(query.model_dump_json().encode())
        answer = QueryAnswer.model_validate_json(content)
        outcome = answer.state
    except QueriesUnavailableError:
        outcome = "unanswered"
        raise
    except ValidationError:
        raise QueriesUnavailableError(
            "what came from Redis is no answer of a query worker; run the same version of both"
        ) from None
    except TooManyRequestsError:
        outcome = "busy"
        raise
    finally:
        context.metrics.queries.labels(outcome=outcome).inc()
    if answer.state == "refused":
        raise _KINDS.get(answer.code, FedafdError)(answer.message)
    return answer
