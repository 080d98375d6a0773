"""Who waits in this process for rows to change, and who of them a change concerns.

A listener is taken before rows are looked at, so that a change between the look and the wait is not missed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

from fedafd.messaging.wakeups import Change

__all__ = ["Listener", "Wakeups"]

_MOST_NOTED = 20_000


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
        """True when something changed since it last said so; False when nothing did for `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    async def rest(self, shortest: float, longest: float) -> None:
        """Wait for `shortest` seconds, then until something changed, but no longer than `longest` in all."""
        await asyncio.sleep(shortest)
        await self.wait(max(longest - shortest, 0.0))


class Wakeups:
    """Wakes whom a change concerns; `publish` tells other processes."""

    def __init__(self, publish: _Publish = _nowhere) -> None:
        self._publish = publish
        self._clients: defaultdict[tuple[str, str], set[Listener]] = defaultdict(set)
        self._coordinators: set[Listener] = set()
        self._hooks: list[Callable[[Change | None], None]] = []
        self.tick = 0
        """Grows with every change that concerns clients."""
        self._changed: OrderedDict[tuple[str, str | None], int] = OrderedDict()
        """When a client's task, or those of a federation's clients (None), changed last, as `tick` was then."""
        self._changed_for_all = 0
        """The same of what concerned everybody, and of what is no longer in `_changed`."""

    def first_tell(self, hook: Callable[[Change | None], None]) -> None:
        """Call `hook` with each change (None: anything) before whom it concerns wakes."""
        self._hooks.append(hook)

    @contextmanager
    def of_client(self, federation_id: str, client_id: str, since: int) -> Iterator[Listener]:
        """Hear of what may change that client's task, from the moment on when `tick` was `since`.

        A client has one listener: those that it had before are woken for the last time.
        """
        client = (federation_id, client_id)
        listener = Listener(awake=self._last_change(client) > since)
        for earlier in self._clients[client]:
            earlier.replaced = True
            earlier.wake()
        self._clients[client].add(listener)
        try:
            yield listener
        finally:
            self._clients[client].discard(listener)
            if not self._clients[client]:
                del self._clients[client]

    @contextmanager
    def of_rounds(self, listener: Listener | None = None) -> Iterator[Listener]:
        """Hear of what the coordinator may have to do."""
        listener = listener or Listener()
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
        self._note(change)
        if change.clients is None:
            keys = [client for client in self._clients if client[0] == change.federation]
        else:
            keys = [(change.federation, client) for client in change.clients]
        for key in keys:
            for listener in self._clients.get(key, ()):
                listener.wake()
        if change.rounds:
            for listener in self._coordinators:
                listener.wake()

    def wake(self) -> None:
        """Wake all that wait in this process."""
        self.tick += 1
        self._changed_for_all = self.tick
        for hook in self._hooks:
            hook(None)
        for listener in (
            *self._coordinators,
            *(listener_in for group in self._clients.values() for listener_in in group),
        ):
            listener.wake()

    def _note(self, change: Change) -> None:
        """Note when it was, for who is looking at this moment and will listen next."""
        concerned: Collection[str | None] = (None,) if change.clients is None else change.clients
        if not concerned:
            return
        self.tick += 1
        for client in concerned:
            changed = (change.federation, client)
            self._changed[changed] = self.tick
            self._changed.move_to_end(changed)
        while len(self._changed) > _MOST_NOTED:
            _, at = self._changed.popitem(last=False)
            self._changed_for_all = max(self._changed_for_all, at)

    def _last_change(self, client: tuple[str, str]) -> int:
        own, all_of_it = self._changed.get(client, 0), self._changed.get((client[0], None), 0)
        return max(own, all_of_it, self._changed_for_all)
