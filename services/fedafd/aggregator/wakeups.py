"""Who waits in this process for rows to change, and who of them a change concerns.

A listener is taken before rows are looked at, so that a change between the look and the wait is not missed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

from fedafd.messaging.wakeups import Change

__all__ = ["Listener", "Wakeups"]


class _Publish(Protocol):
    def __call__(self, federation_id: str, clients: Collection[str] | None, rounds: bool) -> None: ...


def _nowhere(federation_id: str, clients: Collection[str] | None, rounds: bool) -> None:
    pass


class Listener:
    """Hears of changes from the moment it was taken."""

    def __init__(self, *, awake: bool = False) -> None:
        self._event = asyncio.Event()
        self.replaced = False
        """Whether a newer listener of the same client took its place."""
        if awake:
            self._event.set()

    def wake(self) -> None:
        """Something changed."""
        self._event.set()

    async def wait(self, seconds: float) -> bool:
        """True when something changed since it last said so; False when nothing did for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Wakeups:
    """Wakes whom a change concerns; `publish` tells other processes."""

    def __init__(self, publish: _Publish = _nowhere) -> None:
        self._publish = publish
        self._clients: defaultdict[tuple[str, str], set[Listener]] = defaultdict(set)
        self._coordinators: set[Listener] = set()
        self._hooks: list[Callable[[Change | None], None]] = []
        self.tick = 0
        """Grows with every change that concerns clients."""

    def first_tell(self, hook: Callable[[Change | None], None]) -> None:
        """Call `hook` with each change (None: anything) before whom it concerns wakes."""
        self._hooks.append(hook)

    @contextmanager
    def of_client(self, federation_id: str, client_id: str, since: int) -> Iterator[Listener]:
        """Hear of what may change that client's task, from the moment on when `tick` was `since`.

        A client has one listener: those that it had before are woken for the last time.
        """
        listener, place = Listener(awake=self.tick != since), (federation_id, client_id)
        for earlier in self._clients[place]:
            earlier.replaced = True
            earlier.wake()
        self._clients[place].add(listener)
        try:
            yield listener
        finally:
            self._clients[place].discard(listener)
            if not self._clients[place]:
                del self._clients[place]

    @contextmanager
    def of_rounds(self) -> Iterator[Listener]:
        """Hear of what the coordinator may have to do."""
        listener = Listener()
        self._coordinators.add(listener)
        try:
            yield listener
        finally:
            self._coordinators.discard(listener)

    def changed(self, federation_id: str, *, clients: Collection[str] | None = None, rounds: bool = True) -> None:
        """Rows of the federation changed in a committed transaction of this process.

        `clients` are ids of those whose task may be another now, None: any; `rounds` if the coordinator has to look.
        Those that only watch the federation are told always.
        """
        self.heard(Change(federation_id, None if clients is None else frozenset(clients), rounds))
        self._publish(federation_id, clients, rounds)

    def heard(self, change: Change) -> None:
        """Rows changed, here or elsewhere: wake whom it concerns in this process."""
        for hook in self._hooks:
            hook(change)
        self.tick += change.clients is None or bool(change.clients)
        if change.clients is None:
            places = [place for place in self._clients if place[0] == change.federation]
        else:
            places = [(change.federation, client) for client in change.clients]
        for place in places:
            for listener in self._clients.get(place, ()):
                listener.wake()
        if change.rounds:
            for listener in self._coordinators:
                listener.wake()

    def wake(self) -> None:
        """Wake all that wait in this process."""
        self.tick += 1
        for hook in self._hooks:
            hook(None)
        for listener in (*self._coordinators, *(each for held in self._clients.values() for each in held)):
            listener.wake()
