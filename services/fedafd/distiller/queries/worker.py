"""Entry of the query worker: takes queries from Redis one after the other, and answers them.

A process of its own, because a distiller is busy for hours. It holds no credential but those of Redis and of the
object store, of which it only reads. What somebody asks is neither logged nor kept.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from fedafd.distiller.queries.settings import QueriesSettings, load_settings
from fedafd.distiller.scratch import cache_folder
from fedafd.domain.addresses import split_address
from fedafd.domain.errors import FedafdError, InvalidRequestError, StorageUnavailableError
from fedafd.messaging.queries import LOST_SECONDS, QueryTaker
from fedafd.messaging.query_messages import Query, QueryAnswer
from fedafd.storage import open_store
from fedafd.telemetry.ending import end_within, leave_objects, tell_end
from fedafd.telemetry.logging import configure, get_logger
from fedafd.telemetry.metrics import Metrics, start_metrics_server

if TYPE_CHECKING:
    from fedafd.distiller.queries.answering import Answering

__all__ = ["QueryMetrics", "answered", "main", "serve"]

_PAUSE_SECONDS = 1.0
_END_SECONDS = 5.0
"""After the last answer."""
_OUTCOMES = ("ready", "preparing", "refused", "failed")
_log = get_logger(__name__)


class QueryMetrics(Metrics):
    """Queries by outcome, and their seconds."""

    def __init__(self) -> None:
        super().__init__("queries")
        self.answers = self.counter("answers", "Answers by outcome.", ("outcome",))
        self.answer_seconds = self.histogram("answer_seconds", "From taking a query to its answer.")
        for outcome in _OUTCOMES:
            self.answers.labels(outcome=outcome)


def answered(answering: Answering, content: bytes, metrics: QueryMetrics) -> QueryAnswer:
    """The answer to a message, whatever is in it."""
    outcome = "failed"
    try:
        with metrics.timed(metrics.answer_seconds):
            answer = answering.answer(_read(content))
        outcome = answer.state
    except FedafdError as error:
        outcome = "refused"
        answer = QueryAnswer(state="refused", code=error.code, message=str(error))
    except Exception as error:
        # Without the error's text, which might hold something of the query.
        frames = "".join(traceback.format_tb(error.__traceback__))
        _log.error("queries.failed", error=type(error).__name__, frames=frames)
        answer = QueryAnswer(
            state="refused", code=FedafdError.code, message="the query worker failed; its log says more"
        )
    metrics.answers.labels(outcome=outcome).inc()
    return answer


def _read(content: bytes) -> Query:
    try:
        return Query.model_validate_json(content)
    except ValidationError:
        raise InvalidRequestError(
            "the query worker does not understand the control plane; run the same version of both"
        ) from None


def serve(redis_url: str, answering: Answering, stop: threading.Event, metrics: QueryMetrics) -> None:
    """Say that a worker is there, and answer, until `stop`."""
    worker = secrets.token_hex(8)
    presence = QueryTaker(redis_url, worker)
    with suppress(StorageUnavailableError):  # told, and tried again, below
        presence.here()
    threading.Thread(target=_say_here, args=(presence, stop), name="presence", daemon=True).start()
    taker, away = QueryTaker(redis_url, worker), False
    while not stop.is_set():
        try:
            taken = taker.take()
            if away:
                _log.info("queries.redis_back")
            away = False
            if taken is not None:
                name, content = taken
                taker.answer(name, answered(answering, content, metrics).model_dump_json().encode())
        except StorageUnavailableError as error:
            if not away:
                _log.warning("queries.redis_away", reason=str(error))
            away = True
            stop.wait(_PAUSE_SECONDS)


def _say_here(taker: QueryTaker, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            taker.here()
        except StorageUnavailableError:
            stop.wait(_PAUSE_SECONDS)
        else:
            stop.wait(LOST_SECONDS / 4)


def _run(settings: QueriesSettings, cache: Path) -> None:
    import torch

    from fedafd.distiller.queries.answering import Answering

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    metrics, stop = QueryMetrics(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    redis_url = settings.redis_url.get_secret_value()
    answering = Answering(
        open_store(settings.store),
        cache,
        device=settings.device,
        cache_limit_bytes=settings.cache_limit_bytes,
        most_pictures=settings.most_pictures,
        versions_held=settings.versions_held,
    )
    with ExitStack() as stack:
        stack.callback(answering.close)
        if settings.metrics_listen:
            host, port = split_address(settings.metrics_listen)
            stack.enter_context(start_metrics_server(metrics, host, port))
        _log.info("queries.started", device=settings.device)
        serve(redis_url, answering, stop, metrics)
        end_within(_END_SECONDS)  # a version may be being loaded, from a store that does not answer
    _log.info("queries.stopped")


def main() -> int:
    """Run the query worker; returns its exit code."""
    try:
        settings = load_settings()
        configure("queries", level=settings.log_level)
        if settings.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(settings.threads)
        with cache_folder(settings.cache_dir) as cache:
            _run(settings, cache)
        leave_objects()
        return 0
    except FedafdError as error:
        tell_end("queries", error)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
