"""Entry of the agent process: reads agent.yaml and FEDAFD_AGENT_*, checks the data, serves until SIGTERM.

Exit codes: 0 stopped on request, 1 unexpected error, 2 configuration or command line, 3 refused by the federation
(unknown or revoked credential, used-up token, wrong kind), 4 private data unusable, 7 disk full,
8 another agent of this client is alive (fedafd.agent.exit_codes).
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import typer

from fedafd.agent.enrolled import token_if_needed
from fedafd.agent.exit_codes import ExitCode, exit_code_of
from fedafd.agent.options import AgentYaml, StateDir, Token, TokenFile
from fedafd.agent.sentences import SENTENCES
from fedafd.agent.settings import AgentSettings, load_settings
from fedafd.agent.state import StateDirectory
from fedafd.domain.config import AgentConfig, read_agent_config
from fedafd.domain.errors import ConfigurationError, DataError, FedafdError
from fedafd.domain.secrets import read_secret_file
from fedafd.telemetry.ending import leave_objects, tell_end
from fedafd.telemetry.logging import configure, get_logger
from fedafd.telemetry.metrics import start_metrics_server
from fedafd.telemetry.tracing import configure_tracing

__all__ = ["ExitCode", "main", "read_site", "run", "start_agent"]

_log = get_logger(__name__)


def run(config: AgentConfig, *, token: str | None = None, settings: AgentSettings | None = None) -> ExitCode:
    """Run one site's agent in this process until SIGTERM or SIGINT; logs why it ended."""
    settings = settings or AgentSettings()
    _limit_threads(config.threads)
    from fedafd.agent.leaving import leave_open_round
    from fedafd.agent.line import with_line
    from fedafd.agent.metrics import AgentMetrics
    from fedafd.agent.runner import Agent
    from fedafd.agent.site import Site
    from fedafd.agent.start import StartStoppedError, prepare

    try:
        with ExitStack() as stack:
            state = StateDirectory(config.state_dir)
            state.lock()
            stack.callback(state.unlock)
            lined = with_line(config, state.root, token)
            metrics = AgentMetrics()
            if config.metrics_port is not None:
                stack.enter_context(start_metrics_server(metrics, config.metrics_host, config.metrics_port))

            async def serve() -> None:
                stop = asyncio.Event()
                for number in (signal.SIGTERM, signal.SIGINT):
                    asyncio.get_running_loop().add_signal_handler(number, stop.set)
                try:
                    own = await prepare(lined, state, stop, token=token)
                except StartStoppedError:
                    return
                except DataError as error:
                    await leave_open_round(lined, state, error)
                    raise
                agent = Agent(
                    lined,
                    Site(lined, own.data, content=own.fingerprint, cache_limit_bytes=settings.cache_limit_bytes),
                    state,
                    stop=stop,
                    metrics=metrics,
                    cache_limit_bytes=settings.cache_limit_bytes,
                    poll_seconds=settings.poll_seconds,
                )
                _log.info(
                    "agent.started", aggregator=config.aggregator, kind=config.kind.value, state_dir=str(state.root)
                )
                await agent.run(token)

            asyncio.run(serve())
    except FedafdError as error:
        _log.error("agent.ended", reason=str(error), code=error.code)
        return exit_code_of(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _log.error("agent.ended", reason=f"{error.filename or config.state_dir}: the disk is full", code="storage-full")
        return ExitCode.DISK_FULL
    _log.info("agent.stopped")
    return ExitCode.STOPPED


def start_agent(
    path: Path, *, token: str | None = None, token_file: Path | None = None, state_dir: Path | None = None
) -> int:
    """Be the agent of the site that the agent.yaml at `path` describes; returns the process's exit code."""
    try:
        settings = load_settings()
        configure("agent", level=settings.log_level, format=settings.log_format, sentences=SENTENCES)
        configure_tracing("agent")
        config = _with_overrides(read_agent_config(path), settings, state_dir)
        token = _token(token, token_file, settings, config.state_dir)
    except FedafdError as error:
        tell_end("agent", error)
        return ExitCode.CONFIGURATION
    code = run(config, token=token, settings=settings)
    leave_objects()
    return code


def _token(token: str | None, file: Path | None, settings: AgentSettings, state_dir: Path) -> str | None:
    if file is None:
        return token or token_if_needed(settings.token, state_dir)
    if token:
        raise ConfigurationError("give --token or --token-file, not both")
    return token_if_needed(lambda: read_secret_file(file, "--token-file"), state_dir)


def main() -> None:
    """The agent's process by itself, with the options of `fedafd agent run`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_command)
    app()


def _command(
    config: AgentYaml = Path("agent.yaml"),
    token: Token = None,
    token_file: TokenFile = None,
    state_dir: StateDir = None,
) -> None:
    """Run this site's agent until it is stopped. It dials out and opens no port."""
    raise typer.Exit(start_agent(config, token=token, token_file=token_file, state_dir=state_dir))


def read_site(path: Path) -> AgentConfig:
    """`agent.yaml` as an agent would run it: with FEDAFD_AGENT_* on top, threads limited. Raises ConfigurationError."""
    config = _with_overrides(read_agent_config(path), load_settings(), None)
    _limit_threads(config.threads)
    return config


def _with_overrides(config: AgentConfig, settings: AgentSettings, state_dir: Path | None) -> AgentConfig:
    changes = {
        "aggregator": settings.aggregator,
        "state_dir": state_dir or settings.state_dir,
        "tls": settings.tls,
        "plaintext": settings.plaintext,
        "metrics_port": settings.metrics_port,
    }
    return config.model_copy(update={key: value for key, value in changes.items() if value is not None})


def _limit_threads(threads: int | None) -> None:
    # Before torch is imported: OpenMP reads its variables once. Two processes with all cores each are many times
    # slower than with their share.
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)


if __name__ == "__main__":
    main()
