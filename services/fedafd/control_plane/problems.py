"""Errors as RFC 9457 problem+json, with stable types; never a stack trace."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fedafd.domain.errors import ERROR_STATUS, FedafdError
from fedafd.telemetry.logging import get_logger

__all__ = ["PROBLEM_MEDIA_TYPE", "Problem", "RefusedField", "add_problem_handlers", "problem_of", "problem_responses"]

PROBLEM_MEDIA_TYPE = "application/problem+json"
_CODES = {
    400: "invalid-request",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "request-too-large",
    422: "invalid-request",
}
"""Of errors that the framework finds before any code of ours."""
_TITLES = {
    401: "No key, or one that is not known, expired or revoked",
    403: "The key's role does not allow it",
    404: "The named thing does not exist",
    408: "The request did not arrive in time",
    409: "The request does not fit the present state",
    413: "The body is larger than allowed",
    416: "The range lies outside the file",
    422: "A field is missing, malformed or out of range",
    429: "Too many wrong keys from this address, or too many requests or streams of this key",
    500: "Internal error; the server's log has the details",
    502: "The object store failed, or holds damaged bytes",
    503: "Database or object store cannot be reached",
    507: "The object store is full",
}
_MOST_FIELDS = 20
"""Refused parts of a request that are named; an answer is not longer than its request."""
_LONGEST_DETAIL = 4000
_log = get_logger(__name__)


class RefusedField(BaseModel):
    """A part of the request that was refused."""

    location: str = Field(description="Dotted path, such as `body.count` or `query.limit`.")
    message: str


class Problem(BaseModel):
    """An error, as RFC 9457 says."""

    type: str = Field(description="`urn:fedafd:error:<code>`; docs/errors.md lists the codes.")
    title: str
    status: int
    detail: str = Field(description="What was wrong, where, and what to do.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    errors: list[RefusedField] | None = Field(None, description="Of a malformed request: each part that was refused.")


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses for OpenAPI; every operation also has those that any of them may answer with."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": _TITLES[status], "content": {PROBLEM_MEDIA_TYPE: schema}}
        for status in sorted({*statuses, 408, 429, 500, 503})
    }


def add_problem_handlers(app: FastAPI) -> None:
    """Render every error of `app` as a problem."""

    @app.exception_handler(FedafdError)
    async def known(_: Request, error: FedafdError) -> JSONResponse:
        return problem_of(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [
            RefusedField(
                location=_cut(".".join(str(part) for part in item["loc"]), 200), message=_cut(item["msg"], 500)
            )
            for item in error.errors()[:_MOST_FIELDS]
        ]
        detail = "; ".join(f"{item.location}: {item.message}" for item in problems)
        more = len(error.errors()) - len(problems)
        if more:
            detail = f"{detail[:_LONGEST_DETAIL]}; and {more} more"
        return _problem(422, "invalid-request", detail, errors=problems)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        # The framework's 400 is a body that cannot be parsed; as 422 it is what the documentation says of one.
        status = 422 if error.status_code == 400 else error.status_code
        code = _CODES.get(status, "invalid-request" if status < 500 else "internal")
        detail = str(error.detail)
        if status in (404, 405):
            detail = f"{request.method} {_cut(request.url.path, 300)}: {detail}"
            if request.app.openapi_url is not None:
                detail += "; /docs lists what there is"
        return _problem(status, code, detail, dict(error.headers or {}), retryable=status == 408)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> JSONResponse:
        # Nobody hears it, and it is no fault of ours that the log would tell of.
        return _problem(408, "request-timeout", "the caller went away before its request was here", retryable=True)

    @app.exception_handler(Exception)
    async def surprise(request: Request, error: Exception) -> JSONResponse:
        _log.error("request.failed", path=request.url.path, exc_info=error)
        return _problem(500, "internal", "internal error; the control plane's log has the details")


def problem_of(error: FedafdError, *, close: bool = False) -> JSONResponse:
    """An error as an answer. `close`: the request was not read to its end, so the connection cannot be used again."""
    status = next(ERROR_STATUS[kind] for kind in type(error).__mro__ if kind in ERROR_STATUS)
    headers = {"WWW-Authenticate": "Bearer"} if status.http == 401 else {}
    if error.retryable:
        seconds = error.data.get("retry_after_seconds", 60 if status.http == 429 else 1)
        headers["Retry-After"] = str(seconds)
    if status.http == 416 and "size_bytes" in error.data:
        headers["Content-Range"] = f"bytes */{error.data['size_bytes']}"
    if close:
        headers["Connection"] = "close"
    return _problem(status.http, error.code, str(error), headers, retryable=error.retryable)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _problem(
    status: int,
    code: str,
    detail: str,
    headers: dict[str, str] | None = None,
    *,
    retryable: bool = False,
    errors: list[RefusedField] | None = None,
) -> JSONResponse:
    problem = Problem(
        type=f"urn:fedafd:error:{code}",
        title=code.replace("-", " "),
        status=status,
        detail=_cut(detail, _LONGEST_DETAIL + 50),
        retryable=retryable,
        errors=errors,
    )
    body = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(body, status, headers=headers, media_type=PROBLEM_MEDIA_TYPE)
