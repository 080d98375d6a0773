"""A control plane over HTTP: requests that may be repeated, pages, uploads, downloads and event streams.

Each refusal is one line. Its exit code: 1 refused or failed, 2 wrong usage or configuration, 3 the server cannot be
reached, 4 the key is not accepted or not allowed to do this, 5 no such thing, 6 it does not fit the present state.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from fedafd.client.answered import read_answer
from fedafd.client.answers import Event, EventPage, Finding, RoundDetails
from fedafd.client.http import checked_url, make_client, way_to
from fedafd.client.operations import ALL_EVENTS, EVENTS, Answer, Listing, Operation
from fedafd.domain.errors import ConfigurationError
from fedafd.domain.plain_text import plain_text
from fedafd.domain.process_errors import ControlPlaneError, ControlPlaneUnreachableError
from fedafd.domain.secrets import plain_secret

__all__ = [
    "NOT_FOUND",
    "PATIENCE_SECONDS",
    "AuditEntry",
    "Connected",
    "ControlPlaneClient",
    "Message",
    "RoundProgress",
    "RoundWaits",
    "unreachable",
]

NOT_FOUND = 5
"""Exit code where there is no such thing."""
_EXIT_CODES = {401: 4, 403: 4, 404: NOT_FOUND, 409: 6}
_ATTEMPTS = 3
PATIENCE_SECONDS = 60.0
"""For how long a command that follows something tries again over a broken line."""
_SILENCE_SECONDS = 60.0
"""How long a stream may be silent before it counts as broken; it brings a comment every 15 s."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 5.0


def unreachable(url: str, error: Exception) -> ControlPlaneUnreachableError:
    """The error of a broken line to `url`, with the proxy in between named."""
    return ControlPlaneUnreachableError(url, f"{way_to(url)} ({str(error) or type(error).__name__})")


@dataclass(frozen=True)
class Connected:
    """The moment after each connection of an event stream, the first and those after a broken line."""


@dataclass(frozen=True)
class AuditEntry:
    """A new entry of the audit log."""

    event: Event


@dataclass(frozen=True)
class RoundProgress:
    """The federation's open round, after something of it changed."""

    round: RoundDetails


@dataclass(frozen=True)
class RoundWaits:
    """What the federation's open round waits for, after that changed."""

    finding: Finding


Message = Connected | AuditEntry | RoundProgress | RoundWaits
"""What an event stream brings."""


