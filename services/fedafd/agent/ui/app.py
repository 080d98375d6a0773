"""The page's routes: what is there is read anew for each request, and nothing of the state directory is written."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from fedafd.agent.ui.guard import Guard
from fedafd.agent.ui.own_look import OwnLook
from fedafd.agent.ui.own_model import OwnModel
from fedafd.agent.ui.page import Page, Tried
from fedafd.agent.ui.uploads import Form, read_form
from fedafd.domain.config import AgentConfig
from fedafd.domain.errors import FedafdError
from fedafd.telemetry.logging import get_logger

__all__ = ["create_app"]

_STATIC = Path(__file__).parent / "static"
_AT_ONCE_SECONDS = 0.5
"""Work that ends so soon needs no page that says that it runs."""
_log = get_logger(__name__)
Endpoint = Callable[[Request], Awaitable[Response] | Response]


def create_app(config: AgentConfig, *, hosts: frozenset[str], key: str, cookie: str = "fedafd-ui") -> Starlette:
    """The application for one site. `key` opens it; `hosts` are the Host headers that it answers."""
    look, root = OwnLook(config), f"/{secrets.token_urlsafe(32)}"
    routes = _Routes(look, OwnModel(config, look), Page(config, form_token=secrets.token_urlsafe(32), root=root))
    app = Starlette(routes=routes.all(), lifespan=routes.lifespan, exception_handlers=routes.handlers())
    app.add_middleware(Guard, hosts=hosts, key=key, cookie=cookie, root=root)
    return app


class _Routes:
    def __init__(self, look: OwnLook, model: OwnModel, page: Page) -> None:
        self._look, self._model, self._page = look, model, page

    def all(self) -> list[Route]:
        """Every route; the page itself is also what a reload after a form asks for."""
        return [
            Route("/", self._whole),
            Route("/model", self._whole),
            Route("/model", self._try, methods=["POST"]),
            Route("/look", self._start_look, methods=["POST"]),
            Route("/pictures", self._start_reading, methods=["POST"]),
            Route("/sent", self._sent),
            Route("/sheet.png", self._sheet),
            Route("/pictures/{split}/{index:int}.png", self._picture),
            *(Route(f"/{name}", _static(name)) for name in ("style.css", "icon.svg")),
        ]

    def handlers(self) -> dict[int | type[Exception], Callable[[Request, Exception], Response]]:
        """Every error is a page, and none shows a stack trace."""
        return {
            HTTPException: self._http_error,
            FedafdError: self._refused,
            OSError: self._refused,
            Exception: self._unexpected,
        }

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Ends the work that runs when the server ends."""
        yield
        await run_in_threadpool(self._look.stop)
        await run_in_threadpool(self._model.stop)

    def _whole(self, _: Request) -> Response:
        return self._page.whole(self._look, self._model)

    async def _try(self, request: Request) -> Response:
        form = await self._form(request)
        tried = await run_in_threadpool(self._tried, form)
        return await run_in_threadpool(self._page.whole, self._look, self._model, tried)

    def _tried(self, form: Form) -> Tried:
        text = form.fields.get("text", form.fields.get("caption", ""))
        try:
            if "caption" in form.fields:
                return Tried(text, pictures=self._model.search(text))
            if "text" in form.fields:
                return Tried(text, guess=self._model.guess_text(text))
            return Tried(guess=self._model.guess_picture(form.content, form.file_name))
        except (FedafdError, OSError) as error:
            return Tried(text, problem=str(error))

    async def _start_look(self, request: Request) -> Response:
        await self._form(request)
        self._look.start()
        await run_in_threadpool(self._look.wait, _AT_ONCE_SECONDS)
        return RedirectResponse(f"{self._page.root}/#data", 303)

    async def _start_reading(self, request: Request) -> Response:
        await self._form(request)
        self._model.read_pictures()
        await run_in_threadpool(self._model.wait, _AT_ONCE_SECONDS)
        return RedirectResponse(f"{self._page.root}/#model", 303)

    async def _form(self, request: Request) -> Form:
        form = await read_form(request)
        if not secrets.compare_digest(form.fields.get("token", "").encode(), self._page.form_token.encode()):
            raise HTTPException(403, "This form is not of this page as it runs now: open the page again.")
        return form

    def _sent(self, request: Request) -> Response:
        asked = request.query_params.get("page", "1")
        return self._page.sent(int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 9 else 1)

    def _sheet(self, _: Request) -> Response:
        return _png(self._look.sheet())

    def _picture(self, request: Request) -> Response:
        return _png(self._model.picture(request.path_params["split"], request.path_params["index"]))

    def _http_error(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._page.error(error.status_code, error.detail)

    def _refused(self, _: Request, error: Exception) -> Response:
        return self._page.error(400, str(error))

    def _unexpected(self, request: Request, error: Exception) -> Response:
        _log.error(
            "ui.failed", path=request.url.path.removeprefix(self._page.root), reason=f"{type(error).__name__}: {error}"
        )
        return self._page.error(500, "Something went wrong here; the terminal that runs this page says more.")


def _png(content: bytes | None) -> Response:
    if content is None:
        raise HTTPException(404, "There is no such picture.")
    return Response(content, media_type="image/png")


def _static(name: str) -> Endpoint:
    async def file(_: Request) -> Response:
        return FileResponse(_STATIC / name)

    return file
