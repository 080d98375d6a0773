"""Structured logs: one event per line on stderr, as text for people on a terminal, as JSON for machines elsewhere.

Log events, not sentences: `log.info("round.closed", round_id=..., reason="quorum")`. Records of other libraries go
through the same formatter. Values whose key names a secret are masked, so that a careless call leaks nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, TextIO, get_args

import structlog

from fedafd.domain.errors import ConfigurationError
from fedafd.telemetry.console import ConsoleLines
from fedafd.telemetry.sparing import SparingFilter

__all__ = ["LogFormat", "add_context", "bind_context", "configure", "get_logger", "is_configured"]

LogFormat = Literal["auto", "json", "console"]
"""`auto` is `console` where the logs go to a terminal, else `json`."""

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SECRET_WORDS = ("token", "secret", "password", "credential", "authorization", "api_key")
_NOT_SECRET = frozenset({"token", "fencing_token", "lease_token"})  # counters of ours, useful when a stage is lost
_CHATTY = ("celery", "urllib3", "alembic", "amqp", "kombu", "grpc", "asyncio", "aiosqlite", "httpcore", "httpx")


def configure(
    process: str,
    *,
    level: str = "INFO",
    format: LogFormat = "auto",
    stream: TextIO | None = None,
    sentences: Mapping[str, str] | None = None,
) -> None:
    """Send the logs of this process to `stream` (stderr by default). May be called again, the last call wins.

    `process` (such as "aggregator") is in every event of JSON; `sentences` are the words of events on a console.
    Raises ConfigurationError for an unknown level or format.
    """
    if level.upper() not in _LEVELS:
        raise ConfigurationError(f"log level: {level!r} is not one of {', '.join(_LEVELS)}", level=level)
    if format not in get_args(LogFormat):
        raise ConfigurationError(
            f"log format: {format!r} is not one of {', '.join(get_args(LogFormat))}", format=format
        )
    target = stream if stream is not None else sys.stderr
    for_people = target.isatty() if format == "auto" else format == "console"
    shared = _shared_processors(process)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a later configure() must reach loggers that modules already hold
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(target, sentences, for_people=for_people),
            ],
        )
    )
    handler.addFilter(SparingFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)  # else a library's warning stands between the lines as plain text
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def is_configured() -> bool:
    """Whether this process has said where its logs go; else they stand between what a command prints."""
    return structlog.is_configured()


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module; pass `__name__`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def bind_context(
    *,
    federation: str | None = None,
    round_number: int | None = None,
    client: str | None = None,
    stage: str | None = None,
) -> Iterator[None]:
    """Put the named things into every event logged inside the block, in this thread or asyncio task."""
    given = {"federation": federation, "round": round_number, "client": client, "stage": stage}
    with structlog.contextvars.bound_contextvars(**{key: value for key, value in given.items() if value is not None}):
        yield


def add_context(*, federation: str | None = None, round_number: int | None = None, client: str | None = None) -> None:
    """Put the named things into every later event of this thread or asyncio task, such as one RPC's."""
    given = {"federation": federation, "round": round_number, "client": client}
    structlog.contextvars.bind_contextvars(**{key: value for key, value in given.items() if value is not None})


def _shared_processors(process: str) -> list[structlog.types.Processor]:
    def add_process(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        event.setdefault("process", process)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        add_process,
        _mask_secrets,
    ]


def _renderers(
    target: TextIO, sentences: Mapping[str, str] | None, *, for_people: bool
) -> list[structlog.types.Processor]:
    if not for_people:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    return [ConsoleLines(sentences or {}, colours=target.isatty() and "NO_COLOR" not in os.environ)]


def _mask_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    for key in event:
        lowered = key.lower()
        if lowered not in _NOT_SECRET and any(word in lowered for word in _SECRET_WORDS):
            event[key] = "***"
    return event
