"""Many ask the database for the same kind of thing at once: one transaction answers all that have asked meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Generic, TypeVar

from fedafd.domain.errors import DatabaseUnavailableError

__all__ = ["Guard", "Together"]

K = TypeVar("K")
V = TypeVar("V")
Guard = Callable[[], AbstractContextManager[None]]
"""What is around a question, such as fedafd.aggregator.cut_off.Waiting.one: it ends one that nobody will answer."""
_MOST = 200
"""The most keys of one question: databases take that many values in a statement, and none waits long for the rest."""
_GATHER_SECONDS = 0.002
"""How long a question waits for others to join it: where many call at once, they come within a few of these."""
_REST = 3.0
_LONGEST_GATHER_SECONDS = 0.06
"""After the last answer it waits _REST times as long as that took, up to this: of a stream of calls, some go
together. Where questions are answered in a few ms nobody notices it, and a busy process asks a third as often."""


class Together(Generic[K, V]):
    """Answers by key. A question is put after whoever waits for its answer has asked, so that it is never an old one.

    `ask` gets the keys and answers with a value, or an exception that is raised, for each of them. Where it raises one
    itself, each key is asked for alone, as one of them may be at fault, unless the database is away.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]],
        *,
        most: int = _MOST,
        guard: Guard = nullcontext,
    ) -> None:
        self._ask, self._most, self._guard = ask, most, guard
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._work: asyncio.Task[None] | None = None
        self._rests_until = 0.0

    async def get(self, key: K) -> V:
        """The answer for `key`. Raises what `ask` raises, or answers with for that key."""
        if key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().create_future()
        answer = self._waiting[key]
        if self._work is None:
            self._work = asyncio.create_task(self._answer_all())
        return await asyncio.shield(answer)

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(max(_GATHER_SECONDS, self._rests_until - monotonic()))
                keys, began = list(self._waiting)[: self._most], monotonic()
                await self._answer({key: self._waiting.pop(key) for key in keys})
                ended = monotonic()
                self._rests_until = ended + min(_REST * (ended - began), _LONGEST_GATHER_SECONDS)
        finally:
            self._work = None

    async def _answer(self, asked: Mapping[K, asyncio.Future[V]]) -> None:
        try:
            with self._guard():
                answers = await self._ask(list(asked))
        except Exception as error:
            if len(asked) > 1 and not isinstance(error, DatabaseUnavailableError):
                for key, future in asked.items():
                    await self._answer({key: future})
                return
            answers = dict.fromkeys(asked, error)
        except asyncio.CancelledError:
            for future in asked.values():
                future.cancel()
            raise
        for key, future in asked.items():
            answer = answers[key]
            if isinstance(answer, Exception):
                future.set_exception(answer)
                future.exception()  # asyncio would complain of an error that nobody waits for any more
            else:
                future.set_result(answer)
