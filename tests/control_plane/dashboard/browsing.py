"""A browser's part in tests of pages: keeps cookies, follows nothing, and sends forms as a page's own."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx
from tests.control_plane.rest import KEY, Rest


@dataclass
class Visitor:
    http: httpx.AsyncClient

    async def page(self, path: str, status: int = 200) -> str:
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"].startswith("text/html")
        return answer.text

    async def token(self) -> str:
        """The token of the session's forms."""
        found = re.search(r'name="token" value="([0-9a-f]+)"', await self.page("/"))
        assert found is not None
        return found.group(1)

    async def send(self, path: str, /, **fields: str) -> httpx.Response:
        """A form of the session's pages."""
        return await self.http.post(path, data={"token": await self.token()} | fields)


def stranger(rest: Rest) -> Visitor:
    """Somebody without a session."""
    transport = httpx.ASGITransport(rest.app, raise_app_exceptions=False)
    return Visitor(httpx.AsyncClient(transport=transport, base_url="http://test"))


async def visitor(rest: Rest, role: str = "admin") -> Visitor:
    """Somebody who logged in with a key of that role."""
    key = KEY
    if role != "admin":
        key = (await rest.key(f"a-{role}", role))["Authorization"].removeprefix("Bearer ")
    found = stranger(rest)
    answer = await found.http.post("/login", data={"key": key})
    assert answer.status_code == 303, answer.text
    return found
