"""Errors as RFC 9457 problem+json, with stable types; never a stack trace."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fedafd.domain.errors import ERROR_STATUS, FedafdError
from fedafd.telemetry.logging import get_logger

__all__ = ["add_problem_handlers"]

_log = get_logger(__name__)


def add_problem_handlers(app: FastAPI) -> None:
    """Render every error of `app` as a problem."""

    @app.exception_handler(FedafdError)
    async def known(_: Request, error: FedafdError) -> JSONResponse:
        status = next(ERROR_STATUS[kind] for kind in type(error).__mro__ if kind in ERROR_STATUS)
        return _problem(status.http, error.code, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        return _problem(422, "invalid-request", "; ".join(found))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return _problem(error.status_code, f"http-{error.status_code}", str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def surprise(request: Request, error: Exception) -> JSONResponse:
        _log.error("request.failed", path=request.url.path, exc_info=error)
        return _problem(500, "internal", "internal error; the control plane's log has the details")


def _problem(status: int, code: str, detail: str, headers: dict[str, Any] | None = None) -> JSONResponse:
    body = {"type": f"urn:fedafd:error:{code}", "title": code.replace("-", " "), "status": status, "detail": detail}
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")
