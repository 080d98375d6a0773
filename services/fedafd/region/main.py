"""Entry of a region's process: reads region.yaml and FEDAFD_REGION_*, follows the upper federation until SIGTERM.

Exit codes are an agent's (fedafd.agent.exit_codes).
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from fedafd.agent.enrolled import token_if_needed
from fedafd.agent.exit_codes import ExitCode, exit_code_of
from fedafd.agent.files import disk_full_is_clear
from fedafd.agent.line import with_line
from fedafd.agent.state import StateDirectory
from fedafd.domain.config.reading import read_region_config
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.errors import FedafdError
from fedafd.persistence.database import Database
from fedafd.persistence.migrate import check_schema
from fedafd.region.own_federation import OwnFederation
from fedafd.region.runner import Region
from fedafd.region.settings import RegionSettings, load_settings
from fedafd.storage import open_store
from fedafd.telemetry.ending import tell_end
from fedafd.telemetry.logging import configure, get_logger
from fedafd.telemetry.tracing import configure_tracing

__all__ = ["start_region"]

_log = get_logger(__name__)


def start_region(path: Path, *, token: str | None = None) -> int:
    """Be the region that the region.yaml at `path` describes; returns the process's exit code."""
    try:
        settings = load_settings()
        configure("region", level=settings.log_level)
        configure_tracing("region")
        config = read_region_config(path)
        token = token or token_if_needed(settings.token, config.state_dir)
        with disk_full_is_clear(config.state_dir):
            asyncio.run(_serve(config, settings, token))
    except FedafdError as error:
        tell_end("region", error)
        return exit_code_of(error)
    return ExitCode.STOPPED


async def _serve(config: RegionConfig, settings: RegionSettings, token: str | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    state = StateDirectory(config.state_dir)
    state.lock()
    database = Database(settings.database_url.get_secret_value())
    clock: asyncio.Task[None] | None = None
    try:
        await check_schema(database)
        await database.ping()
        clock = asyncio.create_task(database.keep_time())
        own = OwnFederation(database, open_store(settings.store), config.federation)
        region = Region(
            with_line(config, state.root, token),
            own,
            state,
            stop=stop,
            cache_limit_bytes=settings.cache_limit_bytes,
            poll_seconds=settings.poll_seconds,
            look_seconds=settings.look_seconds,
            metrics_listen=settings.metrics_listen,
        )
        _log.info("region.started", aggregator=config.aggregator, federation=config.federation)
        await region.run(token)
    finally:
        if clock is not None:
            clock.cancel()
        await database.close()
        state.unlock()
    _log.info("region.stopped")