class ControlPlaneClient:
    """One control plane. Methods raise ControlPlaneError; for a broken line it is a ControlPlaneUnreachableError."""

    def __init__(self, url: str, api_key: str) -> None:
        """Raises ConfigurationError for a URL or a key that cannot be one."""
        self.url = checked_url(url.rstrip("/"), "--url")
        self._http = make_client(
            self.url,
            base_url=f"{self.url}/v1",
            headers={"Authorization": f"Bearer {_checked_key(api_key)}"},
            timeout=httpx.Timeout(60, connect=10),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self,
        operation: Operation[Answer],
        *parts: str | int,
        json: object = None,
        params: Mapping[str, str | int] | None = None,
    ) -> Answer:
        """The answer to an operation on the path with `parts`. Asked again a few times where the line is broken.

        A POST carries a key that makes repeating it harmless.
        """
        headers = {"Idempotency-Key": str(uuid.uuid4())} if operation.method == "POST" else {}
        path = operation.filled(*parts)
        response = self._repeated(operation.method, path, headers=headers, json=json, params=params)
        answer: Any = read_answer(self.url, response.content, operation.fields)
        return cast("Answer", answer)

    def send(
        self, operation: Operation[Answer], *parts: str | int, content: Path | bytes, seconds: float = 3600
    ) -> Answer:
        """Send a body, or a file that may be long; once, since a file is read as it goes."""
        body, path = _blocks(content) if isinstance(content, Path) else content, operation.filled(*parts)
        try:
            response = _accepted(self._http.request(operation.method, path, content=body, timeout=seconds))
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from None
        answer: Any = read_answer(self.url, response.content, operation.fields) if response.content else None
        return cast("Answer", answer)

    def items(self, listing: Listing[Answer], *parts: str | int) -> list[Answer]:
        """All items of a list, page by page."""
        answers: list[Answer] = []
        for page in self._pages(listing.filled(*parts)):
            answers += page["items"]
        return answers

    def event_pages(self, federation: str | None) -> Iterator[EventPage]:
        """The audit log of a federation, or of everything, page by page; the oldest events come first."""
        return self._pages(ALL_EVENTS.filled() if federation is None else EVENTS.filled(federation))

    def _pages(self, path: str) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            params = {"limit": 200} | ({"cursor": cursor} if cursor else {})
            page = read_answer(self.url, self._repeated("GET", path, params=params).content)
            yield page
            cursor = page["next_cursor"]
            if cursor is None:
                return

    @contextmanager
    def download(self, operation: Operation[bytes], *parts: str | int) -> Iterator[httpx.Response]:
        """A response whose body is read bit by bit."""
        path = operation.filled(*parts)
        try:
            with self._http.stream(operation.method, path, timeout=httpx.Timeout(600, connect=10)) as response:
                if not response.is_success:
                    response.read()
                yield _accepted(response)
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from None

    def follow(self, federation: str | None, params: Mapping[str, str]) -> Iterator[Message]:
        """Messages of the event stream of a federation, or of everything, for ever.

        A broken line is taken up where it broke, for a minute of trying.
        """
        from httpx_sse import SSEError, connect_sse

        from fedafd.domain.retrying import FullJitter

        path = ALL_EVENTS.filled() if federation is None else EVENTS.filled(federation)
        pauses = FullJitter(_FIRST_PAUSE_SECONDS, 2 * _LONGEST_PAUSE_SECONDS)
        last_id, broken_since, tries = "", 0.0, 0
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            silence = httpx.Timeout(10, read=_SILENCE_SECONDS)
            try:
                with connect_sse(self._http, "GET", path, params=params, headers=headers, timeout=silence) as source:
                    if not source.response.is_success:
                        source.response.read()
                    _accepted(source.response)
                    broken_since, tries = 0.0, 0
                    yield Connected()
                    for sse in source.iter_sse():
                        last_id = sse.id or last_id
                        if sse.data:  # a heartbeat has none
                            yield _message(sse.event, read_answer(self.url, sse.data))
                failure: Exception = ConnectionError("the stream ended")
            except (httpx.HTTPError, SSEError) as error:
                failure = error
            broken_since = broken_since or time.monotonic()
            if time.monotonic() - broken_since > PATIENCE_SECONDS:
                raise unreachable(self.url, failure) from None
            tries += 1
            time.sleep(pauses.after(tries))

    def _repeated(self, method: str, path: str, **options: Any) -> httpx.Response:
        from tenacity import Retrying, retry_if_exception, stop_after_attempt

        from fedafd.domain.retrying import FullJitter

        def once() -> httpx.Response:
            try:
                return _accepted(self._http.request(method, path, **options))
            except httpx.HTTPError as error:
                raise unreachable(self.url, error) from None

        repeated = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ControlPlaneError) and error.passing),
            wait=FullJitter(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS),
            stop=stop_after_attempt(_ATTEMPTS),
            reraise=True,
        )
        return repeated(once)


def _message(name: str, content: Any) -> Message:
    if name == "round.progress":
        return RoundProgress(content)
    if name == "round.waits":
        return RoundWaits(content)
    return AuditEntry(content)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _accepted(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        detail = plain_text(str(response.json()["detail"]))
    except (ValueError, KeyError, TypeError):
        detail = f"{response.status_code} {response.reason_phrase}: is this a control plane of FedAFD?"
    away = response.status_code == httpx.codes.SERVICE_UNAVAILABLE
    raise ControlPlaneError(detail, _EXIT_CODES.get(response.status_code, 1), passing=away)


def _checked_key(api_key: str) -> str:
    api_key = plain_secret(api_key)
    if not api_key:
        raise ConfigurationError("no API key: set FEDAFD_API_KEY or FEDAFD_API_KEY_FILE, or give --api-key")
    if not api_key.isascii() or not api_key.isprintable():
        raise ConfigurationError("the API key holds characters that no key has; was it copied whole?")
    return api_key
